//! A histogram that records many equal observations in one call. The clock is read once per chunk
//! of about a thousand sends, so all of them share one value. Recording each send in the prometheus
//! crate's histogram costs as many instructions as the rest of the hot loop.

use std::collections::HashMap;
use std::sync::Arc;

use prometheus::Registry;
use prometheus::core::{Atomic, AtomicF64, AtomicU64, Collector, Desc};
use prometheus::proto::{Bucket, Histogram, Metric, MetricFamily, MetricType};
use tickstorm_service::metrics::{RegisterError, collector};

/// A handle to the histogram.
#[derive(Clone)]
pub(crate) struct BulkHistogram(Arc<Inner>);

struct Inner {
    desc: Desc,
    /// Upper bounds of the buckets, ascending. Values above the last bound count only towards the
    /// sum and the total count.
    bounds: &'static [f64],
    counts: Vec<AtomicU64>,
    above: AtomicU64,
    sum: AtomicF64,
}

impl BulkHistogram {
    /// Registers a histogram whose buckets have the upper bounds `bounds`, ascending.
    pub(crate) fn register(
        registry: &Registry,
        name: &str,
        help: &str,
        bounds: &'static [f64],
    ) -> Result<Self, RegisterError> {
        let desc = Desc::new(name.to_owned(), help.to_owned(), Vec::new(), HashMap::new());
        let this = Self(Arc::new(Inner {
            desc: desc.expect("the name is valid"),
            bounds,
            counts: bounds.iter().map(|_| AtomicU64::new(0)).collect(),
            above: AtomicU64::new(0),
            sum: AtomicF64::new(0.0),
        }));
        collector(registry, name, this)
    }

    /// Records `value` as if it had been observed `times` times.
    pub(crate) fn observe(&self, value: f64, times: u64) {
        let inner = &self.0;
        let bucket = inner.bounds.partition_point(|bound| *bound < value);
        inner
            .counts
            .get(bucket)
            .unwrap_or(&inner.above)
            .inc_by(times);
        #[expect(
            clippy::cast_precision_loss,
            reason = "a sum of latencies need not be more exact"
        )]
        inner.sum.inc_by(value * times as f64);
    }
}

impl Collector for BulkHistogram {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let inner = &self.0;
        let mut cumulative = 0;
        let buckets = inner
            .bounds
            .iter()
            .zip(&inner.counts)
            .map(|(bound, count)| {
                cumulative += count.get();
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(*bound);
                bucket.set_cumulative_count(cumulative);
                bucket
            });
        let mut shown = Histogram::default();
        shown.set_bucket(buckets.collect());
        shown.set_sample_count(cumulative + inner.above.get());
        shown.set_sample_sum(inner.sum.get());
        let mut metric = Metric::from_label(Vec::new());
        metric.set_histogram(shown);
        let mut family = MetricFamily::default();
        family.set_name(inner.desc.fq_name.clone());
        family.set_help(inner.desc.help.clone());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(vec![metric]);
        vec![family]
    }
}

#[cfg(test)]
mod tests {
    use tickstorm_service::metrics::{encode, histogram};

    use super::*;

    #[test]
    fn it_exports_the_same_as_the_librarys_histogram_for_the_same_observations() {
        const BOUNDS: &[f64] = &[0.5, 1.0, 2.5];
        let (one, other) = (Registry::new(), Registry::new());
        let ours = BulkHistogram::register(&one, "late_ms", "Lateness.", BOUNDS).unwrap();
        let theirs = histogram(&other, "late_ms", "Lateness.", BOUNDS).unwrap();
        assert_eq!(encode(&one).unwrap(), encode(&other).unwrap(), "at first");
        for (value, times) in [(0.0, 3), (0.5, 2), (0.75, 0), (1.0, 1_024), (2.625, 7)] {
            ours.observe(value, times);
            (0..times).for_each(|_| theirs.observe(value));
        }
        assert_eq!(encode(&one).unwrap(), encode(&other).unwrap());
    }
}
