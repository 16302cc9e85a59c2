//! What TickStorm's end-to-end test programs share: the Kubernetes manifests as they are built, what a kubelet makes of them for a
//! container, and a crowd of clients that takes note of every tick. It panics with what it saw instead of returning errors.
#![expect(
    clippy::unwrap_used,
    reason = "for tests only: one that can't go on has failed"
)]

pub mod crowd;
pub mod given;
pub mod manifests;
