//! [`CloseReason`]: the single list of reasons for which a connection to an edge ends. What the
//! client is sent, what is logged and which metric counts it all follow from the reason.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::{ErrorCode, RETRY_AFTER_ROUND_MS};
use crate::earlier_schema::EarlierSchema;
use crate::frame::{FrameError, FrameType};

/// The reason why a connection to an edge ended. `Display` writes the sentence that an ERROR frame
/// carries: what was wrong, and what is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// A frame is invalid.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// A payload does not decode as the message of its frame type.
    #[error(
        "the payload of {} does not decode as the protobuf message that stream.proto defines \
         for this frame type",
        .frame_type.name()
    )]
    MalformedPayload {
        /// The frame's type.
        frame_type: FrameType,
    },
    /// The first frame was not AUTH.
    #[error("the first frame must be AUTH (type 0x01), but its type was 0x{found:02X}")]
    AuthRequired {
        /// The first frame's type.
        found: u8,
    },
    /// The credentials are wrong. The message does not reveal which of them is wrong.
    #[error("wrong credentials: the username and password, or the token, were not accepted")]
    AuthFailed,
    /// AUTH was sent a second time.
    #[error("this connection is already authenticated; AUTH may be sent only once")]
    AlreadyAuthenticated,
    /// No complete AUTH arrived in time.
    #[error("no complete AUTH frame arrived within {allowed:?} of connecting")]
    AuthTimeout {
        /// The time limit, counted from accept.
        allowed: Duration,
    },
    /// Too many AUTHs failed, and others wait to be checked already.
    #[error(
        "too many attempts to authenticate have failed, and this one was not checked, because \
         others from this address, or from all addresses, are waiting; try again later"
    )]
    AuthRateLimited,
    /// The mode is unknown to this version.
    #[error("mode {found} is unknown; the modes are SECOND (0) and MINUTE (1)")]
    UnknownMode {
        /// The mode's number in the SUBSCRIBE.
        found: i32,
    },
    /// The SUBSCRIBE is in the schema of the earlier Go server.
    #[error(
        "SUBSCRIBE has {0}, as in the schema of the earlier Go server; \
         this edge has another one: mode SECOND is 0, MINUTE is 1, fields 2, 3 and 4 must not be \
         sent, and ticks have neither symbols nor prices; see docs/migration.md"
    )]
    EarlierSchema(EarlierSchema),
    /// The resume point is so far ahead that the client cannot have received that tick yet.
    #[error(
        "resume_after_epoch_ms is more than 15 s ahead of this edge's time; \
         send the epoch_ms of the last tick received, or omit the field"
    )]
    ResumeTooFar,
    /// The client sent a frame of a type that only edges send.
    #[error(
        "only an edge sends {}; a client may send AUTH, SUBSCRIBE and HEARTBEAT",
        .frame_type.name()
    )]
    UnexpectedMessage {
        /// The frame's type.
        frame_type: FrameType,
    },
    /// The client sent too many frames.
    #[error(
        "too many frames were sent; at most {per_second} frames per second are allowed, \
         in bursts of up to {burst}, and a SUBSCRIBE counts as ten"
    )]
    RateLimited {
        /// The limit in frames per second.
        per_second: u32,
        /// The limit in frames at once.
        burst: u32,
    },
    /// The client asked for more replayed ticks than it is allowed.
    #[error(
        "a replay of {asked} ticks was asked for, but at most {per_minute} replayed ticks per \
         minute are sent to {limited}; come back in a minute, or with a later \
         resume_after_epoch_ms"
    )]
    ReplayLimited {
        /// The ticks of the replay that was asked for.
        asked: u32,
        /// The limit in replayed ticks per minute.
        per_minute: u32,
        /// The clients that the limit is for.
        limited: ReplayLimited,
    },
    /// The client was silent.
    #[error(
        "no HEARTBEAT arrived for {allowed:?}; \
         send one at least every heartbeat_interval_ms, which the ACK states"
    )]
    HeartbeatTimeout {
        /// The longest silence that is allowed.
        allowed: Duration,
    },
    /// The client did not read fast enough.
    #[error(
        "the client did not read fast enough: \
         its backlog exceeded this edge's bound in frames or in time"
    )]
    SlowConsumer,
    /// Authority time was stepped back.
    #[error(
        "this edge's time was stepped back by more than 10 s; \
         subscribe again without resume_after_epoch_ms"
    )]
    TimeStepped,
    /// The edge has reached its limit of connections.
    #[error("this edge has reached its limit of connections; try another edge")]
    ServerFull,
    /// The edge has reached its limit of unfinished input, and this client's was among the oldest.
    #[error(
        "the unfinished frames of this edge's clients exceed its limit in bytes, \
         and this client's is the oldest; try another edge"
    )]
    BuffersFull,
    /// The edge is being shut down.
    #[error("this edge is being shut down; resume on another")]
    ServerDraining,
    /// An operator lets the edge send this client to another one. The edge itself continues.
    #[error("this edge was told to send some of its clients to others; resume on another")]
    MovedAway,
    /// The edge has lost the time, or could not answer SUBSCRIBE in time because it does not know
    /// it.
    #[error("this edge does not know the time; resume on another")]
    NoTime,
    /// The client's address has reached its limit of connections, or of new connections per time.
    #[error(
        "this address has reached its limit of connections, \
         or of new connections in a given time"
    )]
    TooManyConnections,
    /// The client's address is on the edge's list of blocked networks, or not on its list of
    /// allowed ones.
    #[error("this address may not connect")]
    Blocked,
    /// The edge has a bug.
    #[error("internal error: this edge has a bug; its log has the details")]
    Internal,
    /// The client ended the connection.
    #[error("the client closed the connection")]
    ClientClosed,
    /// The client ended the connection without having sent a byte, as load balancers do to check
    /// whether a port is open.
    #[error("the client closed the connection without having sent a byte")]
    HealthCheck,
    /// The network or the client's machine ended the connection: a reset, or a TCP timeout.
    #[error("the connection was lost")]
    ConnectionLost,
    /// TLS has failed: the handshake, or a record. The client was sent an alert if one fits.
    #[error("TLS failed")]
    TlsFailed,
    /// The PROXY header of a trusted load balancer was missing or wrong, or another peer sent one.
    /// There is no ERROR: what is wrong is the balancer, not its client.
    #[error("the PROXY header was missing, wrong or not allowed")]
    ProxyHeader,
    /// An operator closed this connection through the edge's admin port.
    #[error("an operator closed the connection")]
    Operator,
    /// The edge's process stopped without a drain.
    #[error("the edge stopped")]
    Shutdown,
}

