//! The metrics that the timekeeper sets.

mod clock;

use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use tickstorm_bus::DropReason;
use tickstorm_service::bus_metrics::{RoundTrip, round_trips};
use tickstorm_service::metrics::{RegisterError, counter, counters, gauge, int_gauge, int_gauges};
use tickstorm_timebase::{Alarm, ClockState};

use crate::no_time::NO_TIME;
use clock::ClockMetrics;

/// The metrics of rounds.
#[derive(Clone)]
pub(crate) struct RoundMetrics {
    pub(crate) answered: IntCounter,
    pub(crate) unanswered: IntCounter,
}

/// The metrics that the timekeeper sets.
#[derive(Clone)]
pub(crate) struct TimeMetrics {
    pub(crate) offset_seconds: Gauge,
    pub(crate) bound_seconds: Gauge,
    pub(crate) clocks: IntGaugeVec,
    pub(crate) holdover: IntGauge,
    pub(crate) rate_ppm: Gauge,
    pub(crate) suspensions: IntCounter,
    pub(crate) alarm: IntGaugeVec,
    /// Those of single clocks.
    pub(crate) each_clock: ClockMetrics,
    pub(crate) rounds: RoundMetrics,
    pub(crate) round_trips: Histogram,
    pub(crate) bus_dropped: IntCounterVec,
}

impl RoundMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, RegisterError> {
        let rounds = counters(
            registry,
            "tickstorm_time_rounds_total",
            "Rounds of time requests that have ended, by result: answered by at least one clock in \
             time, or unanswered.",
            &["result"],
        )?;
        Ok(Self {
            answered: rounds.with_label_values(&["answered"]),
            unanswered: rounds.with_label_values(&["unanswered"]),
        })
    }
}

impl TimeMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, RegisterError> {
        let metrics = Self {
            offset_seconds: gauge(
                registry,
                "tickstorm_time_offset_seconds",
                "Authority time minus this host's wall clock, or 0 while the time is unknown.",
            )?,
            bound_seconds: gauge(
                registry,
                "tickstorm_time_error_bound_seconds",
                "Error bound of this edge's authority time against the clock it follows, or +Inf \
                 while the time is unknown.",
            )?,
            clocks: int_gauges(
                registry,
                "tickstorm_clocks",
                "Clocks by state: accepted, or false (falsetickers).",
                &["state"],
            )?,
            holdover: int_gauge(
                registry,
                "tickstorm_holdover",
                "1 from when the edge loses its last accepted clock until it accepts one again, \
                 else 0.",
            )?,
            rate_ppm: gauge(
                registry,
                "tickstorm_time_rate_ppm",
                "Rate of this machine's own clock minus that of the followed clock, in parts per \
                 million, measured over one to five minutes, or 0 before that.",
            )?,
            suspensions: counter(
                registry,
                "tickstorm_time_suspensions_total",
                "Suspensions of this machine. After each, the time is unknown until it is learned \
                 again.",
            )?,
            alarm: int_gauges(
                registry,
                "tickstorm_time_alarm",
                "1 while the time needs attention for this reason, else 0.",
                &["reason"],
            )?,
            each_clock: ClockMetrics::register(registry)?,
            rounds: RoundMetrics::register(registry)?,
            round_trips: round_trips(registry, RoundTrip::Request)?,
            bus_dropped: counters(
                registry,
                "tickstorm_bus_dropped_total",
                "Messages from the bus that were dropped, by reason.",
                &["reason"],
            )?,
        };
        metrics.bound_seconds.set(f64::INFINITY);
        for state in [ClockState::Accepted, ClockState::False] {
            metrics.clocks.with_label_values(&[state.label()]).set(0);
        }
        for alarm in Alarm::ALL {
            metrics.alarm.with_label_values(&[alarm.label()]).set(0);
        }
        metrics.no_time().set(0);
        for reason in DropReason::AT_EDGES.iter().map(|reason| reason.label()) {
            metrics.bus_dropped.with_label_values(&[reason]).inc_by(0);
        }
        Ok(metrics)
    }

    /// Returns the gauge of the alarm that the edge does not know the time.
    pub(crate) fn no_time(&self) -> IntGauge {
        self.alarm.with_label_values(&[NO_TIME.label])
    }
}
