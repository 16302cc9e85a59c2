//! Tests of a client and a scripted edge in paused time: what is sent when, which events result,
//! and how the connection ends.

use std::time::Duration;

use futures_util::StreamExt as _;
use tickstorm_client::error::{ClientError, Return, UnknownCode};
use tickstorm_client::{Epoch, Error, Event, Mode, Options, Quality, Tick, Ticks, connect_over};
use tickstorm_protocol::frame::{self, FrameType};
use tickstorm_protocol::message::{ErrorMsg, encode_batch};
use tickstorm_protocol::{ErrorCode, FrameError};
use tickstorm_timebase::{self as timebase, SystemClock};
use tokio::net::TcpSocket;
use tokio::time::{Instant, sleep};

use crate::edge::{BASE_US, ReadOnly, dial, edge_alone, epoch, subscribed};

async fn tick(ticks: &mut Ticks) -> Tick {
    match ticks.next().await {
        Some(Ok(Event::Tick(tick))) => tick,
        other => panic!("{other:?} instead of a tick"),
    }
}

async fn end(ticks: &mut Ticks) -> Error {
    let Some(Err(error)) = ticks.next().await else {
        panic!("no error ended the stream");
    };
    assert!(
        ticks.next().await.is_none(),
        "the stream continued after {error}"
    );
    error
}

