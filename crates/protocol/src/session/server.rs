//! The edge's side of a connection: which frames a client may send at which point, and its
//! deadlines for sending them.
//!
//! A session decides only what its own connection determines. The driver must supply whether
//! credentials are right, what time it is and where a subscription starts. An edge holds 100,000
//! sessions, so a session takes at most 64 bytes, and the limits that all sessions share are passed
//! to it on each call.

use std::time::Duration;

use prost::Message;
use tickstorm_timebase::{Epoch, Mono};
use zeroize::Zeroizing;

use super::Request;
use crate::code::{CloseReason, ErrorCode};
use crate::earlier_schema::EarlierSchema;
use crate::frame::{self, Decoded, Decoder, Frame, FrameType, Rules};
use crate::message::{Ack, Auth, ErrorMsg, GoingAway, Heartbeat, PROTOCOL_MINOR, Pong, Subscribe};

/// The frames that a SUBSCRIBE counts as. It is short, but the edge answers it with a replay.
const SUBSCRIBE_COST: u32 = 10;
/// The longest time for which unused frames are saved up. A client whose network stalled for as
/// long as that sends its heartbeats together, and is not closed for it.
const BURST_TIME_MAX: Duration = Duration::from_secs(30);
/// The smallest burst, in frames, however low the rate: a SUBSCRIBE, the eight HEARTBEATs with
/// which a client starts, and two more.
const BURST_MIN: u32 = SUBSCRIBE_COST + 10;

/// The settings that all sessions of an edge share.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The time from accept within which AUTH must be complete.
    pub auth_timeout: Duration,
    /// The longest interval between HEARTBEATs that clients are asked to keep.
    pub heartbeat_interval: Duration,
    /// The silence after which a client is closed; more than the interval.
    pub heartbeat_timeout: Duration,
    /// The frames per second that a client may send after authentication, in bursts of up to
    /// [`Limits::frame_burst`]; at least 1.
    pub frame_rate: u32,
    /// The largest payload that is skipped after authentication, in bytes: 4,096 to 65,536. Frames
    /// that are not skipped have at most 4,096.
    pub max_msg_size: usize,
    /// The name that the edge gives itself in its ACKs.
    pub edge_id: String,
}

impl Limits {
    /// Returns the most frames that a client may send at once: what it may send within the
    /// heartbeat timeout, or within 30 s if that is shorter, but at least 20 frames. A SUBSCRIBE
    /// counts as ten.
    #[must_use]
    pub fn frame_burst(&self) -> u32 {
        let share = self.frame_share();
        let frames = self.burst_time(share).as_nanos() / share.as_nanos().max(1);
        u32::try_from(frames).unwrap_or(u32::MAX)
    }

    /// Returns the time in which one frame is earned.
    fn frame_share(&self) -> Duration {
        Duration::from_secs(1) / self.frame_rate.max(1)
    }

    /// Returns the time in which a whole burst is earned, given that of one frame.
    fn burst_time(&self, share: Duration) -> Duration {
        let saved_up = self.heartbeat_timeout.min(BURST_TIME_MAX);
        saved_up.max(share * BURST_MIN)
    }
}

/// The next action that the driver must take.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Read more input. Either all input has been used, or none will be used until AUTH has been
    /// decided.
    NeedsInput,
    /// Decide whether these credentials are right, and then call [`ServerSession::accept`] or
    /// close. They are wiped when they are dropped.
    Auth(Zeroizing<Auth>),
    /// Serve this request in place of any earlier one, and call [`ServerSession::subscribed`] as
    /// soon as the time is known.
    Subscribe(Request),
    /// Answer with [`pong`].
    Heartbeat {
        /// The client's timestamp, which the PONG echoes.
        client_time_us: i64,
    },
    /// Send ERROR if the reason has a code, and close. The session ignores all further input.
    Close(CloseReason),
}

/// What the ACK of AUTH has for one client only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Greeting<'a> {
    /// The name of the connection, at most 40 bytes.
    pub connection_id: &'a str,
    /// The device cookie; empty if there is none.
    pub cookie: &'a [u8],
}

