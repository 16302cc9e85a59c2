//! The edge's metrics. Names, units and buckets are a contract. Label values come only from closed
//! enums.

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

const HANDSHAKE_BUCKETS_S: [f64; 11] = [
    1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 5.0,
];

/// Handles to the metrics in an injected registry.
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
    pub(crate) tls: TlsMetrics,
}

/// The metrics of TLS.
#[derive(Clone)]
pub(crate) struct TlsMetrics {
    handshakes: [IntCounter; HandshakeResult::ALL.len()],
    pub(crate) handshake_seconds: Histogram,
    pub(crate) reloaded: IntCounter,
    pub(crate) reload_failed: IntCounter,
}

/// The metrics that the timekeeper sets.
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
    /// Registers all metrics, with every series at 0.
    pub(crate) fn register(registry: &Registry) -> Result<Self, RegisterError> {
        let closed = counters(
            registry,
            "tickstorm_connections_closed_total",
            "Connections closed, by reason.",
            &["reason"],
        )?;
        let auth = counters(
            registry,
            "tickstorm_auth_total",
            "AUTH frames, by result.",
            &["result"],
        )?;
        CloseReason::labels().for_each(|reason| closed.with_label_values(&[reason]).inc_by(0));
        let auth = AuthResult::ALL.map(|result| auth.with_label_values(&[result.label()]));
        Ok(Self {
            active_connections: int_gauge(
                registry,
                "tickstorm_active_connections",
                "Open client connections, not counting those refused with SERVER_FULL.",
            )?,
            messages_sent: counter(
                registry,
                "tickstorm_messages_sent_total",
                "DATA_BATCH frames sent, counted once per subscriber.",
            )?,
            ticks_sent: counter(
                registry,
                "tickstorm_ticks_sent_total",
                "Ticks sent, counted once per subscriber.",
            )?,
            bytes_sent: counter(
                registry,
                "tickstorm_bytes_sent_total",
                "Bytes written to clients' sockets.",
            )?,
            heartbeat_timeouts: counter(
                registry,
                "tickstorm_heartbeat_timeouts_total",
                "Connections closed because the client was silent for HEARTBEAT_TIMEOUT.",
            )?,
            publish_latency_ms: BulkHistogram::register(
                registry,
                "tickstorm_publish_latency_ms",
                "Authority time of a send minus the tick's epoch_ms, in milliseconds. The time is \
                 read once per chunk of at most 1,024 sends and counted for each of them. Ahead \
                 feeds and REPLAY ticks are not counted.",
                &PUBLISH_LATENCY_BUCKETS_MS,
            )?,
            release_lateness: histogram(
                registry,
                "tickstorm_release_lateness_seconds",
                "Delay from a tick's authority time to the start of its fan-out on a shard. Ahead \
                 feeds and REPLAY ticks are not counted.",
                &RELEASE_LATENESS_BUCKETS_S,
            )?,
            closed,
            auth,
            time: TimeMetrics::register(registry)?,
            tls: TlsMetrics::register(registry)?,
        })
    }

    /// Counts an AUTH frame by its result.
    pub(crate) fn count_auth(&self, result: AuthResult) {
        self.auth[result as usize].inc();
    }
}

/// The result of an AUTH.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AuthResult {
    Accepted,
    /// The credentials were wrong, and the error was sent immediately.
    Failed,
    /// The credentials were wrong, and the error was delayed, since many clients share the address.
    FailedShared,
    /// The address had too many failures, so the credentials were not checked.
    RateLimited,
}

impl AuthResult {
    /// All results, in declaration order.
    const ALL: [Self; 4] = [
        Self::Accepted,
        Self::Failed,
        Self::FailedShared,
        Self::RateLimited,
    ];

    /// Returns the value of the label `result`.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Failed => "failed",
            Self::FailedShared => "failed_shared",
            Self::RateLimited => "rate_limited",
        }
    }
}

/// The result of a TLS handshake.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HandshakeResult {
    Completed,
    /// The client presented no certificate although it must, or one that is not accepted.
    CertificateRefused,
    /// The client closed the connection, or sent an alert.
    Abandoned,
    /// Anything else, such as plain text or an older version of TLS.
    Failed,
}

impl HandshakeResult {
    /// All results, in declaration order.
    const ALL: [Self; 4] = [
        Self::Completed,
        Self::CertificateRefused,
        Self::Abandoned,
        Self::Failed,
    ];

    /// Returns the value of the label `result`.
    const fn label(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::CertificateRefused => "certificate_refused",
            Self::Abandoned => "abandoned",
            Self::Failed => "failed",
        }
    }
}

impl TlsMetrics {
    fn register(registry: &Registry) -> Result<Self, RegisterError> {
        let handshakes = counters(
            registry,
            "tickstorm_tls_handshakes_total",
            "TLS handshakes that have ended, by result.",
            &["result"],
        )?;
        let reloads = counters(
            registry,
            "tickstorm_tls_reloads_total",
            "Changes of the TLS files, by result: loaded, or failed, after which the old files \
             stay in use.",
            &["result"],
        )?;
        let results = HandshakeResult::ALL.map(HandshakeResult::label);
        Ok(Self {
            handshakes: results.map(|result| handshakes.with_label_values(&[result])),
            handshake_seconds: histogram(
                registry,
                "tickstorm_tls_handshake_seconds",
                "Time from the first byte of a TLS handshake to its completion.",
                &HANDSHAKE_BUCKETS_S,
            )?,
            reloaded: reloads.with_label_values(&["loaded"]),
            reload_failed: reloads.with_label_values(&["failed"]),
        })
    }

    /// Counts a handshake that has ended.
    pub(crate) fn count_handshake(&self, result: HandshakeResult) {
        self.handshakes[result as usize].inc();
    }
}

impl TimeMetrics {
    fn register(registry: &Registry) -> Result<Self, RegisterError> {
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
                "1 while the time is known but no clock is accepted, else 0.",
            )?,
            alarm: int_gauges(
                registry,
                "tickstorm_time_alarm",
                "1 while the time needs attention for this reason, else 0.",
                &["reason"],
            )?,
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
        for reason in DropReason::ALL.iter().map(|reason| reason.label()) {
            metrics.bus_dropped.with_label_values(&[reason]).inc_by(0);
        }
        Ok(metrics)
    }
}
