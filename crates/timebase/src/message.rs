//! The messages between clocks and edges, and the reasons for an edge to refuse one. The bus
//! transports them.

use crate::clock_id::ClockId;
use crate::grid::{Epoch, Mode};

/// A clock's message that a tick will be due. It vouches for all ticks of both modes up to that
/// one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The mode whose grid `epoch` is on.
    pub mode: Mode,
    /// The time of the tick.
    pub epoch: Epoch,
    /// The clock that sends the announcement.
    pub clock_id: ClockId,
    /// The clock's rank. Edges follow the accepted clock with the lowest rank.
    pub rank: u32,
    /// The clock's time on sending, as Unix time in microseconds.
    pub sent_unix_us: i64,
    /// The clock's timeline: a number that is random when the clock starts and changes whenever its
    /// host's clock is stepped.
    pub timeline: u64,
}

/// A clock's answer to a time request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The number of the request.
    pub nonce: u64,
    /// The clock that answers.
    pub clock_id: ClockId,
    /// The clock's rank. Edges follow the accepted clock with the lowest rank.
    pub rank: u32,
    /// The clock's time on reading the request, as Unix time in microseconds.
    pub received_unix_us: i64,
    /// The clock's time on answering, as Unix time in microseconds.
    pub sent_unix_us: i64,
    /// The clock's maximum error against UTC according to its kernel, in microseconds.
    pub clock_error_us: u32,
    /// Whether the clock's kernel reports its time as disciplined.
    pub synchronized: bool,
    /// The clock's timeline: a number that is random when the clock starts and changes whenever its
    /// host's clock is stepped.
    pub timeline: u64,
}

/// The reason why an edge ignored an announcement or an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// CLOCKS is set and does not list this clock.
    #[error("the clock is not listed in CLOCKS")]
    UnknownClock,
    /// CLOCKS is not set, and the edge already remembers as many clocks as it can.
    #[error("too many clocks are known already")]
    TooManyClocks,
    /// The clock is a falseticker.
    #[error("the clock is a falseticker")]
    Falseticker,
    /// The announced moment is not a tick of its mode.
    #[error("the announced moment is not on the grid of its mode")]
    OffGrid,
    /// The announced tick is too far ahead of authority time.
    #[error("the announced tick is too far ahead")]
    TooFarAhead,
    /// The answered request was never made by this edge, or too long ago to be remembered.
    #[error("the answer is to an unknown request")]
    UnknownRequest,
    /// The answer is a second copy.
    #[error("the answer is a duplicate")]
    Duplicate,
    /// One request was answered under this id on two timelines: two hosts share one id.
    #[error("two hosts answer under the same clock id")]
    SharedId,
    /// The answer arrived after the end of its round.
    #[error("the answer arrived after the end of its round")]
    Late,
    /// The answer's times are impossible: out of range, or sent before the request was read.
    #[error("the times in the answer are implausible")]
    Implausible,
    /// The clock claims to have spent more time on the answer than passed from request to answer:
    /// it was stepped in between.
    #[error("the round trip is negative")]
    NegativeRoundTrip,
}

impl Refused {
    /// Returns the value of the label `reason` of `tickstorm_bus_dropped_total`.
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
