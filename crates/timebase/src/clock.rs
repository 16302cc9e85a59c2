//! Where `now` comes from: the one system clock that reads CLOCK_MONOTONIC_RAW, and the manual one of tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::mono::Mono;

/// Tells the machine's own time. Only drivers hold one; state machines are given `now`.
pub trait Clock {
    /// The present moment.
    fn now(&self) -> Mono;
}

/// CLOCK_MONOTONIC_RAW: RAW, since chrony slews CLOCK_MONOTONIC by up to 8 %. A reading costs about 25 ns.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Mono {
        let time = clock_gettime(ClockId::CLOCK_MONOTONIC_RAW)
            .expect("Linux has had CLOCK_MONOTONIC_RAW since 2.6.28");
        Mono::ZERO + Duration::from(time)
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
