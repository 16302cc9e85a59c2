//! How the edge serves a subscription: its ACK, its ticks, and the moment of its ending.

use std::time::Duration;

use tickstorm_protocol::message::{BATCH_TICKS_MAX, Subscribe};
use tickstorm_timebase::{Epoch, Mode, Mono, Quality, Tick, UnixTime};

use super::{AUTH_TIMEOUT, Play};
use crate::dev::scenario::connection::{Connection, ConnectionId, Feed, Phase, Stage};
use crate::dev::scenario::frames::{self, AckTerms};
use crate::dev::scenario::outbox::Write;
use crate::dev::scenario::pace::Exceeded;
use crate::dev::scenario::part::{Part, Refusal};
use crate::dev::scenario::rule::Rule;

/// How early ticks are sent to a client that subscribes ahead.
const AHEAD: Duration = Duration::from_millis(800);
/// How far back the edge replays.
const RESUME_WINDOW_MS: i64 = 600_000;
/// A tick that is sent so long after its time is REPLAY.
const REPLAY_AFTER_MS: i64 = 1_000;
/// The distance of most endings from the ticks before and after them.
const OFF_TICK: Duration = Duration::from_millis(500);
/// The shortest distance of a moment from the tick after it.
const BEFORE_TICK: Duration = Duration::from_millis(1);

impl Play {
    /// Does what is due on one connection.
    pub(super) fn poll_connection(&mut self, id: ConnectionId, now: Mono) {
        let slack = self.judge.slack();
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        match &connection.stage {
            Stage::Greeting if now >= connection.accepted_at + AUTH_TIMEOUT => {
                if connection.has_sent {
                    let text = "no complete AUTH within 5 s of connecting";
                    self.judge.fault(Rule::Authentication, text);
                }
                self.write_error(id, Refusal::new("AUTH_TIMEOUT", 1_000), now);
            }
            Stage::Held { .. } => self.poll_held(id, now),
            Stage::Welcoming { at } if *at <= now => self.welcome(id, now),
            Stage::Subscribing { .. } => self.poll_subscribing(id, now, now),
            Stage::Served(_) => self.poll_served(id, now),
            Stage::Greeting | Stage::Welcoming { .. } | Stage::Welcomed | Stage::Ended => {}
        }
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let is_judged = match connection.phase() {
            Some(Phase::Silent { .. } | Phase::Broken { .. }) => false,
            Some(Phase::Running | Phase::Timeless { .. }) | None => connection.is_in_use(),
        };
        let Some(pace) = connection.pace.as_mut().filter(|_| is_judged) else {
            return;
        };
        let fault = pace.poll(slack, now);
        let is_over = pace.timed_out(now);
        if let Some(fault) = fault {
            self.judge.fault(fault.rule, fault.message);
        }
        if is_over {
            self.handle_exceeded(id, Exceeded::HeartbeatTimeout, now);
        }
    }

    /// Returns when [`Play::poll_connection`] may have something to do.
    pub(super) fn next_change(&self, connection: &Connection, now: Mono) -> Mono {
        let of_stage = match &connection.stage {
            Stage::Greeting => connection.accepted_at + AUTH_TIMEOUT,
            Stage::Held { until, .. } => *until,
            Stage::Welcoming { at } | Stage::Subscribing { at, .. } => *at,
            Stage::Served(feed) => self.next_change_of(feed, &self.part(connection), now),
            Stage::Welcomed | Stage::Ended => Mono::NEVER,
        };
        let of_pace = match (&connection.pace, connection.is_in_use()) {
            (Some(pace), true) => pace.next_change(self.judge.slack(), now),
            (_, _) => Mono::NEVER,
        };
        of_stage.min(of_pace).min(connection.outbox.next_write())
    }

