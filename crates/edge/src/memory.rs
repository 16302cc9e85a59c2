//! [`Memory`]: the memory that clients make an edge hold without being up to date: buffers of
//! unfinished input and waiting output in the process, and the queues of sockets in the kernel.
//! Both have a bound over all connections. The shards count the buffers and close connections to
//! keep the bounds; this is what they share, and what operators see of it.

mod evictions;
mod kernel;
mod limit;
mod metrics;
mod source;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use serde_json::{Value, json};
use tickstorm_timebase::Mono;

pub(crate) use self::evictions::Evictions;
pub(crate) use self::kernel::{Excess, watch};
pub(crate) use self::limit::register as register_limit;
pub(crate) use self::metrics::MemoryMetrics;
pub(crate) use self::source::KernelBound;

/// The meaning of the alarm `buffers_full`.
pub(crate) const BUFFERS_FULL_MESSAGE: &str = "Within the last minute, connections with \
    unfinished input were closed to stay below MAX_BUFFERED_BYTES.";
/// The meaning of the alarm `kernel_memory`.
pub(crate) const KERNEL_MEMORY_MESSAGE: &str = "Within the last minute, connections with full \
    sockets were closed to stay below the bound on the kernel's TCP memory.";

/// What to do about the alarm `buffers_full`.
pub(crate) const BUFFERS_FULL_ACTION: &str =
    "Find the clients that send unfinished frames, or raise MAX_BUFFERED_BYTES.";
/// What to do about the alarm `kernel_memory`.
pub(crate) const KERNEL_MEMORY_ACTION: &str =
    "Find the clients that do not read: /connections?sort=backlog lists those that lag most.";

/// The totals over all shards, and the connections that were closed to keep the bounds.
pub(crate) struct Memory {
    metrics: MemoryMetrics,
    buffered_max: usize,
    /// The most buffered bytes since the last call of [`Memory::take_fall`].
    buffered_peak: AtomicI64,
    freed: Freed,
    kernel: KernelBound,
    /// Whether the kernel's TCP memory was near its bound when it was last measured.
    is_kernel_tight: AtomicBool,
    /// Closings because of the bound on buffers.
    pub(crate) buffer_evictions: Evictions,
    /// Closings because of the bound on kernel memory.
    pub(crate) kernel_evictions: Evictions,
}

/// Counts the bytes of large allocations other than buffers that are free again, since they were
/// last taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct Freed(Arc<AtomicU64>);

impl Freed {
    pub(crate) fn add(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

impl Memory {
    /// Creates the totals of an edge whose connections may hold `buffered_max` bytes in buffers.
    pub(crate) fn new(
        metrics: &MemoryMetrics,
        buffered_max: usize,
        kernel: KernelBound,
    ) -> Arc<Self> {
        let limit_bytes = i64::try_from(kernel.bytes()).unwrap_or(i64::MAX);
        metrics.kernel_limit_bytes.set(limit_bytes);
        Arc::new(Self {
            buffer_evictions: Evictions::new(metrics.buffer_evictions.clone()),
            kernel_evictions: Evictions::new(metrics.kernel_evictions.clone()),
            metrics: metrics.clone(),
            buffered_max,
            buffered_peak: AtomicI64::new(0),
            freed: Freed::default(),
            kernel,
            is_kernel_tight: AtomicBool::new(false),
        })
    }

    /// Returns the bound on buffered bytes over all connections.
    pub(crate) fn buffered_max(&self) -> usize {
        self.buffered_max
    }

    /// Adds a change of a shard's buffered bytes to the total.
    pub(crate) fn add_buffered(&self, change: i64) {
        let total = &self.metrics.buffered_bytes;
        total.add(change);
        if change > 0 {
            self.buffered_peak.fetch_max(total.get(), Ordering::Relaxed);
        }
    }

    /// Records how many bytes of TCP memory the kernel uses.
    pub(crate) fn set_kernel_bytes(&self, used: u64) {
        let shown = i64::try_from(used).unwrap_or(i64::MAX);
        self.metrics.kernel_bytes.set(shown);
        let is_tight = kernel::is_tight(used, self.kernel.bytes());
        self.is_kernel_tight.store(is_tight, Ordering::Relaxed);
    }

    /// Returns whether the kernel's TCP memory is near its bound or beyond it.
    pub(crate) fn is_kernel_tight(&self) -> bool {
        self.is_kernel_tight.load(Ordering::Relaxed)
    }

    /// Returns the counter of other allocations.
    pub(crate) fn freed(&self) -> Freed {
        self.freed.clone()
    }

    /// Returns by how many bytes the buffers have fallen since their peak, plus those of other
    /// allocations that are free again, and starts to look for a new peak.
    pub(crate) fn take_fall(&self) -> u64 {
        let now = self.metrics.buffered_bytes.get();
        let peak = self.buffered_peak.swap(now, Ordering::Relaxed);
        let fall = u64::try_from(peak.saturating_sub(now)).unwrap_or(0);
        fall + self.freed.take()
    }

    /// Returns the section `memory` of /status.
    pub(crate) fn status(&self, now: Mono) -> Value {
        let mut alarms = Vec::new();
        if self.buffer_evictions.is_recent(now) {
            alarms.push(json!({
                "reason": "buffers_full",
                "message": BUFFERS_FULL_MESSAGE,
                "action": BUFFERS_FULL_ACTION,
            }));
        }
        if self.kernel_evictions.is_recent(now) {
            alarms.push(json!({
                "reason": "kernel_memory",
                "message": KERNEL_MEMORY_MESSAGE,
                "action": KERNEL_MEMORY_ACTION,
            }));
        }
        json!({
            "buffered_bytes": self.metrics.buffered_bytes.get(),
            "buffered_limit_bytes": self.buffered_max,
            "kernel_bytes": self.metrics.kernel_bytes.get(),
            "kernel_limit_bytes": self.kernel.bytes(),
            "kernel_bytes_from": self.kernel.source().to_string(),
            "kernel_limit_from": self.kernel.reason(),
            "alarms": alarms,
        })
    }
}
