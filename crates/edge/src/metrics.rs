//! The edge's metrics. Names, units and buckets are a contract. Label values come only from closed
//! enums.

mod admission;
mod auth;
mod connections;
mod feeds;
mod frames;
mod loops;
mod reloads;
mod time;
mod tls;

use std::sync::Arc;

use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};
use tickstorm_protocol::code::CloseReason;
use tickstorm_service::metrics::{RegisterError, counter, counters, int_gauge, int_gauges};

use crate::admission::AdmissionGauges;
use crate::auth::LOGIN_ALARM;
use crate::memory::MemoryMetrics;
use crate::shard::MoveCause;
pub(crate) use admission::{AcceptQueueMetrics, AdmissionMetrics};
pub(crate) use auth::AuthResult;
pub(crate) use connections::{ConnectionMetrics, ConnectionState};
pub(crate) use feeds::FeedMetrics;
pub(crate) use frames::{FrameMetrics, ReceivedFrame, SentFrame};
pub(crate) use loops::LoopMetrics;
pub(crate) use reloads::ReloadMetrics;
pub(crate) use time::TimeMetrics;
pub(crate) use tls::{HandshakeResult, TlsMetrics};

/// Handles to the metrics in an injected registry.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) active_connections: IntGauge,
    pub(crate) connections: Arc<ConnectionMetrics>,
    pub(crate) admission: AdmissionMetrics,
    pub(crate) accept_queue: AcceptQueueMetrics,
    pub(crate) reloads: ReloadMetrics,
    pub(crate) messages_sent: IntCounter,
    pub(crate) ticks_sent: IntCounter,
    pub(crate) bytes_sent: IntCounter,
    pub(crate) heartbeat_timeouts: IntCounter,
    pub(crate) feeds: Arc<FeedMetrics>,
    pub(crate) frames: Arc<FrameMetrics>,
    pub(crate) loops: LoopMetrics,
    pub(crate) closed: IntCounterVec,
    auth: [IntCounter; AuthResult::ALL.len()],
    going_away: [IntCounter; MoveCause::ALL.len()],
    pub(crate) auth_waiting: IntGauge,
    pub(crate) login_alarm: IntGauge,
    pub(crate) time: TimeMetrics,
    pub(crate) tls: TlsMetrics,
    pub(crate) memory: MemoryMetrics,
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
            connections: Arc::new(ConnectionMetrics::register(registry)?),
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
            feeds: Arc::new(FeedMetrics::register(registry)?),
            frames: Arc::new(FrameMetrics::register(registry)?),
            loops: LoopMetrics::register(registry)?,
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
