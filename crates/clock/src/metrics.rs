//! A clock's metrics. The values of labels are closed sets, and every series exists from the start.

use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use tickstorm_bus::DropReason;
use tickstorm_service::bus_metrics::{RoundTrip, round_trips};
use tickstorm_service::metrics::{RegisterError, counter, counters, gauge, int_gauge, int_gauges};
use tickstorm_timebase::Mode;

use crate::alarms::ClockAlarm;
use crate::discipline::Discipline;

/// The handles of a clock's metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    announcements: IntCounterVec,
    dropped: IntCounterVec,
    alarm: IntGaugeVec,
    /// The number of answered time requests.
    pub(crate) answers: IntCounter,
    /// The number of known reply subjects.
    pub(crate) known_reply_subjects: IntGauge,
    /// The number of steps of the host's clock.
    pub(crate) steps: IntCounter,
    /// How long announcements take to come back.
    pub(crate) round_trips: Histogram,
    synchronized: IntGauge,
    error_seconds: Gauge,
}

impl Metrics {
    /// Registers all metrics. A registry can serve only one clock.
    pub(crate) fn register(registry: &Registry) -> Result<Self, RegisterError> {
        let metrics = Self {
            announcements: counters(
                registry,
                "tickstorm_clock_announcements_total",
                "Announcements sent, by mode, including those that NATS refuses.",
                &["mode"],
            )?,
            dropped: counters(
                registry,
                "tickstorm_clock_bus_dropped_total",
                "Messages received from the bus and dropped, by reason.",
                &["reason"],
            )?,
            alarm: int_gauges(
                registry,
                "tickstorm_clock_alarm",
                "1 while the clock needs attention for this reason, else 0.",
                &["reason"],
            )?,
            answers: counter(
                registry,
                "tickstorm_clock_answers_total",
                "Time requests from edges that the clock answered, including answers that NATS \
                 refuses.",
            )?,
            known_reply_subjects: int_gauge(
                registry,
                "tickstorm_clock_known_reply_subjects",
                "Reply subjects under which the clock has answered within 10 s: one for each edge. \
                 There is room for 4,096.",
            )?,
            steps: counter(
                registry,
                "tickstorm_clock_host_steps_total",
                "Steps of the host's clock. Each starts a new timeline.",
            )?,
            round_trips: round_trips(registry, RoundTrip::Announcement)?,
            synchronized: int_gauge(
                registry,
                "tickstorm_clock_synchronized",
                "1 while the kernel reports that the host's clock is disciplined, else 0.",
            )?,
            error_seconds: gauge(
                registry,
                "tickstorm_clock_error_seconds",
                "Maximum error of the host's clock against UTC, as the kernel reports it.",
            )?,
        };
        for mode in Mode::ALL {
            metrics.announcements(mode);
        }
        for reason in DropReason::AT_CLOCKS {
            metrics.dropped(reason);
        }
        for alarm in ClockAlarm::ALL {
            metrics.alarm(alarm);
        }
        Ok(metrics)
    }

    /// Returns the counter of announcements of this mode.
    pub(crate) fn announcements(&self, mode: Mode) -> IntCounter {
        self.announcements.with_label_values(&[mode.name()])
    }

    /// Sets what the kernel reports on the host's clock.
    pub(crate) fn set_discipline(&self, discipline: Discipline) {
        let Discipline {
            synchronized,
            clock_error_us,
        } = discipline;
        self.synchronized.set(i64::from(synchronized));
        self.error_seconds.set(f64::from(clock_error_us) / 1e6);
    }

    /// Returns the gauge of this alarm.
    pub(crate) fn alarm(&self, alarm: ClockAlarm) -> IntGauge {
        self.alarm.with_label_values(&[alarm.label()])
    }

    /// Returns the counter of messages dropped for this reason.
    pub(crate) fn dropped(&self, reason: DropReason) -> IntCounter {
        self.dropped.with_label_values(&[reason.label()])
    }
}
