//! Tests of a whole edge, over real sockets and the in-memory bus.
#![expect(clippy::unwrap_used, reason = "a test that can't continue has failed")]

mod admission;
mod attempts;
mod auth;
mod bursts;
mod clock_names;
mod connections;
mod cookies;
mod corpus;
mod deadlines;
mod drain;
mod flow;
mod fuzz_drivers;
mod heap;
mod lifecycle;
mod limits;
mod malformed;
mod memory;
mod metrics;
mod migration;
mod no_time;
mod on_shards;
mod proxied;
mod replays;
mod serving;
mod sessions;
mod settings;
mod slow;
mod subscriptions;
mod support;
mod time_steps;
mod tls;
mod vectors;
mod witness;
