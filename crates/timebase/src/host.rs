//! The host's own clock, which chrony, PTP or the cloud's time service disciplines. Only a clock replica trusts it; edges never
//! look at it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::system::{monotonic_ns, real_ns};
use crate::unix::UnixTime;

/// One look at the host's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostReading {
    /// CLOCK_REALTIME, skew included.
    pub unix: UnixTime,
    /// CLOCK_REALTIME − CLOCK_MONOTONIC in nanoseconds. Slewing changes both alike, so this moves only when the clock is stepped.
    pub real_minus_mono_ns: i64,
}

/// Reads the host's clock.
pub trait HostClock {
    /// The host's time at this moment.
    fn read(&self) -> HostReading;
}

/// CLOCK_REALTIME, with a skew added for tests and drills.
///
/// On systems other than Linux slewing looks like a step in [`HostReading::real_minus_mono_ns`] once it adds up, so a clock replica
/// runs on Linux only.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemHost {
    skew_ns: i64,
}

impl SystemHost {
    /// The host's clock with `skew_ms` (CLOCK_SKEW_MS) added.
    #[must_use]
    pub const fn new(skew_ms: i64) -> Self {
        Self {
            skew_ns: skew_ms.saturating_mul(1_000_000),
        }
    }
}

impl HostClock for SystemHost {
    /// Looks three times and trusts the look that took least, so that a preemption is not taken for a step.
    fn read(&self) -> HostReading {
        let best = [(); 3]
            .map(|()| Look::take())
            .into_iter()
            .reduce(Look::narrower);
        let look = best.expect("three looks were taken");
        let real_minus_mono_ns = look.real_minus_mono_ns.saturating_add(self.skew_ns);
        let unix_ns = monotonic_ns().saturating_add(real_minus_mono_ns);
        HostReading {
            unix: UnixTime::from_nanos(unix_ns),
            real_minus_mono_ns,
        }
    }
}

/// CLOCK_REALTIME read between two readings of CLOCK_MONOTONIC.
struct Look {
    real_minus_mono_ns: i64,
    width_ns: i64,
}

impl Look {
    fn take() -> Self {
        let before = monotonic_ns();
        let real = real_ns();
        let width_ns = monotonic_ns().saturating_sub(before);
        let middle = before.saturating_add(width_ns / 2);
        Self {
            real_minus_mono_ns: real.saturating_sub(middle),
            width_ns,
        }
    }

    fn narrower(self, other: Self) -> Self {
        if other.width_ns < self.width_ns {
            other
        } else {
            self
        }
    }
}

/// A host's clock for tests, which stands still until it is told otherwise. Clones share one time.
#[derive(Clone, Debug)]
pub struct ManualHost {
    unix_ns: Arc<AtomicI64>,
    real_minus_mono_ns: Arc<AtomicI64>,
}

impl ManualHost {
    /// A host that says `unix`.
    #[must_use]
    pub fn new(unix: UnixTime) -> Self {
        Self {
            unix_ns: Arc::new(AtomicI64::new(unix.as_nanos())),
            real_minus_mono_ns: Arc::new(AtomicI64::new(unix.as_nanos())),
        }
    }

    /// Lets `duration` pass.
    pub fn advance(&self, duration: Duration) {
        let nanos =
            i64::try_from(duration.as_nanos()).expect("tests advance by less than 292 years");
        self.unix_ns.fetch_add(nanos, Ordering::SeqCst);
    }

    /// Steps the clock by so many nanoseconds, either way.
    pub fn step(&self, by_ns: i64) {
        self.unix_ns.fetch_add(by_ns, Ordering::SeqCst);
        self.real_minus_mono_ns.fetch_add(by_ns, Ordering::SeqCst);
    }
}

impl HostClock for ManualHost {
    fn read(&self) -> HostReading {
        HostReading {
            unix: UnixTime::from_nanos(self.unix_ns.load(Ordering::SeqCst)),
            real_minus_mono_ns: self.real_minus_mono_ns.load(Ordering::SeqCst),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_read_with_its_skew_and_without_inventing_steps() {
        let (plain, skewed) = (
            SystemHost::default().read(),
            SystemHost::new(-90_000).read(),
        );
        let skew_ns = skewed.real_minus_mono_ns - plain.real_minus_mono_ns;
        assert!(
            skew_ns.abs_diff(-90_000_000_000) < 1_000_000_000,
            "skewed by {skew_ns} ns"
        );
        let apart_ns = plain.unix.as_nanos() - skewed.unix.as_nanos();
        assert!(
            (0..=90_000_000_000).contains(&apart_ns),
            "apart by {apart_ns} ns"
        );
        // The year 2020: whatever this machine thinks, it has been set.
        assert!(plain.unix.as_millis() > 1_577_836_800_000);
    }
}
