//! The reasons why a connection failed or ended.

use std::fmt::{self, Write as _};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use tickstorm_protocol::code::{ErrorCode, Return, UnknownCode};
pub use tickstorm_protocol::session::client::{ClientError, ConnectionId, Refusal};

/// The reason why a connection ended, or could not be made. Text from the edge is shown escaped, so
/// that it cannot control a terminal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection could not be made.
    #[error("cannot connect to {}", Escaped(address))]
    #[non_exhaustive]
    Connect {
        /// The address that was dialled.
        address: String,
        /// The error for the last IP address that was tried.
        source: io::Error,
    },
    /// A part of the credentials was not set. No connection was made.
    #[error("no {missing} is set")]
    #[non_exhaustive]
    MissingCredentials {
        /// The missing part.
        missing: &'static str,
    },
    /// The file with the password or token can't be read.
    #[error("cannot read the credentials in {}", path.display())]
    #[non_exhaustive]
    SecretFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The options of TLS can't be used.
    #[cfg(feature = "tls")]
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
    /// The edge sent ERROR, which ends the connection and gives the reason.
    #[error("the edge ended the connection: {}", ShownRefusal(.0))]
    Refused(Refusal),
    /// The edge sent something that the protocol does not allow.
    #[error("the edge broke the protocol")]
    Protocol(#[from] ClientError),
    /// The connection ended without an ERROR.
    #[error("the edge closed the connection")]
    #[non_exhaustive]
    Closed {
        /// The error of the operating system; `None` at an orderly end of file.
        source: Option<io::Error>,
    },
    /// The edge does not know the time, and another edge may.
    #[error("the edge did not know the time for {waited:?}")]
    #[non_exhaustive]
    TimeUnknown {
        /// The time for which the client waited.
        waited: Duration,
    },
    /// The edge was silent for too long.
    #[error("the edge sent {} for {silence:?}", .awaited.missing())]
    #[non_exhaustive]
    Timeout {
        /// The answer for which the client was waiting.
        awaited: Awaited,
        /// The time for which the client waited.
        silence: Duration,
    },
}

/// The answer for which a client was waiting when an edge was silent for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Awaited {
    /// The answer to AUTH.
    Authentication,
    /// Any bytes at all.
    Anything,
    /// A tick whose time has come, although the edge answers HEARTBEATs.
    Tick,
}

impl Awaited {
    const fn missing(self) -> &'static str {
        match self {
            Self::Authentication => "no answer to AUTH",
            Self::Anything => "nothing",
            Self::Tick => "no tick",
        }
    }
}

impl Error {
    /// Returns whether, when and where a client that was subscribed before comes back after this
    /// error.
    #[must_use]
    pub fn come_back(&self) -> Return {
        match self {
            Self::Connect { .. } | Self::TimeUnknown { .. } => Return::Elsewhere,
            #[cfg(feature = "tls")]
            Self::Tls(_) => Return::No,
            Self::MissingCredentials { .. } => Return::No,
            Self::Refused(refusal) => refusal.come_back(),
            Self::Protocol(broken) => broken.come_back(),
            Self::Closed { .. } | Self::Timeout { .. } | Self::SecretFile { .. } => Return::AtOnce,
        }
    }

    /// Returns the id of the connection, if the edge named it in an ERROR. The ids of connections
    /// that ended otherwise are in the events that this client has yielded.
    #[must_use]
    pub fn connection_id(&self) -> Option<&ConnectionId> {
        match self {
            Self::Refused(refusal) => refusal.connection_id.as_ref(),
            Self::Connect { .. }
            | Self::SecretFile { .. }
            | Self::MissingCredentials { .. }
            | Self::Protocol(_)
            | Self::Closed { .. }
            | Self::TimeUnknown { .. }
            | Self::Timeout { .. } => None,
            #[cfg(feature = "tls")]
            Self::Tls(_) => None,
        }
    }

    /// Returns how long the edge wants this client to wait, or zero if it gave no hint.
    pub(crate) fn retry_after(&self) -> Duration {
        match self {
            Self::Refused(refusal) => Duration::from_millis(refusal.retry_after_ms.into()),
            Self::Connect { .. }
            | Self::SecretFile { .. }
            | Self::MissingCredentials { .. }
            | Self::Protocol(_)
            | Self::Closed { .. }
            | Self::TimeUnknown { .. }
            | Self::Timeout { .. } => Duration::ZERO,
            #[cfg(feature = "tls")]
            Self::Tls(_) => Duration::ZERO,
        }
    }
}

/// Displays a refusal's code, message and connection id.
struct ShownRefusal<'a>(&'a Refusal);

impl fmt::Display for ShownRefusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.code {
            Ok(code) => code.fmt(f)?,
            Err(UnknownCode(text)) => Escaped(text).fmt(f)?,
        }
        write!(f, ": {}", Escaped(&self.0.message))?;
        match &self.0.connection_id {
            Some(id) => write!(f, " (connection {id})"),
            None => Ok(()),
        }
    }
}

/// Displays text from an edge or the configuration, with all characters escaped that are not
/// plainly printable.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\'' | '"' => f.write_char(c),
            _ => c.escape_debug().fmt(f),
        })
    }
}
