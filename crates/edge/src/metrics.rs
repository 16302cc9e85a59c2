//! The edge's metrics. Names, units and buckets are a contract. Label values come only from closed
//! enums.

use std::time::Duration;

use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use tickstorm_bus::DropReason;
use tickstorm_protocol::code::CloseReason;
use tickstorm_service::file_watch::ReloadCounters;
use tickstorm_service::metrics::{
    RegisterError, counter, counters, gauge, histogram, int_gauge, int_gauges,
};
use tickstorm_timebase::{Alarm, ClockState};

use crate::admission::AdmissionGauges;
use crate::auth::LOGIN_ALARM;
use crate::histogram::BulkHistogram;
use crate::memory::MemoryMetrics;
use crate::no_time::NO_TIME;
use crate::shard::MoveCause;

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
    pub(crate) admission: AdmissionMetrics,
    pub(crate) accept_queue: AcceptQueueMetrics,
    pub(crate) reloads: ReloadMetrics,
    pub(crate) messages_sent: IntCounter,
    pub(crate) ticks_sent: IntCounter,
    pub(crate) bytes_sent: IntCounter,
    pub(crate) heartbeat_timeouts: IntCounter,
    pub(crate) publish_latency_ms: BulkHistogram,
    pub(crate) release_lateness: Histogram,
    pub(crate) closed: IntCounterVec,
    auth: [IntCounter; AuthResult::ALL.len()],
    going_away: [IntCounter; MoveCause::ALL.len()],
    pub(crate) auth_waiting: IntGauge,
    pub(crate) login_alarm: IntGauge,
    pub(crate) time: TimeMetrics,
    pub(crate) tls: TlsMetrics,
    pub(crate) memory: MemoryMetrics,
}

/// The metrics of connections that have not authenticated yet.
#[derive(Clone)]
pub(crate) struct AdmissionMetrics {
    pub(crate) handshakes: IntGauge,
    pub(crate) evicted: IntCounter,
}

/// The metrics of the kernel's queue of connections that wait to be accepted.
#[derive(Clone)]
pub(crate) struct AcceptQueueMetrics {
    pub(crate) len: IntGauge,
    pub(crate) overflows: IntCounter,
}

/// Counts what became of changed files, by their kind.
#[derive(Clone)]
pub(crate) struct ReloadMetrics {
    pub(crate) credentials: ReloadCounters,
    pub(crate) ip_lists: ReloadCounters,
    pub(crate) tls: ReloadCounters,
}

/// The metrics of TLS.
#[derive(Clone)]
pub(crate) struct TlsMetrics {
    handshakes: [IntCounter; HandshakeResult::ALL.len()],
    handshake_seconds: Histogram,
}

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
    pub(crate) clock_alarm: IntGaugeVec,
    pub(crate) rounds: RoundMetrics,
    pub(crate) bus_dropped: IntCounterVec,
}

impl Metrics {
    /// Registers all metrics, with every series at 0.
    pub(crate) fn register(registry: &Registry) -> Result<Self, RegisterError> {
        Ok(Self {
            active_connections: int_gauge(
                registry,
                "tickstorm_active_connections",
                "Open client connections, not counting those that were refused or sent an ERROR.",
            )?,
            admission: AdmissionMetrics::register(registry)?,
            accept_queue: AcceptQueueMetrics::register(registry)?,
            reloads: ReloadMetrics::register(registry)?,
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
            closed: register_closed(registry)?,
            auth: auth_results(registry)?,
            going_away: register_going_away(registry)?,
            auth_waiting: int_gauge(
                registry,
                "tickstorm_auth_waiting",
                "AUTH frames that wait to be judged, because too many have failed.",
            )?,
            login_alarm: login_alarm(registry)?,
            time: TimeMetrics::register(registry)?,
            tls: TlsMetrics::register(registry)?,
            memory: MemoryMetrics::register(registry)?,
        })
    }

    /// Returns the gauges that admission sets.
    pub(crate) fn admission_gauges(&self) -> AdmissionGauges {
        AdmissionGauges {
            connections: self.active_connections.clone(),
            handshakes: self.admission.handshakes.clone(),
        }
    }

    /// Counts an AUTH frame by its result.
    pub(crate) fn count_auth(&self, result: AuthResult) {
        self.auth(result).inc();
    }

    /// Counts a GOING_AWAY frame.
    pub(crate) fn count_going_away(&self, cause: MoveCause) {
        self.going_away[cause as usize].inc();
    }

