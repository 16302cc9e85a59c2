//! Where `now` comes from: the machine's clock, and the manual one of tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::mono::Mono;
use crate::system;

/// Tells the machine's own time. Only drivers hold one; state machines are given `now`.
pub trait Clock {
    /// The present moment.
    fn now(&self) -> Mono;
}

/// CLOCK_MONOTONIC_RAW: RAW, since chrony slews CLOCK_MONOTONIC by up to 8 %. A reading costs about 25 ns.
///
/// On systems other than Linux it is the clock of [`std::time::Instant`], counted from shortly before its first reading in this
/// process: CLOCK_UPTIME_RAW on macOS, the performance counter on Windows. Neither is slewed.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Mono {
        Mono::from_nanos(system::raw_ns())
    }
}

/// A clock for tests that stands still until it is told otherwise. Clones share one time.
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// A clock that says `now`.
    #[must_use]
    pub fn new(now: Mono) -> Self {
        Self(Arc::new(AtomicU64::new(now.as_nanos())))
    }

    /// Moves to `now`, which may lie in the past.
    pub fn set(&self, now: Mono) {
        self.0.store(now.as_nanos(), Ordering::SeqCst);
    }

    /// Moves on by `duration`.
    pub fn advance(&self, duration: Duration) {
        self.set(self.now() + duration);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Mono {
        Mono::from_nanos(self.0.load(Ordering::SeqCst))
    }
}
