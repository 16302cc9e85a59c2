//! The clocks of any system. `Instant` is what each system has for measuring time: CLOCK_UPTIME_RAW on macOS and the performance
//! counter on Windows, neither of which is slewed.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What the clocks show when they are first read: no machine's clock shows zero.
const FIRST: Duration = Duration::from_secs(1);

/// Since [`FIRST`] before this process first asked.
pub(crate) fn raw_ns() -> u64 {
    u64::try_from(elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The same clock: where the wall clock is slewed, this does not follow it.
pub(crate) fn monotonic_ns() -> i64 {
    signed_nanos(elapsed())
}

/// Unix time.
#[expect(
    clippy::disallowed_methods,
    reason = "this is what timebase's host clock reads"
)]
pub(crate) fn real_ns() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => signed_nanos(since),
        Err(before) => -signed_nanos(before.duration()),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is what timebase's clock reads"
)]
fn elapsed() -> Duration {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    // The origin first: it must not lie after the moment that is compared with it.
    let origin = *ORIGIN.get_or_init(Instant::now);
    origin.elapsed().saturating_add(FIRST)
}

fn signed_nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
