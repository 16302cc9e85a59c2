//! [`Arrivals`]: when honest clients got each tick, and the figures of this.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::verdict::Lateness;

/// Arrivals after a tick's time, in nanoseconds.
#[derive(Default)]
pub(crate) struct Arrivals {
    all: Option<Histogram<u64>>,
    /// The 99th percentile of each tick.
    p99s: Vec<u64>,
}

impl Arrivals {
    /// Adds what arrived in one second. A second in which nothing arrived counts as the worst.
    ///
    /// # Errors
    /// The histograms are of different kinds.
    pub(crate) fn add_tick(&mut self, tick: &Histogram<u64>) -> anyhow::Result<()> {
        let nothing = tick.is_empty();
        let p99 = tick.value_at_quantile(0.99);
        self.p99s.push(if nothing { u64::MAX } else { p99 });
        match &mut self.all {
            None => self.all = Some(tick.clone()),
            Some(all) => all.add(tick)?,
        }
        Ok(())
    }

    /// Returns the number of arrivals that were later than this.
    pub(crate) fn later_than(&self, bound: Duration) -> u64 {
        let bound_ns = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        let all = self.all.as_ref();
        all.map_or(0, |all| all.count_between(bound_ns, u64::MAX))
    }

    pub(crate) fn lateness(mut self) -> Lateness {
        self.p99s.sort_unstable();
        let median = self.p99s.get(self.p99s.len() / 2).copied();
        let all = self.all.as_ref();
        let quantile_ms = |quantile| {
            all.map_or(0.0, |all: &Histogram<u64>| {
                ms(all.value_at_quantile(quantile))
            })
        };
        Lateness {
            ticks: u32::try_from(self.p99s.len()).unwrap_or(u32::MAX),
            p50_ms: quantile_ms(0.50),
            p99_ms: quantile_ms(0.99),
            tick_p99_ms: median.map_or(0.0, ms),
            max_ms: all.map_or(0.0, |all| ms(all.max())),
        }
    }
}

fn ms(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn of_ticks(ticks: &[&[u64]]) -> Arrivals {
        let mut arrivals = Arrivals::default();
        for tick in ticks {
            let mut histogram = Histogram::new(3).unwrap();
            for &ms in *tick {
                histogram.record(ms * MS).unwrap();
            }
            arrivals.add_tick(&histogram).unwrap();
        }
        arrivals
    }

    #[test]
    fn one_late_tick_of_five_decides_the_p99_of_all_but_not_that_of_the_median_tick() {
        let usual = [1, 2, 3].as_slice();
        let arrivals = of_ticks(&[usual, usual, &[1, 2, 50], usual, usual]);
        assert_eq!(arrivals.later_than(Duration::from_millis(40)), 1);
        let lateness = arrivals.lateness();
        assert_eq!(lateness.ticks, 5);
        assert!((lateness.tick_p99_ms - 3.0).abs() < 0.1, "{lateness:?}");
        assert!((lateness.p99_ms - 50.0).abs() < 0.1, "{lateness:?}");
        assert!((lateness.max_ms - 50.0).abs() < 0.1, "{lateness:?}");
    }

    #[test]
    fn ticks_that_did_not_arrive_are_the_latest_of_all() {
        let lateness = of_ticks(&[&[1], &[], &[]]).lateness();
        assert!(lateness.tick_p99_ms > 1_000_000.0, "{lateness:?}");
    }
}
