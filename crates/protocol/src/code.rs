//! The protocol's error codes: what an edge says before it closes, and what a client does about it.

mod close;

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

pub use close::{CloseReason, LogLevel};

/// A code that this version doesn't know; a client comes back later, as from [`ErrorCode::Internal`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown error code {0:?}")]
pub struct UnknownCode(pub String);

/// What a client does after an ERROR. Every new connection waits for the client's back-off first, "at once" too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Return {
    /// The same bytes will fail again: report it, and try once a minute at most.
    No,
    /// Come back, resuming.
    AtOnce,
    /// Come back without the resume point: ticks at and after it may come again.
    AtOnceWithoutResume,
    /// Like [`Return::No`] where SUBSCRIBE named no resume point. Else once more with it, since the edge may have stood
    /// still, and then without it.
    OnceMoreWithResume,
    /// Come back, after `retry_after_ms` where that is given.
    Later,
    /// Likewise, but rather to another edge.
    Elsewhere,
}

/// `retry_after_ms` of codes with which whole crowds of clients are sent away to come back soon.
const RETRY_SOON_MS: RangeInclusive<u32> = 1..=5_000;
/// `retry_after_ms` of codes after which coming back soon would not help.
const RETRY_LATER_MS: RangeInclusive<u32> = 1_000..=10_000;

macro_rules! error_codes {
    ($($(#[doc = $doc:literal])+ $code:ident, $text:literal, $label:literal;)+) => {
        /// Why an edge closes a connection.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[doc = $doc])+ $code,)+
        }

        impl ErrorCode {
            /// All codes, in the order of the protocol's table.
            pub const ALL: &[Self] = &[$(Self::$code),+];

            /// The code as it is sent.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$code => $text,)+
                }
            }

            /// The code as a metric's label: in small letters.
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
    /// Not the beginning of a frame.
    BadMagic, "BAD_MAGIC", "bad_magic";
    /// A frame of another version.
    UnsupportedVersion, "UNSUPPORTED_VERSION", "unsupported_version";
    /// A frame type that can't be ignored.
    UnknownType, "UNKNOWN_TYPE", "unknown_type";
    /// A payload beyond the limit of the moment.
    MessageTooLarge, "MESSAGE_TOO_LARGE", "message_too_large";
    /// A frame that changed on its way.
    BadChecksum, "BAD_CHECKSUM", "bad_checksum";
    /// A payload that is not the frame type's message.
    MalformedPayload, "MALFORMED_PAYLOAD", "malformed_payload";
    /// The first frame was not AUTH.
    AuthRequired, "AUTH_REQUIRED", "auth_required";
    /// Wrong credentials.
    AuthFailed, "AUTH_FAILED", "auth_failed";
    /// A second AUTH.
    AlreadyAuthenticated, "ALREADY_AUTHENTICATED", "already_authenticated";
    /// No complete AUTH in time.
    AuthTimeout, "AUTH_TIMEOUT", "auth_timeout";
    /// Too many failed AUTHs from this address.
    AuthRateLimited, "AUTH_RATE_LIMITED", "auth_rate_limited";
    /// An unknown mode, or a resume point too far ahead.
    InvalidSubscription, "INVALID_SUBSCRIPTION", "invalid_subscription";
    /// A frame that only an edge sends.
    UnexpectedMessage, "UNEXPECTED_MESSAGE", "unexpected_message";
    /// Too many frames.
    RateLimited, "RATE_LIMITED", "rate_limited";
    /// The client was silent.
    HeartbeatTimeout, "HEARTBEAT_TIMEOUT", "heartbeat_timeout";
    /// The client did not read.
    SlowConsumer, "SLOW_CONSUMER", "slow_consumer";
    /// Authority time went back.
    TimeStepped, "TIME_STEPPED", "time_stepped";
    /// The edge has all the connections that it may have.
    ServerFull, "SERVER_FULL", "server_full";
    /// The edge is being shut down.
    ServerDraining, "SERVER_DRAINING", "server_draining";
    /// The client's address has all the connections that it may have.
    TooManyConnections, "TOO_MANY_CONNECTIONS", "too_many_connections";
    /// A defect of the edge.
    Internal, "INTERNAL", "internal";
}

impl ErrorCode {
    /// Whether, when and where a client comes back.
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
            Self::InvalidSubscription => Return::OnceMoreWithResume,
            Self::AuthTimeout | Self::AuthRateLimited | Self::RateLimited | Self::Internal => {
                Return::Later
            }
            Self::ServerFull | Self::ServerDraining | Self::TooManyConnections => Return::Elsewhere,
        }
    }

    /// Between which milliseconds an edge picks each client's `retry_after_ms` at random; none means 0, no hint.
    #[must_use]
    pub const fn retry_after_ms(self) -> Option<RangeInclusive<u32>> {
        match self {
            Self::ServerDraining | Self::TimeStepped | Self::HeartbeatTimeout => {
                Some(RETRY_SOON_MS)
            }
            Self::AuthTimeout
            | Self::AuthRateLimited
            | Self::RateLimited
            | Self::ServerFull
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
