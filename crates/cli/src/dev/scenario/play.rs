//! [`Play`]: plays a scenario, as an edge that clients connect to. Bytes and times go in, and
//! [`Effect`]s come out. It opens no socket and reads no clock.

mod answers;
mod departure;
mod endings;
mod serve;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tickstorm_protocol::code::{ErrorCode, Return};
use tickstorm_timebase::{Mono, UnixTime};

use self::departure::Departure;
use super::connection::{Connection, ConnectionId, Stage};
use super::frames;
use super::judge::{Ended, Judge, Login};
use super::outbox::Write;
use super::pace::Exceeded;
use super::part::{Part, Refusal};
use super::rule::{Fault, Rule};
use super::script::Scenario;
use super::waits::End;

/// The time for a complete AUTH.
const AUTH_TIMEOUT: Duration = Duration::from_secs(5);
/// For how long AUTH waits for the end of another connection to be noticed, which the client may
/// have closed before it made this one.
const HOLD: Duration = Duration::from_millis(300);
/// The most connections at a time. A client needs two.
const CONNECTIONS_MAX: usize = 64;
/// The longest time for a scenario, apart from the waits that are part of it. Only a client that
/// does not subscribe, or breaks rules again and again, takes so long.
const TIME_MAX: Duration = Duration::from_secs(180);
/// The faults after which a scenario ends, since more of them say nothing new.
const FAULTS_MAX: usize = 20;

/// Something for the driver to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Write(ConnectionId, Write),
    /// Something that happened, for people.
    Note(String),
    Fault(Fault),
}

/// How a scenario ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All parts were played.
    Played,
    /// The client has made too many faults.
    BrokenOff,
    /// The client did not come back.
    ClientGone,
}

/// Authority time, which the scenarios step.
struct Authority {
    /// Authority time at [`Mono::ZERO`], in nanoseconds.
    zero_ns: i64,
}

impl Authority {
    fn at(&self, now: Mono) -> UnixTime {
        let now_ns = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
        UnixTime::from_nanos(self.zero_ns.saturating_add(now_ns))
    }

    fn step(&mut self, secs: i64) {
        self.zero_ns = self
            .zero_ns
            .saturating_add(secs.saturating_mul(1_000_000_000));
    }
}

/// The play, and everything that outlives single scenarios.
pub(super) struct Play {
    login: Login,
    authority: Authority,
    judge: Judge,
    parts: Vec<Part>,
    /// The index of the part that is played, or that the next connection begins.
    current: usize,
    connections: BTreeMap<ConnectionId, Connection>,
    departure: Option<Departure>,
    accepted: u64,
    effects: VecDeque<Effect>,
    faults: usize,
    outcome: Option<Outcome>,
    time_is_up: Mono,
}

impl Play {
    /// Creates an edge whose authority time is `unix` at `now`. `seed` makes names unique.
    pub(super) fn new(login: Login, unix: UnixTime, now: Mono, seed: u64) -> Self {
        let now_ns = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
        let cookie = [&b"scenario"[..], &seed.to_be_bytes()].concat();
        Self {
            login,
            authority: Authority {
                zero_ns: unix.as_nanos().saturating_sub(now_ns),
            },
            judge: Judge::new(cookie),
            parts: Vec::new(),
            current: 0,
            connections: BTreeMap::new(),
            departure: None,
            accepted: 0,
            effects: VecDeque::new(),
            faults: 0,
            outcome: None,
            time_is_up: Mono::NEVER,
        }
    }

    /// Begins a scenario. A client that is subscribed keeps its connection.
    pub(super) fn begin(&mut self, scenario: Scenario, now: Mono) {
        self.parts = scenario.parts();
        self.current = 0;
        self.departure = None;
        self.outcome = None;
        self.faults = 0;
        if self.has_client() {
            self.time_is_up = now + TIME_MAX;
        }
        self.adopt(now);
    }

    /// Returns whether a client has ever sent anything.
    pub(super) fn has_client(&self) -> bool {
        self.time_is_up < Mono::NEVER
    }

    /// Returns how the scenario ended, if it is over.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    /// Returns the next effect.
    pub(super) fn next_effect(&mut self) -> Option<Effect> {
        self.take_faults();
        self.effects.pop_front()
    }

    /// Records that this machine stalled.
    pub(super) fn handle_stall(&mut self, late: Duration) {
        self.judge.handle_stall(late);
    }

    /// Records a new connection; `None` means that there are too many.
    pub(super) fn handle_connected(&mut self, now: Mono) -> Option<ConnectionId> {
        if self.connections.len() >= CONNECTIONS_MAX {
            return None;
        }
        self.accepted += 1;
        let id = ConnectionId(self.accepted);
        self.connections.insert(id, Connection::new(now));
        Some(id)
    }

    /// Records that a client does not read what is sent to it.
    pub(super) fn handle_full(&mut self, id: ConnectionId, now: Mono) {
        let text = "the client has stopped reading";
        self.judge.fault(Rule::NeverStopReading, text);
        self.end_by_fault(id, "SLOW_CONSUMER", now);
    }

