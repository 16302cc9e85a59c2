//! Sessions: frames are answered in order however they are split into segments, and PONG carries
//! authority time.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use tickstorm_edge::{BareSealing, Config};
use tickstorm_protocol::message::{Ack, Pong};
use tickstorm_testkit::{Peer, RawFrame, frame, peer, poll_until_async};
use tickstorm_timebase::Mode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{PASSWORD, SOON, TestEdge, USER, config, wall_ms};
use crate::witness::expect_gapless;

fn opening() -> Vec<u8> {
    let frames = [
        peer::auth(USER, PASSWORD),
        peer::subscribe(Mode::Second, None, false),
        peer::heartbeat(42),
    ];
    frames.concat()
}

/// Expects the answers to [`opening`] in order, and then ticks without a gap.
async fn expect_service(peer: &mut Peer) {
    peer.expect_ack(frame::AUTH).await;
    let ack = peer.expect_ack(frame::SUBSCRIBE).await;
    let (before, pong) = peer.skip_batches().await;
    assert_eq!(pong.kind, frame::PONG, "{pong:?}");
    assert_eq!(pong.decode::<Pong>().client_time_us, 42);
    let mut last = ack.start_epoch_ms;
    for batch in before {
        last = expect_gapless(&batch.ticks, last, Mode::Second);
    }
    expect_gapless(&peer.expect_ticks(2).await, last, Mode::Second);
}

#[tokio::test]
async fn one_segment_with_auth_subscribe_and_heartbeat_is_served() {
    let edge = TestEdge::start(config()).await;
    let mut peer = Peer::connect(edge.addr()).await;
    peer.send(&opening()).await;
    expect_service(&mut peer).await;
    edge.stop().await;
}

#[tokio::test]
async fn the_answers_to_one_segment_are_sent_in_one_segment() {
    let edge = TestEdge::start(config()).await;
    let mut stream = TcpStream::connect(edge.addr()).await.unwrap();
    stream.write_all(&opening()).await.unwrap();
    let mut bytes = vec![0; 4_096];
    let taken = stream.read(&mut bytes).await.unwrap();
    bytes.truncate(taken);
    let kinds = std::iter::from_fn(|| RawFrame::take(&mut bytes)).map(|frame| frame.kind);
    let kinds = Vec::from_iter(kinds.take(3));
    assert_eq!(kinds, [frame::ACK, frame::ACK, frame::PONG]);
    edge.stop().await;
}

