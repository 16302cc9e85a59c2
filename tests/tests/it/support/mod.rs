//! What end-to-end tests stand on: daemons as processes, a cluster of them on a real NATS, and witnesses who watch what clients get.

pub(crate) mod cluster;
pub(crate) mod daemon;
pub(crate) mod witness;

use std::time::Duration;

use tokio::time::{sleep, timeout};

/// How long to wait between two looks at a process, each of which costs it a request.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks until `holds` says so.
///
/// # Panics
/// Where it doesn't within `bound`; the message names `what`.
pub(crate) async fn eventually(what: &str, bound: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let looks = async {
        while !holds().await {
            sleep(PAUSE).await;
        }
    };
    let outcome = timeout(bound, looks).await;
    assert!(outcome.is_ok(), "not within {bound:?}: {what}");
}
