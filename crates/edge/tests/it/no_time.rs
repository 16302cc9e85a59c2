//! An edge that has lost the time, or never knew it, sends its subscribers to other edges.

use std::time::Duration;

use tickstorm_edge::Config;
use tickstorm_protocol::message::{DataBatch, ErrorMsg};
use tickstorm_testkit::{Peer, frame, poll_until_async};
use tickstorm_timebase::{Clock as _, Mode, SystemClock};
use tokio::task::JoinSet;

use crate::support::{PASSWORD, SOON, TestEdge, USER, config};
use crate::witness::expect_gapless;

const TIMEOUT: Duration = Duration::from_secs(8);

fn forgetful() -> Config {
    let mut config = config();
    config.time.holdover_max = Duration::from_secs(1);
    config.drain_timeout = TIMEOUT;
    config.heartbeat_timeout = Duration::from_secs(600);
    config
}

/// Returns the reasons of the alarms in /status.
fn alarms(edge: &TestEdge) -> Vec<String> {
    let status = edge.edge.health().status();
    let alarms = status["alarms"].as_array().unwrap().iter();
    let reason = |alarm: &serde_json::Value| {
        assert!(alarm["message"].as_str().unwrap().ends_with('.'), "{alarm}");
        alarm["reason"].as_str().unwrap().to_owned()
    };
    alarms.map(reason).collect()
}

async fn alarm_becomes(edge: &TestEdge, is_raised: bool) {
    poll_until_async("the alarm is raised or cleared", SOON, || {
        alarms(edge).contains(&"no_time".to_owned()) == is_raised
    })
    .await;
    let gauge = edge.metric("tickstorm_time_alarm", "no_time");
    assert!(
        (gauge - f64::from(u8::from(is_raised))).abs() < 0.5,
        "{gauge}"
    );
}

/// Reads ticks, which must have no gap, until an ERROR, which must be NO_TIME with a hint.
async fn follow_to_no_time(mut peer: Peer, mut last: i64) {
    loop {
        let next = peer.expect_frame().await;
        if next.kind == frame::DATA_BATCH {
            last = expect_gapless(&next.decode::<DataBatch>().ticks, last, Mode::Second);
            continue;
        }
        assert_eq!(next.kind, frame::ERROR, "{next:?}");
        let error: ErrorMsg = next.decode();
        assert_eq!(error.code, "NO_TIME", "{error:?}");
        assert!(
            (1_000..=10_000).contains(&error.retry_after_ms),
            "{error:?}"
        );
        peer.expect_eof().await;
        return;
    }
}

async fn enter(edge: &TestEdge, clients: usize) -> Vec<(Peer, i64)> {
    let mut entered = Vec::new();
    for _ in 0..clients {
        let mut peer = Peer::connect(edge.addr()).await;
        let ack = peer.enter(USER, PASSWORD, Mode::Second).await;
        entered.push((peer, ack.start_epoch_ms));
    }
    entered
}

#[tokio::test]
async fn an_edge_cut_off_for_longer_than_holdover_max_gives_its_subscribers_back() {
    let edge = TestEdge::start(forgetful()).await;
    alarm_becomes(&edge, false).await;
    let mut clients = JoinSet::new();
    for (peer, start) in enter(&edge, 300).await {
        clients.spawn(follow_to_no_time(peer, start));
    }
    let mut idle = Peer::connect(edge.addr()).await;
    idle.auth(USER, PASSWORD).await;
    idle.expect_ack(frame::AUTH).await;
    edge.bus.cut("clock");
    alarm_becomes(&edge, true).await;
    let lost = SystemClock.now();
    let closed = || edge.metric("tickstorm_connections_closed_total", "no_time");
    assert!(closed() < 300.0, "not all at once");
    assert_eq!(clients.join_all().await.len(), 300);
    let took = SystemClock.now().since(lost);
    assert!(took >= TIMEOUT / 2, "spread over {took:?}");
    edge.metric_reaches("tickstorm_connections_closed_total", "no_time", 300.0)
        .await;
    let holdover = edge.metric("tickstorm_holdover", "");
    assert!((holdover - 1.0).abs() < 0.5, "holdover is not over");
    idle.heartbeat(1).await;
    assert_eq!(idle.expect_pong().await.received_unix_us, 0, "it stays");
    edge.bus.restore("clock");
    alarm_becomes(&edge, false).await;
    poll_until_async("holdover is over", SOON, || {
        edge.metric("tickstorm_holdover", "") < 0.5
    })
    .await;
    edge.stop().await;
}

#[tokio::test]
async fn if_the_time_comes_back_subscribers_stay_and_miss_no_tick() {
    let mut config = forgetful();
    config.drain_timeout = Duration::from_secs(600);
    let edge = TestEdge::start(config).await;
    let mut entered = enter(&edge, 20).await;
    edge.bus.cut("clock");
    alarm_becomes(&edge, true).await;
    edge.bus.restore("clock");
    alarm_becomes(&edge, false).await;
    for (peer, start) in &mut entered {
        let mut last = *start;
        let mut qualities = Vec::new();
        while qualities.last() != Some(&0) || !qualities.contains(&2) {
            let batch = peer.expect_batch().await;
            last = expect_gapless(&batch.ticks, last, Mode::Second);
            qualities.extend(batch.ticks.iter().map(|tick| tick.quality));
        }
    }
    assert!(edge.metric("tickstorm_connections_closed_total", "no_time") < 0.5);
    edge.stop().await;
}

#[tokio::test]
async fn a_subscribe_to_an_edge_that_never_knew_the_time_gets_no_time() {
    let mut edge = TestEdge::start_without_clock(forgetful()).await;
    let mut peer = Peer::connect(edge.addr()).await;
    peer.auth(USER, PASSWORD).await;
    peer.expect_ack(frame::AUTH).await;
    let asked = SystemClock.now();
    peer.subscribe(Mode::Second).await;
    peer.expect_refusal("NO_TIME").await;
    let took = SystemClock.now().since(asked);
    assert!(took >= Duration::from_secs(5), "after {took:?}");
    alarm_becomes(&edge, true).await;
    edge.start_clock();
    alarm_becomes(&edge, false).await;
    edge.stop().await;
}
