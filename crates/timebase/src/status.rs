//! What the timekeeper says of itself, for /status, metrics and tests. Nothing here decides anything.

use crate::clock_id::ClockId;

/// The timekeeper's view at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeStatus {
    /// The clocks that have a vote, and where CLOCKS is not set, those lately heard; in the order of their ids.
    pub clocks: Vec<ClockStatus>,
    /// The clock whose time is authority time; none while the time is unknown, and in holdover.
    pub following: Option<ClockId>,
    /// What someone should look at.
    pub alarms: Vec<Alarm>,
    /// Whether the time is known, and no clock is believed.
    pub holdover: bool,
    /// Authority time minus the machine's own in nanoseconds; none while unknown.
    pub offset_ns: Option<i64>,
    /// The greatest error of that in microseconds.
    pub bound_us: Option<u32>,
}

/// One clock, as the edge sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockStatus {
    /// The clock's id.
    pub id: ClockId,
    /// Its rank; none before its first answer.
    pub rank: Option<u32>,
    /// What the edge thinks of it.
    pub state: ClockState,
    /// By how many microseconds its time is ahead of authority time; none where either is unknown.
    pub offset_us: Option<i64>,
    /// The greatest error of the edge's knowledge of its time, in microseconds; none without a usable sample.
    pub bound_us: Option<u32>,
    /// What its kernel says of its error against UTC, in microseconds; none before its first answer.
    pub clock_error_us: Option<u32>,
    /// Whether its kernel says that its host is disciplined; none before its first answer.
    pub synchronized: Option<bool>,
    /// How many microseconds before its tick's authority time its latest announcement came; none before the first one that came
    /// while the time was known. Less than AHEAD_MS costs ahead feeds the quality NORMAL.
    pub announced_ahead_us: Option<i64>,
}

/// What an edge thinks of a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClockState {
    /// Believed.
    Accepted,
    /// A falseticker: it disagreed with a majority, or two hosts answered under its name, less than HOLDOVER_MAX ago.
    False,
    /// Heard, and not believed: it agrees with too few clocks, or not with the edge's own time, or its step is waited out.
    Disagrees,
    /// Heard, and the edge has not chosen yet.
    Heard,
    /// Without an answer for 10 s.
    Silent,
}

impl ClockState {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Accepted,
        Self::False,
        Self::Disagrees,
        Self::Heard,
        Self::Silent,
    ];

    /// The value of the label `state`, and of /status.
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

/// Something about the time that someone should look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Alarm {
    /// Too few clocks agree for a majority: those are believed that agree with the edge's own time, or at the start the lowest.
    NoMajority,
    /// Clocks answer, and none of them is believed.
    NoneBelieved,
    /// The only clock's time changed by more than 10 s; it will be followed if that lasts 10 s.
    StepPending,
    /// Two hosts answer under one clock's name.
    SharedId,
}

impl Alarm {
    /// Every alarm.
    pub const ALL: [Self; 4] = [
        Self::NoMajority,
        Self::NoneBelieved,
        Self::StepPending,
        Self::SharedId,
    ];

    /// The value of the label `reason` in `tickstorm_time_alarm`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoMajority => "no_majority",
            Self::NoneBelieved => "none_believed",
            Self::StepPending => "step_pending",
            Self::SharedId => "shared_id",
        }
    }
}
