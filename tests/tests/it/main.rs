//! End-to-end tests: the real programs over real sockets, judged by their output and exit codes.
#![expect(clippy::unwrap_used, reason = "a test that can't continue has failed")]

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
mod rogue_publishers;
mod support;
mod tables;
mod tickstorm;
mod tls;