#[tokio::test]
async fn valid_frames_are_answered_before_the_error_about_a_later_one_in_the_same_segment() {
    let edge = TestEdge::start(config()).await;
    let mut peer = Peer::connect(edge.addr()).await;
    peer.send(&[&opening()[..], b"nonsense"].concat()).await;
    peer.expect_ack(frame::AUTH).await;
    peer.expect_ack(frame::SUBSCRIBE).await;
    assert_eq!(peer.expect_pong().await.client_time_us, 42);
    peer.expect_refusal("BAD_MAGIC").await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn end_of_input_that_arrives_with_the_last_frames_is_noticed_immediately() {
    let edge = TestEdge::start(config()).await;
    let busy = Arc::new(AtomicUsize::new(0));
    let (hold, released) = mpsc::channel::<()>();
    let (begun, released) = (Arc::clone(&busy), Mutex::new(released));
    // The shards are blocked, so that none reads its sockets until everything has arrived.
    let block = edge
        .edge
        .on_shards(Arc::new(move |_: &[RawFd], _: &mut [BareSealing<'_>]| {
            begun.fetch_add(1, Ordering::Relaxed);
            // This returns an error when `hold` is dropped.
            let _ = released.lock().unwrap().recv();
        }));
    let send = async {
        poll_until_async("both shards are blocked", SOON, || {
            busy.load(Ordering::Relaxed) == 2
        })
        .await;
        let mut peer = Peer::connect(edge.addr()).await;
        peer.send(&opening()).await;
        peer.finish().await;
        drop(hold);
        peer
    };
    let ((), mut peer) = tokio::join!(block, send);
    peer.expect_ack(frame::AUTH).await;
    edge.metric_reaches("tickstorm_connections_closed_total", "client_closed", 1.0)
        .await;
    edge.stop().await;
}

#[tokio::test]
async fn heartbeats_whose_answers_exceed_one_send_get_their_pongs_in_order() {
    let edge = TestEdge::start(Config {
        frame_rate: 100,
        ..config()
    })
    .await;
    let mut peer = Peer::connect(edge.addr()).await;
    peer.auth(USER, PASSWORD).await;
    peer.expect_ack(frame::AUTH).await;
    let heartbeats = (1..=40).map(peer::heartbeat);
    peer.send(&Vec::from_iter(heartbeats).concat()).await;
    for client_time_us in 1..=40 {
        assert_eq!(peer.expect_pong().await.client_time_us, client_time_us);
    }
    edge.stop().await;
}

#[tokio::test]
async fn frames_sent_one_byte_at_a_time_are_served() {
    let edge = TestEdge::start(config()).await;
    let mut peer = Peer::connect(edge.addr()).await;
    peer.send_bytewise(&opening()).await;
    expect_service(&mut peer).await;
    edge.stop().await;
}

#[tokio::test]
async fn frames_split_in_two_at_any_byte_are_served() {
    let edge = TestEdge::start(config()).await;
    let bytes = opening();
    let mut peers = Vec::new();
    for cut in 1..bytes.len() {
        let mut peer = Peer::connect(edge.addr()).await;
        peer.send(&bytes[..cut]).await;
        peers.push((peer, cut));
    }
    for (peer, cut) in &mut peers {
        peer.send(&bytes[*cut..]).await;
    }
    for (peer, _) in &mut peers {
        expect_service(peer).await;
    }
    edge.stop().await;
}

#[tokio::test]
async fn ignorable_types_are_skipped_after_auth() {
    let edge = TestEdge::start(config()).await;
    let frames = [
        peer::auth(USER, PASSWORD),
        frame::frame(0x80, &[]),
        frame::frame(0xC3, b"\xFF\xFF no protobuf"),
        peer::subscribe(Mode::Second, None, false),
        frame::frame(0xFF, &[0; 10_000]),
        peer::heartbeat(42),
    ];
    let mut peer = Peer::connect(edge.addr()).await;
    peer.send(&frames.concat()).await;
    expect_service(&mut peer).await;
    edge.stop().await;
}

#[tokio::test]
async fn an_empty_subscribe_means_second_mode_and_an_empty_heartbeat_gets_its_pong() {
    let edge = TestEdge::start(config()).await;
    let mut peer = Peer::connect(edge.addr()).await;
    peer.auth(USER, PASSWORD).await;
    peer.expect_ack(frame::AUTH).await;
    peer.send(&frame::frame(frame::HEARTBEAT, &[])).await;
    assert_eq!(peer.expect_pong().await.client_time_us, 0);
    peer.send(&frame::frame(frame::SUBSCRIBE, &[])).await;
    let ack = peer.expect_ack(frame::SUBSCRIBE).await;
    let ticks = peer.expect_ticks(1).await;
    expect_gapless(&ticks, ack.start_epoch_ms, Mode::Second);
    edge.stop().await;
}

#[tokio::test]
async fn a_pong_echoes_the_clients_time_and_carries_authority_time() {
    let edge = TestEdge::start(config()).await;
    let mut peer = Peer::connect(edge.addr()).await;
    peer.auth(USER, PASSWORD).await;
    peer.expect_ack(frame::AUTH).await;
    for client_time_us in [0, 1, -1, i64::MIN, i64::MAX] {
        let before_us = wall_ms() * 1_000;
        peer.heartbeat(client_time_us).await;
        let pong = peer.expect_pong().await;
        let after_us = (wall_ms() + 1) * 1_000;
        assert_eq!(pong.client_time_us, client_time_us);
        assert_eq!(
            pong.clock_error_us, 1_000,
            "the error that the clock reports"
        );
        let bound_us = i64::from(pong.error_bound_us);
        assert!(bound_us < 1_000_000, "{pong:?}");
        assert!(
            before_us <= pong.received_unix_us + bound_us,
            "{before_us}: {pong:?}"
        );
        assert!(pong.received_unix_us <= pong.sent_unix_us, "{pong:?}");
        assert!(
            pong.sent_unix_us - bound_us <= after_us,
            "{after_us}: {pong:?}"
        );
    }
    edge.stop().await;
}

#[tokio::test]
async fn while_the_time_is_unknown_pongs_are_immediate_and_subscribe_acks_wait_for_it() {
    let mut edge = TestEdge::start_without_clock(config()).await;
    let point = wall_ms() - 10_000;
    let frames = [
        peer::auth(USER, PASSWORD),
        peer::subscribe(Mode::Second, None, false),
        peer::subscribe(Mode::Minute, None, false),
        peer::heartbeat(1),
        peer::subscribe(Mode::Second, Some(point), false),
        peer::heartbeat(2),
    ];
    let mut peer = Peer::connect(edge.addr()).await;
    peer.send(&frames.concat()).await;
    peer.expect_ack(frame::AUTH).await;
    for client_time_us in [1, 2] {
        let unknown = Pong {
            client_time_us,
            received_unix_us: 0,
            sent_unix_us: 0,
            error_bound_us: u32::MAX,
            clock_error_us: 0,
        };
        assert_eq!(peer.expect_pong().await, unknown);
    }
    edge.start_clock();
    let seconds = peer.expect_ack(frame::SUBSCRIBE).await;
    assert!(seconds.start_epoch_ms > point + 8_000, "{seconds:?}");
    let minutes = peer.expect_ack(frame::SUBSCRIBE).await;
    assert_eq!(minutes.start_epoch_ms % 60_000, 0, "{minutes:?}");
    let resumed = peer.expect_ack(frame::SUBSCRIBE).await;
    assert_eq!(resumed.start_epoch_ms, point);
    expect_gapless(&peer.expect_ticks(12).await, point, Mode::Second);
    peer.heartbeat(3).await;
    let (_, pong) = peer.skip_batches().await;
    assert!(pong.decode::<Pong>().received_unix_us > point * 1_000);
    edge.stop().await;
}

#[tokio::test]
async fn every_subscribe_gets_its_ack_even_if_there_are_more_than_the_edge_queues() {
    const SUBSCRIBES: i64 = 100;
    let mut config = config();
    config.frame_rate = 1_000;
    let mut edge = TestEdge::start_without_clock(config).await;
    let point = wall_ms() - 1_000;
    let subscribes: Vec<u8> = (0..SUBSCRIBES)
        .flat_map(|number| peer::subscribe(Mode::Second, Some(point + number), false))
        .collect();
    let mut peer = Peer::connect(edge.addr()).await;
    peer.auth(USER, PASSWORD).await;
    peer.send_bytewise(&subscribes).await;
    peer.expect_ack(frame::AUTH).await;
    edge.start_clock();
    for number in 0..SUBSCRIBES {
        let (_, ack) = peer.skip_batches().await;
        assert_eq!(start_of(&ack), point + number);
    }
    let ticks = peer.expect_ticks(3).await;
    expect_gapless(&ticks, point + SUBSCRIBES - 1, Mode::Second);
    edge.stop().await;
}

#[tokio::test]
async fn a_resume_point_too_far_ahead_is_refused_once_the_time_is_known() {
    let mut edge = TestEdge::start_without_clock(config()).await;
    let mut peer = Peer::connect(edge.addr()).await;
    peer.auth(USER, PASSWORD).await;
    peer.expect_ack(frame::AUTH).await;
    peer.subscribe_with(Mode::Second, Some(wall_ms() + 60_000), false)
        .await;
    peer.subscribe(Mode::Second).await;
    peer.heartbeat(1).await;
    peer.expect_pong().await;
    edge.start_clock();
    peer.expect_refusal("INVALID_SUBSCRIPTION").await;
    edge.stop().await;
}

fn start_of(ack: &RawFrame) -> i64 {
    assert_eq!(ack.kind, frame::ACK, "{ack:?}");
    ack.decode::<Ack>().start_epoch_ms
}
