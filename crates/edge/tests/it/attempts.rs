//! AUTH_RATE_LIMIT: after too many failures, attempts without a device cookie wait, and others do
//! not.

use std::net::IpAddr;
use std::time::Duration;

use tickstorm_edge::Config;
use tickstorm_protocol::message::{Auth, ErrorMsg};
use tickstorm_testkit::{Peer, PeerOptions, RawFrame, Received, frame, peer, poll_until_async};
use tickstorm_timebase::{Clock, Mono, SystemClock};
use tokio::task::JoinSet;

use crate::cookies::{cookie_of, user};
use crate::support::{PASSWORD, SOON, TestEdge, USER, config};

const AUTHS: &str = "tickstorm_auth_total";
const WAITING: &str = "tickstorm_auth_waiting";

async fn limited() -> TestEdge {
    TestEdge::start_without_clock(Config {
        auth_rate_limit: 10,
        // Shorter than most waits, which it must not end.
        auth_timeout: Duration::from_millis(1_800),
        ..config()
    })
    .await
}

/// Connects from 127.0.0.2. The other clients connect from 127.0.0.1.
pub(crate) async fn neighbour(edge: &TestEdge) -> Peer {
    let socket = PeerOptions {
        from: Some(IpAddr::from([127, 0, 0, 2])),
        ..PeerOptions::default()
    };
    Peer::connect_with(edge.addr(), socket).await
}

async fn guess(edge: &TestEdge) -> Peer {
    let mut peer = Peer::connect(edge.addr()).await;
    peer.auth(USER, "wrong").await;
    peer
}

async fn fail(edge: &TestEdge, times: usize) {
    for _ in 0..times {
        guess(edge).await.expect_refusal("AUTH_FAILED").await;
    }
}

fn assert_counted(edge: &TestEdge, result: &str, expected: f64) {
    let count = edge.metric(AUTHS, result);
    assert!((count - expected).abs() < 0.5, "{count} {result}");
}

#[tokio::test]
async fn after_ten_wrong_passwords_an_address_waits_but_another_does_not() {
    let edge = limited().await;
    fail(&edge, 10).await;
    let sent = SystemClock.now();
    let mut right = Peer::connect(edge.addr()).await;
    let frames = [peer::auth(USER, PASSWORD), peer::heartbeat(1)];
    right.send(&frames.concat()).await;
    let mut wrong = guess(&edge).await;
    let mut other = neighbour(&edge).await;
    other.auth(USER, PASSWORD).await;
    other.expect_ack(frame::AUTH).await;
    right.expect_ack(frame::AUTH).await;
    assert!(SystemClock.now().since(sent) >= Duration::from_millis(250));
    right.expect_pong().await;
    wrong.expect_refusal("AUTH_FAILED").await;
    assert!(SystemClock.now().since(sent) >= Duration::from_millis(500));
    assert_counted(&edge, "failed", 10.0);
    assert_counted(&edge, "accepted", 1.0);
    assert_counted(&edge, "delayed_accepted", 1.0);
    assert_counted(&edge, "delayed_failed", 1.0);
    edge.stop().await;
}

#[tokio::test]
async fn ten_wait_and_an_eleventh_is_refused_and_those_that_leave_leave_nothing_behind() {
    let edge = limited().await;
    fail(&edge, 10).await;
    let mut waiting = Vec::new();
    for _ in 0..10 {
        waiting.push(guess(&edge).await);
    }
    // The first few may have been answered by now, and others take their slots.
    let refused = loop {
        let mut peer = guess(&edge).await;
        if let Received::Frame(frame) = peer.next_frame(Duration::from_millis(100)).await {
            break frame;
        }
        waiting.push(peer);
        assert!(waiting.len() < 40, "none is refused");
    };
    let error: ErrorMsg = refused.decode();
    assert_eq!(error.code, "AUTH_RATE_LIMITED", "{error:?}");
    assert!(
        (1_000..=10_000).contains(&error.retry_after_ms),
        "{error:?}"
    );
    assert!(edge.metric(WAITING, "") > 0.0);
    for (number, peer) in waiting.into_iter().enumerate() {
        if number % 2 == 0 {
            peer.reset();
        }
    }
    let health = edge.edge.health();
    poll_until_async("all connections are closed", SOON, || {
        health.status()["connections"] == 0
    })
    .await;
    assert!(edge.metric(WAITING, "") < 0.5);
    edge.stop().await;
}

/// Guesses from 127.0.0.1 with more connections at a time than may wait.
struct Attack(JoinSet<()>);

impl Attack {
    fn start(edge: &TestEdge) -> Self {
        let mut guessers = JoinSet::new();
        for _ in 0..14 {
            let addr = edge.addr();
            guessers.spawn(async move {
                loop {
                    let mut peer = Peer::connect(addr).await;
                    peer.auth(USER, "wrong").await;
                    let _: RawFrame = peer.expect_frame().await;
                }
            });
        }
        Self(guessers)
    }

    async fn is_refused(edge: &TestEdge) {
        edge.metric_reaches(AUTHS, "rate_limited", 20.0).await;
    }

    async fn stop(mut self) {
        self.0.abort_all();
        while let Some(ended) = self.0.join_next().await {
            if let Err(error) = ended {
                assert!(error.is_cancelled(), "{error}");
            }
        }
    }
}

fn judged(edge: &TestEdge) -> f64 {
    edge.metric(AUTHS, "failed") + edge.metric(AUTHS, "delayed_failed")
}

async fn enters(edge: &TestEdge, auth: &Auth) -> Mono {
    let mut peer = Peer::connect(edge.addr()).await;
    peer.send_message(frame::AUTH, auth).await;
    peer.expect_ack(frame::AUTH).await;
    SystemClock.now()
}

#[tokio::test]
async fn after_a_restart_100_clients_with_cookies_are_back_although_someone_guesses_beside_them() {
    let edge = limited().await;
    let mut returning = vec![cookie_of(&edge, &user(PASSWORD)).await];
    for _ in 1..100 {
        let mut peer = Peer::connect(edge.addr()).await;
        peer.auth(USER, PASSWORD).await;
        returning.push(peer.expect_ack(frame::AUTH).await.cookie);
    }
    edge.stop().await;
    let edge = limited().await;
    let started = SystemClock.now();
    let attack = Attack::start(&edge);
    Attack::is_refused(&edge).await;
    let mut back = started;
    for cookie in returning {
        assert!(!cookie.is_empty());
        let auth = Auth {
            cookie,
            ..user(PASSWORD)
        };
        back = enters(&edge, &auth).await;
    }
    // None of them has waited, whatever the time that this machine took.
    let took = back.since(started);
    assert_counted(&edge, "accepted", 100.0);
    let most = 10.0 + 5.0 + 10.0 * (took.as_secs_f64() / 8.0 + 1.0);
    assert!(judged(&edge) <= most, "{} judged", judged(&edge));
    attack.stop().await;
    edge.stop().await;
}
