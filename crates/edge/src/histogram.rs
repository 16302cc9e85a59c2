//! Histograms that record many equal observations in one call. The clock is read once per chunk of
//! about a thousand sends, so all of them share one value. Recording each send in the prometheus
//! crate's histogram costs as many instructions as the rest of the hot loop.

use std::collections::HashMap;
use std::sync::Arc;

use prometheus::Registry;
use prometheus::core::{Atomic, AtomicF64, AtomicU64, Collector, Desc};
use prometheus::proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use tickstorm_service::metrics::{RegisterError, collector};

/// A handle to one series of a histogram.
#[derive(Clone)]
pub(crate) struct BulkHistogram(Arc<Series>);

struct Series {
    /// The labels, sorted by name.
    labels: Vec<LabelPair>,
    /// Upper bounds of the buckets, ascending. Values above the last bound count only towards the
    /// sum and the total count.
    bounds: &'static [f64],
    counts: Vec<AtomicU64>,
    above: AtomicU64,
    sum: AtomicF64,
}

/// All series of a histogram, as registered.
#[derive(Clone)]
struct Family {
    desc: Desc,
    series: Vec<BulkHistogram>,
}

/// Observations that one thread collects and adds to a [`BulkHistogram`] from time to time, so that
/// each costs a few instructions and no access to shared memory.
pub(crate) struct LocalHistogram {
    shared: BulkHistogram,
    /// The counts of the buckets and, at the end, of the values above all bounds.
    counts: Vec<u64>,
    sum: f64,
}

impl BulkHistogram {
    /// Registers a histogram whose buckets have the upper bounds `bounds`, ascending.
    pub(crate) fn register(
        registry: &Registry,
        name: &str,
        help: &str,
        bounds: &'static [f64],
    ) -> Result<Self, RegisterError> {
        let [only] = Self::register_all(registry, name, help, bounds, [], [[]])?;
        Ok(only)
    }

    /// Registers a histogram with a series for each of `values`, the values of `labels`.
    pub(crate) fn register_all<const LABELS: usize, const SERIES: usize>(
        registry: &Registry,
        name: &str,
        help: &str,
        bounds: &'static [f64],
        labels: [&str; LABELS],
        values: [[&str; LABELS]; SERIES],
    ) -> Result<[Self; SERIES], RegisterError> {
        let series = values.map(|values| Self::new(bounds, labels, values));
        let desc = Desc::new(
            name.to_owned(),
            help.to_owned(),
            labels.map(str::to_owned).to_vec(),
            HashMap::new(),
        );
        let family = Family {
            desc: desc.expect("the names are valid"),
            series: series.to_vec(),
        };
        collector(registry, name, family)?;
        Ok(series)
    }

    fn new<const LABELS: usize>(
        bounds: &'static [f64],
        names: [&str; LABELS],
        values: [&str; LABELS],
    ) -> Self {
        let pairs = names.into_iter().zip(values);
        let mut labels: Vec<LabelPair> = pairs
            .map(|(name, value)| {
                let mut pair = LabelPair::default();
                pair.set_name(name.to_owned());
                pair.set_value(value.to_owned());
                pair
            })
            .collect();
        labels.sort_by(|one, other| one.name().cmp(other.name()));
        Self(Arc::new(Series {
            labels,
            bounds,
            counts: bounds.iter().map(|_| AtomicU64::new(0)).collect(),
            above: AtomicU64::new(0),
            sum: AtomicF64::new(0.0),
        }))
    }

    /// Records `value` as if it had been observed `times` times.
    pub(crate) fn observe(&self, value: f64, times: u64) {
        self.0.counter(self.0.bucket_of(value)).inc_by(times);
        #[expect(
            clippy::cast_precision_loss,
            reason = "a sum of latencies need not be more exact"
        )]
        self.0.sum.inc_by(value * times as f64);
    }

    /// Returns the number of observations.
    #[cfg(test)]
    pub(crate) fn count(&self) -> u64 {
        self.count_up_to(f64::INFINITY)
    }

    /// Returns the number of observations in the buckets up to the bound `le`, as /metrics shows
    /// it.
    #[cfg(test)]
    pub(crate) fn count_up_to(&self, le: f64) -> u64 {
        let buckets = self.0.bounds.iter().copied().chain([f64::INFINITY]);
        let counted = buckets.enumerate().filter(|(_, bound)| *bound <= le);
        counted
            .map(|(bucket, _)| self.0.counter(bucket).get())
            .sum()
    }

    /// Returns the sum of all observations.
    #[cfg(test)]
    pub(crate) fn sum(&self) -> f64 {
        self.0.sum.get()
    }
}

impl Series {
    /// Returns the index of the bucket that counts `value`; the number of bounds if it is above
    /// all.
    fn bucket_of(&self, value: f64) -> usize {
        self.bounds.partition_point(|bound| *bound < value)
    }

    fn counter(&self, bucket: usize) -> &AtomicU64 {
        self.counts.get(bucket).unwrap_or(&self.above)
    }

