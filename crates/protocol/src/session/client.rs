//! The client's side of a connection: which frames to send and when, and whether the frames that
//! arrive keep the protocol's promises.
//!
//! A session lives as long as its connection. Its driver waits, reconnects, estimates authority
//! time and decides what to do with ticks; the session only reports when a HEARTBEAT is due, and
//! returns the timestamps of each PONG.

mod heartbeats;

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use prost::Message;
use tickstorm_timebase::{self as timebase, Epoch, Mode, Mono};

use self::heartbeats::Heartbeats;
use super::Request;
use crate::code::{ErrorCode, Return, UnknownCode};
use crate::frame::{self, Decoder, Frame, FrameError, FrameType, Rules};
use crate::message::{
    Ack, Auth, CONNECTION_ID_LEN_MAX, COOKIE_LEN_MAX, DataBatch, ErrorMsg, GoingAway, Heartbeat,
    Pong, SCHEMA_VERSION, Subscribe,
};

/// An event that a client receives from an edge.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientEvent {
    /// The edge accepted the credentials.
    Authenticated(Welcome),
    /// The edge answered a SUBSCRIBE. The subscription's ticks are those after `start`, and until
    /// the first one arrives, `start` is the point to resume from.
    Subscribed {
        /// The request that is answered.
        request: Request,
        /// The point after which ticks are sent; it may itself be the epoch of a tick.
        start: Epoch,
    },
    /// At least one tick. Each is later than all before it.
    Batch(TickBatch),
    /// The edge answered a HEARTBEAT.
    Pong(PongExchange),
    /// The edge will close this connection, and the client should move to another edge meanwhile.
    GoingAway {
        /// The time until the edge closes the connection.
        within: Duration,
        /// The edge's explanation, for people.
        reason: String,
    },
    /// The edge closes the connection. This is the last event.
    Refused(Refusal),
}

/// The content of the ACK that answers AUTH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The edge's name.
    pub edge_id: String,
    /// The longest time that the edge wants between two HEARTBEATs.
    pub heartbeat_interval: Duration,
    /// The silence after which the edge closes the connection.
    pub heartbeat_timeout: Duration,
    /// The minor revision of version 1 that the edge knows.
    pub protocol_minor: u32,
    /// The name of the connection in the edge's logs and for its operator; `None` if the edge sent
    /// none.
    pub connection_id: Option<ConnectionId>,
    /// The frames per second that the edge allows; `None` if it did not say.
    pub frame_rate_limit: Option<NonZeroU32>,
    /// The cookie to present in the next AUTH with the same credentials, to any edge; `None` if the
    /// edge sent none, after which an earlier one stays valid.
    pub cookie: Option<DeviceCookie>,
}

/// The name that an edge gives to a connection: 1 to 40 visible ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionId(Box<str>);

impl ConnectionId {
    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Takes an id out of a message. Anything else than an edge sends counts as none, so an id can
    /// be printed as it is.
    fn from_message(text: String) -> Option<Self> {
        let is_valid = (1..=CONNECTION_ID_LEN_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_valid.then(|| Self(text.into()))
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A device cookie, whose bytes only edges interpret. It is not printed: it helps to guess the
/// credentials that it was issued for.
#[derive(Clone, PartialEq, Eq)]
pub struct DeviceCookie(Vec<u8>);

impl DeviceCookie {
    /// Returns the value for `Auth.cookie`.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Takes a cookie out of an ACK. A cookie that is longer than an edge accepts counts as none.
    fn from_ack(bytes: Vec<u8>) -> Option<Self> {
        (1..=COOKIE_LEN_MAX)
            .contains(&bytes.len())
            .then_some(Self(bytes))
    }
}

impl fmt::Debug for DeviceCookie {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("DeviceCookie(***)")
    }
}

/// The ticks of one DATA_BATCH frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TickBatch {
    /// The subscription's mode.
    pub mode: Mode,
    /// The ticks in strictly increasing order; never empty.
    pub ticks: Vec<timebase::Tick>,
    /// The authority time, in microseconds, at which the edge began to send the ticks.
    pub sent_unix_us: i64,
}

/// The four timestamps of a HEARTBEAT and its PONG, in microseconds: `t1` and `t4` by the client's
/// own clock, `t2` and `t3` in authority time. The driver decides whether they make a sample: times
/// of 0, or a negative round trip, do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PongExchange {
    /// The time at which the client made the HEARTBEAT.
    pub t1_us: i64,
    /// The time at which the edge read the HEARTBEAT; 0 while the edge does not know the time.
    pub t2_us: i64,
    /// The time at which the edge wrote the PONG; 0 while the edge does not know the time.
    pub t3_us: i64,
    /// The time at which the client read the PONG.
    pub t4_us: i64,
    /// The error bound of the edge's time against the clock that it follows, in microseconds;
    /// [`u32::MAX`] while the edge does not know the time.
    pub error_bound_us: u32,
    /// That clock's own error against UTC, in microseconds.
    pub clock_error_us: u32,
}

