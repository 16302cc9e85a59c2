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
}

/// CLOCK_MONOTONIC_RAW. Plain CLOCK_MONOTONIC will not do, since chrony slews it by up to 8 %. A
/// reading costs about 25 ns.
///
/// On systems other than Linux this is the clock behind [`std::time::Instant`], counted from
/// shortly before its first reading in this process: CLOCK_UPTIME_RAW on macOS, the performance
/// counter on Windows. Neither is slewed.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Mono {
        Mono::from_nanos(system::raw_ns())
    }
}

/// A clock for tests that moves only when the test moves it. Clones share one time.
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// Creates a clock that reads `now`.
    #[must_use]
    pub fn new(now: Mono) -> Self {
        Self(Arc::new(AtomicU64::new(now.as_nanos())))
    }

    /// Sets the clock to `now`, which may be in its past.
    pub fn set(&self, now: Mono) {
        self.0.store(now.as_nanos(), Ordering::SeqCst);
    }

    /// Moves the clock forward by `duration`.
    pub fn advance(&self, duration: Duration) {
        self.set(self.now() + duration);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Mono {
        Mono::from_nanos(self.0.load(Ordering::SeqCst))
    }
}
