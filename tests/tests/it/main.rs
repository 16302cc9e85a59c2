//! End to end: the real programs over real sockets, judged by what they print and how they exit.
#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod daemon;
mod dev;
mod follow;
mod probe;
mod tickstorm;