/// The content of an ERROR frame.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The error code, or its text if this version does not know it.
    pub code: Result<ErrorCode, UnknownCode>,
    /// An explanation for people.
    pub message: String,
    /// Replaces the first wait before the next connection, in milliseconds; 0 means no hint.
    pub retry_after_ms: u32,
    /// The versions that the edge supports; only set with UNSUPPORTED_VERSION.
    pub supported_versions: Vec<u32>,
    /// The name of the connection in the edge's logs and for its operator; `None` if the edge sent
    /// none.
    pub connection_id: Option<ConnectionId>,
}

impl Refusal {
    /// Returns whether, when and where to come back. A code that this version does not know means
    /// [`Return::Later`].
    #[must_use]
    pub fn come_back(&self) -> Return {
        self.code
            .as_ref()
            .map_or(Return::Later, |code| code.come_back())
    }
}

/// A violation of the protocol by the edge. The connection can no longer be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// A frame is invalid.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A payload does not decode as the message of its frame type.
    #[error("the payload of {} does not decode as its protobuf message", .0.name())]
    MalformedPayload(FrameType),
    /// The frame answers no request, or is of a type that only clients send.
    #[error("a {} frame arrived that an edge must not send at this point", .0.name())]
    Unexpected(FrameType),
    /// The ticks are of a schema whose meaning this version does not know.
    #[error("a DATA_BATCH has schema version {found}, but this client only knows {SCHEMA_VERSION}")]
    UnknownSchema {
        /// The schema version of the batch.
        found: u32,
    },
    /// A batch contains no tick.
    #[error("a DATA_BATCH contains no tick")]
    EmptyBatch,
    /// A tick is of another mode than the subscription's.
    #[error("a tick of mode {found} arrived in a subscription to the {} mode", .subscribed.name())]
    OtherMode {
        /// The mode's number in the tick.
        found: i32,
        /// The subscription's mode.
        subscribed: Mode,
    },
    /// A tick is not later than the one before it, or than the subscription's start.
    #[error(
        "tick {} is not later than {}, the tick before it or the subscription's start",
        .next.as_ms(),
        .last.as_ms()
    )]
    NotIncreasing {
        /// The epoch of the last tick so far, or the subscription's start.
        last: Epoch,
        /// The epoch of the tick that arrived.
        next: Epoch,
    },
}

impl ClientError {
    /// Returns how a client comes back: as after a reset, or not at all if it cannot interpret the
    /// edge's ticks.
    #[must_use]
    pub const fn come_back(self) -> Return {
        match self {
            Self::UnknownSchema { .. } => Return::No,
            Self::Frame(_)
            | Self::MalformedPayload(_)
            | Self::Unexpected(_)
            | Self::EmptyBatch
            | Self::OtherMode { .. }
            | Self::NotIncreasing { .. } => Return::AtOnce,
        }
    }
}

/// The client's side of one connection.
#[derive(Debug, Default)]
pub struct ClientSession {
    decoder: Decoder,
    /// The SUBSCRIBEs that have not been acknowledged yet, in the order in which they were sent.
    requests: VecDeque<Request>,
    subscription: Option<ServedSubscription>,
    /// The schedule of HEARTBEATs; `None` until the ACK of AUTH, and after an ERROR.
    heartbeats: Option<Heartbeats>,
    exact_time: bool,
    sparing: bool,
    refused: bool,
}

#[derive(Clone, Copy, Debug)]
struct ServedSubscription {
    request: Request,
    last: Epoch,
}

impl ClientSession {
    /// Creates the session of a connection on which nothing has been sent yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the session sample the time every 2 s. A session that subscribes ahead does so in any
    /// case.
    #[must_use]
    pub fn with_exact_time(mut self) -> Self {
        self.exact_time = true;
        self
    }

    /// Makes the session send no more frames than even the strictest edge accepts, at the price of
    /// learning the time later. Meant for a client to which an edge has answered RATE_LIMITED.
    #[must_use]
    pub fn sparing(mut self) -> Self {
        self.sparing = true;
        self
    }

