//! Tests that ticks which arrive ahead of their time are released when their time has come.

use std::time::Duration;

use tickstorm_client::error::ErrorCode;
use tickstorm_client::{Error, Event, Mode, Options, Quality, Tick, Ticks};
use tokio::time::{Instant, sleep, timeout};

use crate::edge::{Edge, Net, epoch};

/// The tolerance of release times: tokio's timer counts milliseconds, and the estimate drifts by
/// some microseconds.
const ALLOWANCE: Duration = Duration::from_millis(2);

fn options() -> Options {
    Options::new("a").ahead(true)
}

/// Returns a subscribed client that has learned its edge's time, and the instant at which authority
/// time was the tests' base.
async fn subscribed() -> (Ticks, Edge, Net, Instant) {
    let base = Instant::now();
    let (ticks, mut edge, net) = Net::subscribed(options(), 0).await;
    edge.answer_for(Duration::from_millis(100)).await;
    (ticks, edge, net, base)
}

async fn tick(ticks: &mut Ticks) -> Tick {
    match ticks.next().await {
        Some(Ok(Event::Tick(tick))) => tick,
        other => panic!("{other:?} instead of a tick"),
    }
}

fn assert_near(at: Duration, expected: Duration) {
    assert!(
        at >= expected && at <= expected + ALLOWANCE,
        "released at {at:?} instead of {expected:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn it_subscribes_ahead_and_samples_the_time_often() {
    let (client, mut net) = Net::dial(options(), &[]);
    let mut edge = net.edge().await;
    edge.accept().await;
    assert!(edge.acknowledge(epoch(0)).await.ahead);
    let _ticks = client.await.unwrap().unwrap();
    let heartbeats = edge.serve_for(Duration::from_secs(60)).await;
    assert!(heartbeats.len() > 30, "{heartbeats:?}");
}

#[tokio::test(start_paused = true)]
async fn each_tick_is_released_at_its_time_and_in_order() {
    let (mut ticks, mut edge, _net, base) = subscribed().await;
    edge.ticks([1_000, 2_000]).await;
    edge.ticks([3_000]).await;
    for second in 1..=3 {
        let tick = tick(&mut ticks).await;
        assert_eq!(tick.epoch, epoch(second * 1_000));
        let expected = Duration::from_secs(second.unsigned_abs());
        assert_near(base.elapsed(), expected);
        // By the client's own estimate, no tick is early.
        let late_us = tick.late_us().unwrap();
        assert!((0..=2_000).contains(&late_us), "{late_us}");
    }
}

#[tokio::test(start_paused = true)]
async fn replayed_ticks_are_released_as_they_arrive() {
    let (mut ticks, mut edge, _net, base) = subscribed().await;
    let replay = edge.batch(
        Mode::Second,
        Quality::Replay,
        (1..=200).map(|second| second * 1_000),
    );
    edge.send(&replay).await;
    for second in 1..=200 {
        assert_eq!(tick(&mut ticks).await.epoch, epoch(second * 1_000));
    }
    assert!(base.elapsed() <= Duration::from_millis(110));
}

#[tokio::test(start_paused = true)]
async fn ticks_are_held_until_the_time_is_known() {
    let (mut ticks, mut edge, _net) = Net::subscribed(options(), 0).await;
    edge.ticks([1_000]).await;
    assert!(
        timeout(Duration::from_secs(3), ticks.next()).await.is_err(),
        "a tick was released although the time was not known"
    );
    let client_time_us = edge.heartbeat().await;
    edge.pong(client_time_us).await;
    assert_eq!(tick(&mut ticks).await.epoch, epoch(1_000));
}

#[tokio::test(start_paused = true)]
async fn a_tick_that_waits_for_the_time_does_not_hold_up_replayed_ticks() {
    let (mut ticks, mut edge, _net) = Net::subscribed(options(), 0).await;
    edge.ticks([1_000]).await;
    let early = timeout(Duration::from_millis(50), ticks.next()).await;
    assert!(early.is_err(), "{early:?} although the time is not known");
    // More than the client reads ahead.
    for first in [2, 1_002, 2_002] {
        let seconds = (first..first + 1_000).map(|second| second * 1_000);
        let replay = edge.batch(Mode::Second, Quality::Replay, seconds);
        edge.send(&replay).await;
    }
    for second in 1..=3_001 {
        let next = timeout(Duration::from_millis(50), tick(&mut ticks)).await;
        let next = next.expect("nothing holds it up");
        assert_eq!(next.epoch, epoch(second * 1_000));
    }
}

#[tokio::test(start_paused = true)]
async fn held_ticks_are_released_while_there_is_no_connection() {
    let (mut ticks, mut edge, mut net, base) = subscribed().await;
    edge.ticks([1_000, 2_000]).await;
    drop(edge);
    let comes_back = async {
        let mut edge = net.edge().await;
        edge.accept().await;
        // The client already has this tick, released or not.
        assert_eq!(edge.subscription().await.resume_after, Some(epoch(2_000)));
    };
    // This runs at the same time, since the wait before reconnecting may be longer than the ticks'
    // times.
    let releases = async {
        assert_eq!(tick(&mut ticks).await.epoch, epoch(1_000));
        assert_near(base.elapsed(), Duration::from_secs(1));
        assert_eq!(tick(&mut ticks).await.epoch, epoch(2_000));
        assert_near(base.elapsed(), Duration::from_secs(2));
    };
    tokio::join!(comes_back, releases);
    assert!(matches!(
        ticks.next().await,
        Some(Ok(Event::Reconnecting { resumes: true, .. }))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_step_of_time_drops_ticks_not_yet_released() {
    let (mut ticks, mut edge, mut net, base) = subscribed().await;
    edge.ticks([1_000, 2_000]).await;
    edge.refuse(ErrorCode::TimeStepped, "back", 1).await;
    match ticks.next().await {
        Some(Ok(Event::Reconnecting { resumes, .. })) => assert!(!resumes),
        other => panic!("{other:?}"),
    }
    assert!(base.elapsed() < Duration::from_secs(1));
    let mut edge = net.edge().await;
    edge.accept().await;
    assert_eq!(edge.acknowledge(epoch(0)).await.resume_after, None);
    edge.answer_for(Duration::from_millis(10)).await;
    edge.ticks([1_000]).await;
    assert!(matches!(
        ticks.next().await,
        Some(Ok(Event::Reconnected { .. }))
    ));
    assert_eq!(tick(&mut ticks).await.epoch, epoch(1_000));
}

#[tokio::test(start_paused = true)]
async fn without_reconnecting_held_ticks_precede_the_end_unless_time_was_stepped() {
    let base = Instant::now();
    let (mut ticks, mut edge, _net) = Net::subscribed(options().reconnect(false), 0).await;
    edge.answer_for(Duration::from_millis(10)).await;
    edge.ticks([1_000]).await;
    drop(edge);
    assert_eq!(tick(&mut ticks).await.epoch, epoch(1_000));
    assert_near(base.elapsed(), Duration::from_secs(1));
    assert!(matches!(
        ticks.next().await,
        Some(Err(Error::Closed { .. }))
    ));
    assert!(ticks.next().await.is_none());

    let (mut ticks, mut edge, _net) = Net::subscribed(options().reconnect(false), 0).await;
    edge.answer_for(Duration::from_millis(10)).await;
    edge.ticks([1_000]).await;
    edge.refuse(ErrorCode::TimeStepped, "back", 0).await;
    assert!(matches!(ticks.next().await, Some(Err(Error::Refused(_)))));
    assert!(ticks.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_end_is_reported_even_if_the_time_was_never_known() {
    let (mut ticks, mut edge, _net) = Net::subscribed(options().reconnect(false), 0).await;
    edge.ticks([1_000]).await;
    drop(edge);
    let ended = timeout(Duration::from_secs(1), ticks.next()).await;
    assert!(matches!(ended, Ok(Some(Err(Error::Closed { .. })))));
}

#[tokio::test(start_paused = true)]
async fn a_new_estimate_sets_the_timer_again() {
    let (mut ticks, mut edge, _net, base) = subscribed().await;
    edge.ticks([1_000]).await;
    // The edge's clock is stepped forward by less than would end the subscription.
    edge.skew_us = 500_000;
    let client_time_us = edge.heartbeat().await;
    edge.pong(client_time_us).await;
    let answering = async {
        edge.answer_for(Duration::from_secs(60)).await;
    };
    tokio::select! {
        tick = tick(&mut ticks) => assert_eq!(tick.epoch, epoch(1_000)),
        () = answering => panic!("no tick in time"),
    }
    assert_near(base.elapsed(), Duration::from_millis(500));
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_every_tick() {
    let (mut ticks, mut edge, _net, _) = subscribed().await;
    for batch in 0..4 {
        edge.ticks((1..=500).map(|second| (batch * 500 + second) * 10))
            .await;
    }
    drop(edge);
    // Afterwards the samples are too old to count.
    sleep(Duration::from_secs(60)).await;
    for n in 1..=2_000 {
        assert_eq!(tick(&mut ticks).await.epoch, epoch(n * 10));
    }
}
