//! Code that TickStorm's end-to-end test programs share: the Kubernetes manifests as they are
//! built, certificates as cert-manager would issue them, the environment and files that a kubelet
//! derives from both for a container, and clients that check every tick. It panics with what it
//! found instead of returning errors.
#![expect(
    clippy::unwrap_used,
    reason = "for tests only: a test that can't continue has failed"
)]

pub mod certificates;
pub mod clients;
pub mod kubelet;
pub mod manifests;
