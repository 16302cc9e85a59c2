//! The client's side of a connection: what to send and when, and whether what comes keeps the protocol's promises.
//!
//! A session lives as long as its connection. Waiting, connecting again, what authority time is and what to do with ticks are
//! its driver's; the session only says when a HEARTBEAT is due and hands out what a PONG measured.

mod heartbeats;

use std::collections::VecDeque;
use std::time::Duration;

use prost::Message;
use tickstorm_timebase::{self as timebase, Epoch, Mode, Mono};

use self::heartbeats::Heartbeats;
use super::Request;
use crate::code::{ErrorCode, Return, UnknownCode};
use crate::frame::{self, Decoder, Frame, FrameError, FrameType, Rules};
use crate::message::{Ack, Auth, DataBatch, ErrorMsg, Heartbeat, Pong, SCHEMA_VERSION, Subscribe};

/// What an edge said.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientEvent {
    /// The credentials are right.
    Authenticated(Welcome),
    /// A SUBSCRIBE is answered; its ticks are those after `start`, from which a client resumes until a tick has come.
    Subscribed {
        /// What was asked for.
        request: Request,
        /// The last tick that is not sent.
        start: Epoch,
    },
    /// Ticks: at least one, each later than all before.
    Batch(TickBatch),
    /// An answer to a HEARTBEAT.
    Pong(PongExchange),
    /// The edge closes. Nothing comes after this.
    Refused(Refusal),
}

/// What the ACK of AUTH says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The edge's name.
    pub edge_id: String,
    /// At least how often it wants a HEARTBEAT.
    pub heartbeat_interval: Duration,
    /// After how much silence it closes.
    pub heartbeat_timeout: Duration,
    /// How much of version 1 it knows.
    pub protocol_minor: u32,
}

/// Ticks that came in one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TickBatch {
    /// The subscription's mode.
    pub mode: Mode,
    /// In strictly increasing order; never empty.
    pub ticks: Vec<timebase::Tick>,
    /// Authority time in microseconds when the edge began to send them.
    pub sent_unix_us: i64,
}

/// The four moments of a HEARTBEAT and its PONG, in microseconds: `t1` and `t4` of the client's own clock, `t2` and `t3` of
/// authority time. It is for the driver to judge: times of 0, or a negative round trip, make no sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PongExchange {
    /// When HEARTBEAT was made.
    pub t1_us: i64,
    /// When the edge read it; 0 while it knows no time.
    pub t2_us: i64,
    /// When the edge wrote PONG; 0 likewise.
    pub t3_us: i64,
    /// When PONG was read.
    pub t4_us: i64,
    /// How far the edge's time may be from the clock that it follows; [`u32::MAX`] while it knows none.
    pub error_bound_us: u32,
    /// That clock's own error against UTC.
    pub clock_error_us: u32,
}

/// What an ERROR frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code, or its text where this version doesn't know it.
    pub code: Result<ErrorCode, UnknownCode>,
    /// For people.
    pub message: String,
    /// Replaces the first wait before the next connection; 0: no hint.
    pub retry_after_ms: u32,
    /// With UNSUPPORTED_VERSION.
    pub supported_versions: Vec<u32>,
}

impl Refusal {
    /// Whether, when and where to come back; after a code that this version doesn't know, later.
    #[must_use]
    pub fn come_back(&self) -> Return {
        self.code
            .as_ref()
            .map_or(Return::Later, |code| code.come_back())
    }
}

/// The edge broke the protocol. The connection is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// A frame is not valid.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A payload is not the frame type's message.
    #[error("the payload of {} is not its protobuf message", .0.name())]
    MalformedPayload(FrameType),
    /// A frame that nothing asked for, or that only a client sends.
    #[error("{} came where it can't come", .0.name())]
    Unexpected(FrameType),
    /// Ticks whose meaning this version doesn't know.
    #[error("ticks of schema version {found} came; this client knows {SCHEMA_VERSION} only")]
    UnknownSchema {
        /// The version that was there.
        found: u32,
    },
    /// A batch without a tick.
    #[error("a DATA_BATCH came without a tick")]
    EmptyBatch,
    /// A tick of a mode that was not subscribed to.
    #[error("a tick of mode {found} came in a subscription to the {} mode", .subscribed.name())]
    OtherMode {
        /// The number that was there.
        found: i32,
        /// The subscription's.
        subscribed: Mode,
    },
    /// A tick that is not later than the one before, or than the subscription's start.
    #[error("tick {} came after tick {}", .next.as_ms(), .last.as_ms())]
    NotIncreasing {
        /// The last tick so far, or the start.
        last: Epoch,
        /// The tick that came.
        next: Epoch,
    },
}

