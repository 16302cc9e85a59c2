//! A client in virtual time that obeys docs/protocol.md, except for one [`Vice`].

use std::time::Duration;

use prost::Message as _;
use tickstorm_protocol::code::{ErrorCode, Return};
use tickstorm_protocol::frame::{self, FrameType};
use tickstorm_protocol::message::{
    Ack, Auth, DataBatch, ErrorMsg, GoingAway, Heartbeat, Pong, Subscribe,
};
use tickstorm_timebase::Mono;

use crate::dev::scenario::connection::ConnectionId;

/// What a client does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vice {
    None,
    NeverResumes,
    ResumesTooEarly,
    ResumesTooLate,
    ComesBackEarly,
    ComesBackLate,
    GivesUp,
    NeverWaits,
    NeverHeartbeats,
    FloodsWithHeartbeats,
    DiesAtUnknownTypes,
    TrustsBadChecksums,
    ResumesAfterTimeStepped,
    IgnoresGoingAway,
    BreaksBeforeItMakes,
    MovesToTheSameEdge,
    KeepsTheOldConnection,
    RetriesMovesAtOnce,
    StaysWithSilentEdges,
    IsImpatientForAuth,
    IsImpatientForSubscribe,
    LeavesWhenTicksAreLate,
    AsksForTimeSeldom,
    HasAnotherPassword,
    DropsTheCookie,
    SubscribesFirst,
    AuthenticatesTwice,
    SendsTicks,
    SendsGarbage,
    SendsBadChecksums,
    AsksForAnUnknownMode,
    HasAClockThatGoesBack,
    OpensASecondConnection,
    SendsHalfAnAuth,
    NeverSubscribes,
}

/// What the client does, for the simulation to perform.
#[derive(Debug)]
pub(super) enum Act {
    /// Connect, and tell the client the connection.
    Connect,
    Send(ConnectionId, Vec<u8>),
    Close(ConnectionId),
}

struct Link {
    id: ConnectionId,
    input: Vec<u8>,
    opened_at: Mono,
    heard_at: Mono,
    edge_id: String,
    welcomed: bool,
    subscribed_at: Option<Mono>,
    last_tick_at: Mono,
    heartbeat_at: Mono,
    heartbeats: u32,
    is_timeless: bool,
}

struct Move {
    at: Mono,
    deadline: Mono,
    retry: Duration,
}

/// The client. Its ticks are of the SECOND mode.
pub(super) struct Client {
    vice: Vice,
    links: Vec<Link>,
    /// The connection that brings the ticks. The other one is an attempt to move.
    current: Option<ConnectionId>,
    moving: Option<Move>,
    connect_at: Mono,
    bound: Duration,
    refusals: u32,
    since: Mono,
    random: u64,
    cookie: Vec<u8>,
    last_ms: Option<i64>,
    /// All ticks in the order of their arrival, without repetitions.
    pub(super) ticks: Vec<i64>,
    pub(super) acts: Vec<Act>,
}

const SECOND: Duration = Duration::from_secs(1);

impl Client {
    pub(super) fn new(vice: Vice, now: Mono, seed: u64) -> Self {
        Self {
            vice,
            links: Vec::new(),
            current: None,
            moving: None,
            connect_at: now,
            bound: SECOND,
            refusals: 0,
            since: now,
            random: seed,
            cookie: Vec::new(),
            last_ms: None,
            ticks: Vec::new(),
            acts: Vec::new(),
        }
    }

    pub(super) fn next_wake(&self, now: Mono) -> Mono {
        let of_links = self.links.iter().flat_map(|link| {
            let heartbeat = if link.welcomed {
                link.heartbeat_at
            } else {
                Mono::NEVER
            };
            [heartbeat, self.patience(link)]
        });
        let moving = self.moving.as_ref().map_or(Mono::NEVER, |moving| moving.at);
        of_links
            .chain([self.connect_at, moving])
            .filter(|&at| at > now)
            .min()
            .unwrap_or(Mono::NEVER)
    }

    /// Returns when a link is given up.
    fn patience(&self, link: &Link) -> Mono {
        let secs = |secs| Duration::from_secs(secs);
        match (link.welcomed, link.subscribed_at, self.vice) {
            (_, Some(_), Vice::StaysWithSilentEdges) => Mono::NEVER,
            (_, Some(_), Vice::LeavesWhenTicksAreLate) => {
                link.last_tick_at + Duration::from_millis(1_500)
            }
            (_, Some(_), _) => link.heard_at.max(link.last_tick_at + secs(3)) + secs(2),
            (true, None, Vice::IsImpatientForSubscribe) => link.opened_at + secs(11),
            (true, None, Vice::NeverSubscribes) => Mono::NEVER,
            (true, None, _) => link.opened_at + secs(18),
            (false, None, Vice::IsImpatientForAuth) => link.opened_at + secs(5),
            (false, None, _) => link.opened_at + secs(10),
        }
    }

