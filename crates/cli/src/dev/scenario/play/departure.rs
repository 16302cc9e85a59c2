//! [`Departure`]: a move that the edge has asked for with GOING_AWAY, and whether the client makes
//! it as docs/protocol.md has it in "Moving".

use std::time::Duration;

use tickstorm_timebase::Mono;

use super::Play;
use crate::dev::scenario::connection::{Connection, ConnectionId};
use crate::dev::scenario::frames;
use crate::dev::scenario::judge::Ended;
use crate::dev::scenario::part::{Ending, Refusal};
use crate::dev::scenario::rule::Rule;
use crate::dev::scenario::waits::End;

/// The part of the time until the deadline that is kept for the move itself, and its limits.
const MARGIN_DIVISOR: u32 = 4;
const MARGIN_MIN: Duration = Duration::from_millis(500);
const MARGIN_MAX: Duration = Duration::from_secs(5);
/// The longest wait after the first attempt that failed. It doubles with each further one.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(4);
/// How soon a client closes the connection that it does not need any more.
const CLOSE_SOON: Duration = Duration::from_secs(1);
/// How much earlier than right an attempt may be, since timers are coarse.
const TIMER_GRAIN: Duration = Duration::from_millis(20);
/// The hint of the SERVER_DRAINING at the deadline.
const DRAINING_MS: u32 = 300;

/// A move that is under way.
pub(super) struct Departure {
    old: ConnectionId,
    deadline: Mono,
    /// The earliest and the latest right moment of the next attempt.
    attempt: (Mono, Mono),
    retry: Duration,
    /// The index of the part that the next attempt begins.
    next_part: usize,
    stage: Stage,
    is_reported: bool,
}

enum Stage {
    Waiting,
    /// An attempt has sent AUTH.
    Attempting(ConnectionId),
    /// An attempt has been subscribed.
    Subscribed {
        new: ConnectionId,
        at: Mono,
        is_same_edge: bool,
    },
}

