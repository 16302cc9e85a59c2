//! AUTH_RATE_LIMIT of a real edge, over a real minute: guesses from an address shut it out until the minute is over, and only it; an
//! address that many clients share is never shut out.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tickstorm_testkit::{Peer, PeerOptions, frame};
use tickstorm_timebase::{Clock as _, SystemClock};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::support::daemon::{Daemon, PASSWORD, USER};

/// Of AUTH_RATE_LIMIT: from its first failure on an address is counted for so long.
const MINUTE: Duration = Duration::from_secs(60);
/// After it, what a machine under load needs.
const LATE: Duration = Duration::from_secs(20);

const GUESSER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
const NEIGHBOUR: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const SHARED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));

#[tokio::test]
async fn guesses_shut_an_address_out_until_the_minute_is_over_and_no_other_one() {
    let edge = started().await;
    let first = SystemClock.now();
    for _ in 0..10 {
        log_in(&edge, GUESSER, "wrong")
            .await
            .expect_refusal("AUTH_FAILED")
            .await;
    }
    let mut refused = 0;
    for password in ["wrong", PASSWORD] {
        let mut peer = log_in(&edge, GUESSER, password).await;
        let error = peer.expect_refusal("AUTH_RATE_LIMITED").await;
        assert!(
            (1_000..=10_000).contains(&error.retry_after_ms),
            "{error:?}"
        );
        refused += 1;
    }
    is_served(&edge, NEIGHBOUR).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(is_served(&edge, SHARED).await);
    }
    guesses_at_a_shared_address_are_answered_late(&edge).await;

    // Refused to the end of the minute, whoever else is served meanwhile, and served from then on.
    loop {
        let before = SystemClock.now().since(first);
        let mut peer = log_in(&edge, GUESSER, PASSWORD).await;
        let answer = peer.expect_frame().await;
        let after = SystemClock.now().since(first);
        if answer.kind == frame::ACK {
            assert!(after >= MINUTE, "it was served after {after:?}");
            break;
        }
        assert_eq!(
            answer
                .decode::<tickstorm_protocol::message::ErrorMsg>()
                .code,
            "AUTH_RATE_LIMITED"
        );
        assert!(before < MINUTE + LATE, "it is refused after {before:?}");
        refused += 1;
        sleep(Duration::from_secs(1)).await;
    }
    assert_judged(&edge, "failed", 10).await;
    assert_judged(&edge, "rate_limited", refused).await;
    assert_judged(&edge, "failed_shared", 30).await;
    drop(clients);
}

/// More of them than AUTH_RATE_LIMIT, and a right password among them is accepted at once.
async fn guesses_at_a_shared_address_are_answered_late(edge: &Daemon) {
    let mut guesses = JoinSet::new();
    for _ in 0..30 {
        let (sent, mut peer) = (SystemClock.now(), log_in(edge, SHARED, "wrong").await);
        guesses.spawn(async move {
            peer.expect_refusal("AUTH_FAILED").await;
            SystemClock.now().since(sent)
        });
    }
    edge.logs("set PROXY_PROTOCOL").await;
    is_served(edge, SHARED).await;
    for waited in guesses.join_all().await {
        assert!(
            waited >= Duration::from_secs(1),
            "answered after {waited:?}"
        );
        assert!(
            waited < Duration::from_secs(5) + LATE,
            "answered after {waited:?}"
        );
    }
    is_served(edge, SHARED).await;
    let log = edge.log();
    let warnings = log
        .lines()
        .filter(|line| line.contains("set PROXY_PROTOCOL"));
    let warnings: Vec<_> = warnings.collect();
    assert!(
        warnings.len() < 5,
        "a stranger can fill the log: {warnings:?}"
    );
    assert!(warnings[0].contains(&SHARED.to_string()), "{warnings:?}");
    assert!(warnings[0].contains("WARN"), "{warnings:?}");
}

/// An edge that knows no time: who clients are it can tell all the same.
async fn started() -> Daemon {
    let mut edge = Daemon::new("tickstorm-edge").with("HEARTBEAT_TIMEOUT", "10m");
    edge.start().await;
    edge
}

/// A connection from there, with its AUTH sent.
async fn log_in(edge: &Daemon, from: IpAddr, password: &str) -> Peer {
    let socket = PeerOptions {
        from: Some(from),
        ..PeerOptions::default()
    };
    let mut peer = Peer::connect_with(edge.clients(), socket).await;
    peer.auth(USER, password).await;
    peer
}

async fn is_served(edge: &Daemon, from: IpAddr) -> Peer {
    let mut peer = log_in(edge, from, PASSWORD).await;
    peer.expect_ack(frame::AUTH).await;
    peer
}

async fn assert_judged(edge: &Daemon, result: &str, expected: u32) {
    let judged = edge
        .metric(&format!(r#"tickstorm_auth_total{{result="{result}"}}"#))
        .await;
    assert!(
        (judged - f64::from(expected)).abs() < 0.5,
        "{judged} {result}, not {expected}"
    );
}
