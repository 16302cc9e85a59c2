//! The server's side of TLS against rustls' client and against forged records.

mod forged;
mod handshakes;
mod pair;
mod properties;
