//! SUBSCRIBE: resuming in the past and from a future point, replacing a subscription, and delivery
//! ahead of the ticks' time.

use std::time::Duration;

use tickstorm_edge::Config;
use tickstorm_protocol::message::{Ack, DataBatch, Tick};
use tickstorm_testkit::{Peer, RawFrame, frame, peer, poll_until_async};
use tickstorm_timebase::Mode;

use crate::support::{PASSWORD, SOON, TestEdge, USER, config, wall_ms};
use crate::witness::expect_gapless;

const NORMAL: i32 = 0;
const REPLAY: i32 = 2;

async fn authenticated(edge: &TestEdge) -> Peer {
    let mut peer = Peer::connect(edge.addr()).await;
    peer.auth(USER, PASSWORD).await;
    peer.expect_ack(frame::AUTH).await;
    peer
}

/// Receives ticks up to the first one that is not REPLAY, and returns all of them.
async fn up_to_the_present(peer: &mut Peer) -> Vec<Tick> {
    let mut ticks = Vec::new();
    while ticks
        .last()
        .is_none_or(|last: &Tick| last.quality == REPLAY)
    {
        ticks.extend(peer.expect_ticks(1).await);
    }
    let present = ticks.iter().position(|tick| tick.quality != REPLAY);
    let (replayed, fresh) = ticks.split_at(present.unwrap());
    let now = wall_ms();
    assert!(replayed.iter().all(|tick| tick.epoch_ms <= now));
    assert!(fresh.iter().all(|tick| tick.quality == NORMAL), "{fresh:?}");
    ticks
}

#[tokio::test]
async fn after_a_resume_point_all_ticks_are_replayed_before_current_ones() {
    let edge = TestEdge::start(config()).await;
    let mut peer = authenticated(&edge).await;
    // A resume point need not be on the grid.
    let point = wall_ms() - 60_001;
    peer.subscribe_with(Mode::Second, Some(point), false).await;
    assert_eq!(
        peer.expect_ack(frame::SUBSCRIBE).await.start_epoch_ms,
        point
    );
    let ticks = up_to_the_present(&mut peer).await;
    assert!(ticks.len() > 60, "{}", ticks.len());
    let last = expect_gapless(&ticks, point, Mode::Second);
    expect_gapless(&peer.expect_ticks(1).await, last, Mode::Second);
    edge.stop().await;
}

#[tokio::test]
async fn a_long_replay_starts_at_the_window_and_its_frames_keep_the_size_limit() {
    const LIMIT: usize = 4_096;
    let edge = TestEdge::start(Config {
        max_msg_size: LIMIT,
        ..config()
    })
    .await;
    let mut peer = authenticated(&edge).await;
    let before = wall_ms();
    peer.subscribe_with(Mode::Second, Some(0), false).await;
    let start = peer.expect_ack(frame::SUBSCRIBE).await.start_epoch_ms;
    let window = (before - 601_000)..=(wall_ms() - 599_000);
    assert!(window.contains(&start), "{start} is not in {window:?}");
    let (mut frames, mut last) = (0, start);
    loop {
        let received = peer.expect_frame().await;
        assert_eq!(received.kind, frame::DATA_BATCH, "{received:?}");
        assert!(
            received.payload.len() <= LIMIT,
            "{}",
            received.payload.len()
        );
        let batch: DataBatch = received.decode();
        last = expect_gapless(&batch.ticks, last, Mode::Second);
        if batch.ticks[0].quality == NORMAL {
            break;
        }
        frames += 1;
        assert!(batch.ticks.iter().all(|tick| tick.quality == REPLAY));
    }
    assert!(frames > 1, "{frames} frames");
    assert!(last > before, "{last}");
    edge.stop().await;
}

#[tokio::test]
async fn minutes_resume_on_their_own_grid() {
    let edge = TestEdge::start(config()).await;
    let mut peer = authenticated(&edge).await;
    let point = wall_ms() - 5 * 60_000;
    peer.subscribe_with(Mode::Minute, Some(point), false).await;
    peer.expect_ack(frame::SUBSCRIBE).await;
    let ticks = peer.expect_ticks(5).await;
    expect_gapless(&ticks, point, Mode::Minute);
    assert!(ticks[..4].iter().all(|tick| tick.quality == REPLAY));
    edge.stop().await;
}

#[tokio::test]
async fn a_future_resume_point_suppresses_the_ticks_up_to_it() {
    let edge = TestEdge::start(config()).await;
    let mut peer = authenticated(&edge).await;
    let point = wall_ms() + 2_000;
    peer.subscribe_with(Mode::Second, Some(point), false).await;
    assert_eq!(
        peer.expect_ack(frame::SUBSCRIBE).await.start_epoch_ms,
        point
    );
    expect_gapless(&peer.expect_ticks(1).await, point, Mode::Second);
    assert!(wall_ms() >= point, "the point's time has been reached");
    edge.stop().await;
}

#[tokio::test]
async fn a_resume_point_may_be_at_most_fifteen_seconds_ahead() {
    let edge = TestEdge::start(config()).await;
    let mut peer = authenticated(&edge).await;
    let point = wall_ms() + 14_000;
    peer.subscribe_with(Mode::Second, Some(point), false).await;
    assert_eq!(
        peer.expect_ack(frame::SUBSCRIBE).await.start_epoch_ms,
        point
    );
    let far = wall_ms() + 17_000;
    peer.subscribe_with(Mode::Second, Some(far), false).await;
    let error = peer.expect_refusal("INVALID_SUBSCRIPTION").await;
    assert!((1_100..=2_100).contains(&error.retry_after_ms), "{error:?}");
    edge.stop().await;
}

