//! Both sides of TLS against each other, and the server's side against rustls' client and forged
//! records.
#![expect(clippy::unwrap_used, reason = "a test that can't continue has failed")]

mod clients;
mod corpus;
mod forged;
mod fuzz_drivers;
mod handshakes;
mod pair;
mod properties;
