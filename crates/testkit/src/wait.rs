//! Waiting for something to become true: by looking, never by sleeping for as long as it ought to take.

use std::time::Duration;

use tickstorm_timebase::{Clock, SystemClock};

/// How long to wait between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// Looks until `condition` holds, blocking the thread.
///
/// # Panics
/// Where it doesn't within `bound`; the message names `what`.
pub fn poll_until(what: &str, bound: Duration, mut condition: impl FnMut() -> bool) {
    let start = SystemClock.now();
    while !condition() {
        assert!(
            SystemClock.now().since(start) < bound,
            "not within {bound:?}: {what}"
        );
        std::thread::sleep(PAUSE);
    }
}

/// Looks until `condition` holds, by tokio's time: under a paused clock `bound` is virtual too.
///
/// # Panics
/// Where it doesn't within `bound`; the message names `what`.
pub async fn poll_until_async(what: &str, bound: Duration, mut condition: impl FnMut() -> bool) {
    let looks = async {
        while !condition() {
            tokio::time::sleep(PAUSE).await;
        }
    };
    let outcome = tokio::time::timeout(bound, looks).await;
    assert!(outcome.is_ok(), "not within {bound:?}: {what}");
}
