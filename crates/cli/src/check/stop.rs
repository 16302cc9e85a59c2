//! [`Stop`]: why a case ended before its end, and the macros that end it.

/// What a case returns when it has passed: a note for people, which may be empty.
pub(super) type Outcome<T = String> = Result<T, Stop>;

/// Why a case ended before its end.
#[derive(Clone, Debug)]
pub(super) enum Stop {
    /// The server broke the protocol.
    Failed(String),
    /// The case does not apply to this server, or not to the way in which it is checked.
    Skipped(String),
    /// The case could not be tried, so nothing is known.
    Inconclusive(String),
}

impl Stop {
    /// Adds what was being tried, in front of what was seen.
    pub(super) fn about(self, what: &str) -> Self {
        match self {
            Self::Failed(seen) => Self::Failed(format!("{what}: {seen}")),
            Self::Skipped(reason) => Self::Skipped(reason),
            Self::Inconclusive(reason) => Self::Inconclusive(format!("{what}: {reason}")),
        }
    }
}

/// Ends the case as failed, with a message.
macro_rules! fail {
    ($($format:tt)+) => {
        return Err($crate::check::stop::Stop::Failed(format!($($format)+)))
    };
}

/// Ends the case as skipped because it does not apply, with a reason.
macro_rules! skip {
    ($($format:tt)+) => {
        return Err($crate::check::stop::Stop::Skipped(format!($($format)+)))
    };
}

/// Ends the case as inconclusive because it could not be tried, with a reason.
macro_rules! inconclusive {
    ($($format:tt)+) => {
        return Err($crate::check::stop::Stop::Inconclusive(format!($($format)+)))
    };
}

/// Ends the case as failed unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($format:tt)+) => {
        if !$condition {
            $crate::check::stop::fail!($($format)+);
        }
    };
}

pub(super) use {ensure, fail, inconclusive, skip};