#[tokio::test]
async fn a_second_subscribe_replaces_the_first() {
    let edge = TestEdge::start(config()).await;
    let mut peer = authenticated(&edge).await;
    peer.subscribe(Mode::Second).await;
    let start = peer.expect_ack(frame::SUBSCRIBE).await.start_epoch_ms;
    let mut last = expect_gapless(&peer.expect_ticks(1).await, start, Mode::Second);

    let minutes_from = wall_ms() - 3 * 60_000;
    peer.subscribe_with(Mode::Minute, Some(minutes_from), false)
        .await;
    let (seconds, ack) = peer.skip_batches().await;
    for batch in &seconds {
        last = expect_gapless(&batch.ticks, last, Mode::Second);
    }
    assert_eq!(start_of(&ack), minutes_from);
    let minutes = peer.expect_ticks(3).await;
    let mut last_minute = expect_gapless(&minutes, minutes_from, Mode::Minute);

    peer.subscribe_with(Mode::Second, Some(last), false).await;
    let (minutes, ack) = peer.skip_batches().await;
    for batch in &minutes {
        last_minute = expect_gapless(&batch.ticks, last_minute, Mode::Minute);
    }
    assert_eq!(start_of(&ack), last);
    let ticks = peer.expect_ticks(2).await;
    expect_gapless(&ticks, last, Mode::Second);
    edge.stop().await;
}

#[tokio::test]
async fn subscribes_in_one_segment_are_each_acknowledged_and_the_last_is_served() {
    let edge = TestEdge::start(config()).await;
    let now = wall_ms();
    let (seconds_from, minutes_from) = (now - 500_000, now - 120_000);
    let mut peer = authenticated(&edge).await;
    let frames = [
        peer::subscribe(Mode::Second, Some(seconds_from), false),
        peer::subscribe(Mode::Minute, None, true),
        peer::subscribe(Mode::Second, Some(seconds_from + 1), false),
        peer::subscribe(Mode::Minute, Some(minutes_from), false),
    ];
    peer.send(&frames.concat()).await;
    let mut starts = Vec::new();
    while starts.len() < frames.len() {
        let (_, ack) = peer.skip_batches().await;
        starts.push(start_of(&ack));
    }
    assert_eq!((starts[0], starts[2]), (seconds_from, seconds_from + 1));
    assert_eq!(starts[3], minutes_from);
    expect_gapless(&peer.expect_ticks(2).await, minutes_from, Mode::Minute);
    edge.stop().await;
}

#[tokio::test]
async fn an_ahead_subscription_gets_due_ticks_right_after_the_ack_and_then_ticks_ahead_of_time() {
    const AHEAD_MS: i64 = 800;
    let edge = TestEdge::start(config()).await;
    let mut peer = authenticated(&edge).await;
    // This is less than AHEAD_MS before the next tick, so that tick was sent before this client
    // subscribed.
    poll_until_async("the middle of a second", SOON, || {
        (300..700).contains(&wall_ms().rem_euclid(1_000))
    })
    .await;
    peer.subscribe_with(Mode::Second, None, true).await;
    let ack = peer.expect_ack(frame::SUBSCRIBE).await;
    let acked_ms = wall_ms();
    assert!(ack.start_epoch_ms <= acked_ms, "{ack:?}");
    let mut last = ack.start_epoch_ms;
    for number in 0..3 {
        let batch = peer.expect_batch().await;
        let arrived_ms = wall_ms();
        last = expect_gapless(&batch.ticks, last, Mode::Second);
        let lead_us = last * 1_000 - batch.sent_unix_us;
        assert!(lead_us > 0, "not sent ahead: {batch:?}");
        assert!(
            lead_us <= AHEAD_MS * 1_000,
            "sent more than AHEAD_MS ahead: {batch:?}"
        );
        let lead_ms = last - arrived_ms;
        assert!(lead_ms <= AHEAD_MS + 1, "{lead_ms} ms ahead: {batch:?}");
        assert!(
            batch.ticks.iter().all(|tick| tick.quality == NORMAL),
            "{number}: {batch:?}"
        );
    }
    edge.stop().await;
}

#[tokio::test]
async fn an_ahead_client_resumes_without_gap_from_replay_into_the_future() {
    let edge = TestEdge::start(config()).await;
    let mut peer = authenticated(&edge).await;
    let point = wall_ms() - 30_000;
    peer.subscribe_with(Mode::Second, Some(point), true).await;
    peer.expect_ack(frame::SUBSCRIBE).await;
    let ticks = up_to_the_present(&mut peer).await;
    let last = expect_gapless(&ticks, point, Mode::Second);
    expect_gapless(&peer.expect_ticks(1).await, last, Mode::Second);
    edge.stop().await;
}

#[tokio::test]
async fn ahead_ms_sets_how_early_ahead_ticks_are_sent() {
    let edge = TestEdge::start(Config {
        ahead: Duration::from_secs(3),
        ..config()
    })
    .await;
    let mut peer = authenticated(&edge).await;
    peer.subscribe_with(Mode::Second, None, true).await;
    let start = peer.expect_ack(frame::SUBSCRIBE).await.start_epoch_ms;
    let ticks = peer.expect_ticks(3).await;
    expect_gapless(&ticks, start, Mode::Second);
    let batch = peer.expect_batch().await;
    let lead_us = batch.ticks[0].epoch_ms * 1_000 - batch.sent_unix_us;
    assert!((1..=3_000_000).contains(&lead_us), "{batch:?}");
    edge.stop().await;
}

fn start_of(ack: &RawFrame) -> i64 {
    assert_eq!(ack.kind, frame::ACK, "{ack:?}");
    ack.decode::<Ack>().start_epoch_ms
}
