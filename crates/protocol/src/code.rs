//! The protocol's error codes: why an edge closes a connection, and what the client does next.

mod close;

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

pub use close::{CloseReason, LogLevel, ReplayLimited};

/// An error code that this version does not know. The client comes back later, as it does after
/// [`ErrorCode::Internal`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown error code {0:?}")]
pub struct UnknownCode(pub String);

/// What a client does after an ERROR. Before every new connection it first waits for its backoff,
/// even after [`Return::AtOnce`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Return {
    /// The same bytes will fail again: report the error, and try again at most once per minute.
    No,
    /// Come back, and resume.
    AtOnce,
    /// Come back without the resume point. Ticks that were already received may be sent again.
    AtOnceWithoutResume,
    /// Like [`Return::No`] if SUBSCRIBE named no resume point. Otherwise come back once more with
    /// the resume point, since the edge may have been suspended, and after that without it.
    RetryResumeOnce,
    /// Come back, after `retry_after_ms` if the ERROR carries one.
    Later,
    /// Like [`Return::Later`], but preferably to another edge.
    Elsewhere,
}

/// The range of `retry_after_ms` for codes that send many clients away together, all of which may
/// come back soon.
const RETRY_SOON_MS: RangeInclusive<u32> = 1..=5_000;
/// The range of `retry_after_ms` for a client that an edge sends elsewhere, which has already
/// spread these moments.
const RETRY_SPREAD_MS: RangeInclusive<u32> = 1..=500;
/// The range of `retry_after_ms` for codes after which coming back soon would not help.
const RETRY_LATER_MS: RangeInclusive<u32> = 1_000..=10_000;
/// The range of `retry_after_ms` for a resume point too far ahead. An edge that was suspended needs
/// up to a second until the end of its next time request to see it.
const RETRY_AFTER_ROUND_MS: RangeInclusive<u32> = 1_100..=2_100;

macro_rules! error_codes {
    ($($(#[doc = $doc:literal])+ $code:ident, $text:literal, $label:literal;)+) => {
        /// The reason that an edge gives in ERROR for closing a connection.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[doc = $doc])+ $code,)+
        }

        impl ErrorCode {
            /// All codes, in the order of the table in the protocol's documentation.
            pub const ALL: &[Self] = &[$(Self::$code),+];

            /// Returns the code as it appears in an ERROR frame.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$code => $text,)+
                }
            }

            /// Returns the code as a metric label, in lower case.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$code => $label,)+
                }
            }
        }
    };
}

error_codes! {
    /// The bytes are not the start of a frame.
    BadMagic, "BAD_MAGIC", "bad_magic";
    /// The frame is of another protocol version.
    UnsupportedVersion, "UNSUPPORTED_VERSION", "unsupported_version";
    /// The frame type is unknown and must not be ignored.
    UnknownType, "UNKNOWN_TYPE", "unknown_type";
    /// The payload exceeds the limit that applies at this point of the connection.
    MessageTooLarge, "MESSAGE_TOO_LARGE", "message_too_large";
    /// The frame was corrupted in transit.
    BadChecksum, "BAD_CHECKSUM", "bad_checksum";
    /// The payload does not decode as the message of its frame type.
    MalformedPayload, "MALFORMED_PAYLOAD", "malformed_payload";
    /// The first frame was not AUTH.
    AuthRequired, "AUTH_REQUIRED", "auth_required";
    /// The credentials are wrong.
    AuthFailed, "AUTH_FAILED", "auth_failed";
    /// AUTH was sent a second time.
    AlreadyAuthenticated, "ALREADY_AUTHENTICATED", "already_authenticated";
    /// No complete AUTH arrived in time.
    AuthTimeout, "AUTH_TIMEOUT", "auth_timeout";
    /// Too many AUTHs from the client's address failed.
    AuthRateLimited, "AUTH_RATE_LIMITED", "auth_rate_limited";
    /// The mode is unknown, or the resume point is too far ahead.
    InvalidSubscription, "INVALID_SUBSCRIPTION", "invalid_subscription";
    /// The client sent a frame of a type that only edges send.
    UnexpectedMessage, "UNEXPECTED_MESSAGE", "unexpected_message";
    /// The client sent too many frames, or asked for too many replayed ticks.
    RateLimited, "RATE_LIMITED", "rate_limited";
    /// The client was silent.
    HeartbeatTimeout, "HEARTBEAT_TIMEOUT", "heartbeat_timeout";
    /// The client did not read fast enough.
    SlowConsumer, "SLOW_CONSUMER", "slow_consumer";
    /// Authority time was stepped back.
    TimeStepped, "TIME_STEPPED", "time_stepped";
    /// The edge has reached its limit of connections.
    ServerFull, "SERVER_FULL", "server_full";
    /// The edge is being shut down, or sends some of its clients elsewhere.
    ServerDraining, "SERVER_DRAINING", "server_draining";
    /// The edge has lost the time, or does not know it yet.
    NoTime, "NO_TIME", "no_time";
    /// The client's address has reached its limit of connections.
    TooManyConnections, "TOO_MANY_CONNECTIONS", "too_many_connections";
    /// The edge has a bug.
    Internal, "INTERNAL", "internal";
}

impl ErrorCode {
    /// Returns whether, when and where a client comes back.
    #[must_use]
    pub const fn come_back(self) -> Return {
        match self {
            Self::BadMagic
            | Self::UnsupportedVersion
            | Self::UnknownType
            | Self::MessageTooLarge
            | Self::MalformedPayload
            | Self::AuthRequired
            | Self::AuthFailed
            | Self::AlreadyAuthenticated
            | Self::UnexpectedMessage => Return::No,
            Self::BadChecksum | Self::HeartbeatTimeout | Self::SlowConsumer => Return::AtOnce,
            Self::TimeStepped => Return::AtOnceWithoutResume,
            Self::InvalidSubscription => Return::RetryResumeOnce,
            Self::AuthTimeout | Self::AuthRateLimited | Self::RateLimited | Self::Internal => {
                Return::Later
            }
            Self::ServerFull | Self::ServerDraining | Self::NoTime | Self::TooManyConnections => {
                Return::Elsewhere
            }
        }
    }

    /// Returns the range of milliseconds from which an edge draws each client's `retry_after_ms` at
    /// random, or `None` if the ERROR carries 0, which means no hint. It is the range for all
    /// reasons with this code, except those for which [`CloseReason::retry_after_ms`] has another.
    #[must_use]
    pub const fn retry_after_ms(self) -> Option<RangeInclusive<u32>> {
        match self {
            Self::ServerDraining => Some(RETRY_SPREAD_MS),
            Self::TimeStepped | Self::HeartbeatTimeout => Some(RETRY_SOON_MS),
            Self::AuthTimeout
            | Self::AuthRateLimited
            | Self::RateLimited
            | Self::ServerFull
            | Self::NoTime
            | Self::TooManyConnections
            | Self::Internal => Some(RETRY_LATER_MS),
            Self::BadMagic
            | Self::UnsupportedVersion
            | Self::UnknownType
            | Self::MessageTooLarge
            | Self::BadChecksum
            | Self::MalformedPayload
            | Self::AuthRequired
            | Self::AuthFailed
            | Self::AlreadyAuthenticated
            | Self::InvalidSubscription
            | Self::UnexpectedMessage
            | Self::SlowConsumer => None,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for ErrorCode {
    type Err = UnknownCode;

    fn from_str(text: &str) -> Result<Self, UnknownCode> {
        Self::ALL
            .iter()
            .copied()
            .find(|code| code.as_str() == text)
            .ok_or_else(|| UnknownCode(text.to_owned()))
    }
}
