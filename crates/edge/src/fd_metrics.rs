//! Metrics of how many files are open: looked up when they are asked for, in all of the edge's
//! tables. The kernel tells it to any thread, so no shard is held up by it.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, Registry};
use tickstorm_service::metrics::{RegisterError, collector};

use crate::sys::fd_table::FdTable;

/// The gauges, and the tables that they are about.
#[derive(Clone)]
pub(crate) struct FdMetrics {
    all: IntGauge,
    fullest: IntGauge,
    limit: IntGauge,
    tables: Arc<Mutex<Vec<FdTable>>>,
}

impl FdMetrics {
    /// Registers them, for the process's table of at most `limit`.
    pub(crate) fn register(registry: &Registry, limit: u64) -> Result<Self, RegisterError> {
        const NAME: &str = "tickstorm_open_files";
        let gauge = |name: &str, help| IntGauge::new(name, help).expect("a name of ours");
        let gauges = Self {
            all: gauge(NAME, "Open files, of all tables of the process together."),
            fullest: gauge(
                "tickstorm_open_files_in_fullest_table",
                "Open files of the table that has most; there are several with FD_TABLES=per-shard.",
            ),
            limit: gauge(
                "tickstorm_open_files_limit",
                "The most open files that a table may have.",
            ),
            tables: Arc::new(Mutex::new(vec![FdTable::of_process()])),
        };
        gauges.limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
        collector(registry, NAME, gauges)
    }

    /// There are these tables, too.
    pub(crate) fn add(&self, tables: Vec<FdTable>) {
        let mut all = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(tables);
    }

    fn look(&self) {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        // A shard that has ended has no table any more.
        let open = tables.iter().filter_map(|table| table.len().ok());
        let (all, fullest) = open.fold((0, 0), |(all, most), open| (all + open, most.max(open)));
        self.all.set(i64::try_from(all).unwrap_or(i64::MAX));
        self.fullest.set(i64::try_from(fullest).unwrap_or(i64::MAX));
    }

    fn gauges(&self) -> [&IntGauge; 3] {
        [&self.all, &self.fullest, &self.limit]
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
        self.look();
        self.gauges()
            .into_iter()
            .flat_map(Collector::collect)
            .collect()
    }
}