#[tokio::test(start_paused = true)]
async fn auth_and_subscribe_carry_the_options_without_waiting_for_each_other() {
    let options = Options::new("unused")
        .credentials("ada", "open sesame")
        .mode(Mode::Minute)
        .resume_after(epoch(-7))
        .client_id("a test");
    let (client, mut edge) = dial(options);
    let auth = edge.accept().await;
    assert_eq!(
        (&*auth.username, &*auth.password, &*auth.token),
        ("ada", "open sesame", "")
    );
    assert_eq!(auth.client_id, "a test");
    assert!(
        auth.client_version.starts_with("tickstorm-client/"),
        "{auth:?}"
    );
    let request = edge.acknowledge(epoch(-7)).await;
    assert_eq!((request.mode, request.ahead), (Mode::Minute, false));
    assert_eq!(request.resume_after, Some(epoch(-7)));
    let ticks = client.await.unwrap().unwrap();
    assert_eq!(
        (ticks.edge_id(), ticks.start_epoch()),
        ("edge-7", epoch(-7))
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_replaces_user_and_password() {
    let (_client, mut edge) = dial(Options::new("unused").credentials("ada", "x").token("t"));
    let auth = edge.accept().await;
    assert_eq!(
        (&*auth.username, &*auth.password, &*auth.token),
        ("", "", "t")
    );
}

#[tokio::test(start_paused = true)]
async fn ticks_arrive_in_order_each_with_its_lateness() {
    let (mut ticks, mut edge) = subscribed(0).await;
    edge.answer_for(Duration::from_millis(1_003)).await;
    edge.ticks([1_000]).await;
    let first = tick(&mut ticks).await;
    assert_eq!((first.mode, first.epoch), (Mode::Second, epoch(1_000)));
    // The pipe adds no delay, so the error consists of the edge's bound, drift and rounding.
    let error_us = first.read.unwrap().error_us;
    assert!((10..=100).contains(&error_us), "{error_us}");
    let late_us = first.late_us().unwrap();
    assert!(late_us.abs_diff(3_000) <= error_us, "{late_us}");

    sleep(Duration::from_millis(1_000)).await;
    edge.ticks([2_000, 3_000]).await;
    assert_eq!(tick(&mut ticks).await.epoch, epoch(2_000));
    let third = tick(&mut ticks).await;
    assert_eq!(third.epoch, epoch(3_000));
    assert!(
        third.late_us().unwrap().abs_diff(-997_000) <= 1_000,
        "{third:?}"
    );
    let now_us = ticks.authority_time().unwrap().unix.as_micros();
    assert!(now_us.abs_diff(BASE_US + 2_003_000) <= 1_000, "{now_us}");
}

#[tokio::test(start_paused = true)]
async fn ticks_are_a_stream() {
    let (ticks, mut edge) = subscribed(0).await;
    edge.ticks([1_000, 2_000]).await;
    let two: Vec<_> = ticks.take(2).collect().await;
    let epochs = two.into_iter().map(|event| match event {
        Ok(Event::Tick(tick)) => tick.epoch,
        other => panic!("{other:?}"),
    });
    assert_eq!(epochs.collect::<Vec<_>>(), [epoch(1_000), epoch(2_000)]);
}

#[tokio::test(start_paused = true)]
async fn eight_heartbeats_open_a_connection_and_the_interval_is_kept_afterwards() {
    let (_ticks, mut edge) = subscribed(0).await;
    let heartbeats = edge.serve_for(Duration::from_secs(120)).await;
    let millis: Vec<_> = heartbeats.iter().map(Duration::as_millis).collect();
    // A timer fires up to a millisecond late.
    for (planned, &actual) in (0..8).map(|i| i * 100).zip(&millis) {
        assert!((planned..=planned + 10).contains(&actual), "{millis:?}");
    }
    assert!(millis.len() > 14, "{millis:?}");
    for pair in millis[7..].windows(2) {
        assert!(
            (9_000..=11_010).contains(&(pair[1] - pair[0])),
            "{millis:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_single_edge_of_minor_0_without_the_time_is_waited_for_as_long_as_it_answers() {
    let (client, mut edge) = dial(Options::new("unused"));
    edge.accept_as_minor_0().await;
    // SUBSCRIBE was sent together with AUTH, so it arrives before every HEARTBEAT; it is answered
    // last.
    edge.subscription().await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(300) {
        let client_time_us = edge.heartbeat().await;
        edge.pong_without_time(client_time_us).await;
    }
    assert!(!client.is_finished());
    edge.subscribed(epoch(300_000)).await;
    let ticks = client.await.unwrap().unwrap();
    assert_eq!(ticks.authority_time(), None);
    let client_time_us = edge.heartbeat().await;
    edge.pong(client_time_us).await;
    // Lets the client run once, to read the PONG.
    sleep(Duration::from_millis(1)).await;
    assert!(ticks.authority_time().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_has_a_code_a_message_and_a_hint_when_to_come_back() {
    let (client, edge) = dial(Options::new("unused"));
    edge.refuse(ErrorCode::ServerFull, "there's no room \u{1b}[2J", 1_234)
        .await;
    let error = client.await.unwrap().unwrap_err();
    let shown = error.to_string();
    assert!(shown.contains("SERVER_FULL: there's no room"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
    let Error::Refused(refusal) = error else {
        panic!("{error:?}");
    };
    assert_eq!(refusal.retry_after_ms, 1_234);
    assert_eq!(refusal.come_back(), Return::Elsewhere);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_follows_earlier_ticks_and_may_have_an_unknown_code() {
    let (mut ticks, mut edge) = subscribed(0).await;
    edge.ticks([1_000]).await;
    let mut bytes = Vec::new();
    let error = ErrorMsg {
        code: "ON\nFIRE".into(),
        ..ErrorMsg::default()
    };
    frame::encode(FrameType::Error, &error, &mut bytes);
    edge.send(&bytes).await;
    drop(edge);
    assert_eq!(tick(&mut ticks).await.epoch, epoch(1_000));
    let error = end(&mut ticks).await;
    assert_eq!(
        error.to_string(),
        "the edge ended the connection: ON\\nFIRE: "
    );
    let Error::Refused(refusal) = error else {
        panic!("{error:?}");
    };
    assert_eq!(refusal.code, Err(UnknownCode("ON\nFIRE".into())));
}

#[tokio::test(start_paused = true)]
async fn an_end_without_an_error_is_closed() {
    let (client, edge) = dial(Options::new("unused"));
    drop(edge);
    let error = client.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error:?}");

    let (mut ticks, edge) = subscribed(0).await;
    drop(edge);
    let error = end(&mut ticks).await;
    assert!(matches!(error, Error::Closed { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_received_even_if_nothing_can_be_sent() {
    let (near, edge) = edge_alone();
    edge.refuse(ErrorCode::ServerDraining, "good bye", 0).await;
    let error = connect_over(ReadOnly(near), SystemClock, Options::new("unused"))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the edge ended the connection: SERVER_DRAINING: good bye"
    );
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_breaks_the_protocol_is_left() {
    let (client, mut edge) = dial(Options::new("unused"));
    edge.send(b"HTTP/1.1 400 Bad Request").await;
    let error = client.await.unwrap().unwrap_err();
    let bad_magic = ClientError::Frame(FrameError::BadMagic {
        position: 0,
        found: b'H',
    });
    assert!(
        matches!(error, Error::Protocol(broken) if broken == bad_magic),
        "{error:?}"
    );

    let (mut ticks, mut edge) = subscribed(5_000).await;
    edge.ticks([5_000]).await;
    let error = end(&mut ticks).await;
    let repeated = ClientError::NotIncreasing {
        last: epoch(5_000),
        next: epoch(5_000),
    };
    assert!(
        matches!(error, Error::Protocol(broken) if broken == repeated),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn epochs_beyond_any_calendar_are_handed_on_or_held() {
    let extremes = [i64::MIN + 1, -1, i64::MAX].map(Epoch::from_ms);
    for (mode, ahead) in [
        (Mode::Second, false),
        (Mode::Minute, false),
        (Mode::Minute, true),
    ] {
        let (client, mut edge) = dial(Options::new("unused").mode(mode).ahead(ahead));
        edge.accept().await;
        edge.acknowledge(Epoch::from_ms(i64::MIN)).await;
        let mut ticks = client.await.unwrap().unwrap();
        edge.answer_for(Duration::from_millis(100)).await;
        let mut frame = Vec::new();
        let batch = extremes.map(|epoch| timebase::Tick {
            epoch,
            quality: Quality::Normal,
        });
        encode_batch(mode, &batch, i64::MIN, &mut frame);
        edge.send(&frame).await;
        // A tick beyond the largest representable time never becomes due.
        let due = if ahead { 2 } else { 3 };
        let mut seen = Vec::new();
        while seen.len() < due {
            match ticks.next().await {
                Some(Ok(Event::Tick(tick))) => seen.push(tick),
                Some(Ok(Event::Gap { after, before, .. })) => assert!(after < before),
                other => panic!("{other:?} instead of a tick"),
            }
        }
        for (tick, epoch) in seen.iter().zip(extremes) {
            assert_eq!(tick.epoch, epoch);
            assert!(tick.late_us().is_some());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_does_not_answer_auth_is_given_up() {
    let began = Instant::now();
    let (client, _edge) = dial(Options::new("unused"));
    let error = client.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the edge sent no answer to AUTH for 10s");
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_falls_silent_between_ticks_is_given_up_after_its_heartbeat_timeout() {
    let (client, mut edge) = dial(Options::new("unused").mode(Mode::Minute));
    edge.accept().await;
    edge.acknowledge(epoch(0)).await;
    let mut ticks = client.await.unwrap().unwrap();
    let began = Instant::now();
    let error = end(&mut ticks).await;
    assert_eq!(error.to_string(), "the edge sent nothing for 20s");
    assert_eq!(began.elapsed().as_secs(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_stall_of_the_clients_machine_does_not_count_as_silence_of_the_edge() {
    let (mut ticks, mut edge) = subscribed(0).await;
    let next = tokio::spawn(async move { tick(&mut ticks).await });
    tokio::task::yield_now().await;
    let began = Instant::now();
    tokio::time::advance(Duration::from_secs(60)).await;
    tokio::task::yield_now().await;
    edge.ticks([1_000]).await;
    let tick = next.await.expect("the connection continues");
    assert_eq!(tick.epoch, epoch(1_000));
    assert_eq!(began.elapsed().as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_no_ticks_keeps_its_connection_and_loses_none() {
    let (mut ticks, mut edge) = subscribed(0).await;
    let epochs_ms = |batch: i64| (1..=500).map(move |i| (batch * 500 + i) * 1_000);
    for batch in 0..10 {
        edge.ticks(epochs_ms(batch)).await;
    }
    // The ticks are not read, yet the client keeps sending HEARTBEATs; otherwise the edge's own
    // deadline of 20 s would end the connection.
    for _ in 0..20 {
        edge.heartbeat().await;
    }
    for expected in (0..10).flat_map(epochs_ms) {
        assert_eq!(tick(&mut ticks).await.epoch, epoch(expected));
    }
    let began = Instant::now();
    edge.answer_for(Duration::from_secs(60)).await;
    edge.ticks([5_001_000]).await;
    assert_eq!(
        tick(&mut ticks).await.epoch,
        epoch(5_001_000),
        "after {:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn dropping_the_ticks_closes_the_connection() {
    let (ticks, edge) = subscribed(0).await;
    drop(ticks);
    edge.closed_by_client().await;
}

#[tokio::test]
async fn an_address_without_a_listener_is_named_in_the_error() {
    // The port is bound but not listening, so that no other process can take it in the meantime.
    let reserved = TcpSocket::new_v4().unwrap();
    reserved.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = reserved.local_addr().unwrap().to_string();
    let error = tickstorm_client::connect(Options::new(&address))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    assert!(error.to_string().contains(&address), "{error}");
}
