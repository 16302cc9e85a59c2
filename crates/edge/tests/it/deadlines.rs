//! Clients that are too slow or silent. The lower bounds on times are exact; the upper bounds leave
//! much slack.

use std::time::Duration;

use tickstorm_edge::Config;
use tickstorm_testkit::{Forged, Peer, Received, frame};
use tickstorm_timebase::{Clock, Mode, Mono, SystemClock};

use crate::support::{PASSWORD, TestEdge, USER, config};

/// The most that a timeout may be late: the 500 ms that the protocol allows, and 10 s that a busy
/// machine may add. The default HEARTBEAT_TIMEOUT of 20 s is later than that.
const SLACK: Duration = Duration::from_millis(500 + 10_000);

/// The timeout under test: long enough for a client on a busy machine to act in time.
const TIMEOUT: Duration = Duration::from_secs(2);

fn impatient() -> Config {
    Config {
        auth_timeout: TIMEOUT,
        heartbeat_interval: Duration::from_millis(100),
        heartbeat_timeout: TIMEOUT,
        ..config()
    }
}

/// Checks that [`TIMEOUT`] has passed since `start`, and not much more.
fn expect_punctual(start: Mono) {
    let took = SystemClock.now().since(start);
    assert!(
        (TIMEOUT..TIMEOUT + SLACK).contains(&took),
        "{took:?} with a timeout of {TIMEOUT:?}"
    );
}

#[tokio::test]
async fn a_client_that_does_not_authenticate_in_time_gets_auth_timeout() {
    let edge = TestEdge::start_without_clock(impatient()).await;
    let start = SystemClock.now();
    let mut peer = Peer::connect(edge.addr()).await;
    let error = peer.expect_refusal("AUTH_TIMEOUT").await;
    expect_punctual(start);
    assert!(
        (1_000..=10_000).contains(&error.retry_after_ms),
        "{error:?}"
    );
    edge.stop().await;
}

#[tokio::test]
async fn a_client_that_trickles_an_auth_gets_auth_timeout() {
    let edge = TestEdge::start_without_clock(impatient()).await;
    let start = SystemClock.now();
    let mut peer = Peer::connect(edge.addr()).await;
    peer.send(&Forged::new(frame::AUTH, &[]).claiming(4_096).header())
        .await;
    let received = loop {
        match peer.next_frame(Duration::from_millis(10)).await {
            Received::Timeout => peer.send(&[0]).await,
            other @ (Received::Frame(_) | Received::Eof { .. } | Received::Reset { .. }) => {
                break other;
            }
        }
    };
    expect_punctual(start);
    let Received::Frame(error) = received else {
        panic!("{received:?} instead of ERROR");
    };
    let error: tickstorm_protocol::message::ErrorMsg = error.decode();
    assert_eq!(error.code, "AUTH_TIMEOUT");
    peer.expect_eof().await;
    edge.stop().await;
}

#[tokio::test]
async fn a_silent_client_that_has_only_authenticated_gets_heartbeat_timeout() {
    let edge = TestEdge::start_without_clock(impatient()).await;
    let mut peer = Peer::connect(edge.addr()).await;
    let start = SystemClock.now();
    peer.auth(USER, PASSWORD).await;
    let ack = peer.expect_ack(frame::AUTH).await;
    assert_eq!(
        (ack.heartbeat_interval_ms, ack.heartbeat_timeout_ms),
        (100, 2_000)
    );
    let error = peer.expect_refusal("HEARTBEAT_TIMEOUT").await;
    expect_punctual(start);
    assert!((1..=5_000).contains(&error.retry_after_ms), "{error:?}");
    edge.metric_reaches("tickstorm_heartbeat_timeouts_total", "", 1.0)
        .await;
    edge.stop().await;
}

#[tokio::test]
async fn a_silent_subscriber_gets_heartbeat_timeout() {
    let edge = TestEdge::start(impatient()).await;
    let mut peer = Peer::connect(edge.addr()).await;
    peer.auth(USER, PASSWORD).await;
    peer.expect_ack(frame::AUTH).await;
    let start = SystemClock.now();
    peer.subscribe(Mode::Second).await;
    peer.expect_ack(frame::SUBSCRIBE).await;
    let (_, error) = peer.skip_batches().await;
    expect_punctual(start);
    let error: tickstorm_protocol::message::ErrorMsg = error.decode();
    assert_eq!(error.code, "HEARTBEAT_TIMEOUT");
    peer.expect_eof().await;
    let closed = "tickstorm_connections_closed_total";
    edge.metric_reaches(closed, "heartbeat_timeout", 1.0).await;
    edge.metric_reaches("tickstorm_heartbeat_timeouts_total", "", 1.0)
        .await;
    edge.stop().await;
}

#[tokio::test]
async fn heartbeats_keep_a_connection_open() {
    let edge = TestEdge::start_without_clock(impatient()).await;
    let mut peer = Peer::connect(edge.addr()).await;
    peer.auth(USER, PASSWORD).await;
    peer.expect_ack(frame::AUTH).await;
    let start = SystemClock.now();
    let mut count = 0;
    while SystemClock.now().since(start) < TIMEOUT * 2 {
        let received = peer.next_frame(Duration::from_millis(200)).await;
        assert_eq!(received, Received::Timeout, "no frame is due");
        count += 1;
        peer.heartbeat(count).await;
        assert_eq!(peer.expect_pong().await.client_time_us, count);
    }
    edge.stop().await;
}

#[tokio::test]
async fn frames_of_ignorable_types_do_not_count_as_heartbeats() {
    let edge = TestEdge::start_without_clock(Config {
        frame_rate: 100,
        ..impatient()
    })
    .await;
    let mut peer = Peer::connect(edge.addr()).await;
    let start = SystemClock.now();
    peer.auth(USER, PASSWORD).await;
    peer.expect_ack(frame::AUTH).await;
    let ignorable = frame::frame(0x80, b"whatever");
    loop {
        match peer.next_frame(Duration::from_millis(20)).await {
            Received::Timeout => peer.send(&ignorable).await,
            Received::Frame(error) => {
                expect_punctual(start);
                let error: tickstorm_protocol::message::ErrorMsg = error.decode();
                assert_eq!(error.code, "HEARTBEAT_TIMEOUT");
                break;
            }
            other @ (Received::Eof { .. } | Received::Reset { .. }) => {
                panic!("{other:?} instead of ERROR");
            }
        }
    }
    peer.expect_eof().await;
    edge.stop().await;
}
