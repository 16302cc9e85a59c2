//! For TickStorm's tests only: what they share to look at an edge from outside and at a process from inside. Everything here
//! panics with what it saw instead of returning errors, and nothing that ships may depend on it.

pub mod alloc;
mod certificate_authority;
pub mod frame;
#[cfg(feature = "nats")]
mod nats;
pub mod peer;
mod process;
mod reserved_addr;
mod tool;
mod wait;

pub use alloc::CountingAllocator;
pub use certificate_authority::{Certificate, CertificateAuthority};
pub use frame::{Forged, RawFrame};
#[cfg(feature = "nats")]
pub use nats::Nats;
pub use peer::{PATIENCE, Peer, PeerOptions, Received};
pub use process::{TempDir, resident_bytes};
pub use reserved_addr::ReservedAddr;
pub use tool::tool;
pub use wait::{poll_until, poll_until_async};
