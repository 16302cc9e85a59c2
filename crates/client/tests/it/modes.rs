//! Changes of mode, on a connection and across connections.

use std::time::Duration;

use tickstorm_client::{Error, Event, Mode, Options, Ticks};
use tickstorm_protocol::ErrorCode;
use tickstorm_protocol::session::Request;
use tickstorm_protocol::session::server::Step;
use tickstorm_timebase::Quality;
use tokio::time::{Instant, sleep, timeout};

use crate::edge::{Edge, Net, Seen, epoch};

const SOON: Duration = Duration::from_millis(50);

/// Answers HEARTBEATs until the client sends SUBSCRIBE. Returns `None` if it does not for
/// `duration`.
async fn request_within(edge: &mut Edge, duration: Duration) -> Option<Request> {
    let until = Instant::now() + duration;
    loop {
        match edge.see_until(until).await {
            Seen::Step(Step::Subscribe(request)) => return Some(request),
            Seen::Step(Step::Heartbeat { client_time_us }) => edge.pong(client_time_us).await,
            Seen::Step(other) => panic!("{other:?} instead of SUBSCRIBE"),
            Seen::Closed => panic!("the client has closed the connection"),
            Seen::Nothing => return None,
        }
    }
}

async fn request(edge: &mut Edge) -> Request {
    let request = request_within(edge, Duration::from_secs(2)).await;
    request.expect("the client asks for another mode")
}

async fn event(ticks: &mut Ticks) -> Event {
    ticks.next().await.unwrap().unwrap()
}

/// Asserts that the next event is a tick, so many milliseconds after the base.
async fn assert_tick(ticks: &mut Ticks, mode: Mode, at_ms: i64) {
    let event = event(ticks).await;
    let Event::Tick(tick) = event else {
        panic!("{event:?} instead of {mode:?} {at_ms}");
    };
    assert_eq!((tick.mode, tick.epoch), (mode, epoch(at_ms)));
}

async fn assert_changed(ticks: &mut Ticks, to: Mode, after_ms: i64) {
    let event = event(ticks).await;
    let Event::ModeChanged { mode, start, .. } = event else {
        panic!("{event:?} instead of a change to {to:?}");
    };
    assert_eq!((mode, start), (to, epoch(after_ms)));
}

async fn send(edge: &mut Edge, mode: Mode, quality: Quality, at_ms: &[i64]) {
    let frame = edge.batch(mode, quality, at_ms.iter().copied());
    edge.send(&frame).await;
}

#[tokio::test(start_paused = true)]
async fn ticks_are_of_the_old_mode_until_the_edge_accepts_the_new_one() {
    let (mut ticks, mut edge, _net) = Net::subscribed(Options::new("a"), 0).await;
    edge.answer_for(Duration::from_secs(1)).await;
    edge.ticks([1_000]).await;
    assert_tick(&mut ticks, Mode::Second, 1_000).await;
    ticks.set_mode(Mode::Minute);
    assert_eq!(ticks.mode(), Mode::Minute);
    let asked = request(&mut edge).await;
    assert_eq!(asked.mode, Mode::Minute);
    assert_eq!(
        asked.resume_after,
        Some(epoch(1_000)),
        "after the last tick"
    );
    edge.ticks([2_000]).await;
    assert_tick(&mut ticks, Mode::Second, 2_000).await;
    edge.subscribed(epoch(1_000)).await;
    assert_changed(&mut ticks, Mode::Minute, 2_000).await;
    send(&mut edge, Mode::Minute, Quality::Normal, &[60_000, 120_000]).await;
    assert_tick(&mut ticks, Mode::Minute, 60_000).await;
    assert_tick(&mut ticks, Mode::Minute, 120_000).await;

    // Back again, the seconds start at the present, and not after the last minute.
    ticks.set_mode(Mode::Second);
    let asked = request(&mut edge).await;
    let behind_ms = epoch(edge.authority_ms()).as_ms() - asked.resume_after.unwrap().as_ms();
    assert_eq!(asked.mode, Mode::Second);
    assert!((0..100).contains(&behind_ms), "{behind_ms}");
}

#[tokio::test(start_paused = true)]
async fn seconds_start_at_the_present() {
    let options = Options::new("a").mode(Mode::Minute);
    let (mut ticks, mut edge, _net) = Net::subscribed(options, 0).await;
    edge.answer_for(Duration::from_millis(30_300)).await;
    ticks.set_mode(Mode::Second);
    let point = request(&mut edge).await.resume_after.unwrap();
    assert!(
        point > epoch(30_200) && point < epoch(edge.authority_ms()),
        "{point:?}"
    );
    edge.subscribed(point).await;
    edge.ticks([31_000]).await;
    assert_changed(&mut ticks, Mode::Second, point.as_ms() - epoch(0).as_ms()).await;
    assert_tick(&mut ticks, Mode::Second, 31_000).await;
}

