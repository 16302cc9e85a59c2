//! Metrics of open files. They are read when metrics are collected, from all of the edge's file
//! descriptor tables. Any thread can ask the kernel for them, so no shard is interrupted.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, Registry};
use tickstorm_service::metrics::{RegisterError, collector};

use crate::sys::fd_table::FdTable;

/// The gauges, and the tables that they are read from.
#[derive(Clone)]
pub(crate) struct FdMetrics {
    total: IntGauge,
    fullest: IntGauge,
    limit: IntGauge,
    tables: Arc<Mutex<Vec<FdTable>>>,
}

impl FdMetrics {
    /// Registers the gauges, for the process's table with its limit of `limit` open files.
    pub(crate) fn register(registry: &Registry, limit: u64) -> Result<Self, RegisterError> {
        const NAME: &str = "tickstorm_open_files";
        let gauge = |name: &str, help| IntGauge::new(name, help).expect("the name is valid");
        let gauges = Self {
            total: gauge(
                NAME,
                "Open files in all file descriptor tables of the process.",
            ),
            fullest: gauge(
                "tickstorm_open_files_in_fullest_table",
                "Open files in the fullest file descriptor table; there are several with \
                 FD_TABLES=per-shard.",
            ),
            limit: gauge(
                "tickstorm_open_files_limit",
                "The most open files that one file descriptor table may hold.",
            ),
            tables: Arc::new(Mutex::new(vec![FdTable::of_process()])),
        };
        gauges.limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
        collector(registry, NAME, gauges)
    }

    /// Includes `tables` in the metrics.
    pub(crate) fn add(&self, tables: Vec<FdTable>) {
        let mut known = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(tables);
    }

    fn update(&self) {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        // The table of a shard that has ended no longer exists.
        let open = tables.iter().filter_map(|table| table.len().ok());
        let (total, fullest) =
            open.fold((0, 0), |(total, most), open| (total + open, most.max(open)));
        self.total.set(i64::try_from(total).unwrap_or(i64::MAX));
        self.fullest.set(i64::try_from(fullest).unwrap_or(i64::MAX));
    }

    fn gauges(&self) -> [&IntGauge; 3] {
        [&self.total, &self.fullest, &self.limit]
    }
}

impl Collector for FdMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.gauges()
            .into_iter()
            .flat_map(Collector::desc)
            .collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.update();
        self.gauges()
            .into_iter()
            .flat_map(Collector::collect)
            .collect()
    }
}
