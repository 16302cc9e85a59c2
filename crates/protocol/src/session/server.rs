//! The edge's side of a connection: which frame may come when, and by when one must come.
//!
//! A session decides nothing that needs more than its own connection: whether credentials are right, what time it is and what
//! a resume point leads to are the driver's to say. An edge holds 100,000 of these, so a session is at most 64 bytes, and the
//! limits that all share are passed to it.

use std::time::Duration;

use prost::Message;
use tickstorm_timebase::{Epoch, Mono};

use super::Request;
use crate::code::{CloseReason, ErrorCode};
use crate::frame::{self, Decoder, Frame, FrameType, PAYLOAD_MAX_BEFORE_AUTH, Rules};
use crate::message::{Ack, Auth, ErrorMsg, Heartbeat, PROTOCOL_MINOR, Pong, Subscribe};

/// How many seconds' worth of frames may come at once: a client that starts sends AUTH's successors and its first time
/// samples together.
const BURST_SECONDS: u32 = 2;

/// What all sessions of an edge have in common.
#[derive(Clone, Debug)]
pub struct Limits {
    /// From accept to a complete AUTH.
    pub auth_timeout: Duration,
    /// How often a client is told to send HEARTBEAT.
    pub heartbeat_interval: Duration,
    /// The silence that is allowed; more than the interval.
    pub heartbeat_timeout: Duration,
    /// Frames a second that a client may send once it is authenticated, in bursts of twice that; at least 1.
    pub frame_rate: u32,
    /// The largest payload in bytes that is taken after authentication, 4,096 to 65,536.
    pub max_msg_size: usize,
    /// The edge's name in its ACKs.
    pub edge_id: String,
}

/// What the driver must act on next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// All that could be taken is taken; or AUTH is being decided, and nothing is taken until it is.
    NeedsInput,
    /// The driver decides whether these are right, and then calls [`ServerSession::accept`] or closes.
    Auth(Auth),
    /// The driver serves this from now on, and calls [`ServerSession::subscribed`] as soon as it knows the time.
    Subscribe(Request),
    /// The driver answers with [`pong`].
    Heartbeat {
        /// To be echoed.
        client_time_us: i64,
    },
    /// The driver says ERROR where the reason has a code, and closes. The session takes nothing any more.
    Close(CloseReason),
}

/// One connection, as an edge sees it.
#[derive(Debug)]
pub struct ServerSession {
    decoder: Decoder,
    phase: Phase,
    /// Of accept; from authentication on, of the last frame that restarts the heartbeat deadline.
    deadline_from: Mono,
    /// [`Mono::NEVER`] while the driver reads.
    paused_at: Mono,
    rate: RateLimit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    AwaitAuth,
    /// AUTH is complete, and the driver has not decided yet.
    Deciding,
    Authenticated,
    Subscribed,
    Closed,
}

impl ServerSession {
    /// A connection accepted at `now`.
    #[must_use]
    pub fn new(now: Mono) -> Self {
        Self {
            decoder: Decoder::default(),
            phase: Phase::AwaitAuth,
            deadline_from: now,
            paused_at: Mono::NEVER,
            rate: RateLimit::default(),
        }
    }

    /// Takes bytes, kept ones first and then those of `input`, up to the next thing that the driver must act on, and advances
    /// `input` past what was used. Called again until it says [`Step::NeedsInput`].
    pub fn step(&mut self, limits: &Limits, input: &mut &[u8], now: Mono) -> Step {
        loop {
            let payload_max = match self.phase {
                Phase::AwaitAuth => PAYLOAD_MAX_BEFORE_AUTH.min(limits.max_msg_size),
                Phase::Authenticated | Phase::Subscribed => limits.max_msg_size,
                Phase::Deciding => return Step::NeedsInput,
                Phase::Closed => {
                    *input = &[];
                    return Step::NeedsInput;
                }
            };
            let handled = match self.decoder.decode(Rules::edge(payload_max), input) {
                Ok(Some(frame)) => self.handle_frame(limits, &frame, now),
                Ok(None) => return Step::NeedsInput,
                Err(error) => Err(error.into()),
            };
            match handled {
                Ok(Some(step)) => return step,
                Ok(None) => {}
                Err(reason) => {
                    self.phase = Phase::Closed;
                    self.decoder = Decoder::default();
                    return Step::Close(reason);
                }
            }
        }
    }

