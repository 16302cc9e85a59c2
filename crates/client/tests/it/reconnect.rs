//! Tests of reconnecting: the ticks form one stream, whatever happens to connections.

use std::io;
use std::time::Duration;

use tickstorm_client::error::{ErrorCode, Return};
use tickstorm_client::{Dial, Error, Event, Mode, Options, Quality, Ticks, connect_by};
use tickstorm_protocol::frame::{self, FrameType};
use tickstorm_protocol::message::Ack;
use tokio::io::DuplexStream;
use tokio::time::{Instant, sleep, timeout};

use crate::edge::{Edge, Net, edge_alone, epoch};

async fn event(ticks: &mut Ticks) -> Option<Event> {
    ticks.next().await.map(Result::unwrap)
}

/// Returns the next tick, which must be the next event, in milliseconds after the base.
async fn tick(ticks: &mut Ticks) -> i64 {
    match event(ticks).await {
        Some(Event::Tick(tick)) => tick.epoch.as_ms() - epoch(0).as_ms(),
        other => panic!("{other:?} instead of a tick"),
    }
}

/// Returns why and for how long the client waits, and whether it will resume.
async fn reconnecting(ticks: &mut Ticks) -> (Error, Duration, bool) {
    match event(ticks).await {
        Some(Event::Reconnecting {
            why,
            after,
            resumes,
            ..
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

/// Returns both ACKs of an edge, as frames.
fn both_acks(start_ms: i64) -> Vec<u8> {
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
async fn after_a_cut_at_any_byte_no_tick_is_missed_or_repeated() {
    let mut cut_at = 0;
    loop {
        let (mut ticks, mut edge, mut net) = Net::subscribed(Options::new("a"), 0).await;
        edge.ticks([1_000, 2_000]).await;
        drop(edge);
        let mut edge = net.edge().await;
        let mut bytes = both_acks(2_000);
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
        "it resumes from the start of the subscription"
    );
    edge.subscribed(epoch(60_000)).await;
    let replay = edge.batch(Mode::Minute, Quality::Replay, [120_000]);
    edge.send(&replay).await;
    assert!(reconnecting(&mut ticks).await.2);
    reconnected(&mut ticks).await;
    assert_eq!(tick(&mut ticks).await, 120_000);
}

/// A user who reports a problem has the id under which the edge has logged the connection.
#[tokio::test(start_paused = true)]
async fn the_id_of_each_connection_is_known_while_it_lasts_and_when_it_has_ended() {
    async fn next_edge(net: &mut Net, connection_id: &'static str) -> Edge {
        let mut edge = net.next().await.unwrap().1.unwrap();
        edge.connection_id = connection_id;
        edge
    }
    fn ended(event: Option<Event>) -> (String, Option<String>) {
        match event {
            Some(Event::Reconnecting {
                why, connection_id, ..
            }) => (why.to_string(), connection_id.map(|id| id.to_string())),
            other => panic!("{other:?} instead of the connection's end"),
        }
    }
    let (client, mut net) = Net::dial(Options::new("a"), &[]);
    let mut first = next_edge(&mut net, "1-first").await;
    first.accept().await;
    first.acknowledge(epoch(0)).await;
    let mut ticks = client.await.unwrap().unwrap();
    let current = |ticks: &Ticks| ticks.connection_id().map(|id| id.as_str().to_owned());
    assert_eq!(current(&ticks).as_deref(), Some("1-first"));
    assert_eq!(ticks.frame_rate_limit().map(u32::from), Some(10));

    // An end without an ERROR.
    drop(first);
    let (why, id) = ended(event(&mut ticks).await);
    assert_eq!(
        (why.as_str(), id.as_deref()),
        ("the edge closed the connection", Some("1-first"))
    );

    // An ERROR before the ACK of AUTH.
    let second = next_edge(&mut net, "2-second").await;
    second.refuse(ErrorCode::ServerFull, "full", 1).await;
    let (why, id) = ended(event(&mut ticks).await);
    assert!(
        why.ends_with("SERVER_FULL: full (connection 2-second)"),
        "{why}"
    );
    assert_eq!(id.as_deref(), Some("2-second"));
    assert_eq!(
        current(&ticks).as_deref(),
        Some("1-first"),
        "there is no newer one"
    );

    let mut third = next_edge(&mut net, "3-third").await;
    third.accept().await;
    third.acknowledge(epoch(0)).await;
    assert_eq!(reconnected(&mut ticks).await, "a");
    assert_eq!(current(&ticks).as_deref(), Some("3-third"));

    // An edge that gives no ids.
    third.refuse(ErrorCode::ServerDraining, "bye", 1).await;
    assert_eq!(ended(event(&mut ticks).await).1.as_deref(), Some("3-third"));
    let mut fourth = next_edge(&mut net, "").await;
    fourth.accept().await;
    fourth.acknowledge(epoch(0)).await;
    assert_eq!(reconnected(&mut ticks).await, "a");
    assert_eq!(current(&ticks), None);
    drop(fourth);
    assert_eq!(ended(event(&mut ticks).await).1, None);
}

#[tokio::test(start_paused = true)]
async fn after_each_failure_it_tries_the_next_address_and_reports_it() {
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
    assert_eq!(
        net.next().await.unwrap().0,
        "a",
        "after the last address comes the first"
    );
}

#[tokio::test(start_paused = true)]
async fn waits_grow_with_each_failure_until_a_subscription_has_lasted() {
    let (mut ticks, edge, mut net) = Net::subscribed(Options::new("a"), 0).await;
    drop(edge);
    for attempt in 0..8 {
        let (_, after, _) = reconnecting(&mut ticks).await;
        let bound = (1 << attempt).min(30);
        assert!(
            after <= Duration::from_secs(bound),
            "{attempt}: {after:?} of {bound} s"
        );
        let edge = net.edge().await;
        drop(edge);
    }
    reconnecting(&mut ticks).await;
    let mut edge = net.edge().await;
    edge.accept().await;
    edge.acknowledge(epoch(0)).await;
    edge.serve_for(Duration::from_secs(31)).await;
    drop(edge);
    reconnected(&mut ticks).await;
    let after = loop {
        if let Some(Event::Reconnecting { after, .. }) = event(&mut ticks).await {
            break after;
        }
    };
    assert!(after <= Duration::from_secs(1), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn an_error_that_will_recur_is_reported_and_retried_at_most_once_per_minute() {
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
async fn after_a_step_of_time_it_starts_from_the_new_present() {
    let (mut ticks, mut edge, mut net) = Net::subscribed(Options::new("a"), 99_000).await;
    edge.answer_for(Duration::from_secs(1)).await;
    edge.ticks([100_000]).await;
    assert_eq!(tick(&mut ticks).await, 100_000);
    assert!(ticks.authority_time().is_some());
    edge.refuse(ErrorCode::TimeStepped, "back", 1).await;
    let (_, after, resumes) = reconnecting(&mut ticks).await;
    assert_eq!((after.as_millis(), resumes), (1, false));
    assert_eq!(ticks.authority_time(), None, "the old samples are dropped");
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
        edge.refuse(ErrorCode::InvalidSubscription, "too far ahead", 1_100)
            .await;
        let (_, after, does_resume) = reconnecting(&mut ticks).await;
        assert!(after.as_millis() >= 1_100, "{after:?}");
        assert_eq!(does_resume, resumes);
    }
    let mut edge = net.edge().await;
    edge.accept().await;
    assert_eq!(edge.acknowledge(epoch(5_000)).await.resume_after, None);
    edge.ticks([6_000]).await;
    reconnected(&mut ticks).await;
    assert_eq!(tick(&mut ticks).await, 6_000);
}

#[tokio::test(start_paused = true)]
async fn missing_ticks_are_reported_as_a_gap_and_repeated_ticks_are_dropped() {
    let (mut ticks, mut edge, mut net) = Net::subscribed(Options::new("a"), 0).await;
    edge.ticks([1_000]).await;
    drop(edge);
    assert_eq!(tick(&mut ticks).await, 1_000);
    reconnecting(&mut ticks).await;
    let mut edge = net.edge().await;
    edge.accept().await;
    // This edge's resume window begins after the resume point.
    edge.acknowledge(epoch(10_000)).await;
    edge.ticks([11_000]).await;
    reconnected(&mut ticks).await;
    match event(&mut ticks).await {
        Some(Event::Gap { after, before, .. }) => {
            assert_eq!((after, before), (epoch(1_000), epoch(11_000)));
        }
        other => panic!("{other:?} instead of a gap"),
    }
    assert_eq!(tick(&mut ticks).await, 11_000);
    drop(edge);
    reconnecting(&mut ticks).await;
    let mut edge = net.edge().await;
    edge.accept().await;
    // This edge ignores the resume point.
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
async fn the_first_connection_fails_without_a_wait_once_each_address_was_tried() {
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
}

/// Plays an edge that does not know the time: accepts AUTH, leaves SUBSCRIBE unanswered, and
/// answers HEARTBEATs until the client leaves. Returns how long that took.
async fn left_as_timeless(edge: &mut Edge) -> Duration {
    let began = Instant::now();
    edge.accept().await;
    edge.subscription().await;
    edge.answer_without_time_until_closed().await;
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn addresses_are_tried_in_turn_until_an_edge_knows_the_time() {
    let options = Options::new("x").or_at("y").or_at("z");
    let (client, mut net) = Net::dial(options, &["y"]);
    for _ in 0..3 {
        let mut x = net.edge().await;
        assert_eq!(left_as_timeless(&mut x).await, Duration::from_secs(8));
        assert!(net.next().await.unwrap().1.is_none(), "no edge is at y");
        let mut z = net.edge().await;
        assert_eq!(left_as_timeless(&mut z).await, Duration::from_secs(8));
    }
    let mut edge = net.edge().await;
    edge.accept().await;
    edge.acknowledge(epoch(0)).await;
    assert_eq!(client.await.unwrap().unwrap().edge_id(), "edge at x");
}

#[tokio::test(start_paused = true)]
async fn when_reconnecting_an_edge_without_the_time_is_left_for_another() {
    let options = Options::new("x").or_at("y");
    let (mut ticks, edge, mut net) = Net::subscribed(options, 0).await;
    drop(edge);
    reconnecting(&mut ticks).await;
    let mut y = net.edge().await;
    assert_eq!(left_as_timeless(&mut y).await, Duration::from_secs(8));
    let (why, _, resumes) = reconnecting(&mut ticks).await;
    assert!(
        matches!(why, Error::TimeUnknown { .. }) && resumes,
        "{why:?}"
    );
    let mut x = net.edge().await;
    x.accept().await;
    x.acknowledge(epoch(0)).await;
    assert_eq!(reconnected(&mut ticks).await, "x");
}

#[tokio::test(start_paused = true)]
async fn the_only_edge_is_waited_for_until_it_knows_the_time() {
    let (client, mut net) = Net::dial(Options::new("x"), &[]);
    let mut edge = net.edge().await;
    edge.accept_as_minor_0().await;
    edge.subscription().await;
    edge.answer_for(Duration::from_secs(600)).await;
    edge.subscribed(epoch(0)).await;
    client.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_rate_limited_it_sends_no_more_than_the_strictest_edge_accepts() {
    for options in [Options::new("x"), Options::new("x").ahead(true)] {
        let (mut ticks, mut edge, mut net) = Net::subscribed(options, 0).await;
        edge.limits.frame_rate = 1;
        edge.refuse(ErrorCode::RateLimited, "too many", 1_000).await;
        reconnecting(&mut ticks).await;
        let mut edge = net.edge().await;
        edge.limits.frame_rate = 1;
        edge.accept().await;
        edge.subscription().await;
        // The edge does not know the time at first, and then does. In either state, the session
        // ends if there are too many HEARTBEATs, and none may use up the burst: earlier versions of
        // the edge allow one of only two frames.
        let mut heartbeats = edge.answer_without_time_for(Duration::from_secs(7)).await;
        edge.subscribed(epoch(0)).await;
        assert_eq!(reconnected(&mut ticks).await, "x");
        heartbeats.extend(edge.serve_for(Duration::from_secs(60)).await);
        // Then a tick is overdue, and the edge has lost the time.
        heartbeats.extend(edge.answer_without_time_for(Duration::from_secs(4)).await);
        assert!(heartbeats.len() >= 11, "{heartbeats:?}");
        for pair in heartbeats.windows(2) {
            assert!(
                pair[1] - pair[0] >= Duration::from_secs(1),
                "{heartbeats:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_reconnecting_the_last_item_is_the_error_that_ended_the_connection() {
    let options = Options::new("a").reconnect(false);
    let (mut ticks, edge, mut net) = Net::subscribed(options, 0).await;
    drop(edge);
    let ended = ticks.next().await.unwrap().unwrap_err();
    assert!(matches!(ended, Error::Closed { .. }), "{ended:?}");
    assert!(ticks.next().await.is_none());
    assert!(net.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn dropping_the_ticks_stops_waits_and_new_connections() {
    let (mut ticks, edge, mut net) = Net::subscribed(Options::new("a"), 0).await;
    drop(edge);
    reconnecting(&mut ticks).await;
    drop(ticks);
    assert!(
        net.next().await.is_none(),
        "the client connected although its reader was gone"
    );

    let (mut ticks, edge, mut net) = Net::subscribed(Options::new("a"), 0).await;
    drop(edge);
    reconnecting(&mut ticks).await;
    let edge = net.edge().await;
    drop(ticks);
    sleep(Duration::from_millis(1)).await;
    edge.closed_by_client().await;
    assert!(net.next().await.is_none());
}

/// A [`Dial`] that panics at its second connection.
struct BrokenAfterOne(Option<DuplexStream>);

impl Dial for BrokenAfterOne {
    type Socket = DuplexStream;

    async fn dial(&mut self, _: &str) -> io::Result<DuplexStream> {
        Ok(self
            .0
            .take()
            .expect("this test dials only once without a panic"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_background_is_not_mistaken_for_the_end_of_the_stream() {
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
        let error = ended.await.expect_err("the panic reaches the reader");
        assert!(error.is_panic(), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_cookie_is_presented_to_every_later_edge() {
    let options = Options::new("a").or_at("b").credentials("user", "pass");
    let (client, mut net) = Net::dial(options, &[]);
    for (sent, presented) in [
        (&b"first"[..], &b""[..]),
        (b"second", b"first"),
        // An edge that has no key yet, and one whose cookie is too long.
        (b"", b"second"),
        (&[7; 65], b"second"),
        (&[7; 64], b"second"),
        (b"", &[7; 64]),
    ] {
        let mut edge = net.edge().await;
        let auth = edge.accept_with(sent).await;
        assert_eq!(auth.cookie, presented);
        assert_eq!((&*auth.username, &*auth.password), ("user", "pass"));
        edge.acknowledge(epoch(0)).await;
    }
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn a_cookie_is_kept_even_if_the_edge_then_refuses_the_subscription() {
    let (_client, mut net) = Net::dial(Options::new("a"), &[]);
    let mut edge = net.edge().await;
    edge.accept().await;
    edge.acknowledge(epoch(0)).await;
    drop(edge);
    let mut edge = net.edge().await;
    edge.accept_with(b"given").await;
    drop(edge);
    let mut edge = net.edge().await;
    assert_eq!(edge.accept().await.cookie, b"given");
}

#[tokio::test(start_paused = true)]
async fn a_new_connection_is_kept_alive_before_the_reader_learns_of_it() {
    // The last ones leave no space for the news.
    for unread in 990.. {
        let (mut ticks, mut edge, mut net) = Net::subscribed(Options::new("a"), 0).await;
        edge.ticks((1..=unread).map(|second| second * 1_000)).await;
        sleep(Duration::from_millis(1)).await;
        drop(edge);
        let Ok(mut edge) = timeout(Duration::from_secs(2), net.edge()).await else {
            // Not even the end of the connection was reported yet.
            assert_eq!(unread, 1_000);
            break;
        };
        edge.subscribe().await;
        let heartbeats = edge.answer_for(Duration::from_secs(60)).await;
        assert!(heartbeats.len() >= 4, "{unread}: {heartbeats:?}");
        for second in 1..=unread {
            assert_eq!(tick(&mut ticks).await, second * 1_000);
        }
        reconnecting(&mut ticks).await;
        reconnected(&mut ticks).await;
    }
}
