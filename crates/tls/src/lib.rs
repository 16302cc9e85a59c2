//! TLS 1.3 for a server that holds very many connections. rustls does the handshake
//! ([`Handshake`]). Then it hands over the traffic secrets, and a [`Session`] seals and opens
//! records with them: it holds keys and counters, but no buffers.
//!
//! Nothing here does I/O. The caller passes the bytes that it received and sends the bytes that it
//! gets back.

mod alert;
mod config;
mod handshake;
mod keys;
mod record;
mod session;

pub use self::alert::Alert;
pub use self::config::{ConfigError, provider, server_config};
pub use self::handshake::{Established, Handshake, HandshakeError, HandshakeProgress};
pub use self::session::{OpenError, Opened, SealError, Session};
