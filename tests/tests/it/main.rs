//! End-to-end tests: the real programs over real sockets, judged by their output and exit codes.
#![expect(clippy::unwrap_used, reason = "a test that can't continue has failed")]

mod alerts;
mod attempts;
mod bench;
mod compose_scripts;
mod daemon;
mod dark;
mod dev;
mod dev_tls;
mod drains;
mod faults;
mod follow;
mod leads;
mod links;
mod logins;
mod logs;
mod manifests;
mod metrics;
mod moves;
mod outages;
mod pauses;
mod private_memory;
mod probe;
mod rogue_publishers;
mod security;
mod sick_edges;
mod signals;
mod status;
mod status_page;
mod stolen_logins;
mod support;
mod tables;
mod temporary_files;
mod tickstorm;
mod tls;
mod trail;
