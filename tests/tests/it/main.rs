//! End to end: the real `tickstorm` over real sockets, judged by what it prints and how it exits.
#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod dev;
mod follow;
mod probe;
mod tickstorm;
