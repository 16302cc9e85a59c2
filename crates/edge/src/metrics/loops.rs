//! The metrics of the shards' loops: how long their turns take. A turn that takes long delays
//! everything else on its shard, including ticks.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, Opts, Registry};
use tickstorm_service::metrics::{RegisterError, collector};
use tickstorm_timebase::{Clock, SystemClock};

use crate::histogram::BulkHistogram;
use crate::shard::Vitals;

/// A chunk takes 4 to 9 ms, and the other work of a turn up to 4 ms.
const TURN_BUCKETS_S: [f64; 15] = [
    1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1.0,
];

/// The metrics of all shards' loops.
#[derive(Clone)]
pub(crate) struct LoopMetrics {
    pub(crate) turn: BulkHistogram,
    lag: LoopLag,
}

/// The gauges of the longest turns, and the shards from which they are read when metrics are
/// collected. No shard is interrupted for it.
#[derive(Clone)]
struct LoopLag {
    gauges: GaugeVec,
    shards: Arc<Mutex<Vec<Arc<Vitals>>>>,
}

impl LoopMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, RegisterError> {
        const LAG: &str = "tickstorm_shard_loop_lag_seconds";
        let opts = Opts::new(
            LAG,
            "The longest turn of a shard's loop in the last 15 to 20 s, including the turn in \
             progress. Waiting is no part of a turn.",
        );
        let lag = LoopLag {
            gauges: GaugeVec::new(opts, &["shard"]).expect("the names are valid"),
            shards: Arc::default(),
        };
        Ok(Self {
            turn: BulkHistogram::register(
                registry,
                "tickstorm_loop_turn_seconds",
                "Time that one turn of a shard's loop takes, without waiting: releasing ticks, a \
                 chunk of a fan-out, and a share of all other work.",
                &TURN_BUCKETS_S,
            )?,
            lag: collector(registry, LAG, lag)?,
        })
    }

    /// Shows the lag of these shards, in the order of their indices.
    pub(crate) fn show(&self, shards: Vec<Arc<Vitals>>) {
        *self
            .lag
            .shards
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = shards;
    }
}

impl Collector for LoopLag {
    fn desc(&self) -> Vec<&Desc> {
        self.gauges.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let now = SystemClock.now();
        let shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, shard) in shards.iter().enumerate() {
            let gauge = self.gauges.with_label_values(&[index.to_string()]);
            gauge.set(shard.loop_lag(now).as_secs_f64());
        }
        self.gauges.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use tickstorm_service::metrics::encode;

    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn a_turn_that_never_ends_shows_while_it_goes_on() {
        let registry = Registry::new();
        let metrics = LoopMetrics::register(&registry).unwrap();
        let shards = [0, 1].map(|_| Arc::new(Vitals::new(SystemClock.now())));
        metrics.show(shards.to_vec());
        let lags = || {
            let text = encode(&registry).unwrap();
            let lag = |shard: &str| {
                let line = text.lines().find(|line| line.contains(shard));
                let value = line.and_then(|line| line.rsplit_once(' ')).unwrap().1;
                value.parse::<f64>().unwrap()
            };
            ["shard=\"0\"", "shard=\"1\""].map(lag)
        };
        assert_eq!(lags(), [0.0, 0.0]);
        let began = SystemClock.now().saturating_sub(Duration::from_secs(7));
        shards[1]
            .turn_began
            .store(began.as_nanos(), Ordering::Relaxed);
        let [idle, stuck] = lags();
        assert!(idle <= 0.0 && stuck >= 7.0, "{idle} {stuck}");
    }

    #[test]
    fn all_metrics_of_an_edge_with_the_most_shards_fit_into_100_kb() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let now = SystemClock.now();
        let shards = (0..256).map(|_| Arc::new(Vitals::new(now)));
        metrics.loops.show(shards.collect());
        let text = encode(&registry).unwrap();
        assert!(text.contains("tickstorm_shard_loop_lag_seconds{shard=\"255\"} 0\n"));
        assert!(text.len() <= 100_000, "{} bytes", text.len());
    }
}
