//! Clients that move between two edges because an edge is killed or drained, or an operator closes
//! their connections. No client misses a tick or receives one twice, not even a client whose
//! connection ends before its first tick.

use std::time::Duration;

use tickstorm_client::{Event, Mode, Quality, Ticks, connect};
use tickstorm_testkit::{Nats, Peer, frame};
use tokio::time::{sleep, timeout};

use crate::support::cluster::Cluster;
use crate::support::daemon::{Daemon, PASSWORD, USER};
use crate::support::eventually;
use crate::support::observer::{ObservedTick, Observer, now_us};
use crate::tickstorm::PATIENCE;

/// The quality on the wire of a tick that is sent because the client resumed.
const REPLAY: i32 = 2;

const MINUTE_MS: i64 = 60_000;

/// The time before the end of a minute at which clients are cut off, which suffices to kill an edge
/// on a machine under load.
const LEFT_OF_MINUTE_MS: i64 = 10_000;

/// The time limit for clients to reconnect, in which the pause between attempts doubles a few
/// times.
const RECONNECT_MAX: Duration = Duration::from_secs(60);

/// The number of clients in the first test.
const CLIENTS: usize = 3;

/// The event that ends an edge's connections.
#[derive(Clone, Copy, Debug)]
enum Cause {
    Kill,
    Drain,
    CutOff,
}

#[tokio::test]
async fn two_edges_send_the_same_ticks_and_a_move_between_them_loses_and_repeats_none() {
    let mut cluster = Cluster::new(vec![Nats::run(&[])], 1, 2, &[]);
    cluster.start().await;
    let pinned = |edge: &Daemon| Observer::start("pinned", edge.client().reconnect(false));
    let (one, other) = (pinned(&cluster.edges[0]), pinned(&cluster.edges[1]));
    one.await_ticks(6).await;
    other.await_ticks(6).await;
    assert_same(&one.finish(6), &other.finish(6));

    let options = cluster.options();
    let seconds = Observer::start("seconds", options.clone());
    let ahead = Observer::start("ahead", options.clone().ahead(true));
    let minutes = Observer::minutes("minutes", options);
    for observer in [&seconds, &ahead, &minutes] {
        observer.await_total(2).await;
    }
    for cause in [Cause::Kill, Cause::CutOff, Cause::Drain] {
        let from = usize::from(subscribed(&cluster.edges[0]).await.is_empty());
        println!(
            "{cause:?} of {} clients",
            subscribed(&cluster.edges[from]).await.len()
        );
        end_connections(&mut cluster, from, cause).await;
        seconds.await_ticks(3).await;
        ahead.await_ticks(3).await;
    }
    seconds.finish(12);
    ahead.finish(12);
    minutes.finish(4);
}

/// Asserts that both have the same epochs, from the first to the last that both have received.
fn assert_same(one: &[ObservedTick], other: &[ObservedTick]) {
    let first = one[0].epoch_ms.max(other[0].epoch_ms);
    let last = one[one.len() - 1]
        .epoch_ms
        .min(other[other.len() - 1].epoch_ms);
    let span = |ticks: &[ObservedTick]| -> Vec<i64> {
        let epochs = ticks.iter().map(|seen| seen.epoch_ms);
        epochs
            .filter(|epoch| (first..=last).contains(epoch))
            .collect()
    };
    assert_eq!(span(one), span(other));
    assert!(last - first >= 3_000, "{one:?} and {other:?}");
}

/// Ends all connections of one edge and waits until all clients have reconnected, to the other edge
/// if this one is gone.
async fn end_connections(cluster: &mut Cluster, from: usize, cause: Cause) {
    let to = 1 - from;
    match cause {
        Cause::Kill => cluster.edges[from].kill().await,
        Cause::Drain => assert_eq!(cluster.edges[from].terminate().await, Some(0)),
        Cause::CutOff => {
            let cut = subscribed(&cluster.edges[from]).await;
            assert!(!cut.is_empty());
            for id in &cut {
                let path = format!("/connections/{id}");
                let answer = cluster.edges[from].request("DELETE", &path).await;
                assert_eq!(answer.unwrap().0, 204);
            }
            eventually("all clients have reconnected", RECONNECT_MAX, async || {
                let (here, there) = (
                    subscribed(&cluster.edges[from]).await,
                    subscribed(&cluster.edges[to]).await,
                );
                here.iter().all(|id| !cut.contains(id)) && here.len() + there.len() == CLIENTS
            })
            .await;
            return;
        }
    }
    eventually(
        "all clients are on the other edge",
        RECONNECT_MAX,
        async || subscribed(&cluster.edges[to]).await.len() == CLIENTS,
    )
    .await;
    cluster.edges[from].start().await;
    cluster.settled().await;
}

