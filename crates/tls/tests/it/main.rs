//! The server's side of TLS against rustls' client and against forged records.
#![expect(clippy::unwrap_used, reason = "a test that can't continue has failed")]

mod forged;
mod handshakes;
mod pair;
mod properties;
