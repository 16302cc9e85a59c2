//! How the cluster comes up.

use std::net::SocketAddr;
use std::time::Duration;

use tickstorm_client::{Event, Tick};
use tickstorm_tests::crowd::connect;
use tickstorm_timebase::{Clock as _, SystemClock};
use tokio::time::{sleep, timeout};

use crate::engine::{all_containers, await_ready, client_addr, down, up};

/// From the return of `up -d` to a client's first tick.
const FIRST_TICK_MAX: Duration = Duration::from_secs(10);

/// Between two attempts to have it.
const PAUSE: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_client_has_ticks_within_10_s_after_up_has_returned_and_nothing_was_restarted() {
    down();
    up();
    let start = SystemClock.now();
    let addr = client_addr();
    let tick = timeout(FIRST_TICK_MAX, async {
        loop {
            // The balancer takes connections before it knows an edge, and closes them.
            if let Some(tick) = first_tick(addr).await {
                break tick;
            }
            sleep(PAUSE).await;
        }
    });
    let tick = tick.await.expect("a tick within 10 s");
    let took = SystemClock.now().since(start);
    println!(
        "the first tick, {}, came after {took:?}",
        tick.epoch.as_ms()
    );
    await_ready(2);
    for container in all_containers() {
        assert_eq!(container.inspect()["RestartCount"], 0, "{container}");
    }
}

/// Nothing where the connection ends before.
async fn first_tick(addr: SocketAddr) -> Option<Tick> {
    let mut ticks = connect(addr).await.ok()?;
    loop {
        if let Event::Tick(tick) = ticks.next().await?.ok()? {
            break Some(tick);
        }
    }
}