    pub(super) fn poll(&mut self, now: Mono) {
        if now >= self.connect_at {
            self.connect_at = Mono::NEVER;
            self.acts.push(Act::Connect);
        }
        let is_due = self.moving.as_ref().is_some_and(|moving| now >= moving.at);
        if is_due && let Some(moving) = &mut self.moving {
            moving.at = Mono::NEVER;
            if now <= moving.deadline {
                if self.vice == Vice::BreaksBeforeItMakes
                    && let Some(current) = self.current
                {
                    self.close(current);
                }
                self.acts.push(Act::Connect);
            }
        }
        let ids: Vec<_> = self.links.iter().map(|link| link.id).collect();
        for id in ids {
            self.poll_link(id, now);
        }
    }

    fn poll_link(&mut self, id: ConnectionId, now: Mono) {
        let Some(link) = self.links.iter().find(|link| link.id == id) else {
            return;
        };
        if now >= self.patience(link) {
            let was_subscribed = link.subscribed_at.is_some();
            self.close(id);
            let hint = if was_subscribed {
                self.draw(SECOND / 2)
            } else {
                Duration::ZERO
            };
            return self.handle_end(id, Return::AtOnce, hint, now);
        }
        if link.welcomed && now >= link.heartbeat_at {
            self.heartbeat(id, now);
        }
    }

    fn heartbeat(&mut self, id: ConnectionId, now: Mono) {
        let vice = self.vice;
        let Some(link) = self.links.iter_mut().find(|link| link.id == id) else {
            return;
        };
        link.heartbeats += 1;
        let wait_ms = match (link.heartbeats, link.is_timeless, vice) {
            (_, _, Vice::FloodsWithHeartbeats) => 10,
            (..8, _, _) => 100,
            (_, true, Vice::AsksForTimeSeldom) | (_, false, _) => 2_600,
            (_, true, _) => 1_000,
        };
        link.heartbeat_at = now + Duration::from_millis(wait_ms);
        if vice == Vice::NeverHeartbeats {
            return;
        }
        let micros = i64::try_from(now.as_nanos() / 1_000).unwrap();
        let client_time_us = if vice == Vice::HasAClockThatGoesBack {
            i64::MAX - micros
        } else {
            micros
        };
        self.send(id, FrameType::Heartbeat, &Heartbeat { client_time_us });
    }

    /// The simulation has made the connection that this client asked for.
    pub(super) fn handle_connected(&mut self, id: ConnectionId, now: Mono) {
        self.links.push(Link {
            id,
            input: Vec::new(),
            opened_at: now,
            heard_at: now,
            edge_id: String::new(),
            welcomed: false,
            subscribed_at: None,
            last_tick_at: now,
            heartbeat_at: now,
            heartbeats: 0,
            is_timeless: false,
        });
        if self.current.is_none() {
            self.current = Some(id);
        }
        let password = if self.vice == Vice::HasAnotherPassword {
            "wrong"
        } else {
            "stream_pass"
        };
        let cookie = if self.vice == Vice::DropsTheCookie {
            Vec::new()
        } else {
            self.cookie.clone()
        };
        let auth = Auth {
            username: "stream_user".into(),
            password: password.into(),
            cookie,
            ..Auth::default()
        };
        let subscribe = self.subscribe();
        if self.vice == Vice::SubscribesFirst {
            self.send(id, FrameType::Subscribe, &subscribe);
        }
        if self.vice == Vice::AuthenticatesTwice {
            self.send(id, FrameType::Auth, &auth);
        }
        if self.vice == Vice::SendsGarbage {
            self.acts
                .push(Act::Send(id, b"GET / HTTP/1.1\r\n".to_vec()));
        }
        if self.vice == Vice::SendsBadChecksums {
            let mut bad = Vec::new();
            frame::encode(FrameType::Auth, &auth, &mut bad);
            *bad.last_mut().unwrap() ^= 1;
            self.acts.push(Act::Send(id, bad));
        }
        if self.vice == Vice::SendsHalfAnAuth {
            return self.acts.push(Act::Send(id, frame::MAGIC.to_vec()));
        }
        if self.vice == Vice::NeverSubscribes {
            return self.send(id, FrameType::Auth, &auth);
        }
        self.send(id, FrameType::Auth, &auth);
        self.send(id, FrameType::Subscribe, &subscribe);
        if self.vice == Vice::SendsTicks {
            self.send(id, FrameType::DataBatch, &DataBatch::default());
        }
    }

