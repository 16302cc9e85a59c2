//! The start of the cluster.

use std::net::SocketAddr;
use std::time::Duration;

use tickstorm_client::{Event, Tick};
use tickstorm_tests::clients::connect;
use tickstorm_timebase::{Clock as _, SystemClock};
use tokio::time::{sleep, timeout};

use crate::engine::{all_containers, await_ready, client_addr, down, up};

/// The time limit from the return of `up -d` to a client's first tick.
const FIRST_TICK_MAX: Duration = Duration::from_secs(10);

/// The pause between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_client_has_ticks_within_10_s_after_up_has_returned_and_no_container_was_restarted() {
    down();
    up();
    let start = SystemClock.now();
    let addr = client_addr();
    let tick = timeout(FIRST_TICK_MAX, async {
        loop {
            // Until the load balancer knows a ready edge, it accepts connections and closes them.
            if let Some(tick) = first_tick(addr).await {
                break tick;
            }
            sleep(PAUSE).await;
        }
    });
    let tick = tick.await.expect("a tick within 10 s");
    let took = SystemClock.now().since(start);
    println!(
        "the first tick, {}, arrived after {took:?}",
        tick.epoch.as_ms()
    );
    await_ready(2);
    for container in all_containers() {
        assert_eq!(container.inspect()["RestartCount"], 0, "{container}");
    }
}

/// Connects a client and returns its first tick, or `None` if the connection ends before that.
async fn first_tick(addr: SocketAddr) -> Option<Tick> {
    let mut ticks = connect(addr).await.ok()?;
    loop {
        if let Event::Tick(tick) = ticks.next().await?.ok()? {
            break Some(tick);
        }
    }
}
