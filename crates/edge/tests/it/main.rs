//! The edge as a whole, over sockets, on the in-memory bus.
#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

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
mod witness;
