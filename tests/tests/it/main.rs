//! End to end: the real programs over real sockets, judged by what they print and how they exit.
#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod attempts;
mod bench;
mod daemon;
mod dev;
mod drains;
mod faults;
mod follow;
mod leads;
mod logs;
mod manifests;
mod moves;
mod outages;
mod probe;
mod strangers;
mod support;
mod tables;
mod tickstorm;
