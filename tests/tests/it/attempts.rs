//! AUTH_RATE_LIMIT of a real edge, over a real minute: a guesser is judged rarely, a neighbour is
//! not slowed, and clients with a device cookie come back beside the guesser, after a restart too.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tickstorm_protocol::message::Auth;
use tickstorm_testkit::{Peer, PeerOptions, frame};
use tickstorm_timebase::{Clock as _, Mono, SystemClock};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::support::daemon::{Daemon, PASSWORD, USER};

/// The time for which failures count, from the first one of an address.
const MINUTE: Duration = Duration::from_secs(60);
/// The delay that a machine under load may add.
const DELAY_MAX: Duration = Duration::from_secs(20);
/// The clients that share the guesser's address.
const CLIENTS: usize = 300;

const GUESSER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
const NEIGHBOUR: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

#[tokio::test]
async fn a_guesser_is_judged_rarely_and_known_clients_at_its_address_are_served_at_once() {
    let mut edge = started().await;
    let mut cookies = Vec::new();
    while cookies.len() < CLIENTS {
        let mut peer = connect(edge.clients(), GUESSER).await;
        peer.auth(USER, PASSWORD).await;
        let cookie = peer.expect_ack(frame::AUTH).await.cookie;
        // There are cookies as soon as the edge has derived its key.
        if !cookie.is_empty() {
            cookies.push(cookie);
        }
    }
    edge.kill().await;
    edge.start().await;
    let (first, mut guessers) = (SystemClock.now(), JoinSet::new());
    for _ in 0..20 {
        guessers.spawn(guess(edge.clients()));
    }
    edge.logs("set PROXY_PROTOCOL").await;
    let began = SystemClock.now();
    for cookie in &cookies {
        let mut peer = connect(edge.clients(), GUESSER).await;
        log_in_with(&mut peer, cookie).await;
        peer.expect_ack(frame::AUTH).await;
    }
    let took = SystemClock.now().since(began);
    assert!(took < DELAY_MAX, "{took:?}");

    let mut neighbour = connect(edge.clients(), NEIGHBOUR).await;
    let began = SystemClock.now();
    neighbour.auth(USER, PASSWORD).await;
    neighbour.expect_ack(frame::AUTH).await;
    let took = SystemClock.now().since(began);
    assert!(took < DELAY_MAX, "{took:?}");

    sleep((first + MINUTE).since(SystemClock.now())).await;
    assert_judged_rarely(&edge, first).await;
    guessers.abort_all();
    while guessers.join_next().await.is_some() {}
    let log = edge.log();
    let warnings = log
        .lines()
        .filter(|line| line.contains("set PROXY_PROTOCOL"));
    let warnings: Vec<_> = warnings.collect();
    assert!(
        warnings.len() < 5,
        "anyone could fill the log: {warnings:?}"
    );
    assert!(warnings[0].contains(&GUESSER.to_string()), "{warnings:?}");
    assert!(warnings[0].contains("WARN"), "{warnings:?}");
}

/// Guesses passwords as fast as the edge answers.
async fn guess(edge: SocketAddr) {
    loop {
        let mut peer = connect(edge, GUESSER).await;
        peer.auth(USER, "wrong").await;
        peer.expect_frame().await;
    }
}

async fn assert_judged_rarely(edge: &Daemon, first: Mono) {
    let (failed, waited, refused) = (
        judged(edge, "failed").await,
        judged(edge, "delayed_failed").await,
        judged(edge, "rate_limited").await,
    );
    let minutes = SystemClock.now().since(first).as_secs_f64() / 60.0;
    // Ten at once and five after short waits in each minute, and one per slot in 8 s.
    let most = 15.0 * minutes.ceil() + 10.0 * 7.5 * minutes;
    assert!(failed + waited <= most, "{failed} + {waited} of {most}");
    assert!(waited > 0.0 && refused > 0.0, "{waited}, {refused}");
}

/// Starts an edge that does not know the time, which it does not need to authenticate clients.
async fn started() -> Daemon {
    let mut edge = Daemon::new("tickstorm-edge").with("HEARTBEAT_TIMEOUT", "10m");
    edge.start().await;
    edge
}

async fn connect(edge: SocketAddr, from: IpAddr) -> Peer {
    let socket = PeerOptions {
        from: Some(from),
        ..PeerOptions::default()
    };
    Peer::connect_with(edge, socket).await
}

async fn log_in_with(peer: &mut Peer, cookie: &[u8]) {
    let auth = Auth {
        username: USER.to_owned(),
        password: PASSWORD.to_owned(),
        cookie: cookie.to_vec(),
        ..Auth::default()
    };
    peer.send_message(frame::AUTH, &auth).await;
}

async fn judged(edge: &Daemon, result: &str) -> f64 {
    let series = format!(r#"tickstorm_auth_total{{result="{result}"}}"#);
    edge.metric(&series).await
}