    /// Appends the AUTH frame, which must be the first of a connection, to `out`.
    pub fn authenticate(&mut self, auth: &Auth, out: &mut Vec<u8>) {
        frame::encode(FrameType::Auth, auth, out);
    }

    /// Appends a SUBSCRIBE frame to `out`. It need not wait for the ACK of AUTH. Until its own ACK
    /// arrives, ticks still belong to the previous subscription.
    pub fn subscribe(&mut self, request: Request, out: &mut Vec<u8>) {
        self.requests.push_back(request);
        frame::encode(FrameType::Subscribe, &Subscribe::from(request), out);
    }

    /// Returns when [`ClientSession::poll_heartbeat`] next has a frame to send, which is
    /// [`Mono::NEVER`] before the ACK of AUTH.
    #[must_use]
    pub fn next_heartbeat(&self) -> Mono {
        self.heartbeats
            .as_ref()
            .map_or(Mono::NEVER, Heartbeats::next)
    }

    /// Appends a HEARTBEAT frame to `out` if one is due at `now`. `random` is any number, a
    /// different one each time; it spreads out the heartbeats of clients that started together.
    pub fn poll_heartbeat(&mut self, now: Mono, random: u32, out: &mut Vec<u8>) {
        let exact = self.exact_time || self.ahead();
        let Some(heartbeats) = self.heartbeats.as_mut().filter(|due| due.next() <= now) else {
            return;
        };
        heartbeats.sent(now, exact, random);
        let heartbeat = Heartbeat {
            client_time_us: signed(now.as_nanos() / 1_000),
        };
        frame::encode(FrameType::Heartbeat, &heartbeat, out);
    }

    /// Brings the next HEARTBEAT forward to `now`, because the client doubts that the edge is well:
    /// but to no less than a second after the last one, or two for a sparing session. Calling this
    /// continually makes the session send one as often as that.
    pub fn hasten_heartbeat(&mut self, now: Mono) {
        if let Some(heartbeats) = &mut self.heartbeats {
            heartbeats.hasten(now);
        }
    }

    /// Samples the time again as soon and as often as at the start of a connection to an edge that
    /// does not know it yet, because all earlier samples are void.
    pub fn sample_again(&mut self, now: Mono) {
        if let Some(heartbeats) = &mut self.heartbeats {
            heartbeats.time_missing();
            heartbeats.hasten(now);
        }
    }

    /// Returns the next event in `input`, which was read at `now`, and advances `input` past the
    /// bytes used. `None` means that all of `input` has been used; call this again until then.
    ///
    /// # Errors
    /// The edge's violation of the protocol. The session can no longer be used afterwards.
    pub fn handle_bytes(
        &mut self,
        input: &mut &[u8],
        now: Mono,
    ) -> Result<Option<ClientEvent>, ClientError> {
        while !self.refused {
            let Some(frame) = self.decoder.decode(Rules::CLIENT, input)? else {
                return Ok(None);
            };
            if let Some(event) = self.handle_frame(&frame, now)? {
                return Ok(Some(event));
            }
        }
        *input = &[];
        Ok(None)
    }

    fn handle_frame(
        &mut self,
        frame: &Frame<'_>,
        now: Mono,
    ) -> Result<Option<ClientEvent>, ClientError> {
        let Some(frame_type) = frame.frame_type() else {
            return Ok(None);
        };
        match frame_type {
            FrameType::Ack => self.handle_ack(decode(frame_type, frame)?, now),
            FrameType::DataBatch => self.handle_batch(&decode(frame_type, frame)?).map(Some),
            FrameType::Pong => {
                let pong: Pong = decode(frame_type, frame)?;
                match &mut self.heartbeats {
                    Some(heartbeats) if pong.sent_unix_us != 0 => heartbeats.time_received(),
                    Some(heartbeats) => heartbeats.time_missing(),
                    None => {}
                }
                Ok(Some(ClientEvent::Pong(PongExchange {
                    t1_us: pong.client_time_us,
                    t2_us: pong.received_unix_us,
                    t3_us: pong.sent_unix_us,
                    // Rounded up, as t1 was rounded down, so that the true moments lie between the
                    // two.
                    t4_us: signed(now.as_nanos().div_ceil(1_000)),
                    error_bound_us: pong.error_bound_us,
                    clock_error_us: pong.clock_error_us,
                })))
            }
            FrameType::Error => {
                let error: ErrorMsg = decode(frame_type, frame)?;
                self.refused = true;
                self.heartbeats = None;
                Ok(Some(ClientEvent::Refused(Refusal {
                    code: error.code.parse(),
                    message: error.message,
                    retry_after_ms: error.retry_after_ms,
                    supported_versions: error.supported_versions,
                    connection_id: ConnectionId::from_message(error.connection_id),
                })))
            }
            FrameType::GoingAway => {
                let GoingAway {
                    deadline_ms,
                    reason,
                } = decode(frame_type, frame)?;
                Ok(Some(ClientEvent::GoingAway {
                    within: Duration::from_millis(deadline_ms.into()),
                    reason,
                }))
            }
            FrameType::Auth | FrameType::Subscribe | FrameType::Heartbeat => {
                Err(ClientError::Unexpected(frame_type))
            }
        }
    }

