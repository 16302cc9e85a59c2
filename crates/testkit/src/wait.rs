//! Waiting for a condition by polling it, never by sleeping for as long as it ought to take.

use std::time::Duration;

use tickstorm_timebase::{Clock, SystemClock};

/// The pause between two polls.
const PAUSE: Duration = Duration::from_millis(2);

/// Polls `condition` until it holds, blocking the thread.
///
/// # Panics
/// Panics if it does not hold within `bound`. The message contains `what`.
pub fn poll_until(what: &str, bound: Duration, mut condition: impl FnMut() -> bool) {
    let start = SystemClock.now();
    while !condition() {
        assert!(
            SystemClock.now().since(start) < bound,
            "the condition did not hold within {bound:?}: {what}"
        );
        std::thread::sleep(PAUSE);
    }
}

/// Polls `condition` until it holds, in tokio's time: with a paused clock, `bound` is also virtual.
///
/// # Panics
/// Panics if it does not hold within `bound`. The message contains `what`.
pub async fn poll_until_async(what: &str, bound: Duration, mut condition: impl FnMut() -> bool) {
    let polling = async {
        while !condition() {
            tokio::time::sleep(PAUSE).await;
        }
    };
    let outcome = tokio::time::timeout(bound, polling).await;
    assert!(
        outcome.is_ok(),
        "the condition did not hold within {bound:?}: {what}"
    );
}
