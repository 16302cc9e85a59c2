//! Coming back: one stream of ticks, whatever becomes of connections.

use std::io;
use std::time::Duration;

use tickstorm_client::error::{ErrorCode, Return};
use tickstorm_client::{Dial, Error, Event, Mode, Options, Quality, Ticks, connect_by};
use tickstorm_protocol::frame::{self, FrameType};
use tickstorm_protocol::message::Ack;
use tokio::io::DuplexStream;
use tokio::time::{Instant, sleep};

use crate::edge::{Edge, Net, edge_alone, epoch};

async fn event(ticks: &mut Ticks) -> Option<Event> {
    ticks.next().await.map(Result::unwrap)
}

/// Milliseconds after the base of the next tick, which comes before anything else.
async fn tick(ticks: &mut Ticks) -> i64 {
    match event(ticks).await {
        Some(Event::Tick(tick)) => tick.epoch.as_ms() - epoch(0).as_ms(),
        other => panic!("{other:?} instead of a tick"),
    }
}

/// Why and for how long the client waits, and whether it will resume.
async fn reconnecting(ticks: &mut Ticks) -> (Error, Duration, bool) {
    match event(ticks).await {
        Some(Event::Reconnecting {
            why,
            after,
            resumes,
        }) => (why, after, resumes),
        other => panic!("{other:?} instead of the connection's end"),
    }
}

async fn reconnected(ticks: &mut Ticks) -> String {
    match event(ticks).await {
        Some(Event::Reconnected { address, .. }) => address,
        other => panic!("{other:?} instead of a connection"),
    }
}

/// Both ACKs of an edge.
fn speech(start_ms: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (acked_type, start_epoch_ms) in [
        (FrameType::Auth, 0),
        (FrameType::Subscribe, epoch(start_ms).as_ms()),
    ] {
        let ack = Ack {
            acked_type: u32::from(acked_type.byte()),
            start_epoch_ms,
            heartbeat_interval_ms: 15_000,
            heartbeat_timeout_ms: 20_000,
            ..Ack::default()
        };
        frame::encode(FrameType::Ack, &ack, &mut bytes);
    }
    bytes
}

#[tokio::test(start_paused = true)]
async fn cut_off_after_any_byte_no_tick_is_missed_and_none_comes_twice() {
    let mut cut_at = 0;
    loop {
        let (mut ticks, mut edge, mut net) = Net::subscribed(Options::new("a"), 0).await;
        edge.ticks([1_000, 2_000]).await;
        drop(edge);
        let mut edge = net.edge().await;
        let mut bytes = speech(2_000);
        for batch in [&[3_000][..], &[4_000, 5_000], &[6_000, 7_000]] {
            bytes.extend(edge.batch(Mode::Second, Quality::Replay, batch.iter().copied()));
        }
        edge.send(&bytes[..cut_at.min(bytes.len())]).await;
        drop(edge);
        let mut edge = net.edge().await;
        edge.accept().await;
        let from = edge.subscription().await.resume_after.unwrap();
        edge.subscribed(from).await;
        let from_ms = from.as_ms() - epoch(0).as_ms();
        edge.ticks((from_ms / 1_000 + 1..=9).map(|second| second * 1_000))
            .await;
        let mut seen = Vec::new();
        while seen.last() != Some(&9_000) {
            match event(&mut ticks).await {
                Some(Event::Tick(tick)) => seen.push(tick.epoch.as_ms() - epoch(0).as_ms()),
                Some(Event::Reconnecting { resumes, .. }) => assert!(resumes, "cut at {cut_at}"),
                Some(Event::Reconnected { .. }) => {}
                other => panic!("{other:?}, cut at {cut_at}"),
            }
        }
        let expected: Vec<i64> = (1..=9).map(|second| second * 1_000).collect();
        assert_eq!(seen, expected, "cut at {cut_at}");
        if cut_at == bytes.len() {
            break;
        }
        cut_at += 1;
    }
}

#[tokio::test(start_paused = true)]
async fn a_minute_client_that_is_cut_off_before_its_first_tick_loses_none() {
    let options = Options::new("a").mode(Mode::Minute);
    let (mut ticks, edge, mut net) = Net::subscribed(options, 60_000).await;
    assert_eq!(ticks.start_epoch(), epoch(60_000));
    drop(edge);
    let mut edge = net.edge().await;
    edge.accept().await;
    assert_eq!(
        edge.subscription().await.resume_after,
        Some(epoch(60_000)),
        "the point where it began"
    );
    edge.subscribed(epoch(60_000)).await;
    let replay = edge.batch(Mode::Minute, Quality::Replay, [120_000]);
    edge.send(&replay).await;
    assert!(reconnecting(&mut ticks).await.2);
    reconnected(&mut ticks).await;
    assert_eq!(tick(&mut ticks).await, 120_000);
}

