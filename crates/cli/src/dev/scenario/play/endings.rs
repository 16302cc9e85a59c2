//! How connections end: by the edge, as their parts have it, or by the client.

use std::time::Duration;

use tickstorm_timebase::{Mode, Mono, Quality, Tick};

use super::{Outcome, Play};
use crate::dev::scenario::connection::{Connection, ConnectionId, Phase, Stage};
use crate::dev::scenario::frames;
use crate::dev::scenario::judge::Ended;
use crate::dev::scenario::outbox::Write;
use crate::dev::scenario::pace::HEARTBEAT_TIMEOUT;
use crate::dev::scenario::part::{Ending, Refusal};
use crate::dev::scenario::rule::Rule;
use crate::dev::scenario::waits::End;

/// For how long PONGs carry no time before an edge that has lost it closes.
const TIMELESS: Duration = Duration::from_millis(3_500);
/// How soon a client closes a connection on which the edge has broken the protocol.
const CLOSE_SOON: Duration = Duration::from_secs(1);
/// The time after which a client leaves an edge that is silent: 4 s after a tick was due, or the
/// heartbeat timeout, whichever is first.
const SILENT_SECOND: Duration = Duration::from_secs(5);
const SILENT_MINUTE: Duration = HEARTBEAT_TIMEOUT;
/// A client that leaves a silent edge sooner is too impatient: the rest of a frame may be late.
const SILENT_MIN: Duration = Duration::from_secs(2);
/// An unknown frame that is small: its index among the unknown ones.
const SMALL_UNKNOWN: usize = 1;

