//! Tests of the client through its public API.
#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

mod ahead;
mod client;
mod edge;
mod estimate;
mod examples;
mod modes;
mod moves;
mod reconnect;
mod refusals;
mod sick;
mod stalls;
mod tick_stream;
mod vectors;
