//! A snapshot of the timekeeper for /status, metrics and tests. Nothing here decides anything.

use crate::clock_id::ClockId;

/// The timekeeper's state at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeStatus {
    /// The clocks that have a vote (if CLOCKS is not set, those recently heard), ordered by id.
    pub clocks: Vec<ClockStatus>,
    /// The clock whose time is authority time; `None` in holdover and while the time is unknown.
    pub following: Option<ClockId>,
    /// Conditions that an operator should look into.
    pub alarms: Vec<Alarm>,
    /// Whether the edge is in holdover: the time is known, but no clock is accepted.
    pub holdover: bool,
    /// Authority time minus the machine's own, in nanoseconds; `None` while the time is unknown.
    pub offset_ns: Option<i64>,
    /// The error bound of `offset_ns`, in microseconds.
    pub bound_us: Option<u32>,
}

/// One clock, as the edge sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockStatus {
    /// The clock's id.
    pub id: ClockId,
    /// Its rank; `None` before its first answer.
    pub rank: Option<u32>,
    /// The edge's verdict on it.
    pub state: ClockState,
    /// The lead of its time over authority time, in microseconds; `None` if either is unknown.
    pub offset_us: Option<i64>,
    /// The error bound of the edge's estimate of its time, in microseconds; `None` without a usable
    /// sample.
    pub bound_us: Option<u32>,
    /// The error against UTC that its kernel reports, in microseconds; `None` before its first
    /// answer.
    pub clock_error_us: Option<u32>,
    /// Whether its kernel reports the host's clock as disciplined; `None` before its first answer.
    pub synchronized: Option<bool>,
    /// The time from the arrival of its latest announcement to the announced tick's authority time,
    /// in microseconds; `None` until an announcement has arrived while the time was known. If this
    /// is less than AHEAD_MS, the ticks of ahead feeds lose the quality NORMAL.
    pub announced_ahead_us: Option<i64>,
}

/// An edge's verdict on a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClockState {
    /// Accepted: its time may be followed.
    Accepted,
    /// A falseticker: less than HOLDOVER_MAX ago, it disagreed with a majority, or two hosts
    /// answered under its id.
    False,
    /// Heard but not accepted: it agrees with too few clocks or disagrees with the edge's own time,
    /// or the edge is waiting to see whether its step lasts.
    Disagrees,
    /// Heard, but the edge has not made its first choice yet.
    Heard,
    /// No answer for 10 s.
    Silent,
}

impl ClockState {
    /// All states.
    pub const ALL: [Self; 5] = [
        Self::Accepted,
        Self::False,
        Self::Disagrees,
        Self::Heard,
        Self::Silent,
    ];

    /// Returns the value of the metrics' label `state`, which /status also uses.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::False => "false",
            Self::Disagrees => "disagrees",
            Self::Heard => "heard",
            Self::Silent => "silent",
        }
    }
}

/// A condition of the time that an operator should look into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Alarm {
    /// Too few clocks agree to form a majority. The edge accepts those that agree with its own
    /// time, or, if it does not know the time yet, with the clock of the lowest rank.
    NoMajority,
    /// Clocks answer, but none of them is accepted.
    NoneAccepted,
    /// The time of the only clock changed by more than 10 s; the edge follows it once the change
    /// has lasted 10 s.
    StepPending,
    /// Two hosts answer under one clock id.
    SharedId,
}

impl Alarm {
    /// All alarms.
    pub const ALL: [Self; 4] = [
        Self::NoMajority,
        Self::NoneAccepted,
        Self::StepPending,
        Self::SharedId,
    ];

    /// Returns the value of the label `reason` of `tickstorm_time_alarm`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoMajority => "no_majority",
            Self::NoneAccepted => "none_believed",
            Self::StepPending => "step_pending",
            Self::SharedId => "shared_id",
        }
    }
}