#[tokio::test(start_paused = true)]
async fn after_each_failure_it_goes_to_the_next_address_and_says_where_it_is() {
    let options = Options::new("a").or_at("nobody").or_at("c");
    let (client, mut net) = Net::dial(options, &["nobody"]);
    let (address, edge) = net.next().await.unwrap();
    let mut edge = edge.unwrap();
    assert_eq!(address, "a");
    edge.accept().await;
    edge.acknowledge(epoch(0)).await;
    let mut ticks = client.await.unwrap().unwrap();
    assert_eq!(ticks.edge_id(), "edge at a");
    edge.refuse(ErrorCode::ServerDraining, "bye", 777).await;

    let (why, after, _) = reconnecting(&mut ticks).await;
    assert!(matches!(why, Error::Refused(_)), "{why:?}");
    assert_eq!(after.as_millis(), 777);
    let began = Instant::now();
    let (address, edge) = net.next().await.unwrap();
    assert_eq!((&*address, edge.is_some()), ("nobody", false));
    assert_eq!(began.elapsed().as_millis(), 777);
    let (why, after, _) = reconnecting(&mut ticks).await;
    assert!(matches!(why, Error::Connect { address, .. } if address == "nobody"));
    assert!(after <= Duration::from_secs(2), "{after:?}");

    let (address, edge) = net.next().await.unwrap();
    let mut edge = edge.unwrap();
    assert_eq!(address, "c");
    edge.accept().await;
    edge.acknowledge(epoch(0)).await;
    assert_eq!(ticks.edge_id(), "edge at a");
    assert_eq!(reconnected(&mut ticks).await, "c");
    assert_eq!(ticks.edge_id(), "edge at c");
    drop(edge);
    assert_eq!(net.next().await.unwrap().0, "a", "after the last the first");
}