    fn subscribe(&self) -> Subscribe {
        let shift_ms = if self.vice == Vice::ResumesTooEarly {
            -1_000
        } else {
            i64::from(self.vice == Vice::ResumesTooLate) * 1_000
        };
        let point = self.last_ms.map(|last| last + shift_ms);
        Subscribe {
            mode: i32::from(self.vice == Vice::AsksForAnUnknownMode) * 7,
            resume_after_epoch_ms: point.filter(|_| self.vice != Vice::NeverResumes),
            ahead: false,
        }
    }

    fn send(&mut self, id: ConnectionId, frame_type: FrameType, message: &impl prost::Message) {
        let mut out = Vec::new();
        frame::encode(frame_type, message, &mut out);
        self.acts.push(Act::Send(id, out));
    }

    fn close(&mut self, id: ConnectionId) {
        self.links.retain(|link| link.id != id);
        self.acts.push(Act::Close(id));
    }

    pub(super) fn handle_bytes(&mut self, id: ConnectionId, bytes: &[u8], now: Mono) {
        let Some(link) = self.links.iter_mut().find(|link| link.id == id) else {
            return;
        };
        link.input.extend_from_slice(bytes);
        link.heard_at = now;
        while let Some(link) = self.links.iter_mut().find(|link| link.id == id)
            && let Some(frame) = take(&mut link.input)
        {
            self.handle_frame(id, &frame, now);
        }
    }

    fn handle_frame(&mut self, id: ConnectionId, frame: &[u8], now: Mono) {
        let (type_byte, payload) = (frame[3], &frame[8..frame.len() - 4]);
        let mut valid = Vec::new();
        frame::encode_raw(type_byte, payload, &mut valid);
        if valid != frame && self.vice != Vice::TrustsBadChecksums {
            self.close(id);
            return self.handle_end(id, Return::AtOnce, Duration::ZERO, now);
        }
        match FrameType::from_byte(type_byte) {
            Some(FrameType::Ack) => self.handle_ack(id, Ack::decode(payload).unwrap(), now),
            Some(FrameType::DataBatch) => {
                let batch = DataBatch::decode(payload).unwrap();
                if let Some(link) = self.links.iter_mut().find(|link| link.id == id) {
                    link.last_tick_at = now;
                }
                for tick in batch.ticks {
                    if Some(tick.epoch_ms) > self.last_ms {
                        self.last_ms = Some(tick.epoch_ms);
                        self.ticks.push(tick.epoch_ms);
                    }
                }
            }
            Some(FrameType::Pong) => {
                let pong = Pong::decode(payload).unwrap();
                if let Some(link) = self.links.iter_mut().find(|link| link.id == id) {
                    link.is_timeless = pong.sent_unix_us == 0;
                    if link.is_timeless && self.vice != Vice::AsksForTimeSeldom {
                        link.heartbeat_at = link.heartbeat_at.min(now + SECOND);
                    }
                }
            }
            Some(FrameType::Error) => {
                self.handle_error(id, &ErrorMsg::decode(payload).unwrap(), now);
            }
            Some(FrameType::GoingAway) if self.vice != Vice::IgnoresGoingAway => {
                let message = GoingAway::decode(payload).unwrap();
                let within = Duration::from_millis(message.deadline_ms.into());
                let margin = (within / 4).clamp(SECOND / 2, SECOND * 5);
                let at = now + self.draw(within.saturating_sub(margin));
                self.moving = Some(Move {
                    at,
                    deadline: now + within,
                    retry: SECOND / 2,
                });
            }
            Some(FrameType::GoingAway) => {}
            Some(FrameType::Auth | FrameType::Subscribe | FrameType::Heartbeat) => {
                panic!("an edge sent 0x{type_byte:02X}")
            }
            None if self.vice == Vice::DiesAtUnknownTypes => {
                self.close(id);
                self.handle_end(id, Return::AtOnce, Duration::ZERO, now);
            }
            None => {}
        }
    }

