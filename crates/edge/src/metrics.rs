//! Everything an edge counts. Names, units and buckets are a contract; labels come from closed
//! enums only.

use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use tickstorm_bus::DropReason;
use tickstorm_protocol::code::CloseReason;
use tickstorm_service::metrics::{
    RegisterError, counter, counters, gauge, histogram, int_gauge, int_gauges,
};
use tickstorm_timebase::{Alarm, ClockState};

use crate::histogram::BulkHistogram;

const PUBLISH_LATENCY_BUCKETS_MS: [f64; 13] = [
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0,
];
const RELEASE_LATENESS_BUCKETS_S: [f64; 13] = [
    5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 0.1, 1.0,
];

/// Handles on an injected registry.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) active_connections: IntGauge,
    pub(crate) messages_sent: IntCounter,
    pub(crate) ticks_sent: IntCounter,
    pub(crate) bytes_sent: IntCounter,
    pub(crate) heartbeat_timeouts: IntCounter,
    pub(crate) publish_latency_ms: BulkHistogram,
    pub(crate) release_lateness: Histogram,
    pub(crate) closed: IntCounterVec,
    auth: [IntCounter; AuthResult::ALL.len()],
    pub(crate) time: TimeMetrics,
}

/// What the timekeeper shows.
#[derive(Clone)]
pub(crate) struct TimeMetrics {
    pub(crate) offset_seconds: Gauge,
    pub(crate) bound_seconds: Gauge,
    pub(crate) clocks: IntGaugeVec,
    pub(crate) holdover: IntGauge,
    pub(crate) alarm: IntGaugeVec,
    pub(crate) bus_dropped: IntCounterVec,
}

impl Metrics {
    /// Registers all of them, every series at 0.
    pub(crate) fn register(registry: &Registry) -> Result<Self, RegisterError> {
        let closed = counters(
            registry,
            "tickstorm_connections_closed_total",
            "Connections closed, by the reason.",
            &["reason"],
        )?;
        let auth = counters(
            registry,
            "tickstorm_auth_total",
            "AUTH frames judged, by the result.",
            &["result"],
        )?;
        CloseReason::labels().for_each(|reason| closed.with_label_values(&[reason]).inc_by(0));
        let auth = AuthResult::ALL.map(|result| auth.with_label_values(&[result.label()]));
        Ok(Self {
            active_connections: int_gauge(
                registry,
                "tickstorm_active_connections",
                "Accepted sockets that are open, those told SERVER_FULL not counted.",
            )?,
            messages_sent: counter(
                registry,
                "tickstorm_messages_sent_total",
                "DATA_BATCH frames sent, one for each subscriber.",
            )?,
            ticks_sent: counter(
                registry,
                "tickstorm_ticks_sent_total",
                "Ticks sent, one for each subscriber.",
            )?,
            bytes_sent: counter(
                registry,
                "tickstorm_bytes_sent_total",
                "Bytes that clients' sockets took.",
            )?,
            heartbeat_timeouts: counter(
                registry,
                "tickstorm_heartbeat_timeouts_total",
                "Connections closed because the client was silent for HEARTBEAT_TIMEOUT.",
            )?,
            publish_latency_ms: BulkHistogram::register(
                registry,
                "tickstorm_publish_latency_ms",
                "Authority time of a send minus epoch_ms, in milliseconds; read once a chunk of at most 1,024 sends and \
                 counted for each of them; ahead and REPLAY not counted.",
                &PUBLISH_LATENCY_BUCKETS_MS,
            )?,
            release_lateness: histogram(
                registry,
                "tickstorm_release_lateness_seconds",
                "Begin of a feed's fan-out on a shard after its authority time; ahead and REPLAY not counted.",
                &RELEASE_LATENESS_BUCKETS_S,
            )?,
            closed,
            auth,
            time: TimeMetrics::register(registry)?,
        })
    }

    /// Counts an AUTH that was judged.
    pub(crate) fn count_auth(&self, result: AuthResult) {
        self.auth[result as usize].inc();
    }
}

/// How an AUTH was judged.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AuthResult {
    Accepted,
    /// Answered at once.
    Failed,
    /// At an address that many clients share: answered late.
    FailedShared,
    /// Not looked at.
    RateLimited,
}

impl AuthResult {
    /// In the order in which they are declared.
    const ALL: [Self; 4] = [
        Self::Accepted,
        Self::Failed,
        Self::FailedShared,
        Self::RateLimited,
    ];

    /// The value of the label `result`.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Failed => "failed",
            Self::FailedShared => "failed_shared",
            Self::RateLimited => "rate_limited",
        }
    }
}

impl TimeMetrics {
    fn register(registry: &Registry) -> Result<Self, RegisterError> {
        let metrics = Self {
            offset_seconds: gauge(
                registry,
                "tickstorm_time_offset_seconds",
                "Authority time minus this host's wall clock; 0 while the time is unknown.",
            )?,
            bound_seconds: gauge(
                registry,
                "tickstorm_time_error_bound_seconds",
                "How far authority time here may be from the clock followed; +Inf while the time is unknown.",
            )?,
            clocks: int_gauges(
                registry,
                "tickstorm_clocks",
                "Clocks that are believed (accepted), and falsetickers (false).",
                &["state"],
            )?,
            holdover: int_gauge(
                registry,
                "tickstorm_holdover",
                "1 while the time is known and no clock is believed.",
            )?,
            alarm: int_gauges(
                registry,
                "tickstorm_time_alarm",
                "1 while someone should look at the time, by the reason.",
                &["reason"],
            )?,
            bus_dropped: counters(
                registry,
                "tickstorm_bus_dropped_total",
                "Messages from the bus that were not used, by the reason.",
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
        for reason in DropReason::ALL.iter().map(|dropped| dropped.label()) {
            metrics.bus_dropped.with_label_values(&[reason]).inc_by(0);
        }
        Ok(metrics)
    }
}