/// Returns the ids of an edge's subscribers.
async fn subscribed(edge: &Daemon) -> Vec<String> {
    let (code, body) = edge.get("/connections").await.unwrap();
    assert_eq!(code, 200, "{body}");
    let listed: serde_json::Value = serde_json::from_str(&body).unwrap();
    let listed = listed.as_array().unwrap().iter();
    let subscribed = listed.filter(|one| one["subscribed"] == true);
    let ids = subscribed.map(|one| one["id"].as_str().unwrap().to_owned());
    ids.collect()
}

#[tokio::test]
async fn a_minute_client_cut_off_before_its_first_tick_gets_the_tick_that_it_missed_meanwhile() {
    // One of the clients sends no heartbeats.
    let settings = [("HEARTBEAT_TIMEOUT", "10m")];
    let mut cluster = Cluster::new(vec![Nats::run(&[])], 1, 2, &settings);
    cluster.start().await;
    // Without the other edge, clients can't move to it before the minute is over.
    cluster.edges[1].kill().await;
    if left_of_minute_ms() < 2 * LEFT_OF_MINUTE_MS {
        await_next_minute().await;
    }
    let mut ticks = loop {
        // The client may try the edge that is gone first.
        if let Ok(ticks) = connect(cluster.options().mode(Mode::Minute)).await {
            break ticks;
        }
    };
    let start_ms = ticks.start_epoch().as_ms();
    let due_ms = start_ms + MINUTE_MS;
    let mut peer = Peer::connect(cluster.edges[0].clients()).await;
    let ack = peer.enter(USER, PASSWORD, Mode::Minute).await;
    assert_eq!(ack.start_epoch_ms, start_ms);
    while left_of_minute_ms() > LEFT_OF_MINUTE_MS {
        sleep(Duration::from_millis(50)).await;
    }

    cluster.edges[0].kill().await;
    assert!(now_us() / 1_000 < due_ms, "the edge was killed too late");
    peer.expect_eof().await;
    await_next_minute().await;
    cluster.edges[1].start().await;

    let mut peer = Peer::connect(cluster.edges[1].clients()).await;
    peer.auth(USER, PASSWORD).await;
    peer.expect_ack(frame::AUTH).await;
    peer.subscribe_with(Mode::Minute, Some(ack.start_epoch_ms), false)
        .await;
    let ack = peer.expect_ack(frame::SUBSCRIBE).await;
    assert_eq!(ack.start_epoch_ms, start_ms);
    let batch = peer.expect_batch().await;
    let received: Vec<_> = batch
        .ticks
        .iter()
        .map(|tick| (tick.epoch_ms, tick.quality))
        .collect();
    assert_eq!(received, [(due_ms, REPLAY)]);
    assert_eq!(first_tick(&mut ticks).await, (due_ms, Quality::Replay));
}

/// Returns the first tick. Asserts that before it the client only reconnects.
async fn first_tick(ticks: &mut Ticks) -> (i64, Quality) {
    loop {
        let event = timeout(RECONNECT_MAX, ticks.next()).await;
        let event = event.expect("an event in time");
        let event = event.expect("the stream continues").unwrap();
        if let Event::Tick(tick) = event {
            return (tick.epoch.as_ms(), tick.quality);
        }
        let is_move = matches!(
            event,
            Event::Reconnecting { resumes: true, .. }
                | Event::Reconnected { .. }
                | Event::Moved { .. }
        );
        assert!(is_move, "{event:?}");
    }
}

/// Returns the rest of the current minute by the host's clock, which the cluster's clock reads.
fn left_of_minute_ms() -> i64 {
    MINUTE_MS - (now_us() / 1_000).rem_euclid(MINUTE_MS)
}

async fn await_next_minute() {
    let minute = || now_us().div_euclid(MINUTE_MS * 1_000);
    let current = minute();
    let over = async || minute() > current;
    eventually("the minute is over", PATIENCE * 3, over).await;
}
