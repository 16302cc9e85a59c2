//! Why there is no connection, or none any more.

use std::fmt::{self, Write as _};
use std::io;
use std::time::Duration;

pub use tickstorm_protocol::code::{ErrorCode, Return, UnknownCode};
pub use tickstorm_protocol::session::client::{ClientError, Refusal};

/// What ended a connection, or kept it from coming about. What an edge wrote is shown escaped: no terminal shall obey it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection came about.
    #[error("can't connect to {}", Harmless(address))]
    Connect {
        /// Where to.
        address: String,
        /// What the system said of the last address tried.
        source: io::Error,
    },
    /// The edge sent ERROR, which ends the connection and says why.
    #[error("the edge refused: {}", ShownRefusal(.0))]
    Refused(Refusal),
    /// What the edge sent is not what the protocol allows.
    #[error("the edge broke the protocol")]
    Protocol(#[from] ClientError),
    /// The connection ended without ERROR.
    #[error("the edge closed the connection")]
    Closed {
        /// What the system said; none at an orderly end of file.
        source: Option<io::Error>,
    },
    /// The edge does not know the time, and another may.
    #[error("the edge did not know the time for {waited:?}")]
    Timeless {
        /// How long it was waited for.
        waited: Duration,
    },
    /// The edge kept silent for too long.
    #[error("the edge sent {} for {silence:?}", .awaited.missing())]
    Timeout {
        /// What should have come.
        awaited: Awaited,
        /// How long was waited.
        silence: Duration,
    },
}

/// What an edge was silent for too long to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// The answer to AUTH.
    Authentication,
    /// Anything at all.
    Anything,
}

impl Awaited {
    const fn missing(self) -> &'static str {
        match self {
            Self::Authentication => "no answer to AUTH",
            Self::Anything => "nothing",
        }
    }
}

impl Error {
    /// Whether, when and where a client comes back after this, if it was subscribed without trouble before.
    #[must_use]
    pub fn come_back(&self) -> Return {
        match self {
            Self::Connect { .. } | Self::Timeless { .. } => Return::Elsewhere,
            Self::Refused(refusal) => refusal.come_back(),
            Self::Protocol(broken) => broken.come_back(),
            Self::Closed { .. } | Self::Timeout { .. } => Return::AtOnce,
        }
    }

    /// How long the edge wants this client to wait; zero where it doesn't say.
    pub(crate) fn retry_after(&self) -> Duration {
        match self {
            Self::Refused(refusal) => Duration::from_millis(refusal.retry_after_ms.into()),
            Self::Connect { .. }
            | Self::Protocol(_)
            | Self::Closed { .. }
            | Self::Timeless { .. }
            | Self::Timeout { .. } => Duration::ZERO,
        }
    }
}

/// A refusal's code and message.
struct ShownRefusal<'a>(&'a Refusal);

impl fmt::Display for ShownRefusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.code {
            Ok(code) => code.fmt(f)?,
            Err(UnknownCode(text)) => Harmless(text).fmt(f)?,
        }
        write!(f, ": {}", Harmless(&self.0.message))
    }
}

/// Text from elsewhere with everything escaped that is not simply shown.
struct Harmless<'a>(&'a str);

impl fmt::Display for Harmless<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\'' | '"' => f.write_char(c),
            _ => c.escape_debug().fmt(f),
        })
    }
}