    /// Records bytes from a client.
    pub(super) fn handle_bytes(&mut self, id: ConnectionId, bytes: &[u8], now: Mono) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.has_sent = true;
            if self.time_is_up == Mono::NEVER {
                self.time_is_up = now + TIME_MAX;
            }
            connection.input.extend_from_slice(bytes);
            self.digest(id, now);
        }
    }

    /// Records that a client has closed a connection, or reset it.
    pub(super) fn handle_closed(&mut self, id: ConnectionId, now: Mono) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        if connection.is_in_use() {
            self.handle_left(id, &connection, now);
        }
    }

    /// Does what is due at `now`.
    pub(super) fn poll(&mut self, now: Mono) {
        self.judge.poll(now);
        let ids: Vec<_> = self.connections.keys().copied().collect();
        for id in ids {
            self.poll_connection(id, now);
        }
        self.poll_departure(now);
        for (id, connection) in &mut self.connections {
            while let Some(write) = connection.outbox.poll(now) {
                self.effects.push_back(Effect::Write(*id, write));
            }
        }
        if self.outcome.is_none() && (self.judge.is_gone(now) || now >= self.time_is_up) {
            if now >= self.time_is_up {
                let text = "the scenario did not come to its end: the client was not subscribed \
                            for long enough";
                self.judge.fault(Rule::Session, text);
            }
            self.outcome = Some(Outcome::ClientGone);
        }
        self.take_faults();
        if self.outcome.is_none() && self.faults >= FAULTS_MAX {
            self.note("broken off: too many faults");
            self.outcome = Some(Outcome::BrokenOff);
        }
    }

    /// Returns when to call [`Play::poll`] next, unless something happens before.
    pub(super) fn next_wake(&self, now: Mono) -> Mono {
        let connections = self.connections.values();
        let of_connections = connections.map(|connection| self.next_change(connection, now));
        of_connections
            .chain([
                self.judge.next_change(now),
                self.departure_change(now),
                self.time_is_up,
            ])
            .min()
            .unwrap_or(Mono::NEVER)
    }

    fn take_faults(&mut self) {
        let faults = self.judge.take_faults();
        self.faults += faults.len();
        self.effects.extend(faults.into_iter().map(Effect::Fault));
    }

    fn note(&mut self, text: impl Into<String>) {
        self.effects.push_back(Effect::Note(text.into()));
    }

    fn part(&self, connection: &Connection) -> Part {
        self.part_at(connection.part)
    }

    /// Returns the part with this index, or the last one.
    fn part_at(&self, index: usize) -> Part {
        let last = self.parts.len().saturating_sub(1);
        self.parts[index.min(last)]
    }

    /// Sends ERROR and ends a connection, as its part has it.
    fn end_with(&mut self, id: ConnectionId, refusal: Refusal, now: Mono) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let subscribed_for = connection.subscribed_for(now);
        self.write_error(id, refusal, now);
        let hint = Duration::from_millis(refusal.retry_after_ms.into());
        let (end, early) = match refusal.code.parse::<ErrorCode>() {
            Ok(ErrorCode::NoTime) if !subscribed_for.is_zero() => (End::ClientLeaves, Rule::Waits),
            Ok(ErrorCode::NoTime) => (End::Hinted(hint), Rule::ElsewhereLater),
            Ok(ErrorCode::InvalidSubscription) => (End::Hinted(hint), Rule::OnceMore),
            Ok(code) if code.come_back() == Return::No => (End::Refused, Rule::No),
            Ok(_) | Err(_) => (End::Hinted(hint), Rule::RetryAfter),
        };
        let after = match refusal.retry_after_ms {
            0 => refusal.code.to_owned(),
            ms => format!("{} with retry_after_ms {ms}", refusal.code),
        };
        self.note(format!("sent {after}"));
        let ended = Ended {
            end,
            subscribed_for,
            early,
            after,
        };
        self.judge.handle_all_arrived();
        self.judge.handle_end(ended, now);
    }

    /// Sends ERROR and closes a connection, because the client broke a rule. Its part begins again
    /// on the next connection.
    fn end_by_fault(&mut self, id: ConnectionId, code: &'static str, now: Mono) {
        let is_in_use = self.connections.get(&id).is_some_and(Connection::is_in_use);
        if is_in_use || self.nothing_is_in_use() {
            self.end_with(id, Refusal::new(code, 0), now);
        } else {
            self.write_error(id, Refusal::new(code, 1_000), now);
        }
    }

    fn write_error(&mut self, id: ConnectionId, refusal: Refusal, now: Mono) {
        if let Some(connection) = self.connections.get_mut(&id) {
            let is_odd = self.parts[connection.part.min(self.parts.len() - 1)]
                .conduct
                .is_odd;
            let error = frames::error(refusal, &connection_id(id), is_odd);
            connection.outbox.push(Write::Bytes(error), now);
            connection.outbox.push(Write::Finish, now);
            connection.stage = Stage::Ended;
        }
    }

    fn nothing_is_in_use(&self) -> bool {
        !self.connections.values().any(Connection::is_in_use)
    }

    /// Handles that the client has left a connection that it used.
    fn handle_left(&mut self, id: ConnectionId, connection: &Connection, now: Mono) {
        if self.departure.is_some() && self.handle_left_in_departure(id, connection, now) {
            return;
        }
        let ended = self.judge_left(connection, now);
        self.judge.handle_end(ended, now);
    }

    fn handle_exceeded(&mut self, id: ConnectionId, exceeded: Exceeded, now: Mono) {
        match exceeded {
            Exceeded::FrameRate => {
                let text = "more frames than frame_rate_limit allows";
                self.judge.fault(Rule::FrameRate, text);
                self.end_by_fault(id, "RATE_LIMITED", now);
            }
            Exceeded::HeartbeatTimeout => {
                let text = "no HEARTBEAT within heartbeat_timeout_ms: the edge closes";
                self.judge.fault(Rule::Heartbeats, text);
                self.end_by_fault(id, "HEARTBEAT_TIMEOUT", now);
            }
        }
    }
}

/// Returns the name that the edge gives to a connection.
fn connection_id(id: ConnectionId) -> String {
    format!("{}-scenario", id.0)
}