    /// Handles an ACK. An ACK of a frame type that this version does not know is ignored.
    fn handle_ack(&mut self, ack: Ack, now: Mono) -> Result<Option<ClientEvent>, ClientError> {
        const AUTH: u32 = FrameType::Auth.byte() as u32;
        const SUBSCRIBE: u32 = FrameType::Subscribe.byte() as u32;
        match ack.acked_type {
            AUTH if self.heartbeats.is_none() => {
                let heartbeat_interval = Duration::from_millis(ack.heartbeat_interval_ms.into());
                let frame_rate_limit = NonZeroU32::new(ack.frame_rate_limit);
                self.heartbeats = Some(if self.sparing {
                    Heartbeats::sparing(heartbeat_interval, frame_rate_limit, now)
                } else {
                    Heartbeats::new(heartbeat_interval, frame_rate_limit, now)
                });
                Ok(Some(ClientEvent::Authenticated(Welcome {
                    edge_id: ack.edge_id,
                    heartbeat_interval,
                    heartbeat_timeout: Duration::from_millis(ack.heartbeat_timeout_ms.into()),
                    protocol_minor: ack.protocol_minor,
                    connection_id: ConnectionId::from_message(ack.connection_id),
                    frame_rate_limit,
                    cookie: DeviceCookie::from_ack(ack.cookie),
                })))
            }
            SUBSCRIBE if self.heartbeats.is_some() => {
                let unexpected = ClientError::Unexpected(FrameType::Ack);
                let request = self.requests.pop_front().ok_or(unexpected)?;
                let start = Epoch::from_ms(ack.start_epoch_ms);
                if let Some(heartbeats) = self.heartbeats.as_mut().filter(|_| request.ahead) {
                    heartbeats.require_exact_time(now);
                }
                self.subscription = Some(ServedSubscription {
                    request,
                    last: start,
                });
                Ok(Some(ClientEvent::Subscribed { request, start }))
            }
            AUTH | SUBSCRIBE => Err(ClientError::Unexpected(FrameType::Ack)),
            _ => Ok(None),
        }
    }

    fn handle_batch(&mut self, batch: &DataBatch) -> Result<ClientEvent, ClientError> {
        let unexpected = ClientError::Unexpected(FrameType::DataBatch);
        let subscription = self.subscription.as_mut().ok_or(unexpected)?;
        if batch.schema_version != SCHEMA_VERSION {
            return Err(ClientError::UnknownSchema {
                found: batch.schema_version,
            });
        }
        if batch.ticks.is_empty() {
            return Err(ClientError::EmptyBatch);
        }
        let subscribed = subscription.request.mode;
        let mut ticks = Vec::with_capacity(batch.ticks.len());
        for received in &batch.ticks {
            if received.known_mode() != Some(subscribed) {
                return Err(ClientError::OtherMode {
                    found: received.mode,
                    subscribed,
                });
            }
            let (last, tick) = (subscription.last, received.tick());
            if tick.epoch <= last {
                return Err(ClientError::NotIncreasing {
                    last,
                    next: tick.epoch,
                });
            }
            subscription.last = tick.epoch;
            ticks.push(tick);
        }
        Ok(ClientEvent::Batch(TickBatch {
            mode: subscribed,
            ticks,
            sent_unix_us: batch.sent_unix_us,
        }))
    }

    /// Returns whether the client releases ticks itself, according to the newest SUBSCRIBE,
    /// acknowledged or not.
    fn ahead(&self) -> bool {
        let served = self.subscription.as_ref().map(|served| &served.request);
        self.requests
            .back()
            .or(served)
            .is_some_and(|newest| newest.ahead)
    }
}

fn decode<M: Message + Default>(
    frame_type: FrameType,
    frame: &Frame<'_>,
) -> Result<M, ClientError> {
    M::decode(frame.payload()).map_err(|_| ClientError::MalformedPayload(frame_type))
}

fn signed(micros: u64) -> i64 {
    i64::try_from(micros).unwrap_or(i64::MAX)
}
