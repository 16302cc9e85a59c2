//! TLS 1.3 for a server that holds very many connections, and for a load generator that holds the
//! other ends of them. rustls does the handshake ([`Handshake`], [`ClientHandshake`]). Then it
//! hands over the traffic secrets, and a [`Session`] seals and opens records with them: it holds
//! keys and counters, but no buffers.
//!
//! Nothing here does I/O. The caller passes the bytes that it received and sends the bytes that it
//! gets back.

mod alert;
mod config;
mod handshake;
mod incoming;
mod keys;
mod record;
mod session;
mod short_chains;
mod side;

pub use self::alert::Alert;
pub use self::config::{ConfigError, provider, server_config};
pub use self::handshake::{
    ClientHandshake, Established, Handshake, HandshakeError, HandshakeProgress,
};
pub use self::incoming::{OpenError, Opened};
#[cfg(feature = "bench")]
pub use self::keys::BareSealing;
pub use self::session::{ClientSession, SealError, Session};
