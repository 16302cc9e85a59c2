//! The host's wall clock, which chrony, PTP or the cloud's time service disciplines. Only clock
//! replicas trust it. No tick of an edge depends on it: edges check certificates by it, and report
//! how far it is off.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::system::{BracketedReading, monotonic_ns, real_ns};
use crate::unix::UnixTime;

/// One reading of the host's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostReading {
    /// CLOCK_REALTIME, plus the skew that [`SystemHost`] adds.
    pub unix: UnixTime,
    /// CLOCK_REALTIME − CLOCK_MONOTONIC in nanoseconds. Slewing changes both alike, so this changes
    /// only when the clock is stepped.
    pub real_minus_mono_ns: i64,
}

/// Reads the host's clock.
pub trait HostClock {
    /// Reads the clock now.
    fn read(&self) -> HostReading;
}

/// CLOCK_REALTIME, plus a skew for tests and drills.
///
/// On systems other than Linux, slewing accumulates in [`HostReading::real_minus_mono_ns`] until it
/// looks like a step, so a clock replica runs only on Linux.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemHost {
    skew_ns: i64,
}

impl SystemHost {
    /// Creates a host clock that adds `skew_ms` (CLOCK_SKEW_MS).
    #[must_use]
    pub const fn new(skew_ms: i64) -> Self {
        Self {
            skew_ns: skew_ms.saturating_mul(1_000_000),
        }
    }
}

impl HostClock for SystemHost {
    fn read(&self) -> HostReading {
        let real_minus_mono_ns = BracketedReading::take(real_ns)
            .minus_monotonic_ns
            .saturating_add(self.skew_ns);
        let unix_ns = monotonic_ns().saturating_add(real_minus_mono_ns);
        HostReading {
            unix: UnixTime::from_nanos(unix_ns),
            real_minus_mono_ns,
        }
    }
}

/// A host clock for tests that moves only when the test moves it. Clones share one time.
#[derive(Clone, Debug)]
pub struct ManualHost {
    unix_ns: Arc<AtomicI64>,
    real_minus_mono_ns: Arc<AtomicI64>,
}

impl ManualHost {
    /// Creates a host clock that reads `unix`.
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

    /// Steps the clock by `by_ns`, forward or back.
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
    fn a_reading_includes_the_skew_and_is_repeatable() {
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
        // The start of 2020: even a badly set machine is past that.
        assert!(plain.unix.as_millis() > 1_577_836_800_000);
    }
}
