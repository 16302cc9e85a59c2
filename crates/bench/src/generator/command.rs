//! The commands to the threads of the generator.

use std::sync::mpsc::Sender;

use super::client::{Greeting, Pace};
use super::harvest::Harvest;

/// A command to a thread.
pub(crate) enum GeneratorCommand {
    /// Start more clients.
    Connect(ArrivingClients),
    /// Disconnect the `count` oldest clients, by a reset or by an ordinary close.
    Disconnect { count: u32, reset: bool },
    /// Set the pace at which the `count` oldest clients read.
    SetPace { pace: Pace, count: u32 },
    /// Reply with the number of ticks up to `until_ms` that are missing.
    CountMissing { until_ms: i64, reply: Sender<u64> },
    /// Reply with everything seen since the last harvest. If `until_ms`, the epoch of the last tick
    /// due, is given, ticks up to it that are missing count as lost.
    Harvest {
        until_ms: Option<i64>,
        reply: Sender<Harvest>,
    },
}

/// A group of clients to start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ArrivingClients {
    pub(crate) count: u32,
    /// The number of the first client. Source addresses are derived from it.
    pub(crate) first: u32,
    pub(crate) greeting: Greeting,
    /// The number of connects that may be in progress at a time.
    pub(crate) in_flight: u32,
    /// Whether the clients have a small receive buffer.
    pub(crate) small_buffer: bool,
    /// Whether each client connects from a source address derived from its number.
    pub(crate) by_source: bool,
}
