//! [`Event`] and [`Tick`]: the items that a subscription yields.

use std::time::Duration;

use tickstorm_timebase::{Epoch, Mode, Quality};

use crate::error::{ConnectionId, Error};
use crate::estimate::Estimate;

/// An event of a subscription.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A tick. It is later than all ticks before it, except that ticks may go back after an
    /// [`Event::Reconnecting`] with `resumes` false.
    Tick(Tick),
    /// The ticks between `after` and `before` are missing and cannot be obtained. The tick `before`
    /// comes next.
    #[non_exhaustive]
    Gap {
        /// The last tick before the gap or, if there was none, the point after which ticks were
        /// requested.
        after: Epoch,
        /// The first tick after the gap.
        before: Epoch,
    },
    /// The connection ended, or the last attempt to make a new one failed. The next attempt follows
    /// by itself.
    #[non_exhaustive]
    Reconnecting {
        /// The reason why the connection ended or the attempt failed.
        why: Error,
        /// The id of the connection that ended, by which the edge's operator finds it in the log;
        /// `None` if it had none.
        connection_id: Option<ConnectionId>,
        /// The wait before the next attempt.
        after: Duration,
        /// Whether ticks continue after the last tick received, as they nearly always do. If false,
        /// authority time was stepped back, or the edges refuse the resume point. The ticks then
        /// start again at the next edge's present, so some may be repeated, and ticks that were
        /// held for release are dropped.
        resumes: bool,
    },
    /// A new connection was made, and the client is subscribed again.
    #[non_exhaustive]
    Reconnected {
        /// The address of the edge: one of those in [`Options`](crate::Options).
        address: String,
        /// The name that the edge gives itself; it may contain any characters.
        edge_id: String,
        /// The id of the new connection; `None` if the edge gave it none.
        connection_id: Option<ConnectionId>,
    },
    /// The subscription moved to another edge, because its edge is going away or asked it to. No
    /// tick was lost or delayed, and there was a connection all the time.
    #[non_exhaustive]
    Moved {
        /// The address of the new edge: one of those in [`Options`](crate::Options).
        address: String,
        /// The name that the new edge gives itself; it may contain any characters.
        edge_id: String,
        /// The id of the new connection; `None` if the new edge gave it none.
        connection_id: Option<ConnectionId>,
    },
    /// The edge accepted a change of mode, which [`Ticks::set_mode`](crate::Ticks::set_mode) asked
    /// for. The next tick is one of this mode.
    #[non_exhaustive]
    ModeChanged {
        /// The new mode.
        mode: Mode,
        /// The point after which its ticks start.
        start: Epoch,
    },
}

/// A tick as the client received it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tick {
    /// The mode, whose grid the tick is on.
    pub mode: Mode,
    /// The Unix time of the tick.
    pub epoch: Epoch,
    /// The grounds on which the edge released the tick.
    pub quality: Quality,
    /// The authority time at which this client read the tick or, if it held the tick until its
    /// time, released it. `None` if authority time was not known then.
    pub read: Option<Estimate>,
}

impl Tick {
    /// Creates a tick as it is read while authority time is not known, such as for a test of a
    /// program that handles ticks.
    #[must_use]
    pub const fn new(mode: Mode, epoch: Epoch, quality: Quality) -> Self {
        Self {
            mode,
            epoch,
            quality,
            read: None,
        }
    }

    /// Sets the authority time at which the tick was read or released.
    #[must_use]
    pub const fn read_at(mut self, read: Option<Estimate>) -> Self {
        self.read = read;
        self
    }

    /// Returns the lateness in microseconds: how long after its time this client read or released
    /// the tick, give or take the error of `read`. Negative if the tick appears to have been early;
    /// `None` if authority time was not known.
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