#[tokio::test(start_paused = true)]
async fn failures_in_a_row_wait_longer_and_longer_until_ticks_have_come_for_a_while() {
    let (mut ticks, edge, mut net) = Net::subscribed(Options::new("a"), 0).await;
    drop(edge);
    for attempt in 0..8 {
        let (_, after, _) = reconnecting(&mut ticks).await;
        let reach = (1 << attempt).min(30);
        assert!(
            after <= Duration::from_secs(reach),
            "{attempt}: {after:?} of {reach} s"
        );
        let edge = net.edge().await;
        drop(edge);
    }
    reconnecting(&mut ticks).await;
    let mut edge = net.edge().await;
    edge.accept().await;
    edge.acknowledge(epoch(0)).await;
    edge.answer_for(Duration::from_secs(31)).await;
    drop(edge);
    reconnected(&mut ticks).await;
    let (_, after, _) = reconnecting(&mut ticks).await;
    assert!(after <= Duration::from_secs(1), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn what_will_fail_again_is_reported_and_tried_once_a_minute_at_most() {
    let (mut ticks, edge, mut net) = Net::subscribed(Options::new("a"), 0).await;
    drop(edge);
    reconnecting(&mut ticks).await;
    for _ in 0..3 {
        let mut edge = net.edge().await;
        edge.accept().await;
        edge.refuse(ErrorCode::AuthFailed, "another password now", 0)
            .await;
        let began = Instant::now();
        let (why, after, resumes) = reconnecting(&mut ticks).await;
        assert_eq!((why.come_back(), resumes), (Return::No, true));
        assert!(after >= Duration::from_secs(60), "{after:?}");
        let mut edge = net.edge().await;
        assert!(began.elapsed() >= Duration::from_secs(60));
        edge.accept().await;
        edge.refuse(ErrorCode::AuthFailed, "another password now", 0)
            .await;
        reconnecting(&mut ticks).await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_step_of_time_it_begins_anew_with_the_ticks_that_are_then() {
    let (mut ticks, mut edge, mut net) = Net::subscribed(Options::new("a"), 99_000).await;
    edge.answer_for(Duration::from_secs(1)).await;
    edge.ticks([100_000]).await;
    assert_eq!(tick(&mut ticks).await, 100_000);
    assert!(ticks.authority_time().is_some());
    edge.refuse(ErrorCode::TimeStepped, "back", 1).await;
    let (_, after, resumes) = reconnecting(&mut ticks).await;
    assert_eq!((after.as_millis(), resumes), (1, false));
    assert_eq!(ticks.authority_time(), None, "what it knew is no more");
    let mut edge = net.edge().await;
    edge.accept().await;
    assert_eq!(edge.subscription().await.resume_after, None);
    edge.subscribed(epoch(50_000)).await;
    edge.ticks([51_000]).await;
    reconnected(&mut ticks).await;
    assert_eq!(tick(&mut ticks).await, 51_000);
}

#[tokio::test(start_paused = true)]
async fn a_resume_point_that_is_refused_is_tried_once_more_and_then_given_up() {
    let (mut ticks, edge, mut net) = Net::subscribed(Options::new("a"), 99_000).await;
    drop(edge);
    assert!(reconnecting(&mut ticks).await.2);
    for resumes in [true, false] {
        let mut edge = net.edge().await;
        edge.accept().await;
        assert_eq!(edge.subscription().await.resume_after, Some(epoch(99_000)));
        edge.refuse(ErrorCode::InvalidSubscription, "too far ahead", 0)
            .await;
        assert_eq!(reconnecting(&mut ticks).await.2, resumes);
    }
    let mut edge = net.edge().await;
    edge.accept().await;
    assert_eq!(edge.acknowledge(epoch(5_000)).await.resume_after, None);
    edge.ticks([6_000]).await;
    reconnected(&mut ticks).await;
    assert_eq!(tick(&mut ticks).await, 6_000);
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_had_is_told_as_a_gap_and_what_was_had_is_dropped() {
    let (mut ticks, mut edge, mut net) = Net::subscribed(Options::new("a"), 0).await;
    edge.ticks([1_000]).await;
    drop(edge);
    assert_eq!(tick(&mut ticks).await, 1_000);
    reconnecting(&mut ticks).await;
    let mut edge = net.edge().await;
    edge.accept().await;
    // Its window begins later.
    edge.acknowledge(epoch(10_000)).await;
    edge.ticks([11_000]).await;
    reconnected(&mut ticks).await;
    match event(&mut ticks).await {
        Some(Event::Gap { after, before }) => {
            assert_eq!((after, before), (epoch(1_000), epoch(11_000)));
        }
        other => panic!("{other:?} instead of a gap"),
    }
    assert_eq!(tick(&mut ticks).await, 11_000);
    drop(edge);
    reconnecting(&mut ticks).await;
    let mut edge = net.edge().await;
    edge.accept().await;
    // This one doesn't heed the resume point.
    edge.acknowledge(epoch(8_000)).await;
    edge.ticks((9..=13).map(|second| second * 1_000)).await;
    reconnected(&mut ticks).await;
    assert_eq!(tick(&mut ticks).await, 12_000);
    assert_eq!(tick(&mut ticks).await, 13_000);
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_breaks_the_protocol_or_falls_silent_is_left_for_another() {
    let (mut ticks, mut edge, mut net) = Net::subscribed(Options::new("a"), 0).await;
    edge.send(&[0xf5, 0x7d, 2]).await;
    let (why, _, _) = reconnecting(&mut ticks).await;
    assert!(matches!(why, Error::Protocol(_)), "{why:?}");
    let mut edge = net.edge().await;
    edge.accept().await;
    edge.acknowledge(epoch(0)).await;
    reconnected(&mut ticks).await;
    let (why, _, _) = reconnecting(&mut ticks).await;
    assert!(matches!(why, Error::Timeout { .. }), "{why:?}");
    let mut edge = net.edge().await;
    edge.accept().await;
}

#[tokio::test(start_paused = true)]
async fn the_first_connection_fails_at_once_after_each_address_was_tried() {
    let options = || Options::new("x").or_at("y");
    let began = Instant::now();
    let (client, _net) = Net::dial(options(), &["x", "y"]);
    let error = client.await.unwrap().unwrap_err();
    assert!(
        matches!(&error, Error::Connect { address, .. } if address == "y"),
        "{error:?}"
    );
    assert_eq!(began.elapsed(), Duration::ZERO);

    let (client, mut net) = Net::dial(options(), &["x"]);
    assert!(net.next().await.unwrap().1.is_none());
    let mut edge = net.edge().await;
    edge.accept().await;
    edge.acknowledge(epoch(0)).await;
    assert_eq!(client.await.unwrap().unwrap().edge_id(), "edge at y");

    // What fails here fails there.
    let (client, mut net) = Net::dial(options(), &[]);
    let edge = net.edge().await;
    edge.refuse(ErrorCode::AuthFailed, "no", 0).await;
    let error = client.await.unwrap().unwrap_err();
    assert_eq!(error.come_back(), Return::No);
    assert!(net.next().await.is_none(), "it went on trying");
}

/// What begins with AUTH and SUBSCRIBE at an edge that does not know the time: it answers HEARTBEATs until it is left.
async fn left_as_timeless(edge: &mut Edge) -> Duration {
    let began = Instant::now();
    edge.accept().await;
    edge.subscription().await;
    edge.answer_without_time_until_left().await;
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn of_several_edges_one_that_knows_the_time_is_looked_for_round_and_round() {
    let options = Options::new("x").or_at("y").or_at("z");
    let (client, mut net) = Net::dial(options, &["y"]);
    for _ in 0..3 {
        let mut x = net.edge().await;
        assert_eq!(left_as_timeless(&mut x).await, Duration::from_secs(8));
        assert!(net.next().await.unwrap().1.is_none(), "nobody is at y");
        let mut z = net.edge().await;
        assert_eq!(left_as_timeless(&mut z).await, Duration::from_secs(8));
    }
    let mut edge = net.edge().await;
    edge.accept().await;
    edge.acknowledge(epoch(0)).await;
    assert_eq!(client.await.unwrap().unwrap().edge_id(), "edge at x");
}

#[tokio::test(start_paused = true)]
async fn coming_back_it_leaves_an_edge_that_does_not_know_the_time_for_another() {
    let options = Options::new("x").or_at("y");
    let (mut ticks, edge, mut net) = Net::subscribed(options, 0).await;
    drop(edge);
    reconnecting(&mut ticks).await;
    let mut y = net.edge().await;
    assert_eq!(left_as_timeless(&mut y).await, Duration::from_secs(8));
    let (why, _, resumes) = reconnecting(&mut ticks).await;
    assert!(matches!(why, Error::Timeless { .. }) && resumes, "{why:?}");
    let mut x = net.edge().await;
    x.accept().await;
    x.acknowledge(epoch(0)).await;
    assert_eq!(reconnected(&mut ticks).await, "x");
}

#[tokio::test(start_paused = true)]
async fn the_only_edge_is_waited_for_until_it_knows_the_time() {
    let (client, mut net) = Net::dial(Options::new("x"), &[]);
    let mut edge = net.edge().await;
    edge.accept().await;
    edge.subscription().await;
    edge.answer_for(Duration::from_secs(600)).await;
    edge.subscribed(epoch(0)).await;
    client.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_rate_limited_it_sends_no_more_than_the_strictest_edge_takes() {
    for options in [Options::new("x"), Options::new("x").ahead(true)] {
        let (mut ticks, mut edge, mut net) = Net::subscribed(options, 0).await;
        edge.limits.frame_rate = 1;
        edge.refuse(ErrorCode::RateLimited, "too many", 1_000).await;
        reconnecting(&mut ticks).await;
        let mut edge = net.edge().await;
        edge.limits.frame_rate = 1;
        edge.accept().await;
        edge.subscription().await;
        // First it does not know the time, then it does: either way a HEARTBEAT too many would end its session.
        edge.answer_without_time_for(Duration::from_secs(30)).await;
        edge.subscribed(epoch(0)).await;
        assert_eq!(reconnected(&mut ticks).await, "x");
        let came = edge.answer_for(Duration::from_secs(60)).await;
        assert!(came.len() >= 4, "{came:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_reconnecting_the_last_item_says_why_the_connection_ended() {
    let options = Options::new("a").reconnect(false);
    let (mut ticks, edge, mut net) = Net::subscribed(options, 0).await;
    drop(edge);
    let ended = ticks.next().await.unwrap().unwrap_err();
    assert!(matches!(ended, Error::Closed { .. }), "{ended:?}");
    assert!(ticks.next().await.is_none());
    assert!(net.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn dropping_the_ticks_ends_waiting_and_connecting() {
    let (mut ticks, edge, mut net) = Net::subscribed(Options::new("a"), 0).await;
    drop(edge);
    reconnecting(&mut ticks).await;
    drop(ticks);
    assert!(net.next().await.is_none(), "it connected for nobody");

    let (mut ticks, edge, mut net) = Net::subscribed(Options::new("a"), 0).await;
    drop(edge);
    reconnecting(&mut ticks).await;
    let edge = net.edge().await;
    drop(ticks);
    sleep(Duration::from_millis(1)).await;
    edge.hung_up().await;
    assert!(net.next().await.is_none());
}

/// Panics at its second connection.
struct BrokenAfterOne(Option<DuplexStream>);

impl Dial for BrokenAfterOne {
    type Socket = DuplexStream;

    async fn dial(&mut self, _: &str) -> io::Result<DuplexStream> {
        Ok(self.0.take().expect("broken on purpose"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_background_is_not_taken_for_the_end() {
    for ahead in [false, true] {
        let (near, mut edge) = edge_alone();
        let options = Options::new("a").ahead(ahead);
        let dial = BrokenAfterOne(Some(near));
        let client = tokio::spawn(connect_by(dial, edge.clock, options));
        edge.accept().await;
        edge.acknowledge(epoch(0)).await;
        let mut ticks = client.await.unwrap().unwrap();
        drop(edge);
        let ended = tokio::spawn(async move { while event(&mut ticks).await.is_some() {} });
        let error = ended.await.expect_err("no end in order");
        assert!(error.is_panic(), "{error}");
    }
}
