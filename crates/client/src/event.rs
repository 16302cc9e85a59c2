//! [`Event`] and [`Tick`]: what a subscription hands to its reader.

use std::time::Duration;

use tickstorm_timebase::{Epoch, Mode, Quality};

use crate::error::Error;
use crate::estimate::Estimate;

/// What a subscription brings.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A tick, later than all before it; but for those before a [`Event::Reconnecting`] that does not resume.
    Tick(Tick),
    /// Ticks that can't be had: those between these two. The later one comes next.
    Gap {
        /// The last tick before the gap, or the point after which ticks were asked for.
        after: Epoch,
        /// The first tick after it.
        before: Epoch,
    },
    /// The connection ended, or the last attempt to have a new one failed. The next comes by itself.
    Reconnecting {
        /// Why it ended.
        why: Error,
        /// How long is waited before the next attempt.
        after: Duration,
        /// Whether ticks go on where they were, as they nearly always do. Else authority time went back, or the edges don't know
        /// the resume point: ticks go on from where the next edge is, and may come again. Those held back are dropped.
        resumes: bool,
    },
    /// There is a connection again.
    Reconnected {
        /// Where to: one of [`Options`](crate::Options)' addresses.
        address: String,
        /// The edge's name, as it says; it may hold anything.
        edge_id: String,
    },
}

/// A tick as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    /// Which grid it is on.
    pub mode: Mode,
    /// Unix time of the tick.
    pub epoch: Epoch,
    /// How the edge came to release it.
    pub quality: Quality,
    /// Authority time when this client read it or, where it was held back until its time, released it; none where it was not known
    /// then.
    pub read: Option<Estimate>,
}

impl Tick {
    /// How long after its time this client read or released the tick, in microseconds, give or take `read`'s error; negative where it seems
    /// to have been early. None where authority time was not known.
    #[must_use]
    pub fn late_us(&self) -> Option<i64> {
        let read = self.read?;
        Some(
            read.unix
                .as_micros()
                .saturating_sub(self.epoch.time().as_micros()),
        )
    }
}