impl ClientError {
    /// Whether a client comes back: as after a reset, but not to ticks that it can't understand.
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

/// One connection, as a client sees it.
#[derive(Debug, Default)]
pub struct ClientSession {
    decoder: Decoder,
    /// SUBSCRIBEs without an ACK so far.
    requests: VecDeque<Request>,
    subscription: Option<ServedSubscription>,
    /// None until the ACK of AUTH.
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
    /// A connection on which nothing has been said.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A connection whose time is sampled each 2 s, as that of a client which releases ticks itself is in any case.
    #[must_use]
    pub fn with_exact_time(mut self) -> Self {
        self.exact_time = true;
        self
    }

    /// A connection that sends no more frames than any edge takes, for one whose edge has answered RATE_LIMITED: the time is learned
    /// later.
    #[must_use]
    pub fn sparing(mut self) -> Self {
        self.sparing = true;
        self
    }

    /// Appends the AUTH frame, the first of a connection, to `out`.
    pub fn authenticate(&mut self, auth: &Auth, out: &mut Vec<u8>) {
        frame::encode(FrameType::Auth, auth, out);
    }

    /// Appends a SUBSCRIBE frame to `out`; it need not wait for the ACK of AUTH. Until its own ACK, ticks are those of the
    /// subscription before.
    pub fn subscribe(&mut self, request: Request, out: &mut Vec<u8>) {
        self.requests.push_back(request);
        frame::encode(FrameType::Subscribe, &Subscribe::from(request), out);
    }

    /// When [`ClientSession::poll_heartbeat`] has something to send. [`Mono::NEVER`] before the ACK of AUTH.
    #[must_use]
    pub fn next_heartbeat(&self) -> Mono {
        self.heartbeats
            .as_ref()
            .map_or(Mono::NEVER, Heartbeats::next)
    }

    /// Appends a HEARTBEAT frame to `out` if one is due at `now`. `random` is any number, another one each time: it spreads
    /// the heartbeats of clients that started together.
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

    /// Takes the next event out of `input`, which was read at `now`, and advances it past what was used; none means that
    /// `input` is used up. Called again until it says so.
    ///
    /// # Errors
    /// What the edge did wrong. The session is of no use after that.
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
                if let Some(heartbeats) =
                    self.heartbeats.as_mut().filter(|_| pong.sent_unix_us != 0)
                {
                    heartbeats.told();
                }
                Ok(Some(ClientEvent::Pong(PongExchange {
                    t1_us: pong.client_time_us,
                    t2_us: pong.received_unix_us,
                    t3_us: pong.sent_unix_us,
                    // Up, as t1 was rounded down: the true moments lie between the two.
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
                })))
            }
            FrameType::Auth | FrameType::Subscribe | FrameType::Heartbeat => {
                Err(ClientError::Unexpected(frame_type))
            }
        }
    }

    /// An ACK of something that this version doesn't know is none of its business.
    fn handle_ack(&mut self, ack: Ack, now: Mono) -> Result<Option<ClientEvent>, ClientError> {
        const AUTH: u32 = FrameType::Auth.byte() as u32;
        const SUBSCRIBE: u32 = FrameType::Subscribe.byte() as u32;
        match ack.acked_type {
            AUTH if self.heartbeats.is_none() => {
                let heartbeat_interval = Duration::from_millis(ack.heartbeat_interval_ms.into());
                self.heartbeats = Some(if self.sparing {
                    Heartbeats::sparing(heartbeat_interval, now)
                } else {
                    Heartbeats::new(heartbeat_interval, now)
                });
                Ok(Some(ClientEvent::Authenticated(Welcome {
                    edge_id: ack.edge_id,
                    heartbeat_interval,
                    heartbeat_timeout: Duration::from_millis(ack.heartbeat_timeout_ms.into()),
                    protocol_minor: ack.protocol_minor,
                })))
            }
            SUBSCRIBE if self.heartbeats.is_some() => {
                let unexpected = ClientError::Unexpected(FrameType::Ack);
                let request = self.requests.pop_front().ok_or(unexpected)?;
                let start = Epoch::from_ms(ack.start_epoch_ms);
                if let Some(heartbeats) = self.heartbeats.as_mut().filter(|_| request.ahead) {
                    heartbeats.turn_exact(now);
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

    /// Whether the client releases ticks itself, by the newest SUBSCRIBE, answered or not.
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
