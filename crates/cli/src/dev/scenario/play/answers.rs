//! How the edge answers a client's frames.

use std::time::Duration;

use prost::Message;
use tickstorm_protocol::frame::{FrameType, Rules};
use tickstorm_protocol::message::{Auth, Heartbeat, Pong, Subscribe};
use tickstorm_timebase::Mono;
use zeroize::Zeroizing;

use super::{HOLD, Play, connection_id};
use crate::dev::scenario::connection::{Connection, ConnectionId, Phase, Stage};
use crate::dev::scenario::frames::{self, AckTerms};
use crate::dev::scenario::outbox::Write;
use crate::dev::scenario::pace::{Pace, SUBSCRIBE_COST};
use crate::dev::scenario::part::{Part, Refusal};
use crate::dev::scenario::rule::Rule;

/// The largest payload of a type from 0x80 that a client may send.
const IGNORABLE_PAYLOAD_MAX: usize = 65_536;
/// How far ahead of authority time a resume point may be.
const RESUME_AHEAD_MAX_MS: i64 = 15_000;
/// A field of a PONG that is not a sample: its round trip is negative.
const ABSURD_US: i64 = 10_000_000;

/// A frame that was taken from a connection's input.
struct Taken {
    frame_type: FrameType,
    payload: Zeroizing<Vec<u8>>,
}

impl Play {
    /// Handles all frames that the state of the connection lets the edge read.
    pub(super) fn digest(&mut self, id: ConnectionId, now: Mono) {
        loop {
            let Some(connection) = self.connections.get_mut(&id) else {
                return;
            };
            match &connection.stage {
                Stage::Held { .. } | Stage::Welcoming { .. } => return,
                Stage::Ended => {
                    connection.input.clear();
                    return;
                }
                Stage::Greeting
                | Stage::Welcomed
                | Stage::Subscribing { .. }
                | Stage::Served(_) => {}
            }
            match take_frame(connection) {
                Ok(None) => return,
                Ok(Some(taken)) => self.handle_frame(id, &taken, now),
                Err((code, text)) => {
                    self.judge.fault(Rule::Frames, text);
                    self.end_by_fault(id, code, now);
                    return;
                }
            }
        }
    }

