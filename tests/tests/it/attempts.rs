//! AUTH_RATE_LIMIT of a real edge, over a real minute. Failed attempts lock out their address, and
//! no other one, until the minute is over. An address that many clients share is never locked out.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tickstorm_testkit::{Peer, PeerOptions, frame};
use tickstorm_timebase::{Clock as _, SystemClock};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::support::daemon::{Daemon, PASSWORD, USER};

/// The period of AUTH_RATE_LIMIT, which begins with the first failure of an address.
const MINUTE: Duration = Duration::from_secs(60);
/// The delay that a machine under load may add.
const DELAY_MAX: Duration = Duration::from_secs(20);

const GUESSER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
const NEIGHBOUR: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const SHARED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));

#[tokio::test]
async fn failed_attempts_lock_out_only_their_own_address_and_only_for_a_minute() {
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
    expect_service(&edge, NEIGHBOUR).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(expect_service(&edge, SHARED).await);
    }
    failures_from_a_shared_address_are_answered_late(&edge).await;

    // The address is refused until the end of the minute, although others are served meanwhile, and
    // is served afterwards.
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
        assert!(
            before < MINUTE + DELAY_MAX,
            "it is still refused after {before:?}"
        );
        refused += 1;
        sleep(Duration::from_secs(1)).await;
    }
    assert_judged(&edge, "failed", 10).await;
    assert_judged(&edge, "rate_limited", refused).await;
    assert_judged(&edge, "failed_shared", 30).await;
    drop(clients);
}

/// Makes more failed attempts than AUTH_RATE_LIMIT allows. A correct password among them is
/// accepted immediately.
async fn failures_from_a_shared_address_are_answered_late(edge: &Daemon) {
    let mut guesses = JoinSet::new();
    for _ in 0..30 {
        let (sent, mut peer) = (SystemClock.now(), log_in(edge, SHARED, "wrong").await);
        guesses.spawn(async move {
            peer.expect_refusal("AUTH_FAILED").await;
            SystemClock.now().since(sent)
        });
    }
    edge.logs("set PROXY_PROTOCOL").await;
    expect_service(edge, SHARED).await;
    for waited in guesses.join_all().await {
        assert!(
            waited >= Duration::from_secs(1),
            "answered after {waited:?}"
        );
        assert!(
            waited < Duration::from_secs(5) + DELAY_MAX,
            "answered after {waited:?}"
        );
    }
    expect_service(edge, SHARED).await;
    let log = edge.log();
    let warnings = log
        .lines()
        .filter(|line| line.contains("set PROXY_PROTOCOL"));
    let warnings: Vec<_> = warnings.collect();
    assert!(
        warnings.len() < 5,
        "anyone could fill the log: {warnings:?}"
    );
    assert!(warnings[0].contains(&SHARED.to_string()), "{warnings:?}");
    assert!(warnings[0].contains("WARN"), "{warnings:?}");
}

/// Starts an edge that does not know the time, which it does not need to authenticate clients.
async fn started() -> Daemon {
    let mut edge = Daemon::new("tickstorm-edge").with("HEARTBEAT_TIMEOUT", "10m");
    edge.start().await;
    edge
}

/// Connects from an address and sends AUTH.
async fn log_in(edge: &Daemon, from: IpAddr, password: &str) -> Peer {
    let socket = PeerOptions {
        from: Some(from),
        ..PeerOptions::default()
    };
    let mut peer = Peer::connect_with(edge.clients(), socket).await;
    peer.auth(USER, password).await;
    peer
}

async fn expect_service(edge: &Daemon, from: IpAddr) -> Peer {
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
        "{judged} AUTHs are counted as {result} instead of {expected}"
    );
}