impl Play {
    /// Ends a connection, or begins to, as its part has it.
    pub(super) fn begin_ending(&mut self, id: ConnectionId, now: Mono) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let part = self.part(connection);
        match part.ending {
            Ending::Over => {
                if self.outcome.is_none() {
                    self.outcome = Some(Outcome::Played);
                }
            }
            Ending::Error(refusal) => self.end_planned(id, refusal, now),
            Ending::TimeLost { .. } => {
                let until = now + TIMELESS;
                self.note("the edge has lost the time");
                self.set_phase(id, Phase::Timeless { until });
            }
            Ending::TimeStepped {
                secs,
                retry_after_ms,
            } => {
                self.authority.step(secs);
                self.end_planned(id, Refusal::new("TIME_STEPPED", retry_after_ms), now);
                self.judge.handle_time_stepped();
            }
            Ending::EndOfFile => self.end_within(id, &[], Write::Finish, "an end of file", now),
            Ending::CutPayload => {
                let frame = self.next_batch(id, now);
                let half = &frame[..frame.len() / 2];
                let after = "an end of file within a payload";
                self.end_within(id, half, Write::Finish, after, now);
            }
            Ending::CutHeader => {
                let frame = self.next_batch(id, now);
                let after = "an end of file within a header";
                self.end_within(id, &frame[..5], Write::Finish, after, now);
            }
            Ending::Reset => {
                let frame = self.next_batch(id, now);
                self.end_within(id, &frame[..12], Write::Reset, "a reset", now);
            }
            Ending::Silence => {
                let mut frame = self.next_batch(id, now);
                frame.truncate(frame.len() / 2);
                self.write_frame(id, frame, now);
                self.note("fell silent within a frame");
                let (since, is_reported) = (now, false);
                self.set_phase(id, Phase::Silent { since, is_reported });
            }
            Ending::BadBatch => {
                let frame = frames::corrupt(self.next_batch(id, now));
                self.send_bad(id, frame, now);
                if let Some(feed) = self.connections.get_mut(&id).and_then(Connection::feed_mut) {
                    feed.last = feed.mode.next_after(feed.last);
                }
            }
            Ending::BadUnknown => {
                self.send_bad(id, frames::corrupt(frames::unknown(SMALL_UNKNOWN)), now);
            }
            Ending::GoingAway { deadline } => self.begin_departure(id, deadline, now),
            Ending::SameEdge => {}
        }
    }

    /// Closes the connection of an edge that has lost the time.
    pub(super) fn end_timeless(&mut self, id: ConnectionId, now: Mono) {
        let part = self
            .connections
            .get(&id)
            .map(|connection| self.part(connection));
        if let Some(Ending::TimeLost { retry_after_ms }) = part.map(|part| part.ending) {
            self.end_planned(id, Refusal::new("NO_TIME", retry_after_ms), now);
        }
    }

    /// Reports a client that stays with a silent edge for too long.
    pub(super) fn poll_silent(&mut self, id: ConnectionId, since: Mono, now: Mono) {
        let slack = self.judge.slack();
        let Some(feed) = self.connections.get_mut(&id).and_then(Connection::feed_mut) else {
            return;
        };
        let Phase::Silent { is_reported, .. } = &mut feed.phase else {
            return;
        };
        let silent_max = match feed.mode {
            Mode::Second => SILENT_SECOND,
            Mode::Minute => SILENT_MINUTE,
        };
        if !*is_reported && now > since + silent_max + slack {
            *is_reported = true;
            let text = format!(
                "still connected {:.1} s after the edge fell silent",
                now.since(since).as_secs_f64()
            );
            self.judge.fault(Rule::EdgeOfNoUse, text);
        } else if now > since + silent_max * 3 + slack {
            let after = "the end of a silent connection";
            self.end_within(id, &[], Write::Reset, after, now);
        }
    }

    /// Reports a client that stays connected although the edge has broken the protocol.
    pub(super) fn poll_broken(&mut self, id: ConnectionId, since: Mono, now: Mono) {
        let slack = self.judge.slack();
        let Some(feed) = self.connections.get_mut(&id).and_then(Connection::feed_mut) else {
            return;
        };
        let Phase::Broken { is_reported, .. } = &mut feed.phase else {
            return;
        };
        if !*is_reported && now > since + CLOSE_SOON + slack {
            *is_reported = true;
            let text = "did not close the connection after a frame with a bad checksum";
            self.judge.fault(Rule::Errors, text);
        } else if now > since + CLOSE_SOON * 3 + slack {
            let after = "the end of a connection with a bad frame";
            self.end_within(id, &[], Write::Finish, after, now);
        }
    }

    /// Judges a client that left a connection in use, apart from moves.
    pub(super) fn judge_left(&mut self, connection: &Connection, now: Mono) -> Ended {
        let subscribed_for = connection.subscribed_for(now);
        let mut ended = Ended {
            end: End::Hinted(Duration::ZERO),
            subscribed_for,
            early: Rule::Waits,
            after: "it closed the connection".to_owned(),
        };
        match connection.phase() {
            Some(Phase::Silent { since, .. }) if now.since(since) >= SILENT_MIN => {
                "it left a silent edge".clone_into(&mut ended.after);
                ended.end = End::ClientLeaves;
                self.current = connection.part + 1;
            }
            Some(Phase::Broken { .. }) => {
                "a frame with a bad checksum".clone_into(&mut ended.after);
                self.current = connection.part + 1;
            }
            Some(Phase::Running | Phase::Timeless { .. } | Phase::Silent { .. }) | None => {
                self.fault_left(connection, now);
                ended.end = End::ClientLeaves;
                ended.after = format!("it closed the connection to {}", connection.edge_id);
            }
        }
        ended
    }

    fn end_planned(&mut self, id: ConnectionId, refusal: Refusal, now: Mono) {
        if let Some(connection) = self.connections.get(&id) {
            self.current = connection.part + 1;
        }
        self.end_with(id, refusal, now);
    }

    /// Ends a connection without an ERROR, after some bytes of a frame.
    fn end_within(&mut self, id: ConnectionId, bytes: &[u8], how: Write, after: &str, now: Mono) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let subscribed_for = connection.subscribed_for(now);
        if !bytes.is_empty() {
            connection.outbox.push(Write::Bytes(bytes.to_vec()), now);
        }
        // A reset may destroy what has not been read yet.
        let is_orderly = how == Write::Finish;
        connection.outbox.push(how, now);
        connection.stage = Stage::Ended;
        self.current = connection.part + 1;
        self.note(format!("{after} on connection {}", id.0));
        if is_orderly {
            self.judge.handle_all_arrived();
        }
        let ended = Ended {
            end: End::Hinted(Duration::ZERO),
            subscribed_for,
            early: Rule::Waits,
            after: after.to_owned(),
        };
        self.judge.handle_end(ended, now);
    }

    fn send_bad(&mut self, id: ConnectionId, frame: Vec<u8>, now: Mono) {
        self.write_frame(id, frame, now);
        self.note(format!(
            "a frame with a bad checksum on connection {}",
            id.0
        ));
        self.judge.handle_bad_frame();
        let (since, is_reported) = (now, false);
        self.set_phase(id, Phase::Broken { since, is_reported });
    }

    fn set_phase(&mut self, id: ConnectionId, phase: Phase) {
        if let Some(feed) = self.connections.get_mut(&id).and_then(Connection::feed_mut) {
            feed.phase = phase;
        }
    }

    /// Returns the frame with the tick that is next, which the caller breaks.
    fn next_batch(&self, id: ConnectionId, now: Mono) -> Vec<u8> {
        let Some(feed) = self.connections.get(&id).and_then(Connection::feed) else {
            return Vec::new();
        };
        let tick = Tick {
            epoch: feed.mode.next_after(feed.last),
            quality: Quality::Normal,
        };
        frames::batch(feed.mode, &[tick], self.authority.at(now))
    }
}
