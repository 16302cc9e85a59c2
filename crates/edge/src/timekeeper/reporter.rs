//! Reports the timekeeper's state to operators: through /status, through the metrics, and through
//! the log when something worth knowing has changed. The shards get the time from `publisher`.

use std::collections::BTreeMap;
use std::time::Duration;

use tickstorm_timebase::{
    Alarm, Authority, Clock, ClockId, ClockState, ClockStatus, HostClock, Mono, SystemClock,
    SystemHost, TimeStatus, Timekeeper,
};
use tokio::sync::watch;

use super::publisher::TimeChange;
use crate::log_limit::LogLimit;
use crate::metrics::TimeMetrics;

/// How long announcements must keep arriving too late before this is logged. A clock's first
/// announcement after its start may be late.
const LATE_FOR: Duration = Duration::from_secs(5);

/// Reports the timekeeper's state to /status, the metrics and the log.
pub(crate) struct TimeReporter {
    status: watch::Sender<Option<TimeStatus>>,
    metrics: TimeMetrics,
    /// AHEAD_MS.
    ahead: Duration,
    /// Whether an accepted clock's announcements arrive too late for ahead feeds.
    late_announcements: LateAnnouncements,
    /// Whether the edge has lost its last accepted clock, and has accepted none since. This stays
    /// true if it then loses the time.
    is_without_clock: bool,
    /// Why the last message from a clock's login that no clock sends was dropped. It has only
    /// clocks that the bus knows, of which there are at most 64.
    invalid: BTreeMap<ClockId, &'static str>,
    clock_log: LogLimit,
}

/// Tracks announcements that arrive too late for ahead feeds.
#[derive(Clone, Copy, Debug)]
enum LateAnnouncements {
    /// They arrive in time.
    None,
    /// They have been late since this moment.
    Since(Mono),
    /// They are still late, and the warning has been logged.
    Warned,
}

impl TimeReporter {
    pub(crate) const fn new(
        status: watch::Sender<Option<TimeStatus>>,
        metrics: TimeMetrics,
        ahead: Duration,
    ) -> Self {
        Self {
            status,
            metrics,
            ahead,
            late_announcements: LateAnnouncements::None,
            is_without_clock: false,
            invalid: BTreeMap::new(),
            clock_log: LogLimit::new(),
        }
    }

    /// Notes that a message from the login of `clock` was dropped because no clock sends it.
    pub(super) fn note_invalid(&mut self, clock: &ClockId, reason: &'static str) {
        let is_known = |status: &TimeStatus| status.clocks.iter().any(|known| known.id == *clock);
        if self.status.borrow().as_ref().is_some_and(is_known) {
            self.invalid.insert(clock.clone(), reason);
        }
    }

    /// Records how long a clock's answer took to arrive after its request.
    pub(super) fn note_round_trip(&self, round_trip: Duration) {
        self.metrics.round_trips.observe(round_trip.as_secs_f64());
    }

    /// Counts messages from the bus that were dropped.
    pub(super) fn count_dropped(&self, reason: &str, count: u64) {
        self.metrics
            .bus_dropped
            .with_label_values(&[reason])
            .inc_by(count);
    }

    /// Logs that the time became known or unknown.
    pub(super) fn log_time_change(&self, change: TimeChange, timekeeper: &Timekeeper) {
        let following = timekeeper.following().map(tracing::field::display);
        match change {
            TimeChange::BecameKnown => tracing::info!(following, "the time is known"),
            TimeChange::BecameUnknown => {
                tracing::warn!(
                    "the time is unknown: until a clock is accepted again, no tick is sent, and \
                     subscribers are sent to other edges with NO_TIME"
                );
            }
        }
    }

    /// Logs and counts a suspension of the machine.
    pub(super) fn note_suspension(&self, lasted: Duration) {
        self.metrics.suspensions.inc();
        tracing::warn!(
            ?lasted,
            "the machine was suspended, so the time is unknown until clocks have answered again"
        );
    }

    /// Reports the state to /status, the metrics and the log. It is called at least once per round,
    /// and immediately when the time becomes known or unknown. `authority` is the one that the
    /// shards have.
    pub(super) fn report(
        &mut self,
        timekeeper: &Timekeeper,
        authority: Option<Authority>,
        now: Mono,
    ) {
        let status = timekeeper.status(now);
        self.watch_holdover(&status);
        self.measure(&status, authority, now);
        self.show_clocks(&status);
        self.log_changes(&status);
        self.log_clock_alarms(&status, now);
        self.watch_lateness(&status, now);
        self.status.send_replace(Some(status));
    }

