//! Returns memory that connections no longer need to the system. glibc's allocator gives back only
//! what is at the end of a heap, so after a flood of handshakes or of half frames an edge would
//! keep its peak for as long as a connection that was made since then is open.

use std::sync::Arc;
use std::time::Duration;

use tickstorm_timebase::{Authority, Clock, SystemClock, UnixTime};
use tokio::sync::watch;

use crate::admission::Admission;
use crate::memory::Memory;
use crate::sys;

/// The interval between checks. Returning memory and asking for it again costs page faults, so it
/// is not returned immediately.
const INTERVAL: Duration = Duration::from_secs(10);

/// The number of connections that must have ended before memory is returned. With fewer it is not
/// worth the time: a handshake takes about 5 KB.
const ENDED_MIN: u64 = 1_000;

/// The fall of buffered bytes after which memory is returned, although their connections may still
/// be open.
const FALL_MIN: u64 = 4 * 1_024 * 1_024;

/// Returns free memory to the system when many connections have ended or their buffers have become
/// much smaller, at moments at which no tick is due.
pub(crate) async fn return_free_memory(
    admission: Arc<Admission>,
    memory: Arc<Memory>,
    authority: watch::Receiver<Option<Authority>>,
    ahead: Duration,
) {
    let (mut ended_before, mut fallen) = (0, 0);
    loop {
        tokio::time::sleep(INTERVAL).await;
        let ended = admission.ended();
        fallen += memory.take_fall();
        if ended < ended_before + ENDED_MIN && fallen < FALL_MIN {
            continue;
        }
        (ended_before, fallen) = (ended, 0);
        let now = SystemClock.now();
        let known = *authority.borrow();
        if let Some(authority) = known.filter(|authority| authority.is_valid(now)) {
            tokio::time::sleep(until_quiet(authority.time_at(now), ahead)).await;
        }
        if tokio::task::spawn_blocking(sys::heap::trim).await.is_err() {
            return;
        }
        tracing::debug!("returned free memory to the system");
    }
}

/// Returns the time from `now` until the middle of the longest span of a second in which no tick is
/// due. Ticks are due at each second, and those that are sent ahead `ahead` before it.
fn until_quiet(now: UnixTime, ahead: Duration) -> Duration {
    const SECOND_NS: i64 = 1_000_000_000;
    let ahead_ns = i64::from(ahead.subsec_nanos());
    let quiet_ns = if ahead_ns > SECOND_NS / 2 {
        SECOND_NS - ahead_ns / 2
    } else {
        (SECOND_NS - ahead_ns) / 2
    };
    let wait_ns = (quiet_ns - now.as_nanos()).rem_euclid(SECOND_NS);
    Duration::from_nanos(wait_ns.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quiet_moment_is_in_the_middle_of_the_longest_span_without_ticks() {
        let ms = Duration::from_millis;
        for (now_ms, ahead_ms, wait_ms) in [
            // Ticks are due at 0 and 200 ms.
            (0, 800, 600),
            (600, 800, 0),
            (601, 800, 999),
            (999, 800, 601),
            // Ticks are due at 0 and 800 ms.
            (0, 200, 400),
            (500, 2_200, 900),
        ] {
            let now = UnixTime::from_nanos(1_700_000_000_000_000_000 + now_ms * 1_000_000);
            assert_eq!(
                until_quiet(now, ms(ahead_ms)),
                ms(wait_ms),
                "{now_ms} {ahead_ms}"
            );
        }
    }
}
