//! The source of `now`: the machine's clock, or a manual one in tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::mono::Mono;
use crate::system;

/// A source of the machine's own time. Only drivers hold one; state machines are passed `now`.
pub trait Clock {
    /// Returns the current moment.
    fn now(&self) -> Mono;

    /// Returns for how long the machine has been suspended, counted from a fixed moment in its
    /// past. [`Clock::now`] stops while a machine is suspended, so a time sample from before
    /// is then wrong by as much as this has grown since. Two readings a few seconds apart without a
    /// suspension between them differ by less than [`SUSPENSION_MIN`]. Over minutes, they may drift
    /// further apart, so compare each with the one before.
    fn suspended(&self) -> Duration;
}

/// The growth of [`Clock::suspended`] from which on a machine counts as having been suspended. It
/// is far more than the error of a reading, and far less than any machine takes to resume.
pub const SUSPENSION_MIN: Duration = Duration::from_millis(10);

/// Returns whether the machine was suspended between two readings of [`Clock::suspended`].
#[must_use]
pub fn was_suspended(before: Duration, after: Duration) -> bool {
    before.abs_diff(after) >= SUSPENSION_MIN
}

/// CLOCK_MONOTONIC_RAW. Plain CLOCK_MONOTONIC will not do, since chrony slews it by up to 8 %. A
/// reading costs about 25 ns.
///
/// On systems other than Linux this is the clock behind [`std::time::Instant`], counted from
/// shortly before its first reading in this process: CLOCK_UPTIME_RAW on macOS, the performance
/// counter on Windows. Neither is slewed.
///
/// The time suspended is CLOCK_BOOTTIME − CLOCK_MONOTONIC on Linux. Elsewhere it is the wall clock
/// minus this clock, so it drifts, and a step of the wall clock looks like a suspension.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Mono {
        Mono::from_nanos(system::raw_ns())
    }

    fn suspended(&self) -> Duration {
        Duration::from_nanos(u64::try_from(system::suspended_ns()).unwrap_or(0))
    }
}

/// A clock for tests that moves only when the test moves it. Clones share one time.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    now_ns: Arc<AtomicU64>,
    suspended_ns: Arc<AtomicU64>,
}

impl ManualClock {
    /// Creates a clock that reads `now`.
    #[must_use]
    pub fn new(now: Mono) -> Self {
        let clock = Self::default();
        clock.set(now);
        clock
    }

    /// Sets the clock to `now`, which may be in its past.
    pub fn set(&self, now: Mono) {
        self.now_ns.store(now.as_nanos(), Ordering::SeqCst);
    }

    /// Moves the clock forward by `duration`.
    pub fn advance(&self, duration: Duration) {
        self.set(self.now() + duration);
    }

    /// Suspends the machine for `duration`, which does not move the clock.
    pub fn suspend(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).expect("tests suspend for under 584 years");
        self.suspended_ns.fetch_add(nanos, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Mono {
        Mono::from_nanos(self.now_ns.load(Ordering::SeqCst))
    }

    fn suspended(&self) -> Duration {
        Duration::from_nanos(self.suspended_ns.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_of_a_machine_that_runs_show_no_suspension() {
        let before = SystemClock.suspended();
        for _ in 0..1_000 {
            let after = SystemClock.suspended();
            assert!(!was_suspended(before, after), "{before:?}, then {after:?}");
        }
    }

    #[test]
    fn a_suspension_shows_in_the_time_suspended_only() {
        let clock = ManualClock::new(Mono::from_nanos(7));
        let before = clock.suspended();
        clock.suspend(Duration::from_millis(9));
        assert!(!was_suspended(before, clock.suspended()));
        clock.suspend(Duration::from_millis(1));
        assert!(was_suspended(before, clock.suspended()));
        assert_eq!(clock.now(), Mono::from_nanos(7));
    }
}
