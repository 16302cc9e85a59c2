//! Drives timebase's state machine by the bus: asks, hands over what comes back, and publishes to the shards and to those who
//! look on. It decides nothing itself.

use std::sync::Arc;
use std::time::Duration;

use tickstorm_bus::{Bus, EdgeEvent, Events};
use tickstorm_timebase::{
    Authority, Clock, ClockState, ClockStatus, HostClock, Mono, Refused, SystemClock, SystemHost,
    TimeStatus, Timekeeper,
};
use tokio::sync::watch;

use crate::metrics::TimeMetrics;

/// The timekeeper's driver.
pub(crate) struct Driver {
    timekeeper: Timekeeper,
    bus: Arc<dyn Bus>,
    events: Events<EdgeEvent>,
    authority: watch::Sender<Option<Authority>>,
    status: watch::Sender<Option<TimeStatus>>,
    metrics: TimeMetrics,
    /// AHEAD_MS: clocks that announce later than that cost ahead feeds their quality NORMAL.
    ahead: Duration,
    clock: SystemClock,
}

impl Driver {
    pub(crate) fn new(
        timekeeper: Timekeeper,
        bus: Arc<dyn Bus>,
        authority: watch::Sender<Option<Authority>>,
        status: watch::Sender<Option<TimeStatus>>,
        metrics: TimeMetrics,
        ahead: Duration,
    ) -> Self {
        let events = bus.edge_events();
        Self {
            timekeeper,
            bus,
            events,
            authority,
            status,
            metrics,
            ahead,
            clock: SystemClock,
        }
    }

    /// Runs until the bus is gone; whoever stops the edge drops it.
    pub(crate) async fn run(mut self) {
        loop {
            let now = self.clock.now();
            self.timekeeper.poll(now);
            if let Some(nonce) = self.timekeeper.poll_request(now) {
                // Without a connection the round goes unanswered, which is all there is to know.
                let _ = self.bus.ask(nonce);
            }
            self.publish(now);
            let wait = self.timekeeper.next_deadline().since(now);
            tokio::select! {
                biased;
                event = self.events.next() => match event {
                    Some(event) => self.take(event),
                    None => return,
                },
                () = tokio::time::sleep(wait) => self.show(),
            }
        }
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
                self.metrics
                    .bus_dropped
                    .with_label_values(&[reason.label()])
                    .inc_by(count);
            }
        }
    }

    fn count(&self, outcome: Result<(), Refused>) {
        if let Err(refused) = outcome {
            self.metrics
                .bus_dropped
                .with_label_values(&[refused.label()])
                .inc();
        }
    }

    fn publish(&self, now: Mono) {
        let new = self
            .timekeeper
            .authority()
            .filter(|authority| authority.is_valid(now));
        let was_known = self.authority.borrow().is_some();
        let changed = self.authority.send_if_modified(|old| {
            let changed = *old != new;
            *old = new;
            changed
        });
        if changed && was_known != new.is_some() {
            let following = self
                .timekeeper
                .status(now)
                .following
                .map(|id| id.to_string());
            match new {
                Some(_) => tracing::info!(following, "the time is known"),
                None => tracing::warn!(
                    "the time is unknown: there are no ticks until a clock is believed again"
                ),
            }
            self.show();
        }
    }

    /// Shows the state to /status and the metrics: when a deadline has passed, at least once a round, and when the time has become
    /// known or unknown.
    fn show(&self) {
        let now = self.clock.now();
        let status = self.timekeeper.status(now);
        let authority = *self.authority.borrow();
        let metrics = &self.metrics;
        let offset = authority.map_or(0.0, |authority| {
            let host = SystemHost::new(0).read().unix;
            seconds(authority.time_at(self.clock.now()).as_nanos() - host.as_nanos())
        });
        metrics.offset_seconds.set(offset);
        let bound = authority.map_or(f64::INFINITY, |authority| {
            f64::from(authority.bound_us(now)) / 1e6
        });
        metrics.bound_seconds.set(bound);
        for state in [ClockState::Accepted, ClockState::False] {
            let count = status
                .clocks
                .iter()
                .filter(|clock| clock.state == state)
                .count();
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            metrics
                .clocks
                .with_label_values(&[state.label()])
                .set(count);
        }
        metrics.holdover.set(i64::from(status.holdover));
        for alarm in tickstorm_timebase::Alarm::ALL {
            let sounds = status.alarms.contains(&alarm);
            metrics
                .alarm
                .with_label_values(&[alarm.label()])
                .set(i64::from(sounds));
        }
        self.log_changes(&status);
        self.status.send_replace(Some(status));
    }

    /// Logs what has changed since the last look: alarms, the clock followed, holdover.
    fn log_changes(&self, new: &TimeStatus) {
        let old = self.status.borrow();
        self.warn_of_late(old.as_ref(), new);
        let old_alarms = old.as_ref().map_or(&[][..], |old| &old.alarms);
        for alarm in new
            .alarms
            .iter()
            .filter(|alarm| !old_alarms.contains(alarm))
        {
            tracing::warn!(reason = alarm.label(), "alarm about the time");
        }
        let Some(old) = old.as_ref() else { return };
        if old.holdover != new.holdover {
            if new.holdover {
                tracing::warn!(
                    "holdover: no clock is believed, the edge goes on with its own time"
                );
            } else {
                tracing::info!("holdover is over");
            }
        }
        if let (Some(old), Some(new)) = (&old.following, &new.following)
            && old != new
        {
            tracing::info!(clock = %new, before = %old, "follows another clock");
        }
    }

    /// Warns of clocks whose announcements come too late for ahead feeds, as they begin to.
    fn warn_of_late(&self, old: Option<&TimeStatus>, new: &TimeStatus) {
        let ahead_us = i64::try_from(self.ahead.as_micros()).unwrap_or(i64::MAX);
        let is_late = |clock: &ClockStatus| {
            let announced = clock.announced_ahead_us;
            clock.state == ClockState::Accepted && announced.is_some_and(|early| early < ahead_us)
        };
        for clock in new.clocks.iter().filter(|clock| is_late(clock)) {
            let before = old.and_then(|old| old.clocks.iter().find(|before| before.id == clock.id));
            if !before.is_some_and(is_late) {
                tracing::warn!(
                    clock = %clock.id,
                    announced_ahead_us = clock.announced_ahead_us,
                    ahead_us,
                    "announcements come later than AHEAD_MS: ahead ticks go out as HOLDOVER; raise the clock's TICK_LEAD_MS"
                );
            }
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a metric needs no nanoseconds of an offset of years"
)]
fn seconds(nanos: i64) -> f64 {
    nanos as f64 / 1e9
}
