//! The memory cost of a connection, in the edge's process and in the kernel.

use super::figure::{Figure, number};
use super::machine::KernelMemory;
use super::orders::ProcessSample;

/// The memory of the edge's process and of the kernel at one moment.
pub(crate) struct Memory {
    edge_bytes: u64,
    kernel: KernelMemory,
}

impl Memory {
    /// Combines a sample of the edge's process with the kernel's current memory.
    pub(crate) fn of(sample: &ProcessSample) -> Self {
        Self {
            edge_bytes: sample.rss_bytes,
            kernel: KernelMemory::read(),
        }
    }

    /// Returns what each of `clients` has added since `before`: resident memory of the edge, and
    /// slabs and TCP buffers of the kernel. The kernel's figures are halved, since the client's
    /// socket uses the other half.
    pub(crate) fn figures_since(&self, before: &Self, clients: u64) -> [Figure; 3] {
        let single = |id, label, now: u64, before: u64, divisor: u64| {
            let each = number(now.saturating_sub(before)) / number(clients.max(1) * divisor);
            Figure::single(id, label, "bytes", Some(each))
        };
        [
            single(
                "rss_bytes_per_connection",
                "edge memory per connection",
                self.edge_bytes,
                before.edge_bytes,
                1,
            ),
            single(
                "kernel_bytes_per_socket",
                "kernel slab memory per socket",
                self.kernel.slab_bytes,
                before.kernel.slab_bytes,
                2,
            ),
            single(
                "tcp_buffer_bytes_per_socket",
                "TCP buffer memory per socket, at rest",
                self.kernel.tcp_bytes,
                before.kernel.tcp_bytes,
                2,
            ),
        ]
    }
}
