//! [`Turns`]: measures how long the turns of a shard's loop take. While the shard waits, for events
//! or until a tick is due, there is no turn.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tickstorm_timebase::Mono;

use super::Vitals;
use crate::histogram::{BulkHistogram, LocalHistogram};

/// The latest turns are those of the present interval and of the three before it, so of 15 to 20 s:
/// a scrape every 15 s sees each long turn.
const INTERVALS: usize = 4;
const INTERVAL_NS: u64 = 5_000_000_000;

/// Measures the turns of one shard.
pub(super) struct Turns {
    /// The time at which the turn in progress began; `None` before the first one.
    began: Option<Mono>,
    lengths: LocalHistogram,
    latest: LatestMax,
    vitals: Arc<Vitals>,
}

/// The maxima of the latest intervals.
#[derive(Debug, Default)]
struct LatestMax {
    /// The number of the present interval, counted from the machine's zero.
    interval: u64,
    /// The maxima, that of the present interval first.
    maxima: [Duration; INTERVALS],
}

impl Turns {
    pub(super) fn new(lengths: BulkHistogram, vitals: Arc<Vitals>) -> Self {
        Self {
            began: None,
            lengths: LocalHistogram::new(lengths),
            latest: LatestMax::default(),
            vitals,
        }
    }

    /// Begins a turn, which ends the one before.
    pub(super) fn begin(&mut self, now: Mono) {
        if let Some(began) = self.began {
            let length = now.since(began);
            self.lengths.observe(length.as_secs_f64());
            self.latest.note(now, length);
        }
        self.end_wait(now);
    }

    /// Notes that the shard begins to wait. The turn before that does not count: it has found
    /// nothing to do.
    pub(super) fn begin_wait(&mut self) {
        self.began = None;
        self.vitals.turn_began.store(0, Ordering::Relaxed);
    }

    /// Notes that the shard has stopped waiting, and continues its turn.
    pub(super) fn end_wait(&mut self, now: Mono) {
        self.began = Some(now);
        let began = &self.vitals.turn_began;
        began.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// Publishes what was measured.
    pub(super) fn publish(&mut self, now: Mono) {
        self.lengths.publish();
        let longest = self.latest.at(now).as_nanos();
        let longest = u64::try_from(longest).unwrap_or(u64::MAX);
        self.vitals.longest_turn.store(longest, Ordering::Relaxed);
    }
}

impl LatestMax {
    fn note(&mut self, now: Mono, length: Duration) {
        self.advance(now);
        self.maxima[0] = length.max(self.maxima[0]);
    }

    /// Returns the maximum of the latest intervals.
    fn at(&mut self, now: Mono) -> Duration {
        self.advance(now);
        self.maxima.into_iter().max().unwrap_or_default()
    }

    /// Forgets the intervals that are no longer among the latest at `now`.
    fn advance(&mut self, now: Mono) {
        let present = now.as_nanos() / INTERVAL_NS;
        for _ in (self.interval..present).take(INTERVALS) {
            self.maxima.rotate_right(1);
            self.maxima[0] = Duration::ZERO;
        }
        self.interval = present;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    proptest! {
        #[test]
        fn a_long_turn_is_seen_for_15_to_20_s(
            end_ms in 0_u64..100_000,
            others in prop::collection::vec(0_u64..40_000, 0..20),
        ) {
            let mut latest = LatestMax::default();
            let long = Duration::from_millis(300);
            latest.note(at(end_ms), long);
            let mut others = others;
            others.sort_unstable();
            for after_ms in others {
                let now = at(end_ms + after_ms);
                latest.note(now, Duration::from_millis(2));
                let is_seen = latest.at(now) == long;
                if after_ms < 15_000 {
                    prop_assert!(is_seen, "{after_ms}");
                }
                if after_ms >= 20_000 {
                    prop_assert_eq!(latest.at(now), Duration::from_millis(2));
                }
            }
        }
    }

    #[test]
    fn after_a_minute_without_turns_none_is_among_the_latest() {
        let mut latest = LatestMax::default();
        for ms in [0, 5_000, 10_000, 15_000] {
            latest.note(at(ms), Duration::from_secs(1));
        }
        assert_eq!(latest.at(at(34_999)), Duration::from_secs(1));
        assert_eq!(latest.at(at(80_000)), Duration::ZERO);
    }
}
