//! Tests of a whole edge, over real sockets and the in-memory bus.
#![expect(clippy::unwrap_used, reason = "a test that can't continue has failed")]

mod attempts;
mod auth;
mod bursts;
mod connections;
mod deadlines;
mod drain;
mod flow;
mod lifecycle;
mod limits;
mod malformed;
mod on_shards;
mod serving;
mod sessions;
mod settings;
mod slow;
mod subscriptions;
mod support;
mod time_steps;
mod tls;
mod witness;
