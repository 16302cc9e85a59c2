//! Drives timebase's state machine by the bus: asks, and hands over what comes back. It decides
//! nothing itself; what comes out goes to the shards by [`publisher`], and to people by
//! [`reporter`].

mod publisher;
mod reporter;

use std::sync::Arc;

use tickstorm_bus::{Bus, EdgeEvent, Events};
use tickstorm_timebase::{Clock, Mono, Refused, SystemClock, Timekeeper};

pub(crate) use publisher::AuthorityPublisher;
pub(crate) use reporter::TimeReporter;

/// The timekeeper's driver.
pub(crate) struct TimekeeperDriver {
    timekeeper: Timekeeper,
    bus: Arc<dyn Bus>,
    events: Events<EdgeEvent>,
    /// The bus is gone for good.
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

    /// Runs until whoever stops the edge drops it. Without a bus, holdover takes its course.
    pub(crate) async fn run(mut self) {
        loop {
            let now = self.clock.now();
            self.timekeeper.poll(now);
            if let Some(nonce) = self.timekeeper.poll_request(now) {
                // Without a connection the round goes unanswered, which is all there is to know.
                let _ = self.bus.ask(nonce);
            }
            if let Some(turn) = self.publisher.publish(&self.timekeeper, now) {
                self.reporter.log_turn(turn, &self.timekeeper);
                self.report(now);
            }
            let wait = self.timekeeper.next_deadline().since(now);
            tokio::select! {
                biased;
                event = self.events.next(), if !self.ended => match event {
                    Some(event) => self.take(event),
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

    fn take(&mut self, event: EdgeEvent) {
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
