//! [`Part`]: what the scripted edge does on one connection. A scenario is a list of parts, one for
//! each connection that a client is expected to make.

use std::time::Duration;

/// What the edge does on one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// Whether this edge says that it is the one of the part before. All others have names of their
    /// own, as behind a balancer.
    pub(super) is_same_edge: bool,
    /// The answer to AUTH.
    pub(super) welcome: Answer,
    /// The answer to SUBSCRIBE.
    pub(super) subscription: Answer,
    pub(super) conduct: Conduct,
    /// Steps of authority time, each at a time after the ACK of SUBSCRIBE.
    pub(super) steps: &'static [Step],
    /// The time from the ACK of SUBSCRIBE to the ending, which is rounded up to the next tick.
    pub(super) lasts: Duration,
    pub(super) ending: Ending,
}

/// A step of authority time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) after: Duration,
    /// A whole number of seconds, so that ticks keep their distance from this edge's timers.
    pub(super) secs: i64,
}

/// The answer to a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) after: Duration,
    /// The ERROR in place of an ACK.
    pub(super) refusal: Option<Refusal>,
}

impl Answer {
    const AT_ONCE: Self = Self::after_ms(0);

    pub(super) const fn after_ms(ms: u64) -> Self {
        Self {
            after: Duration::from_millis(ms),
            refusal: None,
        }
    }

    pub(super) const fn refusal(code: &'static str, retry_after_ms: u32) -> Self {
        Self {
            refusal: Some(Refusal::new(code, retry_after_ms)),
            ..Self::AT_ONCE
        }
    }
}

/// The content of an ERROR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: &'static str,
    pub(super) retry_after_ms: u32,
}

impl Refusal {
    pub(super) const fn new(code: &'static str, retry_after_ms: u32) -> Self {
        Self {
            code,
            retry_after_ms,
        }
    }
}

/// How the edge serves a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Conduct {
    /// How late ticks are sent.
    pub(super) tick_delay: Duration,
    pub(super) pong_delay: Duration,
    /// Whether PONGs carry the time.
    pub(super) has_time: bool,
    /// Whether frames arrive byte by byte, or several and a half at once.
    pub(super) is_torn: bool,
    /// Whether there are frames, fields and values that a client of today does not know.
    pub(super) is_odd: bool,
}

impl Conduct {
    pub(super) const PLAIN: Self = Self {
        tick_delay: Duration::ZERO,
        pong_delay: Duration::ZERO,
        has_time: true,
        is_torn: false,
        is_odd: false,
    };
}

/// How the edge ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The scenario is over.
    Over,
    Error(Refusal),
    /// The edge forgets the time, sends no more ticks, and closes with NO_TIME.
    TimeLost {
        retry_after_ms: u32,
    },
    /// Authority time is stepped by so many seconds, and the edge closes with TIME_STEPPED.
    TimeStepped {
        secs: i64,
        retry_after_ms: u32,
    },
    EndOfFile,
    /// An end of file in the middle of a payload.
    CutPayload,
    /// An end of file in the middle of a header.
    CutHeader,
    /// A reset in the middle of a frame.
    Reset,
    /// Silence in the middle of a frame. The connection stays open.
    Silence,
    /// A batch with a bad checksum. The edge continues after it, as if nothing were wrong.
    BadBatch,
    /// A frame of an unknown type with a bad checksum. The edge continues after it.
    BadUnknown,
    /// GOING_AWAY with this deadline, and SERVER_DRAINING at it.
    GoingAway {
        deadline: Duration,
    },
    /// The edge waits for the client to leave, because it is the one that the client comes from.
    SameEdge,
}

impl Ending {
    /// Returns whether the ending happens at a tick, whose frame it breaks.
    pub(super) const fn breaks_tick(self) -> bool {
        match self {
            Self::CutPayload | Self::CutHeader | Self::Silence | Self::BadBatch => true,
            Self::Over
            | Self::Error(_)
            | Self::TimeLost { .. }
            | Self::TimeStepped { .. }
            | Self::EndOfFile
            | Self::Reset
            | Self::BadUnknown
            | Self::GoingAway { .. }
            | Self::SameEdge => false,
        }
    }
}

impl Part {
    /// An edge that does everything right for so many seconds.
    pub(super) const fn plain(secs: u64, ending: Ending) -> Self {
        Self {
            is_same_edge: false,
            welcome: Answer::AT_ONCE,
            subscription: Answer::AT_ONCE,
            conduct: Conduct::PLAIN,
            steps: &[],
            lasts: Duration::from_secs(secs),
            ending,
        }
    }
}