    /// Keeps `rest`, where the driver stops before its input is used up: because AUTH is being decided, or because answers
    /// wait to be written. It is taken before any later input; call [`ServerSession::step`] with no new input to go on.
    pub fn keep(&mut self, rest: &[u8]) {
        self.decoder.keep(rest);
    }

    /// Whether bytes are kept: a split frame's beginning, or what [`ServerSession::keep`] was given.
    #[must_use]
    pub fn has_kept(&self) -> bool {
        self.decoder.has_kept()
    }

    /// Answers [`Step::Auth`]: the credentials are right. Appends the ACK frame to `out`.
    pub fn accept(&mut self, limits: &Limits, now: Mono, out: &mut Vec<u8>) {
        debug_assert_eq!(self.phase, Phase::Deciding, "accept answers Step::Auth");
        self.phase = Phase::Authenticated;
        self.deadline_from = now;
        acknowledge(limits, FrameType::Auth, 0, out);
    }

    /// Answers [`Step::Subscribe`], each its own, in order: ticks after `start` follow. Appends the ACK frame to `out`.
    pub fn subscribed(&mut self, limits: &Limits, start: Epoch, out: &mut Vec<u8>) {
        debug_assert!(
            self.is_authenticated(),
            "subscribed answers Step::Subscribe"
        );
        self.phase = Phase::Subscribed;
        acknowledge(limits, FrameType::Subscribe, start.as_ms(), out);
    }

    /// When to call [`ServerSession::check_deadline`]. [`Mono::NEVER`] while AUTH is being decided, which is not the client's
    /// slowness, and while an authenticated connection is paused.
    #[must_use]
    pub fn deadline(&self, limits: &Limits) -> Mono {
        match self.phase {
            Phase::AwaitAuth => self.deadline_from + limits.auth_timeout,
            Phase::Authenticated | Phase::Subscribed if self.paused_at == Mono::NEVER => {
                self.deadline_from + limits.heartbeat_timeout
            }
            Phase::Authenticated | Phase::Subscribed | Phase::Deciding | Phase::Closed => {
                Mono::NEVER
            }
        }
    }

    /// Why the connection is to be closed, if its deadline has come.
    #[must_use]
    pub fn check_deadline(&self, limits: &Limits, now: Mono) -> Option<CloseReason> {
        if now < self.deadline(limits) {
            return None;
        }
        Some(if self.is_authenticated() {
            CloseReason::HeartbeatTimeout {
                allowed: limits.heartbeat_timeout,
            }
        } else {
            CloseReason::AuthTimeout {
                allowed: limits.auth_timeout,
            }
        })
    }

    /// The driver stops reading, for a reason of its own: the heartbeat deadline stands still from `now` on. AUTH's does not.
    pub fn pause(&mut self, now: Mono) {
        self.paused_at = self.paused_at.min(now);
    }

    /// The driver reads again: the heartbeat deadline moves on by as long as it stood still.
    pub fn resume(&mut self, now: Mono) {
        if self.paused_at != Mono::NEVER && self.is_authenticated() {
            let stood_still_from = self.paused_at.max(self.deadline_from);
            self.deadline_from = self.deadline_from + now.since(stood_still_from);
        }
        self.paused_at = Mono::NEVER;
    }

