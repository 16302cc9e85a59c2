//! Samples the child process: CPU time, memory and open files, and the state of the edge in it.

use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use tickstorm_service::admin::Health;

use crate::machine::{self, CpuTime, now_ns};
use crate::orders::ProcessSample;

/// The number of readings of authority time. Only the fastest counts, since the others may have
/// been delayed by an interruption.
const READINGS: usize = 5;

/// Samples the process and the edge in it.
pub(super) struct Sampler {
    health: Arc<dyn Health>,
    registry: Registry,
    per_shard: bool,
}

impl Sampler {
    pub(super) fn new(health: Arc<dyn Health>, registry: Registry, per_shard: bool) -> Self {
        Self {
            health,
            registry,
            per_shard,
        }
    }

    /// Waits until the edge knows the time.
    pub(super) async fn time_is_known(&self) {
        while self.offset_ns().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Returns the edge's MAX_CONNECTIONS.
    pub(super) fn connections_max(&self) -> u64 {
        self.health.status()["max_connections"]
            .as_u64()
            .unwrap_or_default()
    }

    /// Takes a sample. CPU time is read first and again last, so that the cost of the sample can be
    /// left out.
    pub(super) fn sample(&self, all: bool) -> ProcessSample {
        let (at_ns, cpu_us) = (now_ns(), CpuTime::of_process().total_us);
        let status = self.health.status();
        let mut sample = ProcessSample {
            at_ns,
            cpu_us,
            cpu_after_us: 0,
            rss_bytes: machine::resident_bytes(),
            files: all.then(|| machine::open_files(self.per_shard)),
            connections: status["connections"].as_u64().unwrap_or_default(),
            closed_slow: all.then(|| self.closed_slow()),
            offset_ns: self.offset_ns(),
            bound_us: status["authority"]["bound_us"]
                .as_u64()
                .and_then(|bound_us| u32::try_from(bound_us).ok())
                .unwrap_or_default(),
        };
        sample.cpu_after_us = CpuTime::of_process().total_us;
        sample
    }

    /// Returns authority time minus the machine's own clock, in nanoseconds.
    pub(super) fn offset_ns(&self) -> Option<i64> {
        let reading = || {
            let before = now_ns();
            let status = self.health.status();
            let took = now_ns().saturating_sub(before);
            // The status rounds down to microseconds, by half a microsecond on average.
            let unix_ns = status["authority"]["unix_us"].as_i64()? * 1_000 + 500;
            Some((took, unix_ns.checked_sub_unsigned(before)?))
        };
        let best = (0..READINGS).filter_map(|_| reading()).min();
        best.map(|(_, offset_ns)| offset_ns)
    }

    fn closed_slow(&self) -> u64 {
        let families = self.registry.gather();
        let closed = families
            .iter()
            .filter(|family| family.name() == "tickstorm_connections_closed_total")
            .flat_map(|family| family.get_metric());
        let slow = closed.filter(|metric| {
            let mut labels = metric.get_label().iter();
            labels.any(|label| label.value().eq_ignore_ascii_case("SLOW_CONSUMER"))
        });
        let value: f64 = slow.map(|metric| metric.get_counter().get_value()).sum();
        crate::figure::whole(value)
    }
}
