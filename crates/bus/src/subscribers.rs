//! The subscribers in this process, and the way of a received message to them: which subscribers it
//! concerns according to its subject, whether it is within their limits, and what it says. It is
//! the same on every bus.

use std::collections::VecDeque;

use tickstorm_timebase::{Announcement, ClockId, Mode, Mono};

use crate::clock_filter::{ClockFilter, ClockMessage};
use crate::events::{Events, Outlet};
use crate::headers::trace_parent;
use crate::message::{self, DropReason};
use crate::pause::Pause;
use crate::reply_address::ReplyToken;
use crate::request_limits::{Origin, RequestLimits};
use crate::subject::{Subjects, Topic};
use crate::{ClockEvent, EdgeEvent, ReplyTo};

/// The number of a clock's timelines that are remembered. Each step of its host's clock starts
/// another, and announcements on the one before may still be on their way.
const TIMELINES_MAX: usize = 8;

/// A message as it was received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received<'a> {
    pub(crate) subject: &'a str,
    pub(crate) reply_to: Option<&'a str>,
    /// The headers; `None` if there are none, or if they are not read.
    pub(crate) headers: Option<&'a [u8]>,
    /// The payload, or the reason why it was not kept.
    pub(crate) payload: Result<&'a [u8], DropReason>,
    pub(crate) now: Mono,
    /// Whether it must be dropped if it is a request, because it waited for too long.
    pub(crate) is_stale: bool,
}

/// All subscribers in a process. A daemon has one.
#[derive(Debug, Default)]
pub(crate) struct Subscribers {
    clocks: Vec<ClockSubscriber>,
    edges: Vec<EdgeSubscriber>,
}

#[derive(Debug)]
struct ClockSubscriber {
    id: ClockId,
    outlet: Outlet<ClockEvent>,
    limits: RequestLimits,
    /// The latest timelines on which this clock has announced.
    timelines: VecDeque<u64>,
}

#[derive(Debug)]
struct EdgeSubscriber {
    outlet: Outlet<EdgeEvent>,
    filter: ClockFilter,
}

impl Subscribers {
    /// Adds a clock with this id.
    pub(crate) fn add_clock(&mut self, id: &ClockId, connected: bool) -> Events<ClockEvent> {
        let (outlet, events) = Outlet::new(connected);
        self.clocks.push(ClockSubscriber {
            id: id.clone(),
            outlet,
            limits: RequestLimits::new(),
            timelines: VecDeque::new(),
        });
        events
    }

    /// Adds an edge that listens to `clocks`, or to all clocks if there are none.
    pub(crate) fn add_edge(&mut self, clocks: &[ClockId], connected: bool) -> Events<EdgeEvent> {
        let (outlet, events) = Outlet::new(connected);
        self.edges.push(EdgeSubscriber {
            outlet,
            filter: ClockFilter::new(clocks),
        });
        events
    }

    /// Returns the ids of the clocks.
    pub(crate) fn clock_ids(&self) -> impl Iterator<Item = &ClockId> {
        self.clocks.iter().map(|clock| &clock.id)
    }

    pub(crate) fn has_edges(&self) -> bool {
        !self.edges.is_empty()
    }

    /// Returns how many reply subjects the clocks know, at most.
    pub(crate) fn known_reply_subjects(&mut self, now: Mono) -> usize {
        let known = self.clocks.iter_mut();
        let known = known.map(|clock| clock.limits.known_subjects(now));
        known.max().unwrap_or_default()
    }

    /// Tells all clocks whether there is a connection.
    pub(crate) fn set_clocks_connected(&self, connected: bool) {
        for clock in &self.clocks {
            clock.outlet.set_connected(connected);
        }
    }

    /// Tells all edges whether there is a connection.
    pub(crate) fn set_edges_connected(&self, connected: bool) {
        for edge in &self.edges {
            edge.outlet.set_connected(connected);
        }
    }

    /// Delivers a message to all subscribers that it concerns, or counts there that it was dropped.
    /// [`Self::flush`] must follow. The edges of this process ask under `reply`. Returns whether a
    /// clock's answer was delivered.
    pub(crate) fn deliver(
        &mut self,
        subjects: &Subjects,
        reply: ReplyToken,
        message: Received<'_>,
    ) -> bool {
        let mut is_answer = false;
        match subjects.parse(message.subject) {
            Some(Topic::Time) => {
                for clock in &mut self.clocks {
                    clock.receive_request(subjects, message);
                }
            }
            Some(Topic::Tick(mode, id)) => {
                for edge in &mut self.edges {
                    edge.receive(id, ClockMessage::Announcement, message, |payload| {
                        read_announcement(mode, id, payload, message.headers)
                    });
                }
            }
            Some(Topic::Answer(token, id)) if token == reply => {
                for edge in &mut self.edges {
                    is_answer |= edge.receive(id, ClockMessage::Answer, message, |payload| {
                        read_answer(id, payload)
                    });
                }
            }
            Some(Topic::Answer(..)) | None => {}
        }
        is_answer
    }

