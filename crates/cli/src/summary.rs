//! A summary of a run: the quantiles of its ticks' lateness. It is printed to standard error when
//! the run ends, so that standard output contains ticks only.

use std::fmt;

use hdrhistogram::Histogram;
use tickstorm_client::{Quality, Tick};

/// The number of significant digits of the histogram: more than the estimate of authority time has,
/// and more than any reader needs.
const DIGITS: u8 = 3;
/// The greatest lateness that the histogram distinguishes, in microseconds: one minute.
const MAX_US: u64 = 60_000_000;
/// The minimum number of ticks for a summary: fewer do not make a distribution.
const TICKS_MIN: u64 = 5;

/// The distribution of the lateness of all ticks for which it is meaningful.
pub(crate) struct Summary(Histogram<u64>);

impl Summary {
    pub(crate) fn new() -> Self {
        Self(
            Histogram::new_with_bounds(1, MAX_US, DIGITS)
                .expect("hdrhistogram accepts these constants"),
        )
    }

    /// Counts a tick, unless its lateness means nothing: REPLAY is late by nature, and without
    /// authority time lateness is unknown.
    pub(crate) fn count(&mut self, tick: &Tick) {
        if let Some(late_us) = tick.late_us().filter(|_| tick.quality != Quality::Replay) {
            self.0.saturating_record(late_us.max(0).unsigned_abs());
        }
    }

    /// Returns whether enough ticks were counted for a summary.
    pub(crate) fn has_enough_ticks(&self) -> bool {
        self.0.len() >= TICKS_MIN
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |us: u64| std::time::Duration::from_micros(us).as_secs_f64() * 1e3;
        let at = |quantile| ms(self.0.value_at_quantile(quantile));
        write!(
            f,
            "{} ticks, lateness in ms: min {:.2}, p50 {:.2}, p95 {:.2}, p99 {:.2}, max {:.2}",
            self.0.len(),
            ms(self.0.min()),
            at(0.50),
            at(0.95),
            at(0.99),
            ms(self.0.max()),
        )
    }
}

#[cfg(test)]
mod tests {
    use tickstorm_client::{Epoch, Estimate, Mode, UnixTime};

    use super::*;

    fn tick(late_us: i64, quality: Quality) -> Tick {
        let unix = UnixTime::from_micros(5_000_000 + late_us).unwrap();
        let read = Some(Estimate::new(unix, 1));
        Tick::new(Mode::Second, Epoch::from_ms(5_000), quality).read_at(read)
    }

    #[test]
    fn the_summary_has_quantiles_of_meaningful_lateness() {
        let mut summary = Summary::new();
        summary.count(&tick(9_000_000, Quality::Replay));
        summary.count(&tick(0, Quality::Normal).read_at(None));
        assert!(!summary.has_enough_ticks());
        (1..=100).for_each(|n| summary.count(&tick(n * 10, Quality::Normal)));
        assert!(summary.has_enough_ticks());
        let text = summary.to_string();
        assert_eq!(
            text,
            "100 ticks, lateness in ms: min 0.01, p50 0.50, p95 0.95, p99 0.99, max 1.00"
        );
    }
}