    fn handle_frame(&mut self, id: ConnectionId, taken: &Taken, now: Mono) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let is_first = matches!(connection.stage, Stage::Greeting);
        let name = taken.frame_type.name();
        let cost = if taken.frame_type == FrameType::Subscribe {
            SUBSCRIBE_COST
        } else {
            1
        };
        if let Some(pace) = &mut connection.pace
            && let Err(exceeded) = pace.handle_frame(cost, now)
        {
            return self.handle_exceeded(id, exceeded, now);
        }
        match (taken.frame_type, is_first) {
            (FrameType::Auth, true) => match Auth::decode(&taken.payload[..]) {
                Ok(auth) => self.handle_auth(id, Zeroizing::new(auth), now),
                Err(_) => self.handle_malformed(id, name, now),
            },
            (_, true) => {
                let text = format!("the first frame is {name}, and not AUTH");
                self.judge.fault(Rule::Authentication, text);
                self.end_by_fault(id, "AUTH_REQUIRED", now);
            }
            (FrameType::Auth, false) => {
                self.judge.fault(Rule::Authentication, "a second AUTH");
                self.end_by_fault(id, "ALREADY_AUTHENTICATED", now);
            }
            (FrameType::Subscribe, false) => match Subscribe::decode(&taken.payload[..]) {
                Ok(subscribe) => self.handle_subscribe(id, subscribe, now),
                Err(_) => self.handle_malformed(id, name, now),
            },
            (FrameType::Heartbeat, false) => match Heartbeat::decode(&taken.payload[..]) {
                Ok(heartbeat) => self.handle_heartbeat(id, &heartbeat, now),
                Err(_) => self.handle_malformed(id, name, now),
            },
            (
                FrameType::DataBatch
                | FrameType::Error
                | FrameType::Ack
                | FrameType::Pong
                | FrameType::GoingAway,
                false,
            ) => {
                let text = format!("only an edge sends {name}");
                self.judge.fault(Rule::Errors, text);
                self.end_by_fault(id, "UNEXPECTED_MESSAGE", now);
            }
        }
    }

    fn handle_malformed(&mut self, id: ConnectionId, name: &str, now: Mono) {
        let text = format!("the payload of {name} does not decode as its message");
        self.judge.fault(Rule::Errors, text);
        self.end_by_fault(id, "MALFORMED_PAYLOAD", now);
    }

    fn handle_auth(&mut self, id: ConnectionId, auth: Zeroizing<Auth>, now: Mono) {
        if self.nothing_is_in_use() || self.may_attempt() {
            return self.admit(id, &auth, now);
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            let until = now + HOLD;
            connection.stage = Stage::Held { auth, until };
        }
    }

    /// Looks again at an AUTH that arrived while another connection was in use.
    pub(super) fn poll_held(&mut self, id: ConnectionId, now: Mono) {
        let is_free = self.nothing_is_in_use() || self.may_attempt();
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let Stage::Held { auth, until } = &mut connection.stage else {
            return;
        };
        if is_free {
            let auth = std::mem::take(auth);
            self.admit(id, &auth, now);
        } else if now >= *until {
            let text = "a second connection, although the first one is in use and its edge has \
                        not sent GOING_AWAY";
            self.judge.fault(Rule::OneSubscription, text);
            self.write_error(id, Refusal::new("TOO_MANY_CONNECTIONS", 5_000), now);
        }
    }

    /// Takes a client's AUTH as the start of the next part.
    fn admit(&mut self, id: ConnectionId, auth: &Auth, now: Mono) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let accepted_at = connection.accepted_at;
        let part = if self.departure.is_some() {
            self.handle_attempt(id, accepted_at)
        } else {
            self.judge.handle_comeback(accepted_at);
            self.current
        };
        let before = part.checked_sub(1).map_or(0, |part| part);
        let is_same_edge = self.part_at(part).is_same_edge;
        let edge_id = if is_same_edge {
            self.edge_of_part(before).unwrap_or_default()
        } else {
            format!("scenario-edge-{}", id.0)
        };
        let answer = self.part_at(part).welcome;
        let is_right = self.judge.handle_auth(auth, &self.login, now);
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.part = part;
        connection.edge_id = edge_id;
        connection.stage = Stage::Welcoming {
            at: now + answer.after,
        };
        if !is_right {
            return self.end_with(id, Refusal::new("AUTH_FAILED", 0), now);
        }
        let edge_id = connection.edge_id.clone();
        self.note(format!("AUTH on connection {} to {edge_id}", id.0));
        self.poll_connection(id, now);
    }

    fn edge_of_part(&self, part: usize) -> Option<String> {
        let mut connections = self.connections.values();
        let found = connections.find(|other| other.is_in_use() && other.part == part)?;
        Some(found.edge_id.clone())
    }

    /// Answers AUTH.
    pub(super) fn welcome(&mut self, id: ConnectionId, now: Mono) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let part = self.part(connection);
        if let Some(refusal) = part.welcome.refusal {
            self.current = connection.part + 1;
            return self.end_with(id, refusal, now);
        }
        let terms = AckTerms {
            edge_id: &connection.edge_id,
            is_odd: part.conduct.is_odd,
        };
        let ack = if part.conduct.is_odd {
            // A client ignores a cookie of more than 64 bytes, and a connection id with spaces.
            frames::welcome(&terms, "no connection id", &[7; 65])
        } else {
            self.judge.handle_cookie_sent(now);
            frames::welcome(&terms, &connection_id(id), self.judge.cookie())
        };
        self.write_frame(id, ack, now);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.pace = Some(Pace::new(now));
            connection.stage = Stage::Welcomed;
        }
        self.digest(id, now);
    }

    fn handle_subscribe(&mut self, id: ConnectionId, subscribe: Subscribe, now: Mono) {
        let Some(request) = subscribe.request() else {
            let text = format!("SUBSCRIBE to mode {}, which is unknown", subscribe.mode);
            self.judge.fault(Rule::Ticks, text);
            return self.end_by_fault(id, "INVALID_SUBSCRIPTION", now);
        };
        self.judge.handle_subscribe(&subscribe, request.mode, now);
        let latest_ms = self.authority.at(now).as_millis() + RESUME_AHEAD_MAX_MS;
        if subscribe.resume_after_epoch_ms > Some(latest_ms) {
            return self.end_with(id, Refusal::new("INVALID_SUBSCRIPTION", 1_200), now);
        }
        // A SUBSCRIBE that waits gets its own ACK first.
        self.poll_subscribing(id, Mono::NEVER, now);
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let index = connection.part.min(self.parts.len() - 1);
        if let Some(pace) = &mut connection.pace {
            pace.handle_sign_of_life(now);
        }
        if let Stage::Served(_) = connection.stage {
            return self.acknowledge(id, &subscribe, now);
        }
        connection.stage = Stage::Subscribing {
            subscribe,
            read_at: now,
            at: now + self.parts[index].subscription.after,
        };
        self.poll_connection(id, now);
    }

    /// Answers a SUBSCRIBE whose answer is due at `due`.
    pub(super) fn poll_subscribing(&mut self, id: ConnectionId, due: Mono, now: Mono) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let (subscribe, index) = match &connection.stage {
            Stage::Subscribing { subscribe, at, .. } if *at <= due => (*subscribe, connection.part),
            Stage::Subscribing { .. }
            | Stage::Greeting
            | Stage::Held { .. }
            | Stage::Welcoming { .. }
            | Stage::Welcomed
            | Stage::Served(_)
            | Stage::Ended => return,
        };
        match self.part_at(index).subscription.refusal {
            Some(refusal) => {
                self.current = index + 1;
                self.end_with(id, refusal, now);
            }
            None => self.acknowledge(id, &subscribe, now),
        }
    }

    fn handle_heartbeat(&mut self, id: ConnectionId, heartbeat: &Heartbeat, now: Mono) {
        let unix_us = self.authority.at(now).as_micros();
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let part = self.parts[connection.part.min(self.parts.len() - 1)];
        let has_time =
            part.conduct.has_time && !matches!(connection.phase(), Some(Phase::Timeless { .. }));
        connection.turn += 1;
        let is_absurd = part.conduct.is_odd && connection.turn.is_multiple_of(4);
        if let Some(pace) = &mut connection.pace {
            pace.handle_sign_of_life(now);
            let fault = pace.handle_heartbeat(heartbeat.client_time_us, has_time, now);
            if let Some(fault) = fault {
                self.judge.fault(fault.rule, fault.message);
            }
        }
        let pong = Pong {
            client_time_us: heartbeat.client_time_us,
            received_unix_us: if has_time { unix_us } else { 0 },
            sent_unix_us: match (has_time, is_absurd) {
                (false, _) => 0,
                (true, false) => unix_us,
                (true, true) => unix_us + ABSURD_US,
            },
            error_bound_us: if has_time { 200 } else { u32::MAX },
            clock_error_us: 0,
        };
        let frame = frames::pong(&pong, part.conduct.is_odd);
        self.write_frame(id, frame, now + pong_delay(&part));
    }

    /// Writes a frame as the conduct has it, unless the edge is silent.
    pub(super) fn write_frame(&mut self, id: ConnectionId, frame: Vec<u8>, at: Mono) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if matches!(connection.phase(), Some(Phase::Silent { .. })) {
            return;
        }
        let conduct = self.parts[connection.part.min(self.parts.len() - 1)].conduct;
        if conduct.is_torn {
            let filler = frames::unknown(1);
            connection.outbox.push_torn(frame, &filler, at);
        } else {
            connection.outbox.push(Write::Bytes(frame), at);
        }
    }
}