    /// Handles that nothing was read for a while: what is read until [`Self::handle_caught_up`] may
    /// have been sent at any time of the pause.
    pub(crate) fn handle_pause(&mut self, pause: Pause) {
        for edge in &mut self.edges {
            edge.filter.handle_pause(pause);
        }
    }

    /// Handles that everything that was sent during pauses has been read.
    pub(crate) fn handle_caught_up(&mut self) {
        for edge in &mut self.edges {
            edge.filter.handle_caught_up();
        }
    }

    /// Notes that a clock of this process sends an announcement.
    pub(crate) fn note_sent(&mut self, announcement: &Announcement) {
        for clock in &mut self.clocks {
            if clock.id == announcement.clock_id {
                clock.note_timeline(announcement.timeline);
            }
        }
    }

    /// Handles an announcement that was received under the id of a clock of this process. If it is
    /// not one of the clock's own, another host uses its id. [`Self::flush`] must follow.
    pub(crate) fn receive_own(&mut self, subjects: &Subjects, subject: &str, payload: &[u8]) {
        let Some(Topic::Tick(mode, id)) = subjects.parse(subject) else {
            return;
        };
        for clock in &mut self.clocks {
            if clock.id.as_str() == id && !clock.has_sent(mode, payload) {
                clock.outlet.drop_message(DropReason::SharedId, None);
            }
        }
    }

    /// Notifies subscribers of dropped messages, and removes subscribers that are gone.
    pub(crate) fn flush(&mut self) {
        self.clocks.retain_mut(|clock| {
            clock.outlet.flush();
            !clock.outlet.is_closed()
        });
        self.edges.retain_mut(|edge| {
            edge.outlet.flush();
            !edge.outlet.is_closed()
        });
    }
}

impl ClockSubscriber {
    fn note_timeline(&mut self, timeline: u64) {
        if self.timelines.contains(&timeline) {
            return;
        }
        if self.timelines.len() == TIMELINES_MAX {
            self.timelines.pop_front();
        }
        self.timelines.push_back(timeline);
    }

    fn has_sent(&self, mode: Mode, payload: &[u8]) -> bool {
        message::decode_announcement(mode, payload)
            .is_ok_and(|announcement| self.timelines.contains(&announcement.timeline))
    }

    fn receive_request(&mut self, subjects: &Subjects, message: Received<'_>) {
        match self.read_request(subjects, message) {
            Ok(request) => self.outlet.deliver(request),
            Err(reason) => self.outlet.drop_message(reason, None),
        }
    }

    fn read_request(
        &mut self,
        subjects: &Subjects,
        message: Received<'_>,
    ) -> Result<ClockEvent, DropReason> {
        if message.is_stale {
            return Err(DropReason::Stale);
        }
        let token = message
            .reply_to
            .and_then(|reply| subjects.parse_reply(reply))
            .ok_or(DropReason::Malformed)?;
        let (nonce, key) = message::decode_request(message.payload?)?;
        let origin = match key {
            Some(key) if key.token() == token => Origin::Proven,
            Some(_) => return Err(DropReason::ForeignReply),
            None => Origin::Unproven,
        };
        self.limits.admit(token, origin, message.now)?;
        Ok(ClockEvent::Request {
            nonce,
            reply_to: ReplyTo(token),
        })
    }
}

impl EdgeSubscriber {
    /// Reads a message with `read`, if its sender, the clock with the id `id` in its subject, is
    /// within its limits. Returns whether it was delivered.
    fn receive(
        &mut self,
        id: &str,
        kind: ClockMessage,
        message: Received<'_>,
        read: impl FnOnce(&[u8]) -> Result<EdgeEvent, DropReason>,
    ) -> bool {
        let admitted = self.filter.admit(id, kind, message.now);
        match admitted.and(message.payload).and_then(read) {
            Ok(event) => {
                self.outlet.deliver(event);
                true
            }
            Err(reason) => {
                self.outlet.drop_message(reason, self.filter.known(id));
                false
            }
        }
    }
}

fn read_announcement(
    mode: Mode,
    id: &str,
    payload: &[u8],
    headers: Option<&[u8]>,
) -> Result<EdgeEvent, DropReason> {
    let announcement = message::decode_announcement(mode, payload)?;
    if announcement.clock_id.as_str() != id {
        return Err(DropReason::ForeignId);
    }
    let trace = headers.and_then(trace_parent);
    Ok(EdgeEvent::Announcement(announcement, trace))
}

fn read_answer(id: &str, payload: &[u8]) -> Result<EdgeEvent, DropReason> {
    let reply = message::decode_reply(payload)?;
    if reply.clock_id.as_str() != id {
        return Err(DropReason::ForeignId);
    }
    Ok(EdgeEvent::Reply(reply))
}