#[tokio::test(start_paused = true)]
async fn the_last_wish_counts_and_changes_are_spaced() {
    let (mut ticks, mut edge, _net) = Net::subscribed(Options::new("a"), 0).await;
    ticks.set_mode(Mode::Minute);
    assert_eq!(request(&mut edge).await.mode, Mode::Minute);
    let asked_at = Instant::now();
    // Only one change is under way, and wishes that cancel each other are none.
    for mode in [
        Mode::Second,
        Mode::Minute,
        Mode::Second,
        Mode::Minute,
        Mode::Second,
    ] {
        ticks.set_mode(mode);
        tokio::task::yield_now().await;
    }
    assert_eq!(request_within(&mut edge, SOON).await, None);
    edge.subscribed(epoch(0)).await;
    assert_changed(&mut ticks, Mode::Minute, 0).await;
    let asked = request(&mut edge).await;
    assert_eq!(asked.mode, Mode::Second);
    assert!(asked_at.elapsed() >= Duration::from_millis(1_500));
    edge.subscribed(asked.resume_after.unwrap()).await;
    assert!(matches!(event(&mut ticks).await, Event::ModeChanged { .. }));
    ticks.set_mode(Mode::Second);
    assert_eq!(
        request_within(&mut edge, Duration::from_secs(3)).await,
        None
    );
}

#[tokio::test(start_paused = true)]
async fn a_mode_set_without_a_connection_is_that_of_the_next_one() {
    let (mut ticks, mut edge, mut net) = Net::subscribed(Options::new("a"), 0).await;
    edge.ticks([1_000]).await;
    assert_tick(&mut ticks, Mode::Second, 1_000).await;
    edge.refuse(ErrorCode::ServerDraining, "a test", 500).await;
    assert!(matches!(
        event(&mut ticks).await,
        Event::Reconnecting { .. }
    ));
    ticks.set_mode(Mode::Minute);
    let mut edge = net.edge().await;
    let asked = edge.subscribe().await;
    assert_eq!(
        (asked.mode, asked.resume_after),
        (Mode::Minute, Some(epoch(1_000)))
    );
    assert!(matches!(event(&mut ticks).await, Event::Reconnected { .. }));
    assert_changed(&mut ticks, Mode::Minute, 1_000).await;
    send(&mut edge, Mode::Minute, Quality::Normal, &[60_000]).await;
    assert_tick(&mut ticks, Mode::Minute, 60_000).await;
}

