//! Limits on single clients, and on all clients together.

use std::time::Duration;

use tickstorm_edge::Config;
use tickstorm_testkit::{Peer, Received, frame, peer, poll_until_async};
use tickstorm_timebase::Mode;

use crate::attempts::neighbour;
use crate::support::{PASSWORD, SOON, TestEdge, USER, config};
use crate::witness::Witness;

const CLOSED: &str = "tickstorm_connections_closed_total";

#[tokio::test]
async fn a_heartbeat_timeouts_worth_of_frames_is_accepted_at_once_and_one_more_is_not() {
    let edge = TestEdge::start_without_clock(Config {
        frame_rate: 2,
        heartbeat_timeout: Duration::from_secs(20),
        ..config()
    })
    .await;
    let heartbeats: Vec<u8> = (1..=41).flat_map(peer::heartbeat).collect();
    let mut peer = Peer::connect(edge.addr()).await;
    peer.send(&[peer::auth(USER, PASSWORD), heartbeats].concat())
        .await;
    peer.expect_ack(frame::AUTH).await;
    for number in 1..=40 {
        assert_eq!(peer.expect_pong().await.client_time_us, number);
    }
    let error = peer.expect_refusal("RATE_LIMITED").await;
    assert!(
        (1_000..=10_000).contains(&error.retry_after_ms),
        "{error:?}"
    );
    edge.stop().await;
}

#[tokio::test]
async fn all_frame_types_share_one_rate_limit_and_a_subscribe_counts_as_ten() {
    let edge = TestEdge::start(Config {
        frame_rate: 1,
        ..config()
    })
    .await;
    let frames = [
        peer::auth(USER, PASSWORD),
        peer::subscribe(Mode::Minute, None, false),
        frame::frame(0x80, b"skipped").repeat(4),
        frame::frame(0xFF, &[]).repeat(5),
        peer::heartbeat(1),
        frame::frame(0x80, &[]),
    ];
    let mut peer = Peer::connect(edge.addr()).await;
    peer.send(&frames.concat()).await;
    peer.expect_ack(frame::AUTH).await;
    peer.expect_ack(frame::SUBSCRIBE).await;
    peer.expect_pong().await;
    peer.expect_refusal("RATE_LIMITED").await;
    edge.stop().await;
}

#[tokio::test]
async fn by_default_a_burst_of_two_hundred_frames_is_accepted() {
    let edge = TestEdge::start_without_clock(config()).await;
    let mut peer = Peer::connect(edge.addr()).await;
    peer.auth(USER, PASSWORD).await;
    peer.expect_ack(frame::AUTH).await;
    let heartbeats: Vec<u8> = (0..300).flat_map(peer::heartbeat).collect();
    peer.send(&heartbeats).await;
    let mut pongs = 0;
    let error = loop {
        let frame = peer.expect_frame().await;
        if frame.kind == frame::ERROR {
            break frame;
        }
        assert_eq!(frame.kind, frame::PONG);
        pongs += 1;
    };
    let error: tickstorm_protocol::message::ErrorMsg = error.decode();
    assert_eq!(error.code, "RATE_LIMITED");
    // One more is accepted for each tenth of a second that the edge takes to process them.
    assert!((200..230).contains(&pongs), "{pongs}");
    edge.stop().await;
}

#[tokio::test]
async fn a_full_edge_answers_server_full_until_a_connection_ends() {
    let edge = TestEdge::start(Config {
        connections_max: 2,
        ..config()
    })
    .await;
    let mut witness = Witness::enter(&edge).await;
    let mut second = Peer::connect(edge.addr()).await;
    second.auth(USER, PASSWORD).await;
    second.expect_ack(frame::AUTH).await;
    for _ in 0..3 {
        let mut third = Peer::connect(edge.addr()).await;
        let error = third.expect_refusal("SERVER_FULL").await;
        assert!(
            (1_000..=10_000).contains(&error.retry_after_ms),
            "{error:?}"
        );
    }
    // A client that has already sent its frames is also sent SERVER_FULL.
    let mut third = Peer::connect(edge.addr()).await;
    let sent = third.try_send(&peer::auth(USER, PASSWORD)).await;
    third.expect_refusal("SERVER_FULL").await;
    drop((third, sent));
    assert_eq!(edge.edge.health().status()["connections"], 2);
    edge.metric_reaches(CLOSED, "server_full", 4.0).await;

    drop(second);
    poll_until_async("the second connection is closed", SOON, || {
        edge.edge.health().status()["connections"] == 1
    })
    .await;
    let mut fourth = Peer::connect(edge.addr()).await;
    fourth.enter(USER, PASSWORD, Mode::Second).await;
    witness.missed_nothing().await;
    edge.stop().await;
}

#[tokio::test]
async fn silent_handshakes_make_room_across_shards_until_every_client_is_in() {
    /// Far more than MAX_HANDSHAKES.
    const SILENT: usize = 12;
    const HANDSHAKES_MAX: usize = 4;
    const SHARDS: usize = 2;
    let edge = TestEdge::start_without_clock(Config {
        handshakes_max: HANDSHAKES_MAX,
        auth_timeout: Duration::from_secs(60),
        shards: SHARDS,
        ..config()
    })
    .await;
    let mut silent = Vec::new();
    for _ in 0..SILENT {
        silent.push(Peer::connect(edge.addr()).await);
    }
    let evicted = SILENT - HANDSHAKES_MAX;
    let expected = f64::from(u32::try_from(evicted).unwrap());
    edge.metric_reaches(CLOSED, "auth_timeout", expected).await;
    let mut newest = neighbour(&edge).await;
    newest.auth(USER, PASSWORD).await;
    newest.expect_ack(frame::AUTH).await;
    let mut refused = 0;
    for peer in &mut silent {
        match peer.next_frame(Duration::from_millis(10)).await {
            Received::Timeout => {}
            Received::Frame(error) => {
                let error: tickstorm_protocol::message::ErrorMsg = error.decode();
                assert_eq!(error.code, "AUTH_TIMEOUT");
                peer.expect_eof().await;
                refused += 1;
            }
            other @ (Received::Eof { .. } | Received::Reset { .. }) => {
                panic!("{other:?} without ERROR");
            }
        }
    }
    assert!(refused >= evicted, "{refused} of {SILENT} refused");
    edge.stop().await;
}

#[tokio::test]
async fn a_connection_without_a_byte_counts_as_a_health_check_not_as_a_failure() {
    let edge = TestEdge::start_without_clock(config()).await;
    let mut finished = Peer::connect(edge.addr()).await;
    finished.finish().await;
    finished.expect_eof().await;
    drop(Peer::connect(edge.addr()).await);
    Peer::connect(edge.addr()).await.reset();
    edge.metric_reaches(CLOSED, "health_check", 3.0).await;
    assert_all_closed(&edge, 3.0);

    let mut speaker = Peer::connect(edge.addr()).await;
    speaker.send(&[0xF5]).await;
    speaker.finish().await;
    edge.metric_reaches(CLOSED, "client_closed", 1.0).await;
    assert_all_closed(&edge, 4.0);
    let auths = edge.metric("tickstorm_auth_total", "");
    assert!(auths.abs() < 0.5, "{auths} AUTHs counted");
    edge.stop().await;
}

fn assert_all_closed(edge: &TestEdge, expected: f64) {
    let all = edge.metric(CLOSED, "");
    assert!((all - expected).abs() < 0.5, "{all} closed, not {expected}");
}