/// The edge's side of one connection.
#[derive(Debug)]
pub struct ServerSession {
    decoder: Decoder,
    phase: Phase,
    /// The moment from which the deadline counts: accept or, after authentication, the last frame
    /// that restarts the heartbeat deadline.
    deadline_from: Mono,
    /// The moment when the driver stopped reading, or [`Mono::NEVER`] while it reads.
    paused_at: Mono,
    rate: RateLimit,
    /// Whether input that is read now may have arrived while the driver did not read.
    is_catching_up: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    AwaitAuth,
    /// AUTH is complete, and the driver has not yet decided on it.
    Deciding,
    Authenticated,
    Subscribed,
    Closed,
}

impl ServerSession {
    /// Creates the session of a connection that was accepted at `now`.
    #[must_use]
    pub fn new(now: Mono) -> Self {
        Self {
            decoder: Decoder::default(),
            phase: Phase::AwaitAuth,
            deadline_from: now,
            paused_at: Mono::NEVER,
            rate: RateLimit::default(),
            is_catching_up: false,
        }
    }

    /// Consumes bytes, the kept ones first and then those of `input`, up to the next action that
    /// the driver must take, and advances `input` past the bytes used. Call this again until it
    /// returns [`Step::NeedsInput`].
    pub fn step(&mut self, limits: &Limits, input: &mut &[u8], now: Mono) -> Step {
        self.step_observed(limits, input, now, |_| {})
    }

    /// Does the same as [`step`](Self::step), and calls `received` with the type of each frame that
    /// is complete and valid. The type is `None` if it is unknown or skipped.
    pub fn step_observed(
        &mut self,
        limits: &Limits,
        input: &mut &[u8],
        now: Mono,
        mut received: impl FnMut(Option<FrameType>),
    ) -> Step {
        loop {
            let rules = match self.phase {
                Phase::AwaitAuth => Rules::BEFORE_AUTH,
                Phase::Authenticated | Phase::Subscribed => Rules::after_auth(limits.max_msg_size),
                Phase::Deciding => return Step::NeedsInput,
                Phase::Closed => {
                    *input = &[];
                    return Step::NeedsInput;
                }
            };
            let handled = match self.decoder.decode_or_skip(rules, input) {
                Ok(Some(Decoded::Frame(frame))) => {
                    received(frame.frame_type());
                    self.handle_frame(limits, &frame, now)
                }
                Ok(Some(Decoded::Skipped)) => {
                    received(None);
                    self.take(limits, 1, now).map(|()| None)
                }
                Ok(None) => return Step::NeedsInput,
                Err(error) => Err(error.into()),
            };
            match handled {
                Ok(Some(step)) => return step,
                Ok(None) => {}
                Err(reason) => {
                    self.close();
                    return Step::Close(reason);
                }
            }
        }
    }

    /// Keeps `rest` for a driver that stops before all of its input is used, because AUTH is being
    /// decided or because answers must be written first. The bytes are consumed before any later
    /// input; call [`ServerSession::step`] with empty input to continue.
    pub fn keep(&mut self, rest: &[u8]) {
        self.decoder.keep(rest);
    }

    /// Returns whether the session waits for the rest of a frame, or keeps bytes that
    /// [`ServerSession::keep`] was given.
    #[must_use]
    pub fn has_kept(&self) -> bool {
        self.decoder.has_kept()
    }

