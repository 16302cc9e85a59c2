//! AUTH_RATE_LIMIT: an address with too many failed attempts is refused, unless many clients share
//! it.

use std::net::IpAddr;
use std::time::Duration;

use tickstorm_edge::Config;
use tickstorm_testkit::{Peer, PeerOptions, frame, peer, poll_until_async};
use tickstorm_timebase::{Clock, SystemClock};
use tokio::task::JoinSet;

use crate::support::{PASSWORD, SOON, TestEdge, USER, config};

const AUTHS: &str = "tickstorm_auth_total";

async fn limited() -> TestEdge {
    TestEdge::start_without_clock(Config {
        auth_rate_limit: 10,
        // Longer than an AUTH takes on a busy machine, and shorter than most delayed answers.
        auth_timeout: Duration::from_millis(1_800),
        ..config()
    })
    .await
}

/// Connects from 127.0.0.2. The other clients connect from 127.0.0.1.
async fn neighbour(edge: &TestEdge) -> Peer {
    let socket = PeerOptions {
        from: Some(IpAddr::from([127, 0, 0, 2])),
        ..PeerOptions::default()
    };
    Peer::connect_with(edge.addr(), socket).await
}

fn assert_counted(edge: &TestEdge, result: &str, expected: f64) {
    let count = edge.metric(AUTHS, result);
    assert!((count - expected).abs() < 0.5, "{count} {result}");
}

#[tokio::test]
async fn after_ten_wrong_passwords_an_address_is_refused_but_another_is_served() {
    let edge = limited().await;
    for _ in 0..10 {
        let mut peer = Peer::connect(edge.addr()).await;
        peer.auth(USER, "wrong").await;
        peer.expect_refusal("AUTH_FAILED").await;
    }
    for password in ["wrong", PASSWORD] {
        let mut peer = Peer::connect(edge.addr()).await;
        peer.auth(USER, password).await;
        let error = peer.expect_refusal("AUTH_RATE_LIMITED").await;
        assert!(
            (1_000..=10_000).contains(&error.retry_after_ms),
            "{error:?}"
        );
    }
    let mut other = neighbour(&edge).await;
    other.auth(USER, PASSWORD).await;
    other.expect_ack(frame::AUTH).await;
    assert_counted(&edge, "failed", 10.0);
    assert_counted(&edge, "rate_limited", 2.0);
    assert_counted(&edge, "accepted", 1.0);
    edge.stop().await;
}

/// Starts an edge and 100 clients from one address.
async fn shared() -> (TestEdge, Vec<Peer>) {
    let edge = limited().await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut peer = Peer::connect(edge.addr()).await;
        peer.auth(USER, PASSWORD).await;
        peer.expect_ack(frame::AUTH).await;
        clients.push(peer);
    }
    (edge, clients)
}

#[tokio::test]
async fn an_address_with_a_hundred_clients_is_answered_late_but_never_refused() {
    const FAILURES: usize = 30;
    let (edge, clients) = shared().await;
    let mut failures = JoinSet::new();
    for _ in 0..FAILURES {
        let mut peer = Peer::connect(edge.addr()).await;
        failures.spawn(async move {
            // Frames after a wrong AUTH are not answered.
            let frames = [peer::auth(USER, "wrong"), peer::heartbeat(1)];
            let sent = SystemClock.now();
            peer.send(&frames.concat()).await;
            peer.send(&peer::heartbeat(2)).await;
            peer.expect_refusal("AUTH_FAILED").await;
            SystemClock.now().since(sent)
        });
    }
    edge.metric_reaches(AUTHS, "failed_shared", 30.0).await;
    let mut accepted = Peer::connect(edge.addr()).await;
    accepted.auth(USER, PASSWORD).await;
    accepted.expect_ack(frame::AUTH).await;
    // On a busy machine some failures have been answered by now; the last answers take a few
    // seconds more.
    let mut waited = Vec::new();
    while let Some(answered) = failures.try_join_next() {
        waited.push(answered.unwrap());
    }
    assert!(
        waited.len() < FAILURES,
        "delayed answers must not delay other clients"
    );
    waited.extend(failures.join_all().await);
    let (least, most) = (waited.iter().min().unwrap(), waited.iter().max().unwrap());
    assert!(*least >= Duration::from_secs(1), "{least:?}");
    assert!(*most - *least > Duration::from_secs(1), "{waited:?}");
    drop(clients);
    assert_counted(&edge, "rate_limited", 0.0);
    assert_counted(&edge, "failed", 0.0);
    edge.stop().await;
}

#[tokio::test]
async fn a_client_that_disconnects_before_a_delayed_answer_leaves_nothing_behind() {
    let (edge, _clients) = shared().await;
    let mut finished = Peer::connect(edge.addr()).await;
    finished.auth(USER, "wrong").await;
    let mut reset = Peer::connect(edge.addr()).await;
    reset.auth(USER, "wrong").await;
    edge.metric_reaches(AUTHS, "failed_shared", 2.0).await;
    drop(finished);
    reset.reset();
    let health = edge.edge.health();
    poll_until_async("both connections are closed", SOON, || {
        health.status()["connections"] == 100
    })
    .await;
    edge.stop().await;
}
