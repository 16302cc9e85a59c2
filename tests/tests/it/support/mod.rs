//! Support for end-to-end tests: daemons as processes, a cluster of them on a real NATS, and
//! clients that observe the ticks.

pub(crate) mod browser;
pub(crate) mod cluster;
pub(crate) mod collector;
pub(crate) mod daemon;
pub(crate) mod document;
pub(crate) mod intruder;
pub(crate) mod mutant;
pub(crate) mod observer;

use std::time::Duration;

use tokio::time::{sleep, timeout};

/// The pause between two polls of a process, each of which costs it a request.
const PAUSE: Duration = Duration::from_millis(20);

/// Polls until `holds` returns true.
///
/// # Panics
/// Panics if it does not within `time_max`. The message contains `what`.
pub(crate) async fn eventually(
    what: &str,
    time_max: Duration,
    mut holds: impl AsyncFnMut() -> bool,
) {
    let polls = async {
        while !holds().await {
            sleep(PAUSE).await;
        }
    };
    let outcome = timeout(time_max, polls).await;
    assert!(outcome.is_ok(), "not within {time_max:?}: {what}");
}