    /// Whether the driver has stopped reading.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused_at != Mono::NEVER
    }

    /// Whether the client has authenticated.
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        matches!(self.phase, Phase::Authenticated | Phase::Subscribed)
    }

    /// Whether a SUBSCRIBE has got its ACK.
    #[must_use]
    pub fn is_subscribed(&self) -> bool {
        self.phase == Phase::Subscribed
    }

    fn handle_frame(
        &mut self,
        limits: &Limits,
        frame: &Frame<'_>,
        now: Mono,
    ) -> Result<Option<Step>, CloseReason> {
        if self.phase == Phase::AwaitAuth {
            return self.handle_first(frame).map(Some);
        }
        let Some(frame_type) = frame.frame_type() else {
            self.rate.take(limits, now)?;
            return Ok(None);
        };
        match frame_type {
            FrameType::Auth => Err(CloseReason::AlreadyAuthenticated),
            FrameType::Subscribe => {
                let subscribe: Subscribe = decode(frame_type, frame)?;
                self.rate.take(limits, now)?;
                let request = subscribe.request().ok_or(CloseReason::UnknownMode {
                    found: subscribe.mode,
                })?;
                self.deadline_from = now;
                Ok(Some(Step::Subscribe(request)))
            }
            FrameType::Heartbeat => {
                let Heartbeat { client_time_us } = decode(frame_type, frame)?;
                self.rate.take(limits, now)?;
                self.deadline_from = now;
                Ok(Some(Step::Heartbeat { client_time_us }))
            }
            FrameType::DataBatch | FrameType::Error | FrameType::Ack | FrameType::Pong => {
                Err(CloseReason::UnexpectedMessage { frame_type })
            }
        }
    }

    fn handle_first(&mut self, frame: &Frame<'_>) -> Result<Step, CloseReason> {
        if frame.frame_type() != Some(FrameType::Auth) {
            return Err(CloseReason::AuthRequired {
                found: frame.type_byte(),
            });
        }
        let auth = decode(FrameType::Auth, frame)?;
        self.phase = Phase::Deciding;
        Ok(Step::Auth(auth))
    }
}

/// Appends the PONG frame that answers a HEARTBEAT.
///
/// `received_unix_us` and `sent_unix_us` are authority time, 0 while the edge knows none; `error_bound_us` then is [`u32::MAX`].
pub fn pong(
    client_time_us: i64,
    received_unix_us: i64,
    sent_unix_us: i64,
    error_bound_us: u32,
    clock_error_us: u32,
    out: &mut Vec<u8>,
) {
    let pong = Pong {
        client_time_us,
        received_unix_us,
        sent_unix_us,
        error_bound_us,
        clock_error_us,
    };
    frame::encode(FrameType::Pong, &pong, out);
}

/// Appends the ERROR frame that precedes an edge's close. `retry_after_ms` is picked from [`ErrorCode::retry_after_ms`], else 0.
pub fn error(code: ErrorCode, message: &str, retry_after_ms: u32, out: &mut Vec<u8>) {
    let supported_versions = if code == ErrorCode::UnsupportedVersion {
        vec![frame::VERSION.into()]
    } else {
        Vec::new()
    };
    let error = ErrorMsg {
        code: code.as_str().to_owned(),
        message: message.to_owned(),
        retry_after_ms,
        supported_versions,
    };
    frame::encode(FrameType::Error, &error, out);
}

fn acknowledge(limits: &Limits, answered: FrameType, start_epoch_ms: i64, out: &mut Vec<u8>) {
    let ack = Ack {
        acked_type: answered.byte().into(),
        heartbeat_interval_ms: millis(limits.heartbeat_interval),
        heartbeat_timeout_ms: millis(limits.heartbeat_timeout),
        edge_id: limits.edge_id.clone(),
        start_epoch_ms,
        protocol_minor: PROTOCOL_MINOR,
    };
    frame::encode(FrameType::Ack, &ack, out);
}

fn decode<M: Message + Default>(
    frame_type: FrameType,
    frame: &Frame<'_>,
) -> Result<M, CloseReason> {
    M::decode(frame.payload()).map_err(|_| CloseReason::MalformedPayload { frame_type })
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// A token bucket, full at first, as the one moment at which it will be full again: frames move that on by their share of a
/// second, and it may lie at most a burst ahead.
#[derive(Debug, Default)]
struct RateLimit {
    full_at: Mono,
}

impl RateLimit {
    fn take(&mut self, limits: &Limits, now: Mono) -> Result<(), CloseReason> {
        let per_second = limits.frame_rate.max(1);
        let share = Duration::from_secs(1) / per_second;
        let full_at = self.full_at.max(now) + share;
        if full_at.since(now) > share * per_second.saturating_mul(BURST_SECONDS) {
            return Err(CloseReason::RateLimited { per_second });
        }
        self.full_at = full_at;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_stays_small() {
        assert!(size_of::<ServerSession>() <= 64);
    }
}
