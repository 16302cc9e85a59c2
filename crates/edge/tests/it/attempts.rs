//! AUTH_RATE_LIMIT: an address that fails too often is refused, but for one that many clients share.

use std::net::IpAddr;
use std::time::Duration;

use tickstorm_edge::Config;
use tickstorm_testkit::{Peer, PeerOptions, frame, peer, poll_until_async};
use tickstorm_timebase::{Clock, SystemClock};
use tokio::task::JoinSet;

use crate::support::{PASSWORD, SOON, TestEdge, USER, config};

const JUDGED: &str = "tickstorm_auth_total";

async fn limited() -> TestEdge {
    TestEdge::start_without_clock(Config {
        auth_rate_limit: 10,
        // Longer than a busy machine takes for an AUTH, and shorter than most late answers.
        auth_timeout: Duration::from_millis(1_800),
        ..config()
    })
    .await
}

/// One that comes from 127.0.0.2.
async fn neighbour(edge: &TestEdge) -> Peer {
    let socket = PeerOptions {
        from: Some(IpAddr::from([127, 0, 0, 2])),
        ..PeerOptions::default()
    };
    Peer::connect_with(edge.addr(), socket).await
}

fn assert_judged(edge: &TestEdge, result: &str, expected: f64) {
    let judged = edge.metric(JUDGED, result);
    assert!((judged - expected).abs() < 0.5, "{judged} {result}");
}

#[tokio::test]
async fn after_ten_wrong_passwords_an_address_is_refused_and_another_is_served() {
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
    assert_judged(&edge, "failed", 10.0);
    assert_judged(&edge, "rate_limited", 2.0);
    assert_judged(&edge, "accepted", 1.0);
    edge.stop().await;
}

/// An edge with 100 clients of one address.
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
async fn an_address_with_a_hundred_clients_is_never_refused_only_answered_late() {
    const FAILURES: usize = 30;
    let (edge, clients) = shared().await;
    let mut failures = JoinSet::new();
    for _ in 0..FAILURES {
        let mut peer = Peer::connect(edge.addr()).await;
        failures.spawn(async move {
            // What comes behind a wrong AUTH is not answered.
            let frames = [peer::auth(USER, "wrong"), peer::heartbeat(1)];
            let sent = SystemClock.now();
            peer.send(&frames.concat()).await;
            peer.send(&peer::heartbeat(2)).await;
            peer.expect_refusal("AUTH_FAILED").await;
            SystemClock.now().since(sent)
        });
    }
    edge.metric_reaches(JUDGED, "failed_shared", 30.0).await;
    let mut right = Peer::connect(edge.addr()).await;
    right.auth(USER, PASSWORD).await;
    right.expect_ack(frame::AUTH).await;
    // Some of them are answered already, if the machine is busy; the last ones some seconds later.
    let mut waited = Vec::new();
    while let Some(answered) = failures.try_join_next() {
        waited.push(answered.unwrap());
    }
    assert!(waited.len() < FAILURES, "late ones hold up nobody");
    waited.extend(failures.join_all().await);
    let (least, most) = (waited.iter().min().unwrap(), waited.iter().max().unwrap());
    assert!(*least >= Duration::from_secs(1), "{least:?}");
    assert!(*most - *least > Duration::from_secs(1), "{waited:?}");
    drop(clients);
    assert_judged(&edge, "rate_limited", 0.0);
    assert_judged(&edge, "failed", 0.0);
    edge.stop().await;
}

#[tokio::test]
async fn who_leaves_before_a_late_answer_leaves_nothing_behind() {
    let (edge, _clients) = shared().await;
    let mut finished = Peer::connect(edge.addr()).await;
    finished.auth(USER, "wrong").await;
    let mut reset = Peer::connect(edge.addr()).await;
    reset.auth(USER, "wrong").await;
    edge.metric_reaches(JUDGED, "failed_shared", 2.0).await;
    drop(finished);
    reset.reset();
    let health = edge.edge.health();
    poll_until_async("both are gone", SOON, || {
        health.status()["connections"] == 100
    })
    .await;
    edge.stop().await;
}
