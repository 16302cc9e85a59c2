//! The clocks of Linux, by way of the vDSO.

use rustix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC_RAW, which nothing slews.
pub(crate) fn raw_ns() -> u64 {
    u64::try_from(nanos(ClockId::MonotonicRaw)).unwrap_or(0)
}

/// CLOCK_MONOTONIC, which is slewed as CLOCK_REALTIME is.
pub(crate) fn monotonic_ns() -> i64 {
    nanos(ClockId::Monotonic)
}

/// CLOCK_REALTIME: Unix time.
pub(crate) fn real_ns() -> i64 {
    nanos(ClockId::Realtime)
}

fn nanos(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(time.tv_nsec)
}
