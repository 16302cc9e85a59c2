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
    /// The rounds that have ended so far.
    pub rounds: RoundCounts,
    /// The rate of the machine's own clock minus that of the followed clock, in parts per billion,
    /// as last measured; `None` before that, which takes a minute.
    pub rate_ppb: Option<i64>,
}

/// Numbers of rounds that have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundCounts {
    /// Rounds in which at least one clock answered in time.
    pub answered: u64,
    /// Rounds in which no clock did.
    pub unanswered: u64,
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
    /// Whether two hosts answered under its id less than HOLDOVER_MAX ago.
    pub is_shared: bool,
    /// Whether messages that no clock sends came from its login less than HOLDOVER_MAX ago.
    pub is_misbehaving: bool,
    /// Whether nothing is heard of it while other clocks are heard, so that its name in CLOCKS may
    /// be misspelt.
    pub is_unheard: bool,
    /// The lead of its time over authority time, in microseconds; `None` if either is unknown.
    pub offset_us: Option<i64>,
    /// The error bound of the edge's estimate of its time, in microseconds; `None` without a usable
    /// sample.
    pub bound_us: Option<u32>,
    /// The rate of the machine's own clock minus its rate, in parts per billion, as last measured
    /// while it agreed with a majority; `None` before that, which takes a minute.
    pub rate_ppb: Option<i64>,
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

impl ClockStatus {
    /// Returns whether `alarm` is raised for this clock. Other alarms concern no single clock.
    #[must_use]
    pub fn is_raised(&self, alarm: Alarm) -> bool {
        match alarm {
            Alarm::SharedId => self.is_shared,
            Alarm::Falseticker => self.state == ClockState::False,
            Alarm::Misbehaving => self.is_misbehaving,
            Alarm::Unheard => self.is_unheard,
            Alarm::NoMajority | Alarm::NoneAccepted | Alarm::StepPending | Alarm::Rate => false,
        }
    }
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
    /// The machine's own clock and the followed clock differ in rate by more than error bounds
    /// assume.
    Rate,
    /// Two hosts answer under one clock id.
    SharedId,
    /// A clock is a falseticker.
    Falseticker,
    /// A clock's login sends messages that no clock sends.
    Misbehaving,
    /// Nothing has been heard of a clock in CLOCKS, while other clocks were heard for 10 s.
    Unheard,
}

impl Alarm {
    /// All alarms.
    pub const ALL: [Self; 8] = [
        Self::NoMajority,
        Self::NoneAccepted,
        Self::StepPending,
        Self::Rate,
        Self::SharedId,
        Self::Falseticker,
        Self::Misbehaving,
        Self::Unheard,
    ];

    /// The alarms that are raised for single clocks.
    pub const OF_CLOCKS: [Self; 4] = [
        Self::SharedId,
        Self::Falseticker,
        Self::Misbehaving,
        Self::Unheard,
    ];

    /// Returns the value of the label `reason` of `tickstorm_time_alarm`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoMajority => "no_majority",
            Self::NoneAccepted => "none_believed",
            Self::StepPending => "step_pending",
            Self::Rate => "rate",
            Self::SharedId => "shared_id",
            Self::Falseticker => "falseticker",
            Self::Misbehaving => "misbehaving",
            Self::Unheard => "unheard",
        }
    }

    /// Returns a sentence for operators that says what the alarm means.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::NoMajority => {
                "Too few clocks agree to form a majority, so the edge accepts those that agree \
                 with its own time."
            }
            Self::NoneAccepted => {
                "Clocks answer but none is accepted, so the edge continues on its own time until \
                 2 s after HOLDOVER_MAX."
            }
            Self::StepPending => {
                "The time of the only clock changed by more than 10 s, and the edge follows it \
                 once that has lasted for 10 s."
            }
            Self::Rate => {
                "The machine's own clock runs at another rate than the accepted clocks, by more \
                 than 200 ppm, so error bounds grow faster."
            }
            Self::SharedId => {
                "Two hosts answer under the id of one clock, so the edge does not trust either."
            }
            Self::Falseticker => {
                "A clock disagreed with a majority or two hosts answered under its id less than \
                 HOLDOVER_MAX ago, so its time is not used."
            }
            Self::Misbehaving => {
                "Messages that no clock sends come from the NATS login of a clock, so someone \
                 else may use it."
            }
            Self::Unheard => {
                "Nothing is heard of a clock in CLOCKS while others are heard, so it is down or \
                 its name is misspelt."
            }
        }
    }

    /// Returns sentences that tell operators what to do.
    #[must_use]
    pub const fn action(self) -> &'static str {
        match self {
            Self::NoMajority => {
                "Start the clocks that are silent. If enough of them answer, compare their \
                 offsets, and repair the hosts that are wrong."
            }
            Self::NoneAccepted => {
                "Act at once: see which clocks are right, and repair the others or take them out \
                 of CLOCKS."
            }
            Self::StepPending => {
                "Look at the time of the clock's host and why it was stepped. Run three clocks."
            }
            Self::Rate => {
                "Compare rate_ppm of several edges. If only one edge raises the alarm, move it or \
                 look at its kernel's clock source. If all do, look at chronyc tracking on the \
                 clock's host."
            }
            Self::SharedId => {
                "Give each clock its own CLOCK_ID. If each has one, replace the clock's NATS login."
            }
            Self::Falseticker => {
                "Look at chronyc tracking on the clock's host. If the host is right, someone \
                 else may use its NATS login."
            }
            Self::Misbehaving => "Replace the clock's NATS login.",
            Self::Unheard => {
                "Compare CLOCKS with the clocks' CLOCK_IDs, letter by letter. If they are the \
                 same, start the clock."
            }
        }
    }
}
