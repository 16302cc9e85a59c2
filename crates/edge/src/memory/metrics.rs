//! The metrics of the memory that clients make an edge hold.

use prometheus::{IntCounter, IntGauge, Registry};
use tickstorm_service::metrics::{RegisterError, counter, int_gauge};

/// Handles to the metrics.
#[derive(Clone)]
pub(crate) struct MemoryMetrics {
    pub(crate) buffered_bytes: IntGauge,
    pub(crate) buffer_evictions: IntCounter,
    pub(crate) kernel_bytes: IntGauge,
    pub(crate) kernel_limit_bytes: IntGauge,
    pub(crate) kernel_evictions: IntCounter,
}

impl MemoryMetrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, RegisterError> {
        Ok(Self {
            buffered_bytes: int_gauge(
                registry,
                "tickstorm_buffered_bytes",
                "Memory for unfinished frames, partial TLS records, TLS handshakes and waiting \
                 control frames of all connections.",
            )?,
            buffer_evictions: counter(
                registry,
                "tickstorm_buffer_evictions_total",
                "Connections closed with SERVER_FULL to stay below MAX_BUFFERED_BYTES.",
            )?,
            kernel_bytes: int_gauge(
                registry,
                "tickstorm_kernel_memory_bytes",
                "Memory of TCP sockets in the kernel: that of this process's cgroup, or of the \
                 whole host if only that is known.",
            )?,
            kernel_limit_bytes: int_gauge(
                registry,
                "tickstorm_kernel_memory_limit_bytes",
                "The memory of TCP sockets beyond which connections with full sockets are closed.",
            )?,
            kernel_evictions: counter(
                registry,
                "tickstorm_kernel_memory_evictions_total",
                "Connections closed as slow consumers to stay below \
                 tickstorm_kernel_memory_limit_bytes.",
            )?,
        })
    }
}