    fn collect(&self) -> Metric {
        let mut cumulative = 0;
        let buckets = self.bounds.iter().zip(&self.counts).map(|(bound, count)| {
            cumulative += count.get();
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(cumulative);
            bucket
        });
        let mut shown = Histogram::default();
        shown.set_bucket(buckets.collect());
        shown.set_sample_count(cumulative + self.above.get());
        shown.set_sample_sum(self.sum.get());
        let mut metric = Metric::from_label(self.labels.clone());
        metric.set_histogram(shown);
        metric
    }
}

impl Collector for Family {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(self.series.iter().map(|one| one.0.collect()).collect());
        vec![family]
    }
}

impl LocalHistogram {
    /// Creates a collection of observations for `shared`.
    pub(crate) fn new(shared: BulkHistogram) -> Self {
        Self {
            counts: vec![0; shared.0.bounds.len() + 1],
            shared,
            sum: 0.0,
        }
    }

    /// Records `value`.
    pub(crate) fn observe(&mut self, value: f64) {
        self.counts[self.shared.0.bucket_of(value)] += 1;
        self.sum += value;
    }

    /// Adds what was recorded since the last call to the shared histogram.
    pub(crate) fn publish(&mut self) {
        let series = &self.shared.0;
        for (bucket, count) in self.counts.iter_mut().enumerate() {
            if *count > 0 {
                series.counter(bucket).inc_by(std::mem::take(count));
            }
        }
        series.sum.inc_by(std::mem::take(&mut self.sum));
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{HistogramOpts, HistogramVec};
    use tickstorm_service::metrics::{encode, histogram};

    use super::*;

    const BOUNDS: &[f64] = &[-0.5, 0.0, 0.5, 1.0, 2.5];
    const OBSERVED: [(f64, u64); 7] = [
        (0.0, 3),
        (-0.5, 1),
        (-0.25, 2),
        (0.5, 2),
        (0.75, 0),
        (1.0, 1_024),
        (2.625, 7),
    ];

    #[test]
    fn it_exports_the_same_as_the_librarys_histogram_for_the_same_observations() {
        let (one, other) = (Registry::new(), Registry::new());
        let ours = BulkHistogram::register(&one, "late_ms", "Lateness.", BOUNDS).unwrap();
        let theirs = histogram(&other, "late_ms", "Lateness.", BOUNDS).unwrap();
        assert_eq!(encode(&one).unwrap(), encode(&other).unwrap(), "at first");
        for (value, times) in OBSERVED {
            ours.observe(value, times);
            (0..times).for_each(|_| theirs.observe(value));
        }
        assert_eq!(encode(&one).unwrap(), encode(&other).unwrap());
    }

    #[test]
    fn its_series_are_exported_as_the_librarys_are() {
        const LABELS: [&str; 2] = ["mode", "delivery"];
        const VALUES: [[&str; 2]; 3] = [
            ["second", "at_time"],
            ["minute", "at_time"],
            ["second", "ahead"],
        ];
        let (one, other) = (Registry::new(), Registry::new());
        let ours =
            BulkHistogram::register_all(&one, "late_ms", "Lateness.", BOUNDS, LABELS, VALUES)
                .unwrap();
        let opts = HistogramOpts::new("late_ms", "Lateness.").buckets(BOUNDS.to_vec());
        let theirs = HistogramVec::new(opts, &LABELS).unwrap();
        other.register(Box::new(theirs.clone())).unwrap();
        let theirs = VALUES.map(|values| theirs.with_label_values(&values));
        assert_eq!(encode(&one).unwrap(), encode(&other).unwrap(), "at first");
        for (n, (value, times)) in OBSERVED.into_iter().enumerate() {
            ours[n % 3].observe(value, times);
            (0..times).for_each(|_| theirs[n % 3].observe(value));
        }
        assert_eq!(encode(&one).unwrap(), encode(&other).unwrap());
    }

    #[test]
    fn what_threads_have_collected_is_added_once() {
        let (one, other) = (Registry::new(), Registry::new());
        let collected = BulkHistogram::register(&one, "late_ms", "Lateness.", BOUNDS).unwrap();
        let direct = BulkHistogram::register(&other, "late_ms", "Lateness.", BOUNDS).unwrap();
        let mut shards = [(); 2].map(|()| LocalHistogram::new(collected.clone()));
        for _ in 0..2 {
            for (n, (value, times)) in OBSERVED.into_iter().enumerate() {
                (0..times).for_each(|_| shards[n % 2].observe(value));
                direct.observe(value, times);
            }
            assert_ne!(encode(&one).unwrap(), encode(&other).unwrap());
            shards.iter_mut().for_each(LocalHistogram::publish);
            assert_eq!(encode(&one).unwrap(), encode(&other).unwrap());
        }
        shards.iter_mut().for_each(LocalHistogram::publish);
        assert_eq!(encode(&one).unwrap(), encode(&other).unwrap());
        assert_eq!((collected.count(), collected.count_up_to(0.0)), (2_078, 12));
    }
}