    fn measure(&self, status: &TimeStatus, authority: Option<Authority>, now: Mono) {
        let metrics = &self.metrics;
        let offset = authority.map_or(0.0, |authority| {
            let host = SystemHost::new(0).read().unix;
            seconds(authority.time_at(SystemClock.now()).as_nanos() - host.as_nanos())
        });
        let bound_s = |authority: Authority| f64::from(authority.bound_us(now)) / 1e6;
        metrics.offset_seconds.set(offset);
        metrics
            .bound_seconds
            .set(authority.map_or(f64::INFINITY, bound_s));
        metrics.holdover.set(i64::from(self.is_without_clock));
        metrics.rate_ppm.set(status.rate_ppb.map_or(0.0, ppm));
        let rounds = status.rounds;
        let before = self.status.borrow().as_ref().map(|status| status.rounds);
        let before = before.unwrap_or_default();
        metrics
            .rounds
            .answered
            .inc_by(rounds.answered - before.answered);
        metrics
            .rounds
            .unanswered
            .inc_by(rounds.unanswered - before.unanswered);
        for state in [ClockState::Accepted, ClockState::False] {
            let count = status
                .clocks
                .iter()
                .filter(|clock| clock.state == state)
                .count();
            let gauge = metrics.clocks.with_label_values(&[state.label()]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        for alarm in Alarm::ALL {
            let is_raised = status.alarms.contains(&alarm);
            metrics
                .alarm
                .with_label_values(&[alarm.label()])
                .set(i64::from(is_raised));
        }
    }

    /// Notes and logs the beginning and the end of holdover. It ends when a clock is accepted, not
    /// when it has lasted so long that the time is lost.
    fn watch_holdover(&mut self, status: &TimeStatus) {
        let was = self.is_without_clock;
        let is = status.following.is_none() && (status.holdover || was);
        self.is_without_clock = is;
        if is && !was {
            tracing::warn!("holdover: no clock is accepted; continuing on the edge's own time");
        } else if was && !is {
            tracing::info!("holdover has ended");
        }
    }

    /// Brings the metrics of single clocks up to date.
    fn show_clocks(&self, new: &TimeStatus) {
        let metrics = &self.metrics.each_clock;
        for clock in &new.clocks {
            let is_followed = new.following.as_ref() == Some(&clock.id);
            metrics.show(clock, is_followed);
        }
        // Without CLOCKS, clocks are forgotten.
        let old = self.status.borrow();
        let old_clocks = old.as_ref().map_or(&[][..], |old| &old.clocks);
        let is_gone = |old: &&ClockStatus| new.clocks.iter().all(|clock| clock.id != old.id);
        for gone in old_clocks.iter().filter(is_gone) {
            metrics.remove(&gone.id);
        }
    }

    /// Logs changes since the last report: alarms that are new or have ended, and the clock that is
    /// followed.
    fn log_changes(&self, new: &TimeStatus) {
        let old = self.status.borrow();
        let old_alarms = old.as_ref().map_or(&[][..], |old| &old.alarms);
        for alarm in Alarm::ALL {
            let (was, is) = (old_alarms.contains(&alarm), new.alarms.contains(&alarm));
            if Alarm::OF_CLOCKS.contains(&alarm) || was == is {
                continue;
            }
            let reason = alarm.label();
            if is {
                tracing::warn!(reason, "time alarm raised: {}", alarm.message());
            } else {
                tracing::info!(reason, "a time alarm has ended");
            }
        }
        let Some(old) = old.as_ref() else { return };
        if let (Some(old), Some(new)) = (&old.following, &new.following)
            && old != new
        {
            tracing::info!(clock = %new, before = %old, "following another clock");
        }
    }

    /// Logs the alarms of single clocks that are new or have ended.
    fn log_clock_alarms(&mut self, new: &TimeStatus, now: Mono) {
        let old = self.status.borrow();
        let old_clocks = old.as_ref().map_or(&[][..], |old| &old.clocks);
        for alarm in Alarm::OF_CLOCKS {
            for clock in &new.clocks {
                let old = old_clocks.iter().find(|old| old.id == clock.id);
                let (was, is) = (
                    old.is_some_and(|old| old.is_raised(alarm)),
                    clock.is_raised(alarm),
                );
                if was != is
                    && let Some(skipped) = self.clock_log.note(now)
                {
                    let dropped = self.invalid.get(&clock.id).copied();
                    log_clock_alarm(alarm, clock, dropped, skipped);
                }
            }
        }
        self.invalid
            .retain(|id, _| new.clocks.iter().any(|clock| clock.id == *id));
    }

    /// Warns once if an accepted clock keeps announcing ticks less than AHEAD_MS before their time.
    fn watch_lateness(&mut self, status: &TimeStatus, now: Mono) {
        let ahead_us = i64::try_from(self.ahead.as_micros()).unwrap_or(i64::MAX);
        let is_late = |clock: &&ClockStatus| {
            let announced_us = clock.announced_ahead_us;
            clock.state == ClockState::Accepted && announced_us.is_some_and(|us| us < ahead_us)
        };
        self.late_announcements =
            match (self.late_announcements, status.clocks.iter().find(is_late)) {
                (_, None) => LateAnnouncements::None,
                (LateAnnouncements::None, Some(_)) => LateAnnouncements::Since(now),
                (LateAnnouncements::Since(since), Some(clock)) if now.since(since) >= LATE_FOR => {
                    tracing::warn!(
                        clock = %clock.id,
                        announced_ahead_us = clock.announced_ahead_us,
                        ahead_us,
                        "the clock announces ticks less than AHEAD_MS before their time, so ahead \
                         feeds send them as HOLDOVER; raise the clocks' TICK_LEAD_MS"
                    );
                    LateAnnouncements::Warned
                }
                (late_announcements, Some(_)) => late_announcements,
            };
    }
}

/// Logs that an alarm of a clock was raised or has ended. `dropped` is the reason for which the
/// last message was dropped that came from its login and that no clock sends; `skipped` is the
/// number of such events that were not logged before.
fn log_clock_alarm(alarm: Alarm, clock: &ClockStatus, dropped: Option<&str>, skipped: u64) {
    let ClockStatus { id, offset_us, .. } = clock;
    let reason = alarm.label();
    if !clock.is_raised(alarm) {
        tracing::info!(clock = %id, reason, skipped, "the alarm of a clock has ended");
        return;
    }
    match alarm {
        Alarm::Falseticker => tracing::warn!(
            clock = %id, reason, offset_us, skipped,
            "the clock is a falseticker: its time is not used"
        ),
        Alarm::SharedId => tracing::warn!(
            clock = %id, reason, skipped,
            "two hosts answer under the id of one clock: give each clock its own CLOCK_ID, and if \
             each has, someone else uses this clock's NATS login"
        ),
        Alarm::Misbehaving => tracing::warn!(
            clock = %id, reason, dropped, skipped,
            "messages that no clock sends come from this clock's NATS login: someone else may use \
             it"
        ),
        Alarm::Unheard => tracing::warn!(
            clock = %id, reason, skipped,
            "nothing is heard of this clock, although others are heard: check that it runs, and \
             that its name in CLOCKS is exactly its CLOCK_ID"
        ),
        Alarm::NoMajority | Alarm::NoneAccepted | Alarm::StepPending | Alarm::Rate => {}
    }
}

/// Returns parts per billion as parts per million.
#[expect(
    clippy::cast_precision_loss,
    reason = "a rate so large need not be exact to a billionth"
)]
pub(crate) fn ppm(ppb: i64) -> f64 {
    ppb as f64 / 1e3
}