#[tokio::test(start_paused = true)]
async fn a_change_that_was_not_answered_is_asked_for_again_over_the_next_connection() {
    let (mut ticks, mut edge, mut net) = Net::subscribed(Options::new("a"), 0).await;
    ticks.set_mode(Mode::Minute);
    assert_eq!(request(&mut edge).await.mode, Mode::Minute);
    drop(edge);
    assert!(matches!(
        event(&mut ticks).await,
        Event::Reconnecting { .. }
    ));
    let mut edge = net.edge().await;
    assert_eq!(edge.subscribe().await.mode, Mode::Minute);
    assert!(matches!(event(&mut ticks).await, Event::Reconnected { .. }));
    assert_changed(&mut ticks, Mode::Minute, 0).await;
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_does_not_answer_is_left() {
    let (mut ticks, mut edge, _net) = Net::subscribed(Options::new("a"), 0).await;
    ticks.set_mode(Mode::Minute);
    request(&mut edge).await;
    let serving = tokio::spawn(async move { edge.serve().await });
    let left = timeout(Duration::from_secs(12), async {
        loop {
            if let Event::Reconnecting { why, .. } = event(&mut ticks).await {
                break why;
            }
        }
    });
    let why = left.await.unwrap();
    assert!(
        matches!(why, Error::TimeUnknown { waited, .. } if waited.as_secs() == 8),
        "{why:?}"
    );
    serving.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_minute_that_is_held_does_not_delay_seconds() {
    let options = Options::new("a").mode(Mode::Minute).ahead(true);
    let (mut ticks, mut edge, _net) = Net::subscribed(options, 0).await;
    edge.answer_for(Duration::from_millis(56_300)).await;
    // The edge is 5 s ahead.
    send(&mut edge, Mode::Minute, Quality::Normal, &[60_000]).await;
    ticks.set_mode(Mode::Second);
    let point = request(&mut edge).await.resume_after.unwrap();
    assert!(point < epoch(57_000), "{point:?}");
    edge.subscribed(point).await;
    let event = timeout(SOON, event(&mut ticks))
        .await
        .expect("nothing delays it");
    assert!(matches!(event, Event::ModeChanged { .. }), "{event:?}");
    edge.ticks([57_000, 58_000, 59_000, 60_000]).await;
    for at_ms in [57_000, 58_000, 59_000, 60_000] {
        assert_tick(&mut ticks, Mode::Second, at_ms).await;
        let late_ms = edge.authority_ms() - at_ms;
        assert!((0..50).contains(&late_ms), "{late_ms} ms late");
    }
}

#[tokio::test(start_paused = true)]
async fn a_move_that_asked_for_the_old_mode_is_made_again() {
    let options = Options::new("a").or_at("b");
    let (mut ticks, mut old, mut net) = Net::subscribed(options, 0).await;
    old.ticks([1_000]).await;
    assert_tick(&mut ticks, Mode::Second, 1_000).await;
    old.go_away(4_000).await;
    let mut new = net.edge().await;
    new.accept().await;
    assert_eq!(new.subscription().await.mode, Mode::Second);
    ticks.set_mode(Mode::Minute);
    assert_eq!(request(&mut old).await.mode, Mode::Minute);
    old.subscribed(epoch(1_000)).await;
    assert_changed(&mut ticks, Mode::Minute, 1_000).await;
    let _serving = tokio::spawn(async move { old.answer_for(Duration::from_secs(9)).await });
    // The next attempt asks for the new mode.
    let mut new = net.edge().await;
    new.limits.edge_id = "another one at that address".into();
    assert_eq!(new.subscribe().await.mode, Mode::Minute);
    let event = event(&mut ticks).await;
    assert!(matches!(event, Event::Moved { .. }), "{event:?}");
    sleep(SOON).await;
    send(&mut new, Mode::Minute, Quality::Normal, &[60_000]).await;
    assert_tick(&mut ticks, Mode::Minute, 60_000).await;
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_taken_back_during_an_outage_loses_no_tick() {
    let (mut ticks, mut edge, mut net) = Net::subscribed(Options::new("a"), 0).await;
    edge.answer_for(Duration::from_secs(1)).await;
    edge.ticks([1_000]).await;
    assert_tick(&mut ticks, Mode::Second, 1_000).await;
    drop(edge);
    assert!(matches!(
        event(&mut ticks).await,
        Event::Reconnecting { .. }
    ));
    ticks.set_mode(Mode::Minute);
    // This attempt asks for minutes, and fails.
    let mut edge = net.edge().await;
    edge.accept().await;
    assert_eq!(edge.subscription().await.mode, Mode::Minute);
    edge.refuse(ErrorCode::ServerDraining, "a test", 500).await;
    assert!(matches!(
        event(&mut ticks).await,
        Event::Reconnecting { .. }
    ));
    ticks.set_mode(Mode::Second);
    let mut edge = net.edge().await;
    let asked = edge.subscribe().await;
    assert_eq!(
        (asked.mode, asked.resume_after),
        (Mode::Second, Some(epoch(1_000)))
    );
    assert!(matches!(event(&mut ticks).await, Event::Reconnected { .. }));
    edge.ticks([2_000]).await;
    assert_tick(&mut ticks, Mode::Second, 2_000).await;
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_refused_is_made_over_the_next_connection() {
    let (mut ticks, mut edge, mut net) = Net::subscribed(Options::new("a"), 0).await;
    edge.ticks([1_000]).await;
    assert_tick(&mut ticks, Mode::Second, 1_000).await;
    ticks.set_mode(Mode::Minute);
    assert_eq!(request(&mut edge).await.mode, Mode::Minute);
    for (code, point) in [
        (ErrorCode::InvalidSubscription, Some(epoch(1_000))),
        (ErrorCode::NoTime, Some(epoch(1_000))),
        // The resume point is given up when it is refused for the second time.
        (ErrorCode::InvalidSubscription, None),
    ] {
        edge.refuse(code, "a test", 500).await;
        let event = event(&mut ticks).await;
        let Event::Reconnecting { resumes, .. } = event else {
            panic!("{event:?} after {code:?}");
        };
        assert_eq!(resumes, point.is_some());
        edge = net.edge().await;
        edge.accept().await;
        let asked = edge.subscription().await;
        assert_eq!(
            (asked.mode, asked.resume_after),
            (Mode::Minute, point),
            "{code:?}"
        );
    }
    edge.subscribed(epoch(5_000)).await;
    assert!(matches!(event(&mut ticks).await, Event::Reconnected { .. }));
    assert_changed(&mut ticks, Mode::Minute, 5_000).await;
}

#[tokio::test(start_paused = true)]
async fn a_change_under_way_does_not_keep_a_client_from_moving() {
    let options = Options::new("a").or_at("b");
    let (mut ticks, mut old, mut net) = Net::subscribed(options, 0).await;
    old.ticks([1_000]).await;
    assert_tick(&mut ticks, Mode::Second, 1_000).await;
    old.go_away(4_000).await;
    let mut new = net.edge().await;
    new.accept().await;
    assert_eq!(new.subscription().await.mode, Mode::Second);
    ticks.set_mode(Mode::Minute);
    assert_eq!(request(&mut old).await.mode, Mode::Minute);
    // The old edge dies before it answers.
    drop(old);
    new.subscribed(epoch(1_000)).await;
    let moved = event(&mut ticks).await;
    assert!(matches!(moved, Event::Moved { .. }), "{moved:?}");
    let asked = request(&mut new).await;
    assert_eq!(
        (asked.mode, asked.resume_after),
        (Mode::Minute, Some(epoch(1_000)))
    );
    new.subscribed(epoch(1_000)).await;
    assert_changed(&mut ticks, Mode::Minute, 1_000).await;
}
