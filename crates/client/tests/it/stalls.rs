//! Tests of a client whose machine is suspended or stops: what it knew of the time is void.

use std::time::Duration;

use tickstorm_client::{Event, Options, Tick, Ticks};
use tokio::time::{Instant, sleep, timeout};

use crate::edge::{Edge, Net, epoch};

const HALF_A_MINUTE: Duration = Duration::from_secs(30);

/// Returns a client that knows the time, has received the tick at 1,000, and whose edge has sent
/// the ticks until 2,000.
async fn settled(options: Options) -> (Ticks, Edge, Net) {
    let (mut ticks, mut edge, net) = Net::subscribed(options, 0).await;
    edge.serve_for(Duration::from_millis(1_500)).await;
    assert_eq!(tick(&mut ticks).await.epoch, epoch(1_000));
    (ticks, edge, net)
}

async fn tick(ticks: &mut Ticks) -> Tick {
    match ticks.next().await {
        Some(Ok(Event::Tick(tick))) => tick,
        other => panic!("{other:?} instead of a tick"),
    }
}

/// Stops the client's machine in one way or the other.
async fn stall(edge: &Edge, suspended: bool) {
    if suspended {
        edge.clock.suspend(HALF_A_MINUTE);
    } else {
        tokio::time::advance(HALF_A_MINUTE).await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_tick_is_released_after_a_stall_until_the_time_is_known_again() {
    for suspended in [false, true] {
        let (mut ticks, mut edge, _net) = settled(Options::new("a").ahead(true)).await;
        // The client holds this tick when its machine stops.
        edge.ticks([2_000]).await;
        sleep(Duration::from_millis(10)).await;
        stall(&edge, suspended).await;
        assert!(
            timeout(Duration::from_secs(1), ticks.next()).await.is_err(),
            "a tick was released without the time"
        );
        assert_eq!(ticks.authority_time(), None);
        let woken = Instant::now();
        edge.answer_for(Duration::from_millis(50)).await;
        let tick = tick(&mut ticks).await;
        assert_eq!(tick.epoch, epoch(2_000));
        let late_us = tick.late_us().unwrap();
        assert!((29_000_000..32_000_000).contains(&late_us), "{late_us}");
        // The first question had to wait for a second.
        assert!(tick.read.unwrap().error_us < 600_000);
        assert!(woken.elapsed() <= Duration::from_millis(50));
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_is_asked_for_as_soon_as_the_stall_is_over() {
    for suspended in [false, true] {
        let (_ticks, mut edge, _net) = settled(Options::new("a")).await;
        stall(&edge, suspended).await;
        let resumed = Instant::now();
        timeout(Duration::from_millis(1_100), edge.heartbeat())
            .await
            .unwrap_or_else(|_| panic!("no HEARTBEAT, suspended: {suspended}"));
        assert!(resumed.elapsed() <= Duration::from_millis(1_100));
    }
}

#[tokio::test(start_paused = true)]
async fn a_tick_that_lay_in_the_socket_during_a_stall_is_told_to_be_late() {
    for suspended in [false, true] {
        let (mut ticks, mut edge, _net) = settled(Options::new("a").exact_time(true)).await;
        stall(&edge, suspended).await;
        // Sent at its time, but the client could not read it.
        edge.ticks([2_000]).await;
        let tick = tick(&mut ticks).await;
        let (late_us, error_us) = (tick.late_us().unwrap(), tick.read.unwrap().error_us);
        assert!(
            late_us.abs_diff(29_500_000) <= error_us,
            "{late_us} ± {error_us}"
        );
        assert!((1_000_000..1_100_000).contains(&error_us), "{error_us}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_a_question_from_before_a_suspension_is_no_sample() {
    let (ticks, mut edge, _net) = settled(Options::new("a").exact_time(true)).await;
    let asked = edge.heartbeat().await;
    sleep(Duration::from_millis(3)).await;
    edge.pong(asked).await;
    // The answer lies in the socket when the machine resumes.
    edge.clock.suspend(HALF_A_MINUTE);
    sleep(Duration::from_millis(5)).await;
    assert_eq!(ticks.authority_time(), None);
    let client_time_us = edge.heartbeat().await;
    edge.pong(client_time_us).await;
    sleep(Duration::from_millis(5)).await;
    let now_ms = ticks.authority_time().unwrap().unix.as_millis() - epoch(0).as_ms();
    assert!(now_ms.abs_diff(edge.authority_ms()) <= 2, "{now_ms}");
}

#[tokio::test(start_paused = true)]
async fn a_stall_is_no_fault_of_the_edge() {
    for suspended in [false, true] {
        let (mut ticks, mut edge, _net) = settled(Options::new("a").or_at("b")).await;
        for _ in 0..3 {
            stall(&edge, suspended).await;
            edge.serve_for(Duration::from_millis(3_700)).await;
        }
        // The socket has all ticks since.
        let mut last = epoch(1_000);
        while last < epoch(90_000) {
            let tick = tick(&mut ticks).await;
            assert!(tick.epoch > last);
            last = tick.epoch;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_connection_left_ticks_held_during_a_stall_are_not_lost() {
    for suspended in [false, true] {
        let options = Options::new("a").ahead(true).reconnect(false);
        let (mut ticks, mut edge, _net) = settled(options).await;
        edge.ticks([2_000, 3_000]).await;
        sleep(Duration::from_millis(10)).await;
        stall(&edge, suspended).await;
        drop(edge);
        for second in 2..=3 {
            let tick = tick(&mut ticks).await;
            assert_eq!(tick.epoch, epoch(second * 1_000));
            assert!(tick.late_us().unwrap() > 25_000_000, "{tick:?}");
        }
        assert!(matches!(ticks.next().await, Some(Err(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn between_connections_a_suspension_voids_the_time_and_ends_no_wait() {
    let (mut ticks, mut edge, mut net) = settled(Options::new("a").ahead(true)).await;
    edge.ticks([2_000]).await;
    sleep(Duration::from_millis(10)).await;
    edge.clock.suspend(HALF_A_MINUTE);
    drop(edge);
    // The tick is held, since the time is not known, and its connection's end is reported after it.
    let mut edge = net.edge().await;
    edge.clock.suspend(HALF_A_MINUTE);
    sleep(Duration::from_secs(9)).await;
    assert!(timeout(Duration::ZERO, ticks.next()).await.is_err());
    assert_eq!(ticks.authority_time(), None);
    edge.accept().await;
    edge.acknowledge(epoch(2_000)).await;
    edge.answer_for(Duration::from_millis(50)).await;
    let tick = tick(&mut ticks).await;
    assert_eq!(tick.epoch, epoch(2_000));
    assert!(tick.late_us().unwrap() > 65_000_000, "{tick:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stall_is_noticed_whatever_ends_the_wait() {
    // The client's wait may be dropped because an event was handed on, just after the stall.
    for _ in 0..20 {
        let (mut ticks, mut edge, _net) = settled(Options::new("a")).await;
        for batch in 0..5 {
            let seconds = batch * 400 + 2..batch * 400 + 402;
            edge.ticks(seconds.map(|second| second * 1_000)).await;
        }
        sleep(Duration::from_millis(20)).await;
        assert!(ticks.authority_time().is_some());
        // There is now space for one more event.
        tick(&mut ticks).await;
        tokio::time::advance(HALF_A_MINUTE / 2).await;
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
        assert_eq!(ticks.authority_time(), None);
    }
}
