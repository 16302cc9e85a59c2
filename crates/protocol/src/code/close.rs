//! [`CloseReason`]: the one list of what may end a connection of an edge. Everything that is said about an end, to the client,
//! to the log and to the metrics, follows from it.

use std::time::Duration;

use super::ErrorCode;
use crate::frame::{FrameError, FrameType};

/// Why an edge's connection ended. `Display` is the sentence that an ERROR frame says: what was wrong and what is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// A frame is not valid.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// A payload is not the frame type's message.
    #[error("the payload of {} is not a protobuf message of the type that stream.proto gives it", .frame_type.name())]
    MalformedPayload {
        /// The frame's type.
        frame_type: FrameType,
    },
    /// The first frame was another.
    #[error("the first frame must be AUTH (type 0x01), but was of type 0x{found:02X}")]
    AuthRequired {
        /// The first frame's type.
        found: u8,
    },
    /// Wrong credentials. Which of them is not said.
    #[error("the username and password, or the token, are not right")]
    AuthFailed,
    /// A second AUTH.
    #[error("this connection is authenticated already; AUTH may be sent once")]
    AlreadyAuthenticated,
    /// No complete AUTH in time.
    #[error("no complete AUTH frame arrived within {allowed:?} of connecting")]
    AuthTimeout {
        /// The time that the client had.
        allowed: Duration,
    },
    /// Too many failed AUTHs from this address.
    #[error(
        "too many failed attempts to authenticate came from this address; it is refused until the minute is over"
    )]
    AuthRateLimited,
    /// A mode that this version doesn't know.
    #[error("mode {found} is unknown; SECOND (0) and MINUTE (1) may be subscribed to")]
    UnknownMode {
        /// The number that was there.
        found: i32,
    },
    /// A resume point that can't have been seen yet.
    #[error(
        "resume_after_epoch_ms lies more than 15 s ahead of this edge's time; name the last tick that was seen, or none"
    )]
    ResumeTooFar,
    /// A frame that only an edge sends.
    #[error("{} is sent by an edge only; a client sends AUTH, SUBSCRIBE and HEARTBEAT", .frame_type.name())]
    UnexpectedMessage {
        /// The frame's type.
        frame_type: FrameType,
    },
    /// Too many frames.
    #[error("more than {per_second} frames a second (in bursts of twice that) were sent")]
    RateLimited {
        /// The limit.
        per_second: u32,
    },
    /// The client was silent.
    #[error(
        "no HEARTBEAT arrived for {allowed:?}; send one at least each heartbeat_interval_ms of the ACK"
    )]
    HeartbeatTimeout {
        /// The silence that is allowed.
        allowed: Duration,
    },
    /// The client did not read.
    #[error(
        "the client did not read fast enough: what waited for it passed this edge's bound in frames or in time"
    )]
    SlowConsumer,
    /// Authority time went back.
    #[error(
        "this edge's time went back by more than 10 s; subscribe again without resume_after_epoch_ms"
    )]
    TimeStepped,
    /// The edge has all the connections that it may have.
    #[error("this edge has as many connections as it may have; try another")]
    ServerFull,
    /// The edge is being shut down.
    #[error("this edge is being shut down; resume on another")]
    ServerDraining,
    /// The client's address has all the connections that it may have.
    #[error("this address has as many connections, or opens them as fast, as it may")]
    TooManyConnections,
    /// A defect of the edge.
    #[error("a defect of this edge; its log has more")]
    Internal,
    /// The client ended the connection.
    #[error("the client closed the connection")]
    ClientClosed,
    /// The client ended the connection without having sent a byte, as balancers do to see whether a port is open.
    #[error("the client closed the connection without a byte")]
    HealthCheck,
    /// The network or the client's machine ended the connection: a reset, a timeout of TCP.
    #[error("the connection was lost")]
    ConnectionLost,
    /// Somebody closed this one connection by the edge's admin port.
    #[error("an operator closed the connection")]
    Operator,
    /// The edge's process ends without a drain.
    #[error("the edge stopped")]
    Shutdown,
}

/// How loudly a connection's end is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// What strangers can bring about at will.
    Debug,
    /// What someone should look at.
    Warn,
}

impl CloseReason {
    /// The code of the ERROR frame; none where the client gets no ERROR.
    #[must_use]
    pub const fn error_code(self) -> Option<ErrorCode> {
        match self.said() {
            Said::Error(code) => Some(code),
            Said::Nothing { .. } => None,
        }
    }

    /// The label `reason` of `tickstorm_connections_closed_total`: the code in small letters, or what else ended it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self.said() {
            Said::Error(code) => code.label(),
            Said::Nothing { label } => label,
        }
    }

    /// All labels, so that metrics can exist before anything has happened.
    pub fn labels() -> impl Iterator<Item = &'static str> {
        let silent = [
            Self::ClientClosed,
            Self::HealthCheck,
            Self::ConnectionLost,
            Self::Operator,
            Self::Shutdown,
        ];
        let coded = ErrorCode::ALL.iter().map(|code| code.label());
        coded.chain(silent.into_iter().map(Self::label))
    }

    /// How loudly the end is logged.
    #[must_use]
    pub const fn log_level(self) -> LogLevel {
        if matches!(self, Self::Internal) {
            LogLevel::Warn
        } else {
            LogLevel::Debug
        }
    }

    const fn said(self) -> Said {
        Said::Error(match self {
            Self::Frame(error) => error.code(),
            Self::MalformedPayload { .. } => ErrorCode::MalformedPayload,
            Self::AuthRequired { .. } => ErrorCode::AuthRequired,
            Self::AuthFailed => ErrorCode::AuthFailed,
            Self::AlreadyAuthenticated => ErrorCode::AlreadyAuthenticated,
            Self::AuthTimeout { .. } => ErrorCode::AuthTimeout,
            Self::AuthRateLimited => ErrorCode::AuthRateLimited,
            Self::UnknownMode { .. } | Self::ResumeTooFar => ErrorCode::InvalidSubscription,
            Self::UnexpectedMessage { .. } => ErrorCode::UnexpectedMessage,
            Self::RateLimited { .. } => ErrorCode::RateLimited,
            Self::HeartbeatTimeout { .. } => ErrorCode::HeartbeatTimeout,
            Self::SlowConsumer => ErrorCode::SlowConsumer,
            Self::TimeStepped => ErrorCode::TimeStepped,
            Self::ServerFull => ErrorCode::ServerFull,
            Self::ServerDraining => ErrorCode::ServerDraining,
            Self::TooManyConnections => ErrorCode::TooManyConnections,
            Self::Internal => ErrorCode::Internal,
            Self::ClientClosed => return Said::nothing("client_closed"),
            Self::HealthCheck => return Said::nothing("health_check"),
            Self::ConnectionLost => return Said::nothing("connection_lost"),
            Self::Operator => return Said::nothing("operator"),
            Self::Shutdown => return Said::nothing("shutdown"),
        })
    }
}

/// What the client is told at the end.
enum Said {
    Error(ErrorCode),
    Nothing { label: &'static str },
}

impl Said {
    const fn nothing(label: &'static str) -> Self {
        Self::Nothing { label }
    }
}
