//! Utilities shared by TickStorm's tests, to observe an edge from outside and a process from
//! inside. On failure everything here panics with what it saw, instead of returning an error.
//! Nothing that ships may depend on this crate.

pub mod alloc;
mod certificate_authority;
pub mod frame;
#[cfg(feature = "nats")]
mod nats;
pub mod peer;
mod process;
pub mod proxy;
mod reserved_addr;
mod tool;
pub mod vectors;
mod wait;

pub use alloc::CountingAllocator;
pub use certificate_authority::{Certificate, CertificateAuthority, CertificateUsage};
pub use frame::{Forged, RawFrame};
#[cfg(feature = "nats")]
pub use nats::Nats;
pub use peer::{PATIENCE, Peer, PeerOptions, Received};
pub use process::{TempDir, resident_bytes};
pub use reserved_addr::ReservedAddr;
pub use tool::tool;
pub use wait::{poll_until, poll_until_async};
