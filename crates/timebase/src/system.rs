//! The machine's clocks, in nanoseconds: this crate's only system calls. Linux has exactly the
//! clocks needed; other systems use their nearest equivalents in the standard library.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(any(not(target_os = "linux"), test))]
mod portable;

#[cfg(target_os = "linux")]
pub(crate) use linux::{monotonic_ns, raw_ns, real_ns, suspended_ns};
#[cfg(not(target_os = "linux"))]
pub(crate) use portable::{monotonic_ns, raw_ns, real_ns, suspended_ns};

/// A reading of a clock between two of [`monotonic_ns`].
#[derive(Clone, Copy)]
pub(crate) struct BracketedReading {
    pub(crate) minus_monotonic_ns: i64,
    width_ns: i64,
}

impl BracketedReading {
    /// Reads `clock` three times and returns the reading that took the least time, so that being
    /// preempted is not mistaken for a difference between the clocks.
    pub(crate) fn take(clock: fn() -> i64) -> Self {
        let once = || {
            let before = monotonic_ns();
            let read = clock();
            let width_ns = monotonic_ns().saturating_sub(before);
            Self {
                minus_monotonic_ns: read.saturating_sub(before.saturating_add(width_ns / 2)),
                width_ns,
            }
        };
        (0..2).fold(once(), |best, _| best.narrower(once()))
    }

    fn narrower(self, other: Self) -> Self {
        if other.width_ns < self.width_ns {
            other
        } else {
            self
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;
    use std::time::Duration;

    use super::portable;

    #[test]
    fn the_portable_clocks_start_above_zero_and_advance() {
        let read = || {
            [
                i64::try_from(portable::raw_ns()).unwrap(),
                portable::monotonic_ns(),
                portable::real_ns(),
            ]
        };
        let before = read();
        sleep(Duration::from_millis(5));
        let after = read();
        for (clock, (before, after)) in before.into_iter().zip(after).enumerate() {
            assert!(
                before > 0 && after >= before + 4_000_000,
                "clock {clock}: {before}, then {after}"
            );
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn real_time_is_the_same_on_linux_and_portably() {
        let apart_ns = portable::real_ns().abs_diff(super::linux::real_ns());
        assert!(apart_ns < 1_000_000_000, "{apart_ns} ns apart");
    }
}
