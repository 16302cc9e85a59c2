//! Drives timebase's [`Timekeeper`] over the bus: sends its time requests, and passes replies and
//! announcements to it. All decisions are made in timebase. The results go to the shards through
//! [`publisher`], and to operators through [`reporter`].

mod publisher;
mod reporter;

use std::sync::Arc;

use tickstorm_bus::{Bus, EdgeEvent, Events};
use tickstorm_timebase::{Clock, Mono, Refused, SystemClock, Timekeeper};

pub(crate) use publisher::AuthorityPublisher;
pub(crate) use reporter::TimeReporter;

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
}

impl TimekeeperDriver {
    pub(crate) fn new(
        timekeeper: Timekeeper,
        bus: Arc<dyn Bus>,
        publisher: AuthorityPublisher,
        reporter: TimeReporter,
    ) -> Self {
        let events = bus.edge_events();
        Self {
            timekeeper,
            bus,
            events,
            ended: false,
            publisher,
            reporter,
            clock: SystemClock,
        }
    }

    /// Runs until the returned future is dropped. If the bus ends, this continues in holdover.
    pub(crate) async fn run(mut self) {
        loop {
            let now = self.clock.now();
            self.timekeeper.poll(now);
            if let Some(nonce) = self.timekeeper.poll_request(now) {
                // If there is no connection, the round stays unanswered; the timekeeper handles
                // that.
                let _ = self.bus.ask(nonce);
            }
            if let Some(change) = self.publisher.publish(&self.timekeeper, now) {
                self.reporter.log_time_change(change, &self.timekeeper);
                self.report(now);
            }
            let wait = self.timekeeper.next_deadline().since(now);
            tokio::select! {
                biased;
                event = self.events.next(), if !self.ended => match event {
                    Some(event) => self.handle(event),
                    None => self.ended = true,
                },
                () = tokio::time::sleep(wait) => self.report(self.clock.now()),
            }
        }
    }

    fn report(&mut self, now: Mono) {
        let authority = self.publisher.published();
        self.reporter.report(&self.timekeeper, authority, now);
    }

    fn handle(&mut self, event: EdgeEvent) {
        let now = self.clock.now();
        match event {
            EdgeEvent::Announcement(announcement) => {
                let outcome = self.timekeeper.handle_announcement(&announcement, now);
                self.count(outcome);
            }
            EdgeEvent::Reply(reply) => {
                let outcome = self.timekeeper.handle_reply(&reply, now);
                self.count(outcome);
            }
            EdgeEvent::Connected => tracing::info!("connected to the bus"),
            EdgeEvent::Disconnected => tracing::warn!("disconnected from the bus"),
            EdgeEvent::Dropped { reason, count } => {
                self.reporter.count_dropped(reason.label(), count);
            }
        }
    }

    fn count(&self, outcome: Result<(), Refused>) {
        if let Err(refused) = outcome {
            self.reporter.count_dropped(refused.label(), 1);
        }
    }
}
