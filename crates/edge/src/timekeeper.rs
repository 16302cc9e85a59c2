//! Drives timebase's [`Timekeeper`] over the bus: sends its time requests, and passes replies and
//! announcements to it. All decisions are made in timebase. The results go to the shards through
//! [`publisher`], and to operators through [`reporter`].

mod publisher;
mod reporter;

use std::sync::Arc;
use std::time::Duration;

use tickstorm_bus::{Bus, DropReason, EdgeEvent, Events, Unavailable};
use tickstorm_timebase::{Clock, ClockId, Mono, Refused, SystemClock, Timekeeper};

use crate::traces::TraceReporter;
pub(crate) use publisher::AuthorityPublisher;
pub(crate) use reporter::{TimeReporter, ppm};

/// The longest wait between two looks at whether the machine was suspended. Waits are counted by a
/// clock that stops meanwhile, so a suspension ends none of them.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Drives an edge's timekeeper.
pub(crate) struct TimekeeperDriver {
    timekeeper: Timekeeper,
    bus: Arc<dyn Bus>,
    events: Events<EdgeEvent>,
    /// Whether the bus has ended and will deliver no more events.
    ended: bool,
    publisher: AuthorityPublisher,
    reporter: TimeReporter,
    clock: SystemClock,
    /// Where to report announcements; `None` if no traces are sent.
    traces: Option<TraceReporter>,
}

impl TimekeeperDriver {
    /// Creates the driver of `timekeeper`, for which only `clocks` may vote, or all clocks if there
    /// are none.
    pub(crate) fn new(
        timekeeper: Timekeeper,
        clocks: &[ClockId],
        bus: Arc<dyn Bus>,
        publisher: AuthorityPublisher,
        reporter: TimeReporter,
    ) -> Self {
        let events = bus.edge_events(clocks);
        Self {
            timekeeper,
            bus,
            events,
            ended: false,
            publisher,
            reporter,
            clock: SystemClock,
            traces: None,
        }
    }

    /// Reports announcements to `traces`, if that is something.
    pub(crate) fn with_traces(self, traces: Option<TraceReporter>) -> Self {
        Self { traces, ..self }
    }

    /// Runs until the returned future is dropped. If the bus ends, this continues in holdover.
    pub(crate) async fn run(mut self) {
        let mut deadline = self.clock.now();
        loop {
            let now = self.read_clock();
            let is_due = now >= deadline;
            self.timekeeper.poll(now);
            if self.timekeeper.poll_redraw(now) {
                self.bus.redraw_reply_subject();
            }
            if let Some(nonce) = self.timekeeper.poll_request(now, rand::random)
                && let Err(Unavailable) = self.bus.ask(nonce)
            {
                self.timekeeper.handle_outage();
            }
            let change = self.publisher.publish(&self.timekeeper, now);
            if let Some(change) = change {
                self.reporter.log_time_change(change, &self.timekeeper);
            }
            // In a flood of events, there is one at every deadline.
            if change.is_some() || is_due {
                self.report(now);
            }
            deadline = self.timekeeper.next_deadline();
            tokio::select! {
                biased;
                event = self.events.next(), if !self.ended => match event {
                    Some(event) => self.handle(event),
                    None => self.ended = true,
                },
                () = tokio::time::sleep(deadline.since(now).min(LOOK_INTERVAL)) => {}
            }
        }
    }

    /// Reads the clock, and handles that it stopped while the machine was suspended. The time
    /// suspended is read last: if the machine is suspended between the two readings, this notices.
    fn read_clock(&mut self) -> Mono {
        let now = self.clock.now();
        let suspended = self.clock.suspended();
        if let Some(lasted) = self.timekeeper.handle_suspended(suspended, now) {
            self.reporter.note_suspension(lasted);
        }
        now
    }

    fn report(&mut self, now: Mono) {
        let authority = self.publisher.published();
        self.reporter.report(&self.timekeeper, authority, now);
    }

    fn handle(&mut self, event: EdgeEvent) {
        let now = self.read_clock();
        match event {
            EdgeEvent::Announcement(announcement, trace) => {
                let outcome = self.timekeeper.handle_announcement(&announcement, now);
                if let Err(refused @ (Refused::OffGrid | Refused::TooFarAhead)) = outcome {
                    let clock = &announcement.clock_id;
                    self.reporter.note_invalid(clock, refused.label());
                }
                if let (Some(traces), Ok(())) = (&self.traces, outcome) {
                    let is_followed = self.timekeeper.following() == Some(&announcement.clock_id);
                    traces.announced(&announcement, trace, is_followed, now);
                }
                self.count(outcome);
            }
            EdgeEvent::Reply(reply) => {
                let round_trip = self.timekeeper.time_since_request(reply.nonce, now);
                let outcome = self.timekeeper.handle_reply(&reply, now);
                if let (Some(round_trip), Ok(()) | Err(Refused::Late)) = (round_trip, outcome) {
                    self.reporter.note_round_trip(round_trip);
                }
                self.count(outcome);
            }
            // A bus over a network logs this itself, unless a server flaps.
            EdgeEvent::Connected => {
                tracing::debug!("connected to the bus");
                self.timekeeper.handle_connection(now);
            }
            EdgeEvent::Disconnected => {
                tracing::debug!("disconnected from the bus");
                self.timekeeper.handle_outage();
            }
            EdgeEvent::Dropped {
                reason,
                clock,
                count,
            } => {
                self.reporter.count_dropped(reason.label(), count);
                if reason == DropReason::UnknownClock {
                    self.timekeeper.handle_unlisted(now);
                }
                if let Some(clock) = clock.filter(|_| reason.accuses_sender()) {
                    self.reporter.note_invalid(&clock, reason.label());
                    self.timekeeper.handle_invalid(&clock, now);
                }
            }
        }
    }

    fn count(&self, outcome: Result<(), Refused>) {
        if let Err(refused) = outcome {
            self.reporter.count_dropped(refused.label(), 1);
        }
    }
}

#[cfg(test)]
mod tests;