    /// Returns the number of bytes that are allocated for unfinished input.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.decoder.buffered()
    }

    /// Ends the session: frees unfinished input, and ignores further input.
    pub fn close(&mut self) {
        self.phase = Phase::Closed;
        self.decoder = Decoder::default();
    }

    /// Accepts the credentials of [`Step::Auth`]. Appends the ACK frame, which greets the client,
    /// to `out`.
    pub fn accept(
        &mut self,
        limits: &Limits,
        greeting: &Greeting<'_>,
        now: Mono,
        out: &mut Vec<u8>,
    ) {
        debug_assert_eq!(self.phase, Phase::Deciding, "accept answers Step::Auth");
        self.phase = Phase::Authenticated;
        // Nothing was read while AUTH was being decided.
        self.catch_up_from(self.deadline_from);
        self.deadline_from = now;
        let ack = Ack {
            connection_id: greeting.connection_id.to_owned(),
            frame_rate_limit: limits.frame_rate,
            cookie: greeting.cookie.to_vec(),
            ..acknowledgement(limits, FrameType::Auth)
        };
        frame::encode(FrameType::Ack, &ack, out);
    }

    /// Acknowledges the oldest unanswered [`Step::Subscribe`]: ticks after `start` follow. Each
    /// step must get its own call, in order. Appends the ACK frame to `out`.
    pub fn subscribed(&mut self, limits: &Limits, start: Epoch, out: &mut Vec<u8>) {
        debug_assert!(
            self.is_authenticated(),
            "subscribed answers Step::Subscribe"
        );
        self.phase = Phase::Subscribed;
        let ack = Ack {
            start_epoch_ms: start.as_ms(),
            ..acknowledgement(limits, FrameType::Subscribe)
        };
        frame::encode(FrameType::Ack, &ack, out);
    }

    /// Returns when to call [`ServerSession::check_deadline`]. This is [`Mono::NEVER`] while AUTH
    /// is being decided, because the client is not to blame for that time, and while an
    /// authenticated connection is paused.
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

    /// Returns the reason to close the connection if its deadline has passed.
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

    /// Records that the driver stops reading, for example because the client does not read its
    /// answers. The heartbeat deadline is suspended as of `now`; the deadline of AUTH is not.
    pub fn pause(&mut self, now: Mono) {
        self.paused_at = self.paused_at.min(now);
    }

    /// Records that the driver reads again. The heartbeat deadline is extended by the time for
    /// which it was suspended.
    pub fn resume(&mut self, now: Mono) {
        if self.paused_at != Mono::NEVER && self.is_authenticated() {
            let suspended_from = self.paused_at.max(self.deadline_from);
            self.deadline_from = self.deadline_from + now.since(suspended_from);
            self.catch_up_from(suspended_from);
        }
        self.paused_at = Mono::NEVER;
    }

    /// Records that the driver was stalled for this time, which its clock does not include.
    /// Until [`ServerSession::caught_up`] is called, input counts against the frame rate as if it
    /// had arrived as evenly as it may have.
    pub fn stalled_for(&mut self, stalled: Duration) {
        self.catch_up_from(self.deadline_from);
        self.rate.full_at = self.rate.full_at.saturating_sub(stalled);
    }

    /// Records that the driver has read all input that had arrived. What it reads later has arrived
    /// since.
    pub fn caught_up(&mut self) {
        self.is_catching_up = false;
    }

    /// Returns whether the driver has stopped reading.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused_at != Mono::NEVER
    }

    /// Returns whether the client has authenticated.
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        matches!(self.phase, Phase::Authenticated | Phase::Subscribed)
    }

    /// Returns whether a SUBSCRIBE has been acknowledged.
    #[must_use]
    pub fn is_subscribed(&self) -> bool {
        self.phase == Phase::Subscribed
    }

    /// Starts to count input as if it had arrived at any time from `since` on.
    fn catch_up_from(&mut self, since: Mono) {
        if !self.is_catching_up {
            self.is_catching_up = true;
            self.rate.full_at = self.rate.full_at.max(since);
        }
    }

    /// Takes the tokens of a frame that counts as `cost` frames.
    fn take(&mut self, limits: &Limits, cost: u32, now: Mono) -> Result<(), CloseReason> {
        if !self.is_catching_up {
            self.rate.full_at = self.rate.full_at.max(now);
        }
        self.rate.take(limits, cost, now)
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
            debug_assert!(false, "the rules refuse or skip every unknown type");
            return Ok(None);
        };
        match frame_type {
            FrameType::Auth => Err(CloseReason::AlreadyAuthenticated),
            FrameType::Subscribe => {
                let subscribe: Subscribe = decode(frame_type, frame)?;
                self.take(limits, SUBSCRIBE_COST, now)?;
                if let Some(sign) = EarlierSchema::find(&subscribe, frame.payload()) {
                    return Err(CloseReason::EarlierSchema(sign));
                }
                let request = subscribe.request().ok_or(CloseReason::UnknownMode {
                    found: subscribe.mode,
                })?;
                self.deadline_from = now;
                Ok(Some(Step::Subscribe(request)))
            }
            FrameType::Heartbeat => {
                let Heartbeat { client_time_us } = decode(frame_type, frame)?;
                self.take(limits, 1, now)?;
                self.deadline_from = now;
                Ok(Some(Step::Heartbeat { client_time_us }))
            }
            FrameType::DataBatch
            | FrameType::Error
            | FrameType::Ack
            | FrameType::Pong
            | FrameType::GoingAway => Err(CloseReason::UnexpectedMessage { frame_type }),
        }
    }

    fn handle_first(&mut self, frame: &Frame<'_>) -> Result<Step, CloseReason> {
        if frame.frame_type() != Some(FrameType::Auth) {
            return Err(CloseReason::AuthRequired {
                found: frame.type_byte(),
            });
        }
        // If decoding fails half-way, the fields that have been decoded are wiped too.
        let mut auth = Zeroizing::new(Auth::default());
        let frame_type = FrameType::Auth;
        auth.merge(frame.payload())
            .map_err(|_| CloseReason::MalformedPayload { frame_type })?;
        self.phase = Phase::Deciding;
        Ok(Step::Auth(auth))
    }
}

