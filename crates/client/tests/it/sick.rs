//! Tests that a client leaves an edge that is connected and of no use, but only such an edge.

use std::io::ErrorKind;
use std::time::Duration;

use tickstorm_client::error::{Awaited, ErrorCode};
use tickstorm_client::{Error, Event, Mode, Options, Quality, Ticks};
use tokio::time::{Instant, sleep, timeout};

use crate::edge::{DEAD, Edge, Net, epoch};

/// The largest lateness of any tick if there is a healthy edge to go to.
const LATE_MAX: Duration = Duration::from_secs(6);

fn two() -> Options {
    Options::new("a").or_at("b")
}

/// Reads events until the tick `until_ms` after the base, and asserts that none is missing or
/// doubled, and that none came more than [`LATE_MAX`] after its time. Returns why connections
/// ended.
async fn follow(ticks: &mut Ticks, base: Instant, from_ms: i64, until_ms: i64) -> Vec<Error> {
    let (mut expected, mut ends) = (from_ms + 1_000, Vec::new());
    while expected <= until_ms {
        match ticks.next().await {
            Some(Ok(Event::Tick(tick))) => {
                assert_eq!(tick.epoch, epoch(expected));
                let time = Duration::from_millis(expected.unsigned_abs());
                assert!(
                    base.elapsed() <= time + LATE_MAX,
                    "{expected} at {:?}",
                    base.elapsed()
                );
                expected += 1_000;
            }
            Some(Ok(Event::Reconnecting { why, .. })) => ends.push(why),
            Some(Ok(Event::Reconnected { .. })) => {}
            other => panic!("{other:?}"),
        }
    }
    ends
}

/// Serves the client's next connection until it is closed.
async fn serve_next(net: &mut Net) {
    let mut edge = net.edge().await;
    edge.subscribe().await;
    edge.serve().await;
}