fn pong_delay(part: &Part) -> Duration {
    part.conduct.pong_delay
}

/// Takes the next frame from a connection's input. The error is a code, and words for people.
fn take_frame(connection: &mut Connection) -> Result<Option<Taken>, (&'static str, String)> {
    let rules = match connection.stage {
        Stage::Greeting => Rules::BEFORE_AUTH,
        Stage::Held { .. }
        | Stage::Welcoming { .. }
        | Stage::Welcomed
        | Stage::Subscribing { .. }
        | Stage::Served(_)
        | Stage::Ended => Rules::after_auth(IGNORABLE_PAYLOAD_MAX),
    };
    let input = Zeroizing::new(std::mem::take(&mut connection.input));
    let mut rest = &input[..];
    let decoded = connection.decoder.decode(rules, &mut rest);
    let taken = match decoded {
        Ok(None) => Ok(None),
        Ok(Some(frame)) => match frame.frame_type() {
            Some(frame_type) => Ok(Some(Taken {
                frame_type,
                payload: Zeroizing::new(frame.payload().to_vec()),
            })),
            // Before authentication, an edge skips nothing.
            None => {
                let text = "the first frame is of an unknown type, and not AUTH".to_owned();
                Err(("AUTH_REQUIRED", text))
            }
        },
        Err(error) => Err((error.code().as_str(), error.to_string())),
    };
    connection.input = rest.to_vec();
    taken
}
