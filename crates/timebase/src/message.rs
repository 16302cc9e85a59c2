//! What clocks and edges say to each other, and why an edge may refuse to listen. How it travels is the bus's business.

use crate::clock_id::ClockId;
use crate::grid::{Epoch, Mode};

/// A clock's message that a tick will be due. It vouches for the ticks of both modes up to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The grid that `epoch` is on.
    pub mode: Mode,
    /// The tick that will be due.
    pub epoch: Epoch,
    /// Who says so.
    pub clock_id: ClockId,
    /// The clock's rank: the lowest breaks ties.
    pub rank: u32,
    /// The clock's time on sending, Unix time in microseconds.
    pub sent_unix_us: i64,
    /// Random at the clock's start, changed at each step of its host's clock.
    pub timeline: u64,
}

/// A clock's answer to a time request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The request's number.
    pub nonce: u64,
    /// Who answers.
    pub clock_id: ClockId,
    /// The clock's rank: the lowest breaks ties.
    pub rank: u32,
    /// The clock's time on reading the request, Unix time in microseconds.
    pub received_unix_us: i64,
    /// The clock's time on answering, Unix time in microseconds.
    pub sent_unix_us: i64,
    /// The kernel's word on how far the clock may be from UTC, in microseconds.
    pub clock_error_us: u32,
    /// Whether the kernel says that the clock's host is disciplined.
    pub synchronized: bool,
    /// Random at the clock's start, changed at each step of its host's clock.
    pub timeline: u64,
}

/// Why an edge took no notice of an announcement or an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// CLOCKS is set and does not name this clock.
    #[error("the clock is not one of CLOCKS")]
    UnknownClock,
    /// CLOCKS is not set, and as many clocks as an edge will remember have been heard.
    #[error("too many clocks have been heard")]
    TooManyClocks,
    /// The clock is a falseticker.
    #[error("the clock is a falseticker")]
    Falseticker,
    /// An announcement of something that is no tick of its mode.
    #[error("the announced moment is not on its mode's grid")]
    OffGrid,
    /// An announcement too far ahead of authority time.
    #[error("the announced tick is too far ahead")]
    TooFarAhead,
    /// An answer to a request that this edge has not made, or not lately.
    #[error("no such request is remembered")]
    UnknownRequest,
    /// A second copy of an answer.
    #[error("the answer has been heard already")]
    Duplicate,
    /// One request was answered under this id by two timelines: two hosts share one name.
    #[error("two hosts answer under this id")]
    SharedId,
    /// The answer came after its round's end.
    #[error("the answer came after its round's end")]
    Late,
    /// The answer's times can't be: out of range, or answered before it was read.
    #[error("the answer's times are implausible")]
    Implausible,
    /// The clock claims to have spent more time on the answer than passed: it was stepped meanwhile.
    #[error("the round trip is negative")]
    NegativeRoundTrip,
}

impl Refused {
    /// The value of the label `reason` in `tickstorm_bus_dropped_total`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::UnknownClock => "unknown_clock",
            Self::TooManyClocks => "too_many_clocks",
            Self::Falseticker => "falseticker",
            Self::OffGrid => "off_grid",
            Self::TooFarAhead => "too_far_ahead",
            Self::UnknownRequest => "unknown_request",
            Self::Duplicate => "duplicate",
            Self::SharedId => "shared_id",
            Self::Late => "late",
            Self::Implausible => "implausible",
            Self::NegativeRoundTrip => "negative_round_trip",
        }
    }
}
