//! [`Wait`]: what to do while a moment has not come yet. Arithmetic only; it reads no clock and
//! sets no timer.

use std::time::Duration;

/// How long before the moment sleeping ends and spinning begins. A timerfd wakes its thread 50 to
/// 150 µs late (docs/performance.md).
pub const SPIN: Duration = Duration::from_micros(150);

/// The system's timers run on CLOCK_MONOTONIC, moments are counted on CLOCK_MONOTONIC_RAW, and
/// chrony slews the former against the latter by at most a twelfth (its `maxslewrate`, 83,333 ppm).
const SLEW_SHARE: u32 = 12;

/// The part of [`SPIN`] that is left for a late timer when the clock is slewed as far as it can be;
/// the slew of the last sleep may use up the rest. Without spinning, the most that slewing adds to
/// a timer's own lateness.
const LATE: Duration = Duration::from_micros(100);

/// What to do next while waiting for a moment. Ask again after each sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The moment has come.
    Due,
    /// Look at the clock without sleeping, until the moment has come.
    Spin,
    /// Set a timer on CLOCK_MONOTONIC for so long, then look at CLOCK_MONOTONIC_RAW again.
    Sleep(Duration),
}

impl Wait {
    /// What to do when the moment is `remaining` away on CLOCK_MONOTONIC_RAW.
    ///
    /// With `spins`, no slew makes a timer miss the moment that is at most 100 µs late by itself,
    /// or 150 µs without a slew. Otherwise slewing adds at most 100 µs to what the timer is late
    /// by. One second takes four sleeps, or up to twelve at the greatest slew.
    #[must_use]
    pub fn plan(remaining: Duration, spins: bool) -> Self {
        let spun = if spins { SPIN } else { Duration::ZERO };
        if remaining.is_zero() {
            Self::Due
        } else if remaining <= spun {
            Self::Spin
        } else if spins {
            Self::Sleep((remaining - spun).min(never_over(remaining.saturating_sub(LATE))))
        } else {
            // The last sleep may end late by `LATE`.
            Self::Sleep(remaining.min(never_over(remaining.saturating_add(LATE))))
        }
    }
}

/// The longest sleep that takes no more than `duration`, however slowly CLOCK_MONOTONIC runs.
fn never_over(duration: Duration) -> Duration {
    duration / SLEW_SHARE * (SLEW_SHARE - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A timer whose clock is slewed by `slew_ppm`, and which wakes its thread `late_ns` late.
    #[derive(Clone, Copy, Debug)]
    struct World {
        slew_ppm: i64,
        late_ns: u64,
    }

    /// How a wait went.
    #[derive(Debug)]
    struct Waited {
        sleeps: u32,
        spun_ns: u64,
        /// How long after the moment it ended.
        over_ns: u64,
    }

    impl World {
        /// What `sleep` takes on CLOCK_MONOTONIC_RAW, rounded up.
        fn takes_ns(self, sleep: Duration) -> u64 {
            let rate = u128::try_from(1_000_000 + self.slew_ppm).unwrap();
            let slept = (sleep.as_nanos() * 1_000_000).div_ceil(rate);
            u64::try_from(slept).unwrap() + self.late_ns
        }

        fn wait(self, remaining_ns: u64, spins: bool) -> Waited {
            let (mut now_ns, mut sleeps) = (0, 0);
            loop {
                let remaining = Duration::from_nanos(remaining_ns.saturating_sub(now_ns));
                match Wait::plan(remaining, spins) {
                    Wait::Sleep(sleep) => {
                        assert!(!sleep.is_zero(), "a sleep of nothing {remaining:?} before");
                        now_ns += self.takes_ns(sleep);
                        sleeps += 1;
                        assert!(sleeps < 100, "it does not end");
                    }
                    done @ (Wait::Due | Wait::Spin) => {
                        assert!(done == Wait::Due || spins);
                        return Waited {
                            sleeps,
                            spun_ns: remaining_ns.saturating_sub(now_ns),
                            over_ns: now_ns.saturating_sub(remaining_ns),
                        };
                    }
                }
            }
        }
    }

    const SLEW_MAX_PPM: i64 = 83_333;
    const LATE_NS: u64 = 100_000;

    fn slews() -> impl Strategy<Value = i64> {
        prop_oneof![
            Just(-SLEW_MAX_PPM),
            Just(SLEW_MAX_PPM),
            -SLEW_MAX_PPM..=SLEW_MAX_PPM
        ]
    }

    /// Nanoseconds from 1 to 100 s, each magnitude as often as another.
    fn waits() -> impl Strategy<Value = u64> {
        (0_u32..11).prop_flat_map(|magnitude| 1..=10_u64.pow(magnitude + 1))
    }

    proptest! {
        #[test]
        fn spinning_never_misses_the_moment(
            slew_ppm in slews(),
            late_ns in prop_oneof![Just(0), Just(LATE_NS), 0..=LATE_NS],
            remaining_ns in waits(),
        ) {
            let waited = World { slew_ppm, late_ns }.wait(remaining_ns, true);
            prop_assert_eq!(waited.over_ns, 0, "{:?}", waited);
            prop_assert!(waited.spun_ns <= 150_000, "{:?}", waited);
        }

        #[test]
        fn without_a_slew_all_of_the_spinning_is_for_a_late_timer(
            late_ns in 0..=150_000_u64,
            remaining_ns in waits(),
        ) {
            let waited = World { slew_ppm: 0, late_ns }.wait(remaining_ns, true);
            prop_assert_eq!(waited.over_ns, 0, "{:?}", waited);
        }

        #[test]
        fn without_spinning_slewing_adds_a_bounded_lateness(
            slew_ppm in slews(),
            late_ns in 0..=1_000_000_u64,
            remaining_ns in waits(),
        ) {
            let waited = World { slew_ppm, late_ns }.wait(remaining_ns, false);
            // Rounding up costs a nanosecond.
            prop_assert!(waited.over_ns <= late_ns + LATE_NS + 1, "{:?}", waited);
        }

        #[test]
        fn few_sleeps_are_enough(
            slew_ppm in slews(),
            late_ns in 0..=LATE_NS,
            remaining_ns in 1..=1_000_000_000_u64,
            spins: bool,
        ) {
            let waited = World { slew_ppm, late_ns }.wait(remaining_ns, spins);
            prop_assert!(waited.sleeps <= 12, "{:?}", waited);
            let waited = World { slew_ppm: 0, late_ns }.wait(remaining_ns, spins);
            prop_assert!(waited.sleeps <= 4, "{:?}", waited);
        }
    }

    #[test]
    fn the_longest_wait_is_planned() {
        for spins in [false, true] {
            assert!(matches!(Wait::plan(Duration::MAX, spins), Wait::Sleep(_)));
        }
    }
}