    /// Returns how many GOING_AWAY frames were sent for a reason.
    #[cfg(test)]
    pub(crate) fn count_of_going_away(&self, reason: &str) -> u64 {
        let cause = MoveCause::ALL
            .iter()
            .position(|cause| cause.label() == reason);
        self.going_away[cause.expect("a reason")].get()
    }

    /// Returns the counter of AUTH frames with this result.
    pub(crate) fn auth(&self, result: AuthResult) -> &IntCounter {
        &self.auth[result as usize]
    }
}

fn register_closed(registry: &Registry) -> Result<IntCounterVec, RegisterError> {
    let closed = counters(
        registry,
        "tickstorm_connections_closed_total",
        "Connections closed, by reason.",
        &["reason"],
    )?;
    CloseReason::labels().for_each(|reason| closed.with_label_values(&[reason]).inc_by(0));
    Ok(closed)
}

fn register_going_away(
    registry: &Registry,
) -> Result<[IntCounter; MoveCause::ALL.len()], RegisterError> {
    let going_away = counters(
        registry,
        "tickstorm_going_away_total",
        "GOING_AWAY frames sent, by reason: drain, operator or rebalance.",
        &["reason"],
    )?;
    Ok(MoveCause::ALL.map(|cause| going_away.with_label_values(&[cause.label()])))
}

/// Registers the counters of AUTH frames, by result.
fn auth_results(registry: &Registry) -> Result<[IntCounter; AuthResult::ALL.len()], RegisterError> {
    let auth = counters(
        registry,
        "tickstorm_auth_total",
        "AUTH frames, by result. Those with a result that starts with delayed had to wait, \
         because too many had failed.",
        &["result"],
    )?;
    Ok(AuthResult::ALL.map(|result| auth.with_label_values(&[result.label()])))
}

/// Registers the alarm for refused logins.
fn login_alarm(registry: &Registry) -> Result<IntGauge, RegisterError> {
    let auth_alarm = int_gauges(
        registry,
        "tickstorm_auth_alarm",
        "1 while logins need attention for this reason, else 0.",
        &["reason"],
    )?;
    Ok(auth_alarm.with_label_values(&[LOGIN_ALARM]))
}

/// The result of an AUTH.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AuthResult {
    Accepted,
    Failed,
    /// The AUTH had to wait, and the credentials were right.
    DelayedAccepted,
    /// The AUTH had to wait, and the credentials were wrong.
    DelayedFailed,
    /// The connection ended while the AUTH was waiting.
    DelayedUnjudged,
    /// Too many AUTHs were waiting already, so the credentials were not checked.
    RateLimited,
}

impl AuthResult {
    /// All results, in declaration order.
    const ALL: [Self; 6] = [
        Self::Accepted,
        Self::Failed,
        Self::DelayedAccepted,
        Self::DelayedFailed,
        Self::DelayedUnjudged,
        Self::RateLimited,
    ];

    /// Returns the value of the label `result`.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Failed => "failed",
            Self::DelayedAccepted => "delayed_accepted",
            Self::DelayedFailed => "delayed_failed",
            Self::DelayedUnjudged => "delayed_unjudged",
            Self::RateLimited => "rate_limited",
        }
    }
}

/// The result of a TLS handshake.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HandshakeResult {
    Completed,
    /// The client presented no certificate although it must.
    CertificateMissing,
    /// No authority in TLS_CA_FILE has signed the client's certificate.
    UnknownAuthority,
    CertificateExpired,
    CertificateNotYetValid,
    CertificateRevoked,
    /// The certificate is not for clients.
    CertificateWrongPurpose,
    /// The revocation list of the certificate's authority has expired.
    RevocationListExpired,
    /// TLS_CRL_FILE has no revocation list of the certificate's authority.
    RevocationListMissing,
    /// The certificate is not valid for another reason.
    CertificateInvalid,
    /// The client closed the connection, did not finish in time, or sent an alert.
    Abandoned,
    /// The client does not support TLS 1.3, or none of the cipher suites, groups and signatures.
    Incompatible,
    /// Anything else, such as plain text.
    Failed,
}

impl HandshakeResult {
    /// All results, in declaration order.
    pub(crate) const ALL: [Self; 13] = [
        Self::Completed,
        Self::CertificateMissing,
        Self::UnknownAuthority,
        Self::CertificateExpired,
        Self::CertificateNotYetValid,
        Self::CertificateRevoked,
        Self::CertificateWrongPurpose,
        Self::RevocationListExpired,
        Self::RevocationListMissing,
        Self::CertificateInvalid,
        Self::Abandoned,
        Self::Incompatible,
        Self::Failed,
    ];

