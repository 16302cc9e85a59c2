//! Linux's clocks, read through the vDSO.

use rustix::time::{ClockId, clock_gettime};

use super::BracketedReading;

/// Reads CLOCK_MONOTONIC_RAW, which is never slewed.
pub(crate) fn raw_ns() -> u64 {
    u64::try_from(nanos(ClockId::MonotonicRaw)).unwrap_or(0)
}

/// Reads CLOCK_MONOTONIC, which is slewed together with CLOCK_REALTIME.
pub(crate) fn monotonic_ns() -> i64 {
    nanos(ClockId::Monotonic)
}

/// Reads CLOCK_REALTIME: Unix time.
pub(crate) fn real_ns() -> i64 {
    nanos(ClockId::Realtime)
}

/// Returns CLOCK_BOOTTIME − CLOCK_MONOTONIC: for how long the machine has been suspended since it
/// started. Nothing else changes it, since both clocks are slewed alike.
pub(crate) fn suspended_ns() -> i64 {
    BracketedReading::take(|| nanos(ClockId::Boottime)).minus_monotonic_ns
}

fn nanos(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(time.tv_nsec)
}