impl Play {
    /// Sends GOING_AWAY.
    pub(super) fn begin_departure(&mut self, id: ConnectionId, deadline: Duration, now: Mono) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let margin = (deadline / MARGIN_DIVISOR).clamp(MARGIN_MIN, MARGIN_MAX);
        self.departure = Some(Departure {
            old: id,
            deadline: now + deadline,
            attempt: (now, now + deadline.saturating_sub(margin)),
            retry: RETRY_MIN,
            next_part: connection.part + 1,
            stage: Stage::Waiting,
            is_reported: false,
        });
        let text = format!("sent GOING_AWAY with deadline_ms {}", deadline.as_millis());
        self.note(text);
        self.write_frame(id, frames::going_away(deadline), now);
    }

    /// Returns whether a second connection is right now.
    pub(super) fn may_attempt(&self) -> bool {
        let departure = self.departure.as_ref();
        departure.is_some_and(|departure| matches!(departure.stage, Stage::Waiting))
    }

    /// Returns whether a connection takes part in a move, which defers its ending.
    pub(super) fn is_departing(&self, id: ConnectionId) -> bool {
        self.departure.as_ref().is_some_and(|departure| {
            departure.old == id
                || match departure.stage {
                    Stage::Waiting => false,
                    Stage::Attempting(new) | Stage::Subscribed { new, .. } => new == id,
                }
        })
    }

    /// Judges the moment of an attempt, and returns the index of its part.
    pub(super) fn handle_attempt(&mut self, id: ConnectionId, connected: Mono) -> usize {
        let slack = self.judge.slack();
        let Some(departure) = &mut self.departure else {
            return self.current;
        };
        let (earliest, latest) = departure.attempt;
        let fault = if connected + TIMER_GRAIN < earliest {
            let early = earliest.since(connected).as_secs_f64();
            Some(format!(
                "made the next attempt to move {early:.2} s too early"
            ))
        } else if connected > latest + slack && !departure.is_reported {
            let late = connected.since(latest).as_secs_f64();
            Some(format!("made an attempt to move {late:.1} s too late"))
        } else {
            None
        };
        departure.stage = Stage::Attempting(id);
        let part = departure.next_part;
        if let Some(text) = fault {
            self.judge.fault(Rule::Moving, text);
        }
        part
    }

    /// Records that an attempt to move is subscribed.
    pub(super) fn handle_attempt_subscribed(&mut self, id: ConnectionId, now: Mono) {
        let is_same_edge = {
            let connection = self.connections.get(&id);
            connection.is_some_and(|connection| self.part(connection).ending == Ending::SameEdge)
        };
        if let Some(departure) = &mut self.departure
            && let Stage::Attempting(new) = departure.stage
            && new == id
        {
            departure.stage = Stage::Subscribed {
                new,
                at: now,
                is_same_edge,
            };
        }
    }

    /// Reports what is late in a move, and closes the old connection at the deadline.
    pub(super) fn poll_departure(&mut self, now: Mono) {
        let slack = self.judge.slack();
        let Some(departure) = &mut self.departure else {
            return;
        };
        let (_, latest) = departure.attempt;
        let late = match departure.stage {
            Stage::Waiting if now > latest + slack => {
                Some("has not connected to another edge, although the moment for it is over")
            }
            Stage::Subscribed {
                at, is_same_edge, ..
            } if now > at + CLOSE_SOON + slack => Some(if is_same_edge {
                "has not closed the new connection, although it leads to the edge that goes away"
            } else {
                "has not closed the old connection after the ACK of SUBSCRIBE on the new one"
            }),
            Stage::Waiting | Stage::Attempting(_) | Stage::Subscribed { .. } => None,
        };
        let (old, next_part, is_over) = (
            departure.old,
            departure.next_part,
            now >= departure.deadline,
        );
        let is_new_report = late.is_some() && !std::mem::replace(&mut departure.is_reported, true);
        if late.is_none() {
            departure.is_reported = false;
        }
        if let Some(text) = late.filter(|_| is_new_report) {
            self.judge.fault(Rule::Moving, text);
        }
        if is_over {
            self.end_departure(old, next_part, now);
        }
    }

    pub(super) fn departure_change(&self, now: Mono) -> Mono {
        let Some(departure) = &self.departure else {
            return Mono::NEVER;
        };
        let slack = self.judge.slack() + Duration::from_millis(1);
        let late = match departure.stage {
            Stage::Waiting => departure.attempt.1 + slack,
            Stage::Attempting(_) => Mono::NEVER,
            Stage::Subscribed { at, .. } => at + CLOSE_SOON + slack,
        };
        let changes = [late, departure.deadline].into_iter();
        changes.filter(|&at| at > now).min().unwrap_or(Mono::NEVER)
    }

    /// Closes the old connection at the deadline.
    fn end_departure(&mut self, old: ConnectionId, next_part: usize, now: Mono) {
        let Some(departure) = self.departure.take() else {
            return;
        };
        let refusal = Refusal::new("SERVER_DRAINING", DRAINING_MS);
        self.current = next_part;
        match departure.stage {
            Stage::Waiting => self.end_with(old, refusal, now),
            // The client may continue with the new connection, which is no new begin.
            Stage::Attempting(new) | Stage::Subscribed { new, .. } => {
                self.write_error(old, refusal, now);
                self.settle(new, now);
            }
        }
    }

    /// Handles that the client has left a connection that takes part in a move. Returns whether
    /// there is nothing left to judge.
    pub(super) fn handle_left_in_departure(
        &mut self,
        id: ConnectionId,
        connection: &Connection,
        now: Mono,
    ) -> bool {
        let Some(mut departure) = self.departure.take() else {
            return false;
        };
        let is_old = departure.old == id;
        match departure.stage {
            Stage::Subscribed {
                new,
                is_same_edge: false,
                ..
            } if is_old => {
                self.current = departure.next_part;
                self.note(format!("the client has moved to connection {}", new.0));
                self.continue_subscription(connection, new);
                true
            }
            Stage::Subscribed { new, .. } | Stage::Attempting(new) if is_old => {
                let text = "closed the old connection before another edge had acknowledged \
                            SUBSCRIBE on a new one";
                self.judge.fault(Rule::Moving, text);
                self.current = departure.next_part;
                self.settle(new, now);
                true
            }
            Stage::Waiting if is_old => {
                let text = "closed the old connection without a new one to another edge";
                self.judge.fault(Rule::Moving, text);
                self.current = departure.next_part;
                let ended = Ended {
                    end: End::ClientLeaves,
                    subscribed_for: connection.subscribed_for(now),
                    early: Rule::Waits,
                    after: "it closed the old connection".to_owned(),
                };
                self.judge.handle_end(ended, now);
                true
            }
            Stage::Waiting | Stage::Attempting(_) | Stage::Subscribed { .. } => {
                self.handle_failed_attempt(&mut departure, now);
                self.departure = Some(departure);
                true
            }
        }
    }

    fn handle_failed_attempt(&mut self, departure: &mut Departure, now: Mono) {
        match departure.stage {
            Stage::Subscribed {
                is_same_edge: true, ..
            } => {
                departure.next_part += 1;
                self.note("the client has closed the new connection to the same edge");
            }
            Stage::Waiting | Stage::Attempting(_) | Stage::Subscribed { .. } => {
                let text = "closed the new connection, although it leads to another edge";
                self.judge.fault(Rule::Moving, text);
            }
        }
        departure.attempt = (now + departure.retry / 2, now + departure.retry);
        departure.retry = (departure.retry * 2).min(RETRY_MAX);
        departure.stage = Stage::Waiting;
        departure.is_reported = false;
    }

    /// Lets the subscription of the old connection count for the new one.
    fn continue_subscription(&mut self, old: &Connection, new: ConnectionId) {
        let since = old.feed().map(|feed| feed.since);
        let feed = self
            .connections
            .get_mut(&new)
            .and_then(Connection::feed_mut);
        if let (Some(since), Some(feed)) = (since, feed) {
            feed.since = since;
        }
    }

    /// Makes a connection that was an attempt the one of the next part that serves a client.
    fn settle(&mut self, id: ConnectionId, now: Mono) {
        while self.part_at(self.current).ending == Ending::SameEdge {
            self.current += 1;
        }
        let part = self.part_at(self.current);
        let ends_at = self.ends_at(&part, part.lasts, now);
        let current = self.current;
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.part = current;
            if let Some(feed) = connection.feed_mut() {
                (feed.part_began, feed.ends_at) = (now, ends_at);
            }
        }
    }
}
