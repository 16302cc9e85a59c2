//! Clocks that every system has. `Instant` is each system's clock for measuring intervals:
//! CLOCK_UPTIME_RAW on macOS and the performance counter on Windows, neither of which is slewed.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[cfg(not(target_os = "linux"))]
use super::BracketedReading;

/// The first reading of the monotonic clocks. It is not zero, since no real machine's clock reads
/// zero.
const FIRST: Duration = Duration::from_secs(1);

/// Returns the nanoseconds since this process first read the clock, plus [`FIRST`].
pub(crate) fn raw_ns() -> u64 {
    u64::try_from(elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Returns the same clock as [`raw_ns`]. It does not follow the wall clock when that is slewed.
pub(crate) fn monotonic_ns() -> i64 {
    signed_nanos(elapsed())
}

/// Returns Unix time.
#[expect(
    clippy::disallowed_methods,
    reason = "timebase's host clock is built on this"
)]
pub(crate) fn real_ns() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => signed_nanos(since),
        Err(before) => -signed_nanos(before.duration()),
    }
}

/// Returns the wall clock minus [`monotonic_ns`], which grows by the time for which the machine was
/// suspended if the monotonic clock then stops.
#[cfg(not(target_os = "linux"))]
pub(crate) fn suspended_ns() -> i64 {
    BracketedReading::take(real_ns).minus_monotonic_ns
}

#[expect(
    clippy::disallowed_methods,
    reason = "timebase's clock is built on this"
)]
fn elapsed() -> Duration {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    // Initialised before the reading below, so that it is never the later of the two.
    let origin = *ORIGIN.get_or_init(Instant::now);
    origin.elapsed().saturating_add(FIRST)
}

fn signed_nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
