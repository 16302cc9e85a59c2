//! What the client must do, seen through its public API.
#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod ahead;
mod client;
mod edge;
mod estimate;
mod reconnect;