#[tokio::test(start_paused = true)]
async fn a_vanished_edge_is_left_and_no_tick_is_6_s_late() {
    // Whether the client knows the time when the edge vanishes, and at which moment within the
    // second, makes no difference.
    for options in [two(), two().ahead(true), two().exact_time(true)] {
        for vanishes_after_ms in [0, 10, 2_000, 2_400, 2_999, 3_001] {
            let base = Instant::now();
            let (mut ticks, mut edge, mut net) = Net::subscribed(options.clone(), 0).await;
            edge.serve_for(Duration::from_millis(vanishes_after_ms))
                .await;
            let ends = tokio::select! {
                ends = follow(&mut ticks, base, 0, 20_000) => ends,
                () = serve_next(&mut net) => panic!("the client left a healthy edge"),
            };
            assert!(
                matches!(
                    ends[..],
                    [Error::Timeout {
                        awaited: Awaited::Anything,
                        ..
                    }]
                ),
                "{ends:?}"
            );
            assert_eq!(ticks.address(), "b");
            assert!(edge.is_closed().await);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_address_between_two_edges_does_not_make_a_tick_6_s_late() {
    for vanishes_after_ms in [0, 2_000, 2_400, 2_999] {
        let base = Instant::now();
        let options = Options::new("a").or_at(DEAD).or_at("c");
        let (mut ticks, mut edge, mut net) = Net::subscribed(options, 0).await;
        edge.serve_for(Duration::from_millis(vanishes_after_ms))
            .await;
        let ends = tokio::select! {
            ends = follow(&mut ticks, base, 0, 20_000) => ends,
            () = serve_next(&mut net) => panic!("the client left a healthy edge"),
        };
        let [
            Error::Timeout { .. },
            Error::Connect {
                address, source, ..
            },
        ] = &ends[..]
        else {
            panic!("{ends:?}");
        };
        assert_eq!((&**address, source.kind()), (DEAD, ErrorKind::TimedOut));
        assert_eq!(ticks.address(), "c");
    }
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_has_lost_the_time_is_left_and_no_tick_is_6_s_late() {
    for options in [two(), two().ahead(true)] {
        for lost_after_ms in [3_001, 3_500, 3_999] {
            let base = Instant::now();
            let (mut ticks, mut edge, mut net) = Net::subscribed(options.clone(), 0).await;
            edge.serve_for(Duration::from_millis(lost_after_ms)).await;
            let ends = tokio::select! {
                ends = follow(&mut ticks, base, 0, 20_000) => ends,
                () = serve_next(&mut net) => panic!("the client left a healthy edge"),
                () = async {
                    edge.answer_without_time_until_closed().await;
                    std::future::pending::<()>().await;
                } => unreachable!(),
            };
            assert!(matches!(ends[..], [Error::TimeUnknown { .. }]), "{ends:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_time_sends_a_client_to_another_edge_before_its_hint() {
    let base = Instant::now();
    let (mut ticks, mut edge, mut net) = Net::subscribed(two(), 0).await;
    edge.serve_for(Duration::from_millis(2_500)).await;
    edge.refuse(ErrorCode::NoTime, "no time", 10_000).await;
    let ends = tokio::select! {
        ends = follow(&mut ticks, base, 0, 20_000) => ends,
        () = serve_next(&mut net) => panic!("the client left a healthy edge"),
    };
    assert_eq!(ends.len(), 1, "{ends:?}");
    // The address with the hint is not tried before it is over, even if the other one fails.
    let base = Instant::now();
    let (mut ticks, edge, mut net) = Net::subscribed(two(), 0).await;
    edge.refuse(ErrorCode::NoTime, "no time", 10_000).await;
    let mut dialled = Vec::new();
    while dialled.last().map(String::as_str) != Some("a") {
        let (address, edge) = net.next().await.unwrap();
        dialled.push(address);
        drop(edge);
        let _ = timeout(Duration::from_millis(1), ticks.next()).await;
    }
    assert!(base.elapsed() >= Duration::from_secs(10), "{dialled:?}");
}

#[tokio::test(start_paused = true)]
async fn with_a_single_address_one_attempt_after_no_time_does_not_wait_for_the_hint() {
    let base = Instant::now();
    let (mut ticks, mut edge, mut net) = Net::subscribed(Options::new("a"), 0).await;
    edge.serve_for(Duration::from_millis(2_500)).await;
    edge.refuse(ErrorCode::NoTime, "no time", 9_000).await;
    let ends = tokio::select! {
        ends = follow(&mut ticks, base, 0, 20_000) => ends,
        () = serve_next(&mut net) => panic!("the client left a healthy edge"),
    };
    assert_eq!(ends.len(), 1, "{ends:?}");
    // If the name leads to an edge without time again, its hint counts.
    let (mut ticks, mut edge, mut net) = Net::subscribed(Options::new("a"), 0).await;
    edge.serve_for(Duration::from_millis(2_500)).await;
    edge.refuse(ErrorCode::NoTime, "no time", 9_000).await;
    let (mut waits, mut refused) = (Vec::new(), 0);
    while waits.len() < 2 {
        tokio::select! {
            event = ticks.next() => {
                if let Some(Ok(Event::Reconnecting { after, .. })) = event {
                    waits.push(after);
                }
            }
            edge = net.edge() => {
                edge.refuse(ErrorCode::NoTime, "no time", 9_000).await;
                refused += 1;
            }
        }
    }
    assert!(waits[0] <= Duration::from_millis(500), "{waits:?}");
    assert!(waits[1] >= Duration::from_secs(9), "{waits:?}");
    assert_eq!(refused, 1);
}

/// Lets the edge answer without sending ticks, and returns why the client leaves it, which must not
/// be within `at_least`.
async fn left_for_want_of_ticks(ticks: &mut Ticks, edge: &mut Edge, at_least: Duration) -> String {
    let answering = async {
        edge.answer_for(at_least).await;
        assert!(!edge.is_closed().await, "it is left too early");
        edge.answer_for(Duration::from_secs(2)).await;
        panic!("it is not left");
    };
    let left = async {
        loop {
            if let Event::Reconnecting { why, .. } = ticks.next().await.unwrap().unwrap() {
                break why.to_string();
            }
        }
    };
    tokio::select! {
        // The connection is closed together with the event.
        biased;
        why = left => why,
        () = answering => unreachable!(),
    }
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_answers_but_sends_no_more_ticks_is_left_and_no_tick_is_6_s_late() {
    let (mut ticks, mut edge, mut net) = Net::subscribed(two(), 0).await;
    edge.serve_for(Duration::from_millis(3_500)).await;
    let at_least = Duration::from_millis(4_300);
    let why = left_for_want_of_ticks(&mut ticks, &mut edge, at_least).await;
    assert_eq!(why, "the edge sent no tick for 5s");
    assert_eq!(net.next().await.unwrap().0, "b");

    let base = Instant::now();
    let (mut ticks, mut edge, mut net) = Net::subscribed(two(), 0).await;
    edge.serve_for(Duration::from_millis(3_500)).await;
    let ends = tokio::select! {
        ends = follow(&mut ticks, base, 0, 20_000) => ends,
        () = serve_next(&mut net) => panic!("the client left a healthy edge"),
        () = async {
            edge.answer_for(Duration::from_millis(5_400)).await;
            std::future::pending::<()>().await;
        } => unreachable!(),
    };
    assert_eq!(ends.len(), 1, "{ends:?}");
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_has_sent_no_tick_yet_has_10_s() {
    let (mut ticks, mut edge, mut net) = Net::subscribed(two(), 0).await;
    let at_least = Duration::from_millis(10_800);
    let why = left_for_want_of_ticks(&mut ticks, &mut edge, at_least).await;
    assert_eq!(why, "the edge sent no tick for 10s");
    // Each connection begins again.
    assert_eq!(net.edge().await.limits.edge_id, "edge at b");
}

#[tokio::test(start_paused = true)]
async fn with_a_single_address_the_same_name_is_tried_again() {
    let base = Instant::now();
    let (mut ticks, mut edge, mut net) = Net::subscribed(Options::new("a"), 0).await;
    edge.serve_for(Duration::from_millis(2_500)).await;
    let ends = tokio::select! {
        ends = follow(&mut ticks, base, 0, 20_000) => ends,
        () = serve_next(&mut net) => panic!("the client left a healthy edge"),
    };
    assert_eq!(ends.len(), 1, "{ends:?}");
}

#[tokio::test(start_paused = true)]
async fn a_minute_client_waits_for_its_minute_and_leaves_an_edge_that_then_sends_none() {
    let options = two().mode(Mode::Minute);
    let base = Instant::now();
    let (mut ticks, mut edge, mut net) = Net::subscribed(options, 0).await;
    let heartbeats = edge.answer_for(Duration::from_secs(59)).await;
    assert!(heartbeats.len() < 8 + 8, "{heartbeats:?}");
    // The edge vanishes. Until the minute, only its heartbeat timeout could tell.
    let Some(Ok(Event::Reconnecting { why, .. })) = ticks.next().await else {
        panic!("no end");
    };
    let at = base.elapsed();
    assert!(
        at >= Duration::from_secs(64) && at <= Duration::from_millis(64_100),
        "{at:?}: {why}"
    );
    net.edge().await.subscribe().await;
}

#[tokio::test(start_paused = true)]
async fn while_a_tick_is_overdue_no_more_than_a_frame_a_second_is_sent() {
    for options in [two(), two().exact_time(true), two().ahead(true)] {
        let (_ticks, mut edge, _net) = Net::subscribed(options, 0).await;
        edge.answer_for(Duration::from_millis(1_500)).await;
        let heartbeats = edge.answer_for(Duration::from_secs(9)).await;
        assert!(heartbeats.len() >= 7, "{heartbeats:?}");
        for pair in heartbeats.windows(2) {
            let apart = pair[1] - pair[0];
            assert!(apart >= Duration::from_millis(890), "{heartbeats:?}");
        }
    }
}

/// Fills a client's buffers with ticks that it does not read.
async fn stuff(edge: &mut Edge) {
    for batch in 0..6 {
        let ticks = (1..=400).map(|n| (batch * 400 + n) * 10);
        let frame = edge.batch(Mode::Second, Quality::Replay, ticks);
        edge.send(&frame).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_does_not_read_is_no_fault_of_the_edge() {
    let (mut ticks, mut edge, _net) = Net::subscribed(two(), 0).await;
    stuff(&mut edge).await;
    // Nothing is read, so nothing that the edge sends can be seen.
    edge.answer_for(Duration::from_secs(60)).await;
    assert!(!edge.is_closed().await);
    let mut count = 0;
    while count < 2_400 {
        match ticks.next().await {
            Some(Ok(Event::Tick(_))) => count += 1,
            Some(Ok(Event::Gap { .. })) => {}
            other => panic!("{other:?} after {count} ticks"),
        }
    }
    sleep(Duration::from_millis(500)).await;
    assert!(!edge.is_closed().await, "it is judged by the past");
}

#[tokio::test(start_paused = true)]
async fn ticks_that_come_without_answers_or_answers_that_come_without_ticks_are_signs_of_life() {
    // Ticks come, but HEARTBEATs are not answered.
    let (mut ticks, mut edge, _net) = Net::subscribed(two(), 0).await;
    for second in 1..=40 {
        edge.ticks([second * 1_000]).await;
        sleep(Duration::from_secs(1)).await;
        let event = ticks.next().await.unwrap().unwrap();
        assert!(matches!(event, Event::Tick(_)), "{event:?}");
    }
    // A tick is 4.5 s late, as in a short loss of the way to the clocks, but the edge answers.
    let (mut ticks, mut edge, _net) = Net::subscribed(two(), 0).await;
    edge.serve_for(Duration::from_millis(2_500)).await;
    edge.answer_for(Duration::from_secs(5)).await;
    edge.serve_for(Duration::from_secs(3)).await;
    for second in 1..=10 {
        match ticks.next().await {
            Some(Ok(Event::Tick(tick))) => assert_eq!(tick.epoch, epoch(second * 1_000)),
            other => panic!("{other:?}"),
        }
    }
}