/// Appends the PONG frame that answers a HEARTBEAT.
///
/// `received_unix_us` and `sent_unix_us` are authority time. While the edge does not know the time,
/// both are 0, and `error_bound_us` is [`u32::MAX`].
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

/// Appends the ERROR frame that precedes an edge's close. `retry_after_ms` is drawn from
/// [`ErrorCode::retry_after_ms`], or 0 if the code has no range.
pub fn error(
    code: ErrorCode,
    message: &str,
    retry_after_ms: u32,
    connection_id: &str,
    out: &mut Vec<u8>,
) {
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
        connection_id: connection_id.to_owned(),
    };
    frame::encode(FrameType::Error, &error, out);
}

/// Appends a GOING_AWAY frame to `out`: the edge will close the connection `within` this time.
pub fn going_away(within: Duration, reason: &str, out: &mut Vec<u8>) {
    let going_away = GoingAway {
        deadline_ms: millis(within),
        reason: reason.to_owned(),
    };
    frame::encode(FrameType::GoingAway, &going_away, out);
}

/// Returns what both ACKs have in common.
fn acknowledgement(limits: &Limits, answered: FrameType) -> Ack {
    Ack {
        acked_type: answered.byte().into(),
        heartbeat_interval_ms: millis(limits.heartbeat_interval),
        heartbeat_timeout_ms: millis(limits.heartbeat_timeout),
        edge_id: limits.edge_id.clone(),
        protocol_minor: PROTOCOL_MINOR,
        ..Ack::default()
    }
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

/// A token bucket that is full at first, stored as the one moment at which it will be full again.
/// Each frame moves that moment forward by its share of a second, and the moment may be at most one
/// burst ahead. A frame that may have arrived earlier counts as of then, if the bucket was full.
#[derive(Debug, Default)]
struct RateLimit {
    full_at: Mono,
}

impl RateLimit {
    /// Takes the tokens of a frame that counts as `cost` frames.
    fn take(&mut self, limits: &Limits, cost: u32, now: Mono) -> Result<(), CloseReason> {
        let share = limits.frame_share();
        let full_at = self.full_at + share * cost;
        if full_at.since(now) > limits.burst_time(share) {
            return Err(CloseReason::RateLimited {
                per_second: limits.frame_rate,
                burst: limits.frame_burst(),
            });
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
