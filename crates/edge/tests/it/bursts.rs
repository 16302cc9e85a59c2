//! Bursts: many ticks within one second reach every client, in few frames, and are all counted.

use std::time::Duration;

use tickstorm_edge::Edge;
use tickstorm_testkit::Peer;
use tickstorm_timebase::{Clock, SystemClock};
use tokio::task::JoinSet;

use crate::flow::{Account, Burst, enter};
use crate::support::{TestEdge, config};

const CLIENTS: usize = 100;
const TICKS: usize = 10_000;
const TICKS_PER_MS: u128 = 10;
/// The most time that one step of the burst may account for. If this machine stalls for longer, the
/// burst pauses for the rest of the stall.
const STEP_MAX: Duration = Duration::from_millis(5);

/// Sends [`TICKS`] ticks over one second, paced by the clock.
async fn spread_over_a_second(edge: &Edge, burst: &mut Burst) {
    let mut pace = tokio::time::interval(Duration::from_millis(1));
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut at, mut elapsed, mut sent) = (SystemClock.now(), Duration::ZERO, 0);
    while sent < TICKS {
        pace.tick().await;
        let now = SystemClock.now();
        elapsed += now.since(at).min(STEP_MAX);
        at = now;
        let due = usize::try_from(elapsed.as_micros() * TICKS_PER_MS / 1_000).unwrap();
        burst.send(edge, due.min(TICKS) - sent);
        sent = due.min(TICKS);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_ticks_in_a_second_reach_a_hundred_clients_in_order_and_in_batches() {
    let edge = TestEdge::start(config()).await;
    let mut burst = Burst::new();
    let last = burst.first + i64::try_from(TICKS - 1).unwrap() * 1_000;
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let mut peer = Peer::connect(edge.addr()).await;
        let mut account = enter(&mut peer, &burst).await;
        clients.spawn(async move {
            account.follow(&mut peer, last).await;
            (account, peer)
        });
    }
    spread_over_a_second(&edge.edge, &mut burst).await;
    let clients: Vec<(Account, Peer)> = clients.join_all().await;
    for (account, _) in &clients {
        let frames = account.frames_of_burst;
        // On a busy machine there are fewer, larger frames. A defect that sends one tick per frame,
        // or ignores the batch window of 5 ms, makes ten times as many. A defect that holds back
        // all ticks makes as few as the limit of ticks per frame allows.
        assert!((20..=250).contains(&frames), "{frames} frames");
    }
    let sum = |of: fn(&Account) -> usize| clients.iter().map(|(account, _)| of(account)).sum();
    let frames = sum(|account| account.frames);
    edge.counts("tickstorm_messages_sent_total", frames).await;
    edge.counts("tickstorm_ticks_sent_total", sum(|account| account.ticks))
        .await;
    edge.counts("tickstorm_bytes_sent_total", sum(|account| account.bytes))
        .await;
    edge.counts("tickstorm_publish_latency_ms", frames).await;
    assert!(edge.metric("tickstorm_release_lateness_seconds", "") >= 20.0);
    edge.stop().await;
}
