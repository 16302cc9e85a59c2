//! The grid: which moments are ticks. A tick is a pure function of time, which is why nothing about ticks is ever stored.

use crate::unix::UnixTime;

/// Which grid a tick belongs to. The only `Mode` there is: what comes off a wire is converted where it is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Every whole second.
    Second,
    /// Every whole minute.
    Minute,
}

impl Mode {
    /// Both modes.
    pub const ALL: [Self; 2] = [Self::Second, Self::Minute];

    /// Milliseconds from one tick to the next.
    #[must_use]
    pub const fn period_ms(self) -> i64 {
        match self {
            Self::Second => 1_000,
            Self::Minute => 60_000,
        }
    }

    /// `second` or `minute`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
        }
    }

    /// The last grid tick at or before `time`.
    #[must_use]
    pub const fn last_at(self, time: UnixTime) -> Epoch {
        self.floor(Epoch::from_ms(time.as_millis()))
    }

    /// The last grid tick at or before `epoch`, which need not be on the grid.
    #[must_use]
    pub const fn floor(self, epoch: Epoch) -> Epoch {
        Epoch(epoch.0 - epoch.0.rem_euclid(self.period_ms()))
    }

    /// The first grid tick after `epoch`, which need not be on the grid.
    #[must_use]
    pub const fn next_after(self, epoch: Epoch) -> Epoch {
        Epoch(self.floor(epoch).0.saturating_add(self.period_ms()))
    }

    /// Whether `epoch` is a tick of this mode.
    #[must_use]
    pub const fn is_tick(self, epoch: Epoch) -> bool {
        epoch.0.rem_euclid(self.period_ms()) == 0
    }
}

/// Unix time of a tick in milliseconds, or of a point between ticks (a resume point).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(i64);

impl Epoch {
    /// The epoch `ms` milliseconds after the beginning of 1970.
    #[must_use]
    pub const fn from_ms(ms: i64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the beginning of 1970.
    #[must_use]
    pub const fn as_ms(self) -> i64 {
        self.0
    }

    /// The moment itself; saturates beyond what nanoseconds can hold (the year 2262).
    #[must_use]
    pub const fn time(self) -> UnixTime {
        UnixTime::from_nanos(self.0.saturating_mul(1_000_000))
    }
}

/// How an edge came to release a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quality {
    /// Announced by a clock that the edge believes.
    Normal,
    /// No such announcement was heard; the edge carried on from its disciplined time.
    Holdover,
    /// Sent more than 1 s after its time, or because the client resumed.
    Replay,
}

/// One SECOND or MINUTE event; its mode is that of the feed it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tick {
    /// Unix time of the tick.
    pub epoch: Epoch,
    /// How the edge came to release it.
    pub quality: Quality,
}
