//! Two edges, and clients that go from one to the other: killed away, drained away, cut off by an operator. None misses a tick or gets
//! one twice, not even one that was cut off before its first.

use std::time::Duration;

use tickstorm_client::{Event, Mode, Quality, Ticks, connect};
use tickstorm_testkit::{Nats, Peer, frame};
use tokio::time::{sleep, timeout};

use crate::support::cluster::Cluster;
use crate::support::daemon::{Daemon, PASSWORD, USER};
use crate::support::eventually;
use crate::support::witness::{Seen, Witness, now_us};
use crate::tickstorm::PATIENCE;

/// A tick's quality on the wire where it comes because the client resumed.
const REPLAY: i32 = 2;

const MINUTE_MS: i64 = 60_000;

/// How long before the minute is over clients are cut off: time to kill an edge, on a machine under load.
const LEFT_OF_MINUTE_MS: i64 = 10_000;

/// Waits between attempts have doubled a few times by then.
const RETURN: Duration = Duration::from_secs(60);

/// The clients of the first test.
const CLIENTS: usize = 3;

/// How an edge's connections end.
#[derive(Clone, Copy, Debug)]
enum Way {
    Killed,
    Drained,
    CutOff,
}

#[tokio::test]
async fn two_edges_give_the_same_ticks_and_a_move_between_them_costs_none_and_repeats_none() {
    let mut cluster = Cluster::new(vec![Nats::run(&[])], 1, 2, &[]);
    cluster.start().await;
    let pinned = |edge: &Daemon| Witness::start("pinned", edge.client().reconnect(false));
    let (one, other) = (pinned(&cluster.edges[0]), pinned(&cluster.edges[1]));
    one.sees(6).await;
    other.sees(6).await;
    assert_same(&one.testify(6), &other.testify(6));

    let options = cluster.options();
    let seconds = Witness::start("seconds", options.clone());
    let ahead = Witness::start("ahead", options.clone().ahead(true));
    let minutes = Witness::minutes("minutes", options);
    for witness in [&seconds, &ahead, &minutes] {
        witness.sees_up_to(2).await;
    }
    for way in [Way::Killed, Way::CutOff, Way::Drained] {
        let from = usize::from(subscribed(&cluster.edges[0]).await.is_empty());
        println!(
            "{way:?}: {} of the clients",
            subscribed(&cluster.edges[from]).await.len()
        );
        end(&mut cluster, from, way).await;
        seconds.sees(3).await;
        ahead.sees(3).await;
    }
    seconds.testify(12);
    ahead.testify(12);
    minutes.testify(4);
}

/// The same epochs, from the first to the last that both saw.
fn assert_same(one: &[Seen], other: &[Seen]) {
    let first = one[0].epoch_ms.max(other[0].epoch_ms);
    let last = one[one.len() - 1]
        .epoch_ms
        .min(other[other.len() - 1].epoch_ms);
    let span = |ticks: &[Seen]| -> Vec<i64> {
        let epochs = ticks.iter().map(|seen| seen.epoch_ms);
        epochs
            .filter(|epoch| (first..=last).contains(epoch))
            .collect()
    };
    assert_eq!(span(one), span(other));
    assert!(last - first >= 3_000, "{one:?} and {other:?}");
}

/// Ends all connections of one edge, and waits until all clients have new ones: on the other edge, where this one is gone.
async fn end(cluster: &mut Cluster, from: usize, way: Way) {
    let to = 1 - from;
    match way {
        Way::Killed => cluster.edges[from].kill().await,
        Way::Drained => assert_eq!(cluster.edges[from].terminate().await, Some(0)),
        Way::CutOff => {
            let cut = subscribed(&cluster.edges[from]).await;
            assert!(!cut.is_empty());
            for id in &cut {
                let path = format!("/connections/{id}");
                let answer = cluster.edges[from].request("DELETE", &path).await;
                assert_eq!(answer.unwrap().0, 204);
            }
            eventually("all are connected anew", RETURN, async || {
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
    eventually("all are on the other edge", RETURN, async || {
        subscribed(&cluster.edges[to]).await.len() == CLIENTS
    })
    .await;
    cluster.edges[from].start().await;
    cluster.settled().await;
}

/// The ids of an edge's subscribers.
async fn subscribed(edge: &Daemon) -> Vec<u64> {
    let (code, body) = edge.get("/connections").await.unwrap();
    assert_eq!(code, 200, "{body}");
    let listed: serde_json::Value = serde_json::from_str(&body).unwrap();
    let listed = listed.as_array().unwrap().iter();
    let subscribed = listed.filter(|one| one["subscribed"] == true);
    subscribed.map(|one| one["id"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_minute_client_that_is_cut_off_before_its_first_tick_gets_the_one_that_passed_meanwhile()
{
    // One of the clients sends no heartbeats.
    let patient = [("HEARTBEAT_TIMEOUT", "10m")];
    let mut cluster = Cluster::new(vec![Nats::run(&[])], 1, 2, &patient);
    cluster.start().await;
    // So that nobody moves before the minute is over.
    cluster.edges[1].kill().await;
    if left_of_minute_ms() < 2 * LEFT_OF_MINUTE_MS {
        a_minute_ends().await;
    }
    let mut ticks = loop {
        // An attempt may be at the edge that is gone.
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
    a_minute_ends().await;
    cluster.edges[1].start().await;

    let mut peer = Peer::connect(cluster.edges[1].clients()).await;
    peer.auth(USER, PASSWORD).await;
    peer.expect_ack(frame::AUTH).await;
    peer.subscribe_with(Mode::Minute, Some(ack.start_epoch_ms), false)
        .await;
    let ack = peer.expect_ack(frame::SUBSCRIBE).await;
    assert_eq!(ack.start_epoch_ms, start_ms);
    let batch = peer.expect_batch().await;
    let came: Vec<_> = batch
        .ticks
        .iter()
        .map(|tick| (tick.epoch_ms, tick.quality))
        .collect();
    assert_eq!(came, [(due_ms, REPLAY)]);
    assert_eq!(first_tick(&mut ticks).await, (due_ms, Quality::Replay));
}

/// The first tick, before which nothing but a move may come.
async fn first_tick(ticks: &mut Ticks) -> (i64, Quality) {
    loop {
        let event = timeout(RETURN, ticks.next()).await;
        let event = event.expect("in time").expect("it goes on").unwrap();
        if let Event::Tick(tick) = event {
            return (tick.epoch.as_ms(), tick.quality);
        }
        let moves = matches!(
            event,
            Event::Reconnecting { resumes: true, .. } | Event::Reconnected { .. }
        );
        assert!(moves, "{event:?}");
    }
}

/// By the host's clock, which the clocks read.
fn left_of_minute_ms() -> i64 {
    MINUTE_MS - (now_us() / 1_000).rem_euclid(MINUTE_MS)
}

async fn a_minute_ends() {
    let minute = || now_us().div_euclid(MINUTE_MS * 1_000);
    let this = minute();
    let over = async || minute() > this;
    eventually("the minute is over", PATIENCE * 3, over).await;
}
