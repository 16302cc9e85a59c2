//! What the threads of the generator are told.

use std::sync::mpsc::Sender;

use super::client::{Greeting, Pace};
use super::harvest::Harvest;

/// What a thread is told.
pub(crate) enum GeneratorCommand {
    /// Let so many clients more come.
    Connect(ArrivingClients),
    /// Let so many clients go, the oldest first; by a reset, or by an ordinary close.
    Leave { count: u32, reset: bool },
    /// Let so many clients, the oldest first, read so from now on.
    Read { pace: Pace, count: u32 },
    /// Say how many ticks up to `until_ms` have not come yet.
    Lacking { until_ms: i64, reply: Sender<u64> },
    /// Say what has been, and begin anew. `until_ms`: the last tick that is due, so that what lacks is lost.
    Harvest {
        until_ms: Option<i64>,
        reply: Sender<Harvest>,
    },
}

/// How clients come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ArrivingClients {
    pub(crate) count: u32,
    /// The number of the first one, which says from which address it comes.
    pub(crate) first: u32,
    pub(crate) greeting: Greeting,
    /// How many may be on their way at once.
    pub(crate) in_flight: u32,
    /// Whether they have a small receive buffer.
    pub(crate) small_buffer: bool,
    /// Whether each comes from a source address by its number.
    pub(crate) by_source: bool,
}