/// The clients that a limit on replayed ticks is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayLimited {
    /// A single connection.
    Connection,
    /// All connections from the client's address together, except those of known devices.
    Address,
}

impl fmt::Display for ReplayLimited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connection => "a connection",
            Self::Address => "the clients of an address",
        })
    }
}

/// The level at which the end of a connection is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// The level of every other end. Clients, authenticated or not, can cause most of them at will.
    Debug,
    /// The level of an end that an operator should look into.
    Warn,
}

impl CloseReason {
    /// Returns the code of the ERROR frame, or `None` if the client is not sent an ERROR.
    #[must_use]
    pub const fn error_code(self) -> Option<ErrorCode> {
        match self.ending() {
            Ending::WithError(code) => Some(code),
            Ending::WithoutError { .. } => None,
        }
    }

    /// Returns the value of the label `reason` of `tickstorm_connections_closed_total`: the error
    /// code in lower case, or the name of an end without an ERROR.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self.ending() {
            Ending::WithError(code) => code.label(),
            Ending::WithoutError { label } => label,
        }
    }

    /// Returns all labels, so that the metric's series can exist before any connection has ended.
    pub fn labels() -> impl Iterator<Item = &'static str> {
        let without_error = [
            Self::Blocked,
            Self::ClientClosed,
            Self::HealthCheck,
            Self::ConnectionLost,
            Self::TlsFailed,
            Self::ProxyHeader,
            Self::Operator,
            Self::Shutdown,
        ];
        let coded = ErrorCode::ALL.iter().map(|code| code.label());
        coded.chain(without_error.into_iter().map(Self::label))
    }

    /// Returns the range of milliseconds from which an edge draws each client's `retry_after_ms` at
    /// random, or `None` if there is no ERROR, or if it carries 0, which means no hint.
    #[must_use]
    pub const fn retry_after_ms(self) -> Option<RangeInclusive<u32>> {
        match (self, self.error_code()) {
            (Self::ResumeTooFar, _) => Some(RETRY_AFTER_ROUND_MS),
            (_, Some(code)) => code.retry_after_ms(),
            (_, None) => None,
        }
    }

    /// Returns the level at which the end is logged.
    #[must_use]
    pub const fn log_level(self) -> LogLevel {
        if matches!(self, Self::Internal) {
            LogLevel::Warn
        } else {
            LogLevel::Debug
        }
    }

    const fn ending(self) -> Ending {
        Ending::WithError(match self {
            Self::Frame(error) => error.code(),
            Self::MalformedPayload { .. } => ErrorCode::MalformedPayload,
            Self::AuthRequired { .. } => ErrorCode::AuthRequired,
            Self::AuthFailed => ErrorCode::AuthFailed,
            Self::AlreadyAuthenticated => ErrorCode::AlreadyAuthenticated,
            Self::AuthTimeout { .. } => ErrorCode::AuthTimeout,
            Self::AuthRateLimited => ErrorCode::AuthRateLimited,
            Self::UnknownMode { .. } | Self::EarlierSchema(_) | Self::ResumeTooFar => {
                ErrorCode::InvalidSubscription
            }
            Self::UnexpectedMessage { .. } => ErrorCode::UnexpectedMessage,
            Self::RateLimited { .. } | Self::ReplayLimited { .. } => ErrorCode::RateLimited,
            Self::HeartbeatTimeout { .. } => ErrorCode::HeartbeatTimeout,
            Self::SlowConsumer => ErrorCode::SlowConsumer,
            Self::TimeStepped => ErrorCode::TimeStepped,
            Self::ServerFull | Self::BuffersFull => ErrorCode::ServerFull,
            Self::ServerDraining | Self::MovedAway => ErrorCode::ServerDraining,
            Self::NoTime => ErrorCode::NoTime,
            Self::TooManyConnections => ErrorCode::TooManyConnections,
            Self::Internal => ErrorCode::Internal,
            Self::Blocked => return Ending::without_error("blocked"),
            Self::ClientClosed => return Ending::without_error("client_closed"),
            Self::HealthCheck => return Ending::without_error("health_check"),
            Self::ConnectionLost => return Ending::without_error("connection_lost"),
            Self::TlsFailed => return Ending::without_error("tls_failed"),
            Self::ProxyHeader => return Ending::without_error("proxy_header"),
            Self::Operator => return Ending::without_error("operator"),
            Self::Shutdown => return Ending::without_error("shutdown"),
        })
    }
}

/// The ending of a connection: with an ERROR frame, or without one and under its own metric label.
enum Ending {
    WithError(ErrorCode),
    WithoutError { label: &'static str },
}

impl Ending {
    const fn without_error(label: &'static str) -> Self {
        Self::WithoutError { label }
    }
}