#[expect(
    clippy::cast_precision_loss,
    reason = "if the offset is years, the metric need not be exact to the nanosecond"
)]
fn seconds(nanos: i64) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use prometheus::Registry;
    use tickstorm_service::logging::{Level, LogFormat, dispatch};
    use tickstorm_timebase::{Announcement, Epoch, Mode, Reply, TimekeeperConfig};
    use tracing::dispatcher::set_default;

    use super::*;
    use crate::metrics::Metrics;
    use crate::timekeeper::publisher::AuthorityPublisher;

    /// Unix time at the start of each test, in milliseconds.
    const BASE_MS: u64 = 1_700_000_000_000;
    /// The interval at which the tests poll the timekeeper.
    const STEP: Duration = Duration::from_millis(50);

    /// An edge's timekeeper with its publisher and reporter, and a single clock that announces each
    /// second `lead_ms` ahead of its time.
    struct OneClock {
        registry: Registry,
        timekeeper: Timekeeper,
        publisher: AuthorityPublisher,
        reporter: TimeReporter,
        now: Mono,
        lead_ms: u64,
    }

    impl OneClock {
        fn new(lead_ms: u64) -> Self {
            Self::with_clocks(lead_ms, &[])
        }

        /// Creates an edge with these CLOCKS.
        fn with_clocks(lead_ms: u64, clocks: &[&str]) -> Self {
            let config = TimekeeperConfig {
                clocks: clocks.iter().map(|id| id.parse().unwrap()).collect(),
                tolerance: Duration::from_millis(20),
                holdover_max: Duration::from_secs(60),
            };
            let registry = Registry::new();
            let metrics = Metrics::register(&registry).unwrap();
            let (authority, _) = watch::channel(None);
            let (status, _) = watch::channel(None);
            Self {
                registry,
                timekeeper: Timekeeper::new(config, Mono::ZERO),
                publisher: AuthorityPublisher::new(authority),
                reporter: TimeReporter::new(status, metrics.time, Duration::from_millis(800)),
                now: Mono::ZERO,
                lead_ms,
            }
        }

        /// Advances time by `time`. The edge receives the clock's messages if `is_heard`.
        fn pass(&mut self, time: Duration, is_heard: bool) {
            let end = self.now + time;
            while self.now < end {
                self.now = self.now + STEP;
                self.timekeeper.poll(self.now);
                if let Some(nonce) = self.timekeeper.poll_request(self.now, rand::random)
                    && is_heard
                {
                    self.answer(nonce);
                }
                if is_heard && (self.unix_ms() + self.lead_ms).is_multiple_of(1_000) {
                    self.announce();
                }
                if let Some(change) = self.publisher.publish(&self.timekeeper, self.now) {
                    self.reporter.log_time_change(change, &self.timekeeper);
                }
                let authority = self.publisher.published();
                self.reporter.report(&self.timekeeper, authority, self.now);
            }
        }

        fn unix_ms(&self) -> u64 {
            BASE_MS + self.now.as_nanos() / 1_000_000
        }

        fn answer(&mut self, nonce: u64) {
            let time_us = i64::try_from(self.unix_ms() * 1_000).unwrap();
            let reply = Reply {
                nonce,
                clock_id: "clock-0".parse().unwrap(),
                rank: 0,
                received_unix_us: time_us,
                sent_unix_us: time_us,
                clock_error_us: 1_000,
                synchronized: true,
                timeline: 1,
            };
            self.timekeeper.handle_reply(&reply, self.now).unwrap();
        }

        fn announce(&mut self) {
            let epoch_ms = i64::try_from(self.unix_ms() + self.lead_ms).unwrap();
            let announcement = Announcement {
                mode: Mode::Second,
                epoch: Epoch::from_ms(epoch_ms),
                clock_id: "clock-0".parse().unwrap(),
                rank: 0,
                sent_unix_us: epoch_ms * 1_000,
                timeline: 1,
            };
            // While the time is unknown, announcements can't be judged, so the result is ignored.
            let _ = self.timekeeper.handle_announcement(&announcement, self.now);
        }

        fn holdover(&self) -> i64 {
            self.reporter.metrics.holdover.get()
        }

        /// Returns the value of a metric of a single clock, by the end of its name and its labels;
        /// `None` if there is no such series.
        fn of_clock(&self, series: &str) -> Option<f64> {
            let text = tickstorm_service::metrics::encode(&self.registry).unwrap();
            let series = format!("tickstorm_time_clock_{series} ");
            let value = text.lines().find_map(|line| line.strip_prefix(&*series));
            value.map(|value| value.parse().unwrap())
        }
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(during: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let (dispatch, _) = dispatch(Level::Info, LogFormat::Text, move || writer.clone());
        let _guard = set_default(&dispatch);
        during();
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn holdover_lasts_until_a_clock_is_accepted_even_if_the_time_is_lost_meanwhile() {
        let mut scene = OneClock::new(1_500);
        let log = logged(|| {
            scene.pass(Duration::from_secs(3), true);
            assert_eq!(scene.holdover(), 0);
            scene.pass(Duration::from_secs(12), false);
            assert_eq!(scene.holdover(), 1);
            scene.pass(Duration::from_secs(2), true);
            assert_eq!(scene.holdover(), 0);
            // Beyond HOLDOVER_MAX the time is unknown.
            scene.pass(Duration::from_secs(61), false);
            assert_eq!(scene.holdover(), 1);
            scene.pass(Duration::from_secs(60), false);
            assert_eq!(scene.holdover(), 1);
        });
        assert_eq!(log.matches("holdover: no clock").count(), 2, "{log}");
        assert_eq!(log.matches("holdover has ended").count(), 1, "{log}");
        assert_eq!(log.matches("the time is unknown").count(), 1, "{log}");
        let log = logged(|| scene.pass(Duration::from_secs(10), true));
        assert_eq!(scene.holdover(), 0);
        assert_eq!(log.matches("holdover has ended").count(), 1, "{log}");
        assert_eq!(log.matches("the time is known").count(), 1, "{log}");
    }

    #[test]
    fn a_clock_that_is_never_heard_is_logged_once_by_its_name_in_clocks() {
        let mut scene = OneClock::with_clocks(1_500, &["clock-0", "clokc-1"]);
        let log = logged(|| scene.pass(Duration::from_secs(60), true));
        assert_eq!(
            log.matches("nothing is heard of this clock").count(),
            1,
            "{log}"
        );
        assert!(log.contains("clokc-1"), "{log}");
        let alarm =
            |clock: &str| scene.of_clock(&format!(r#"alarm{{clock="{clock}",reason="unheard"}}"#));
        assert_eq!((alarm("clock-0"), alarm("clokc-1")), (Some(0.0), Some(1.0)));
    }

    #[test]
    fn each_clock_has_metrics_of_its_own_until_it_is_forgotten() {
        for (clocks, is_forgotten) in [(&["clock-0"][..], false), (&[], true)] {
            let mut scene = OneClock::with_clocks(1_500, clocks);
            scene.pass(Duration::from_secs(90), true);
            let of = |scene: &OneClock, name: &str| {
                scene.of_clock(&format!("{name}{{clock=\"clock-0\"}}"))
            };
            let state = |scene: &OneClock, state: &str| {
                scene.of_clock(&format!(r#"state{{clock="clock-0",state="{state}"}}"#))
            };
            assert_eq!(of(&scene, "followed"), Some(1.0));
            assert_eq!(state(&scene, "accepted"), Some(1.0));
            assert_eq!(state(&scene, "silent"), Some(0.0));
            // The clock runs as fast as the machine, and reports an error of 1 ms.
            assert!(of(&scene, "offset_seconds").unwrap().abs() < 0.001);
            let bound_s = of(&scene, "bound_seconds").unwrap();
            assert!((0.0..0.1).contains(&bound_s), "{bound_s}");
            assert!(of(&scene, "rate_ppm").unwrap().abs() < 1.0);

            scene.pass(Duration::from_secs(15), false);
            assert_eq!(of(&scene, "followed"), Some(0.0));
            assert_eq!(state(&scene, "accepted"), Some(0.0));
            assert_eq!(state(&scene, "silent"), Some(1.0));
            assert_eq!(of(&scene, "bound_seconds"), Some(f64::INFINITY));
            assert!(of(&scene, "offset_seconds").unwrap().is_nan());
            scene.pass(Duration::from_secs(60), false);
            assert_eq!(of(&scene, "followed").is_none(), is_forgotten);
            assert_eq!(state(&scene, "silent").is_none(), is_forgotten);
        }
    }

    #[test]
    fn rounds_are_counted_by_whether_a_clock_has_answered() {
        let mut scene = OneClock::new(1_500);
        let counts = |scene: &OneClock| {
            let rounds = &scene.reporter.metrics.rounds;
            (rounds.answered.get(), rounds.unanswered.get())
        };
        scene.pass(Duration::from_secs(5), true);
        let (answered, unanswered) = counts(&scene);
        assert!(answered >= 5 && unanswered == 0, "{answered}, {unanswered}");
        scene.pass(Duration::from_secs(5), false);
        let (still_answered, unanswered) = counts(&scene);
        assert!(still_answered <= answered + 1, "{still_answered}");
        assert!((4..=6).contains(&unanswered), "{unanswered}");
    }

    #[test]
    fn announcements_that_stay_too_late_for_ahead_feeds_cause_one_warning() {
        let warnings = |lead_ms, seconds| {
            let mut scene = OneClock::new(lead_ms);
            let log = logged(|| scene.pass(Duration::from_secs(seconds), true));
            log.matches("announces ticks less than AHEAD_MS").count()
        };
        assert_eq!(warnings(500, 3), 0, "not late for long enough");
        assert_eq!(warnings(500, 30), 1);
        assert_eq!(warnings(1_500, 30), 0);
    }
}