    /// Returns the value of the label `result`.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::CertificateMissing => "certificate_missing",
            Self::UnknownAuthority => "unknown_authority",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateNotYetValid => "certificate_not_yet_valid",
            Self::CertificateRevoked => "certificate_revoked",
            Self::CertificateWrongPurpose => "certificate_wrong_purpose",
            Self::RevocationListExpired => "crl_expired",
            Self::RevocationListMissing => "crl_missing",
            Self::CertificateInvalid => "certificate_invalid",
            Self::Abandoned => "abandoned",
            Self::Incompatible => "incompatible",
            Self::Failed => "failed",
        }
    }

    /// Returns whether the edge has refused the client's certificate, or the lack of one.
    pub(crate) const fn is_refusal(self) -> bool {
        match self {
            Self::CertificateMissing
            | Self::UnknownAuthority
            | Self::CertificateExpired
            | Self::CertificateNotYetValid
            | Self::CertificateRevoked
            | Self::CertificateWrongPurpose
            | Self::RevocationListExpired
            | Self::RevocationListMissing
            | Self::CertificateInvalid => true,
            Self::Completed | Self::Abandoned | Self::Incompatible | Self::Failed => false,
        }
    }
}

impl AdmissionMetrics {
    fn register(registry: &Registry) -> Result<Self, RegisterError> {
        Ok(Self {
            handshakes: int_gauge(
                registry,
                "tickstorm_handshakes",
                "Open client connections that have not authenticated yet.",
            )?,
            evicted: counter(
                registry,
                "tickstorm_handshakes_evicted_total",
                "Connections closed before they authenticated because of MAX_HANDSHAKES.",
            )?,
        })
    }
}

impl AcceptQueueMetrics {
    fn register(registry: &Registry) -> Result<Self, RegisterError> {
        Ok(Self {
            len: int_gauge(
                registry,
                "tickstorm_accept_queue_length",
                "Connections that wait in the system's queue until the edge accepts them.",
            )?,
            overflows: counter(
                registry,
                "tickstorm_accept_queue_overflows_total",
                "Connections that the system has dropped because an accept queue was full, for all \
                 listeners of the network namespace.",
            )?,
        })
    }
}

impl ReloadMetrics {
    fn register(registry: &Registry) -> Result<Self, RegisterError> {
        Ok(Self {
            credentials: ReloadCounters::register(
                registry,
                "tickstorm_credential_reloads_total",
                "Changes of the files with credentials and the key of device cookies, by result: \
                 loaded, or failed, after which the old credentials stay valid.",
            )?,
            ip_lists: ReloadCounters::register(
                registry,
                "tickstorm_ip_list_reloads_total",
                "Changes of the IP list files, by result: loaded, or failed, after which the old \
                 lists stay in force.",
            )?,
            tls: ReloadCounters::register(
                registry,
                "tickstorm_tls_reloads_total",
                "Changes of the TLS files, by result: loaded, or failed, after which the old files \
                 stay in use.",
            )?,
        })
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
        let results = HandshakeResult::ALL.map(HandshakeResult::label);
        Ok(Self {
            handshakes: results.map(|result| handshakes.with_label_values(&[result])),
            handshake_seconds: histogram(
                registry,
                "tickstorm_tls_handshake_seconds",
                "Time from the first byte of a TLS handshake to its completion.",
                &HANDSHAKE_BUCKETS_S,
            )?,
        })
    }

    /// Counts a handshake that was completed within `time`.
    pub(crate) fn count_completed(&self, time: Duration) {
        self.count_handshake(HandshakeResult::Completed);
        self.handshake_seconds.observe(time.as_secs_f64());
    }

    /// Counts a handshake that has ended.
    pub(crate) fn count_handshake(&self, result: HandshakeResult) {
        self.handshakes[result as usize].inc();
    }
}

impl RoundMetrics {
    fn register(registry: &Registry) -> Result<Self, RegisterError> {
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
            clock_alarm: int_gauges(
                registry,
                "tickstorm_time_clock_alarm",
                "1 while a clock, and so its NATS login, needs attention for this reason, else 0.",
                &["clock", "reason"],
            )?,
            rounds: RoundMetrics::register(registry)?,
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