    fn handle_ack(&mut self, id: ConnectionId, ack: Ack, now: Mono) {
        if (1..=64).contains(&ack.cookie.len()) {
            self.cookie = ack.cookie;
        }
        let old_edge = self.link(self.current).map(|link| link.edge_id.clone());
        let Some(link) = self.links.iter_mut().find(|link| link.id == id) else {
            return;
        };
        match ack.acked_type {
            1 => {
                (link.welcomed, link.heartbeat_at) = (true, now);
                link.edge_id.clone_from(&ack.edge_id);
            }
            2 => {
                (link.subscribed_at, link.last_tick_at) = (Some(now), now);
                self.last_ms.get_or_insert(ack.start_epoch_ms);
                self.refusals = 0;
                if self.current == Some(id) {
                    self.since = now;
                    let is_first = id == ConnectionId(1);
                    if is_first && self.vice == Vice::OpensASecondConnection {
                        self.acts.push(Act::Connect);
                    }
                } else if old_edge.as_ref() == Some(&ack.edge_id)
                    && self.vice != Vice::MovesToTheSameEdge
                {
                    self.close(id);
                    self.retry_move(now);
                } else {
                    self.moving = None;
                    let old = self.current.replace(id);
                    if let Some(old) = old.filter(|_| self.vice != Vice::KeepsTheOldConnection) {
                        self.close(old);
                    }
                }
            }
            _ => {}
        }
    }

    fn link(&self, id: Option<ConnectionId>) -> Option<&Link> {
        self.links.iter().find(|link| Some(link.id) == id)
    }

    fn retry_move(&mut self, now: Mono) {
        let drawn = self.draw(SECOND / 4);
        if let Some(moving) = &mut self.moving {
            let wait = if self.vice == Vice::RetriesMovesAtOnce {
                Duration::ZERO
            } else {
                moving.retry / 2 + drawn
            };
            moving.at = now + wait;
            moving.retry *= 2;
        }
    }

    fn handle_error(&mut self, id: ConnectionId, error: &ErrorMsg, now: Mono) {
        let hint = Duration::from_millis(error.retry_after_ms.into());
        let code = error.code.parse::<ErrorCode>();
        let was_subscribed = self
            .link(Some(id))
            .is_some_and(|link| link.subscribed_at.is_some());
        let (come_back, hint) = match code {
            Ok(ErrorCode::NoTime) if was_subscribed => (Return::Later, self.draw(SECOND / 2)),
            // Only the first refusal of a resume point is tried here.
            Ok(ErrorCode::InvalidSubscription) => (Return::Later, hint),
            Ok(code) => (code.come_back(), hint),
            Err(_) => (Return::Later, hint),
        };
        self.close(id);
        self.handle_end(id, come_back, hint, now);
    }

    /// The edge has closed a connection without ERROR.
    pub(super) fn handle_closed(&mut self, id: ConnectionId, now: Mono) {
        if self.link(Some(id)).is_some() {
            self.close(id);
            self.handle_end(id, Return::AtOnce, Duration::ZERO, now);
        }
    }

    fn handle_end(&mut self, id: ConnectionId, how: Return, hint: Duration, now: Mono) {
        if self.current != Some(id) {
            return self.retry_move(now);
        }
        (self.current, self.moving) = (None, None);
        if how == Return::AtOnceWithoutResume && self.vice != Vice::ResumesAfterTimeStepped {
            self.last_ms = None;
            self.ticks.clear();
        }
        if now.since(self.since) >= SECOND * 30 {
            self.bound = SECOND;
        }
        let (is_first, drawn) = (self.bound == SECOND, self.draw(self.bound));
        self.bound = (self.bound * 2).min(SECOND * 30);
        let wait = match (self.vice, how) {
            (Vice::GivesUp, _) => Duration::MAX,
            (Vice::NeverWaits, _) => Duration::ZERO,
            (Vice::ComesBackEarly, Return::No) => SECOND,
            (Vice::ComesBackEarly, _) => hint / 2,
            (Vice::ComesBackLate, _) => hint.max(self.bound) + SECOND * 8,
            (_, Return::No) => {
                self.refusals += 1;
                SECOND * 60 + self.draw(SECOND * self.refusals)
            }
            (_, _) if is_first && !hint.is_zero() => hint,
            (_, _) => drawn.max(hint),
        };
        self.connect_at = now + wait;
    }

    fn draw(&mut self, max: Duration) -> Duration {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let share = u32::try_from(self.random >> 40).unwrap();
        max.mul_f64(f64::from(share) / f64::from(1_u32 << 24))
    }
}

/// Takes a complete frame off the input, whatever its checksum.
fn take(input: &mut Vec<u8>) -> Option<Vec<u8>> {
    let len: [u8; 4] = input.get(4..8)?.try_into().unwrap();
    let end = usize::try_from(u32::from_be_bytes(len)).unwrap() + 12;
    if input.len() < end {
        return None;
    }
    let rest = input.split_off(end);
    Some(std::mem::replace(input, rest))
}