    fn next_change_of(&self, feed: &Feed, part: &Part, now: Mono) -> Mono {
        let next = feed.mode.next_after(feed.last).time();
        let shown = self.shown(feed, part, now);
        let nanos = u64::try_from(next.as_nanos().saturating_sub(shown.as_nanos()));
        let tick = now + Duration::from_nanos(nanos.unwrap_or(0));
        let step = part.steps.get(feed.steps);
        let step = step.map_or(Mono::NEVER, |step| feed.part_began + step.after);
        // An ending that is overdue waits for the end of a move.
        let end = if feed.ends_at > now {
            feed.ends_at
        } else {
            Mono::NEVER
        };
        match feed.phase {
            Phase::Running => tick.min(step).min(end),
            Phase::Timeless { until } => until,
            Phase::Silent { .. } => now + Duration::from_secs(1),
            Phase::Broken { .. } => tick.min(now + Duration::from_secs(1)),
        }
    }

    /// Sends the ACK of SUBSCRIBE and begins to serve.
    pub(super) fn acknowledge(&mut self, id: ConnectionId, subscribe: &Subscribe, now: Mono) {
        let unix = self.authority.at(now);
        let (Some(connection), Some(request)) = (self.connections.get(&id), subscribe.request())
        else {
            return;
        };
        let part = self.part(connection);
        let latest = request.mode.last_at(unix);
        let oldest = Epoch::from_ms(unix.as_millis() - RESUME_WINDOW_MS);
        let start = request
            .resume_after
            .map_or(latest, |point| point.max(oldest));
        let terms = AckTerms {
            edge_id: &connection.edge_id,
            is_odd: part.conduct.is_odd,
        };
        let frame = frames::subscribed(&terms, start);
        let earlier = connection
            .feed()
            .map(|feed| (feed.since, feed.part_began, feed.ends_at));
        let (since, part_began, ends_at) =
            earlier.unwrap_or((now, now, self.ends_at(&part, part.lasts, now)));
        self.write_frame(id, frame, now);
        self.judge.handle_subscribed(subscribe, request.mode, start);
        let feed = Feed {
            mode: request.mode,
            ahead: request.ahead,
            last: start,
            replay_until: latest,
            since,
            part_began,
            ends_at,
            steps: 0,
            phase: Phase::Running,
        };
        let resumed = match request.resume_after {
            Some(point) => format!("resuming after {}", point.as_ms()),
            None => "without a resume point".to_owned(),
        };
        self.note(format!("SUBSCRIBE on connection {}, {resumed}", id.0));
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.stage = Stage::Served(feed);
        }
        self.handle_attempt_subscribed(id, now);
        self.poll_served(id, now);
        self.digest(id, now);
    }

    /// Lets a connection that exists be the first part of a scenario that begins.
    pub(super) fn adopt(&mut self, now: Mono) {
        let part = self.part_at(0);
        let settling = self.judge.settling_time();
        let ends_at = |feed: &Feed| {
            let settled = feed.since + settling;
            self.ends_at(&part, part.lasts.max(settled.since(now)), now)
        };
        let feeds = self.connections.values().filter_map(Connection::feed);
        let ends: Vec<_> = feeds.map(ends_at).collect();
        let served = self
            .connections
            .values_mut()
            .filter(|other| other.feed().is_some());
        for (connection, ends_at) in served.zip(ends) {
            connection.part = 0;
            if let Some(feed) = connection.feed_mut() {
                (feed.part_began, feed.ends_at, feed.steps) = (now, ends_at, 0);
            }
        }
    }

    /// Returns when a part that lasts for `lasts` from now ends: at a tick that it breaks, or well
    /// between two ticks.
    pub(super) fn ends_at(&self, part: &Part, lasts: Duration, now: Mono) -> Mono {
        let unix = self.authority.at(now);
        let at = unix.saturating_add(lasts);
        let tick = Mode::Second.next_after(Mode::Second.last_at(at)).time();
        let nanos = u64::try_from(tick.as_nanos().saturating_sub(unix.as_nanos())).unwrap_or(0);
        let tick = now + Duration::from_nanos(nanos);
        if part.ending.breaks_tick() {
            tick
        } else {
            tick + OFF_TICK
        }
    }

    /// Sends ticks, and ends the connection when its time has come.
    pub(super) fn poll_served(&mut self, id: ConnectionId, now: Mono) {
        let is_departing = self.is_departing(id);
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let part = self.parts[connection.part.min(self.parts.len() - 1)];
        let Some(feed) = connection.feed_mut() else {
            return;
        };
        let mut stepped = None;
        if let Some(step) = part.steps.get(feed.steps)
            && now >= feed.part_began + step.after
        {
            feed.steps += 1;
            stepped = Some(step.secs);
        }
        let (phase, ends_at) = (feed.phase, feed.ends_at);
        if let Some(secs) = stepped {
            self.authority.step(secs);
            self.note(format!("authority time was stepped by {secs} s"));
        }
        match phase {
            Phase::Running if now >= ends_at && !is_departing => {
                let at = if part.ending.breaks_tick() {
                    ends_at.saturating_sub(BEFORE_TICK)
                } else {
                    now
                };
                self.send_ticks(id, at, now);
                self.begin_ending(id, now);
            }
            Phase::Running => self.send_ticks(id, now, now),
            Phase::Timeless { until } if now >= until => self.end_timeless(id, now),
            Phase::Timeless { .. } => {}
            Phase::Silent { since, .. } => self.poll_silent(id, since, now),
            Phase::Broken { since, .. } => {
                self.send_ticks(id, now, now);
                self.poll_broken(id, since, now);
            }
        }
    }

    /// Sends the ticks that are due at `at`.
    fn send_ticks(&mut self, id: ConnectionId, at: Mono, now: Mono) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let part = self.part(connection);
        let Some(feed) = connection.feed() else {
            return;
        };
        let (mode, is_sound) = (feed.mode, feed.phase == Phase::Running);
        let (unix, due) = (
            self.authority.at(now),
            mode.last_at(self.shown(feed, &part, at)),
        );
        let mut ticks = Vec::new();
        let mut last = feed.last;
        while last < due {
            last = mode.next_after(last);
            ticks.push(tick(last, feed.replay_until, unix));
        }
        for batch in ticks.chunks(BATCH_TICKS_MAX) {
            if part.conduct.is_odd {
                self.write_unknown(id, now);
                self.write_frame(id, frames::odd_batch(mode, batch, unix), now);
            } else {
                self.write_frame(id, frames::batch(mode, batch, unix), now);
            }
        }
        if is_sound {
            for tick in &ticks {
                self.judge.handle_sent(tick.epoch, now);
            }
        }
        if let Some(feed) = self.connections.get_mut(&id).and_then(Connection::feed_mut) {
            feed.last = last;
        }
    }

    fn write_unknown(&mut self, id: ConnectionId, now: Mono) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.turn += 1;
            let frame = frames::unknown(connection.turn);
            connection.outbox.push(Write::Bytes(frame), now);
        }
    }

    /// Returns the time whose ticks are sent at `at`.
    fn shown(&self, feed: &Feed, part: &Part, at: Mono) -> UnixTime {
        let unix = self.authority.at(at);
        let shown = if feed.ahead {
            unix.saturating_add(AHEAD)
        } else {
            unix
        };
        shown.saturating_sub(part.conduct.tick_delay)
    }

    /// Returns the judgement on a client that closed a connection which it used.
    pub(super) fn fault_left(&mut self, connection: &Connection, now: Mono) {
        let (rule, waited) = match &connection.stage {
            Stage::Subscribing { read_at, .. } => (Rule::Patience, now.since(*read_at)),
            Stage::Served(feed) => (Rule::EdgeOfNoUse, now.since(feed.part_began)),
            Stage::Greeting
            | Stage::Held { .. }
            | Stage::Welcoming { .. }
            | Stage::Welcomed
            | Stage::Ended => (Rule::Patience, now.since(connection.accepted_at)),
        };
        let conduct = self.part(connection).conduct;
        let rule = match (conduct.is_odd, conduct.is_torn) {
            (true, _) => Rule::Compatibility,
            (false, true) => Rule::NoBoundaries,
            (false, false) => rule,
        };
        let text = format!(
            "closed a connection after {:.1} s, while it waited for {}",
            waited.as_secs_f64(),
            connection.awaited()
        );
        self.judge.fault(rule, text);
    }
}

fn tick(epoch: Epoch, replay_until: Epoch, now: UnixTime) -> Tick {
    let is_late = now.as_millis() - epoch.as_ms() > REPLAY_AFTER_MS;
    let quality = if is_late || epoch <= replay_until {
        Quality::Replay
    } else {
        Quality::Normal
    };
    Tick { epoch, quality }
}
