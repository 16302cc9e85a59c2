//! [`TokenBucket`]: how often something may happen.

use std::time::Duration;

use tickstorm_timebase::Mono;

/// A rate: `burst` events at once, and one more per `interval`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) interval: Duration,
    pub(crate) burst: u32,
}

impl Rate {
    /// The rate of `per_second` events, after a burst of `burst`.
    pub(crate) const fn per_second(per_second: u32, burst: u32) -> Self {
        Self {
            interval: Duration::from_nanos(1_000_000_000 / per_second as u64),
            burst,
        }
    }
}

/// A token bucket, kept as the moment at which it is full again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TokenBucket {
    full_at: Mono,
}

impl TokenBucket {
    /// Returns whether another event is within `rate`.
    pub(crate) fn has(&self, rate: Rate, now: Mono) -> bool {
        let missing = self.full_at.since(now);
        missing + rate.interval <= rate.interval.saturating_mul(rate.burst)
    }

    /// Counts an event, whether or not it is within the rate.
    pub(crate) fn take(&mut self, rate: Rate, now: Mono) {
        self.full_at = self.full_at.max(now) + rate.interval;
    }

    /// Leaves a time out, which has just passed: nothing was earned in it.
    pub(crate) fn shift(&mut self, time: Duration) {
        self.full_at = self.full_at + time;
    }

    /// Counts an event if it is within `rate`, and returns whether it is.
    pub(crate) fn try_take(&mut self, rate: Rate, now: Mono) -> bool {
        let has = self.has(rate, now);
        if has {
            self.take(rate, now);
        }
        has
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_second_has_at_most_the_burst_and_a_second_of_the_rate(
            gaps_us in prop::collection::vec(0_u64..200_000, 1..500),
        ) {
            let rate = Rate::per_second(40, 10);
            let mut bucket = TokenBucket::default();
            let (mut now, mut passed) = (Mono::ZERO, Vec::new());
            for gap_us in gaps_us {
                now = now + Duration::from_micros(gap_us);
                if bucket.try_take(rate, now) {
                    passed.push(now);
                }
            }
            for (i, start) in passed.iter().enumerate() {
                let within = passed[i..].iter().take_while(|at| {
                    at.since(*start) < Duration::from_secs(1)
                });
                prop_assert!(within.count() <= 50);
            }
        }
    }

    #[test]
    fn a_bucket_refills_and_its_debt_is_remembered() {
        let rate = Rate::per_second(10, 2);
        let at = |ms: u64| Mono::from_nanos(ms * 1_000_000);
        let mut bucket = TokenBucket::default();
        let taken: Vec<bool> = [0, 0, 0, 99, 100, 100, 300, 300, 300]
            .map(|ms| bucket.try_take(rate, at(ms)))
            .into();
        let expected = [true, true, false, false, true, false, true, true, false];
        assert_eq!(taken, expected);
        for _ in 0..5 {
            bucket.take(rate, at(300));
        }
        assert!(!bucket.has(rate, at(890)));
        assert!(bucket.has(rate, at(900)));
    }
}
