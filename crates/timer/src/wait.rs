//! [`Wait`]: the next step in waiting for a moment. This module is arithmetic only; it reads no
//! clock and sets no timer.

use std::time::Duration;

/// The time before the moment at which sleeping ends and spinning begins. A timerfd wakes its
/// thread 50 to 150 µs late (docs/performance.md).
pub const SPIN: Duration = Duration::from_micros(150);

/// The largest slew between the two clocks, as a divisor. Timers run on CLOCK_MONOTONIC, moments
/// are counted on CLOCK_MONOTONIC_RAW, and chrony slews the former against the latter by at most a
/// twelfth (its `maxslewrate`, 83,333 ppm).
const SLEW_SHARE: u32 = 12;

/// The part of [`SPIN`] that remains for a late timer when the clock is slewed at the maximum rate;
/// the slew of the last sleep may use up the rest. Without spinning, this is the most that slewing
/// adds to the timer's own lateness.
const LATE: Duration = Duration::from_micros(100);

/// The next step in waiting for a moment. Plan again after each sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The moment has come.
    Due,
    /// Read the clock repeatedly, without sleeping, until the moment has come.
    Spin,
    /// Set a timer on CLOCK_MONOTONIC for this long, then read CLOCK_MONOTONIC_RAW again.
    Sleep(Duration),
}

impl Wait {
    /// Returns the next step when the moment is `remaining` away on CLOCK_MONOTONIC_RAW.
    ///
    /// With `spins`, the wait never overshoots, whatever the slew, if the timer by itself is at
    /// most 100 µs late, or 150 µs if there is no slew. Without `spins`, slewing adds at most 100
    /// µs to the timer's own lateness. A wait of one second takes four sleeps, or up to twelve at
    /// the maximum slew.
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
            // The last sleep may end up to `LATE` after the moment.
            Self::Sleep(remaining.min(never_over(remaining.saturating_add(LATE))))
        }
    }
}

/// Returns the longest sleep that takes no more than `duration`, however slowly CLOCK_MONOTONIC
/// runs.
fn never_over(duration: Duration) -> Duration {
    duration / SLEW_SHARE * (SLEW_SHARE - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A simulated timer whose clock is slewed by `slew_ppm`, and which wakes its thread `late_ns`
    /// late.
    #[derive(Clone, Copy, Debug)]
    struct SimulatedTimer {
        slew_ppm: i64,
        late_ns: u64,
    }

    /// The outcome of a wait.
    #[derive(Debug)]
    struct Waited {
        sleeps: u32,
        spun_ns: u64,
        /// The time from the moment to the end of the wait.
        overshoot_ns: u64,
    }

    impl SimulatedTimer {
        /// Returns the time that `sleep` takes on CLOCK_MONOTONIC_RAW, rounded up.
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
                        assert!(!sleep.is_zero(), "an empty sleep with {remaining:?} left");
                        now_ns += self.takes_ns(sleep);
                        sleeps += 1;
                        assert!(sleeps < 100, "the wait does not end");
                    }
                    done @ (Wait::Due | Wait::Spin) => {
                        assert!(done == Wait::Due || spins);
                        return Waited {
                            sleeps,
                            spun_ns: remaining_ns.saturating_sub(now_ns),
                            overshoot_ns: now_ns.saturating_sub(remaining_ns),
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

    /// Waits from 1 ns to 100 s in nanoseconds, with every order of magnitude equally likely.
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
            let waited = SimulatedTimer { slew_ppm, late_ns }.wait(remaining_ns, true);
            prop_assert_eq!(waited.overshoot_ns, 0, "{:?}", waited);
            prop_assert!(waited.spun_ns <= 150_000, "{:?}", waited);
        }

        #[test]
        fn without_a_slew_all_of_the_spinning_time_allows_for_a_late_timer(
            late_ns in 0..=150_000_u64,
            remaining_ns in waits(),
        ) {
            let waited = SimulatedTimer { slew_ppm: 0, late_ns }.wait(remaining_ns, true);
            prop_assert_eq!(waited.overshoot_ns, 0, "{:?}", waited);
        }

        #[test]
        fn without_spinning_slewing_adds_a_bounded_lateness(
            slew_ppm in slews(),
            late_ns in 0..=1_000_000_u64,
            remaining_ns in waits(),
        ) {
            let waited = SimulatedTimer { slew_ppm, late_ns }.wait(remaining_ns, false);
            // Rounding up adds one nanosecond.
            prop_assert!(waited.overshoot_ns <= late_ns + LATE_NS + 1, "{:?}", waited);
        }

        #[test]
        fn few_sleeps_are_enough(
            slew_ppm in slews(),
            late_ns in 0..=LATE_NS,
            remaining_ns in 1..=1_000_000_000_u64,
            spins: bool,
        ) {
            let waited = SimulatedTimer { slew_ppm, late_ns }.wait(remaining_ns, spins);
            prop_assert!(waited.sleeps <= 12, "{:?}", waited);
            let waited = SimulatedTimer { slew_ppm: 0, late_ns }.wait(remaining_ns, spins);
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
