//! The metrics of connections that are on their way in: those that wait to be accepted, and those
//! that have not authenticated yet.

use prometheus::{IntCounter, IntGauge, Registry};
use tickstorm_service::metrics::{RegisterError, counter, int_gauge};

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

impl AdmissionMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, RegisterError> {
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
    pub(super) fn register(registry: &Registry) -> Result<Self, RegisterError> {
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
