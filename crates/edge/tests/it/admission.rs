//! Floods of connections, limits per address, and lists of networks, at real sockets.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use tickstorm_edge::{Config, IpListSources, Networks};
use tickstorm_protocol::message::ErrorMsg;
use tickstorm_service::env::Value as _;
use tickstorm_service::error_chain::ErrorChain;
use tickstorm_testkit::{
    PATIENCE, Peer, PeerOptions, Received, TempDir, frame, peer, poll_until_async,
};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc::unbounded_channel;

use crate::support::{PASSWORD, SOON, TestEdge, USER, config};

const CLOSED: &str = "tickstorm_connections_closed_total";

/// Connects from an address of this machine.
async fn connect_from(addr: SocketAddr, from: &str) -> Peer {
    let from: IpAddr = from.parse().unwrap();
    let options = PeerOptions {
        from: Some(from),
        ..PeerOptions::default()
    };
    Peer::connect_with(addr, options).await
}

async fn enter(mut peer: Peer) -> Peer {
    peer.auth(USER, PASSWORD).await;
    peer.expect_ack(frame::AUTH).await;
    peer
}

/// Expects that the edge closes the connection without having sent a byte.
async fn expect_plain_close(mut peer: Peer) {
    let received = peer.next_frame(SOON).await;
    assert!(
        matches!(
            received,
            Received::Eof { torn: 0 } | Received::Reset { torn: 0 }
        ),
        "{received:?} instead of a plain close"
    );
}

fn networks(text: &str) -> Option<Networks> {
    Some(Networks::parse(text, &()).unwrap())
}

#[tokio::test]
async fn two_thousand_silent_connections_of_an_address_keep_out_no_newcomer() {
    const SILENT: u32 = 2_000;
    const HANDSHAKES_MAX: u32 = 200;
    const AUTH_TIMEOUT: Duration = Duration::from_secs(60);
    let edge = TestEdge::start_without_clock(Config {
        handshakes_max: HANDSHAKES_MAX as usize,
        auth_timeout: AUTH_TIMEOUT,
        ..config()
    })
    .await;
    let mut silent = Vec::new();
    for number in 0..SILENT {
        silent.push(connect_from(edge.addr(), "127.0.0.2").await);
        if number % 100 == 99 {
            // Silent connections that kept it out would do so for AUTH_TIMEOUT.
            const { assert!(PATIENCE.as_secs() < AUTH_TIMEOUT.as_secs()) };
            enter(connect_from(edge.addr(), "127.0.0.1").await).await;
        }
    }
    // Those that are open now, and the others, each of which was closed for another.
    let evicted = f64::from(SILENT - HANDSHAKES_MAX);
    edge.metric_reaches("tickstorm_handshakes_evicted_total", "", evicted)
        .await;
    let open = edge.metric("tickstorm_handshakes", "");
    assert!(open <= f64::from(HANDSHAKES_MAX), "{open} handshakes");
    edge.stop().await;
}

#[tokio::test]
async fn limits_of_an_address_hold_at_real_sockets_and_for_no_other_address() {
    let edge = TestEdge::start_without_clock(Config {
        connections_per_ip_max: 2,
        ..config()
    })
    .await;
    let first = enter(connect_from(edge.addr(), "127.0.0.2").await).await;
    let _second = enter(connect_from(edge.addr(), "127.0.0.2").await).await;
    let mut third = connect_from(edge.addr(), "127.0.0.2").await;
    let error = third.expect_refusal("TOO_MANY_CONNECTIONS").await;
    assert!(error.retry_after_ms > 0, "{error:?}");
    enter(connect_from(edge.addr(), "127.0.0.3").await).await;
    drop(first);
    let health = edge.edge.health();
    poll_until_async("the other connections are closed", SOON, || {
        health.status()["connections"] == 1
    })
    .await;
    enter(connect_from(edge.addr(), "127.0.0.2").await).await;
    edge.stop().await;
}

#[tokio::test]
async fn an_address_may_connect_as_often_in_a_second_as_the_limit_says() {
    let edge = TestEdge::start_without_clock(Config {
        connect_rate_per_ip: 1,
        ..config()
    })
    .await;
    // An attempt is refused unless a second has passed since the last one, which is rare.
    let mut is_refused = false;
    for _ in 0..100 {
        let mut peer = connect_from(edge.addr(), "127.0.0.2").await;
        // An edge that refuses the client may have reset the connection.
        let _ = peer.try_send(&peer::auth(USER, PASSWORD)).await;
        let answer = peer.expect_frame().await;
        is_refused = answer.kind == frame::ERROR;
        if is_refused {
            assert_eq!(answer.decode::<ErrorMsg>().code, "TOO_MANY_CONNECTIONS");
            break;
        }
    }
    assert!(is_refused, "100 connections within a second each");
    enter(connect_from(edge.addr(), "127.0.0.3").await).await;
    edge.metric_reaches(CLOSED, "too_many_connections", 1.0)
        .await;
    edge.stop().await;
}

#[tokio::test]
async fn blocked_and_not_allowed_addresses_get_a_plain_close() {
    let edge = TestEdge::start_without_clock(Config {
        ip_lists: IpListSources {
            allowed: networks("127.0.0.0/24"),
            blocked: networks("127.0.0.3/32"),
            ..IpListSources::default()
        },
        ..config()
    })
    .await;
    expect_plain_close(connect_from(edge.addr(), "127.0.0.3").await).await;
    expect_plain_close(connect_from(edge.addr(), "127.0.1.1").await).await;
    edge.metric_reaches(CLOSED, "blocked", 2.0).await;
    enter(connect_from(edge.addr(), "127.0.0.2").await).await;
    edge.stop().await;
}

#[tokio::test]
async fn on_a_listener_for_both_families_each_list_entry_means_its_own_family() {
    for (blocked, is_v4_blocked) in [("127.0.0.0/8", true), ("::/0", false)] {
        let edge = TestEdge::start_without_clock(Config {
            listen_addr: "[::]:0".parse().unwrap(),
            ip_lists: IpListSources {
                blocked: networks(blocked),
                ..IpListSources::default()
            },
            ..config()
        })
        .await;
        let port = edge.addr().port();
        for (ip, is_blocked) in [("127.0.0.1", is_v4_blocked), ("::1", !is_v4_blocked)] {
            let addr = SocketAddr::new(ip.parse().unwrap(), port);
            let peer = connect_from(addr, ip).await;
            if is_blocked {
                expect_plain_close(peer).await;
            } else {
                enter(peer).await;
            }
        }
        edge.stop().await;
    }
}

#[tokio::test]
async fn over_tls_a_refused_connection_gets_a_plain_close() {
    let authority = tickstorm_testkit::CertificateAuthority::new();
    let certificate = authority.issue(crate::tls::NAME);
    let files = crate::tls::Files::new(&certificate, None);
    let edge = TestEdge::start_without_clock(Config {
        connections_per_ip_max: 1,
        tls: Some(files.files.clone()),
        ..config()
    })
    .await;
    let _first = TcpStream::connect(edge.addr()).await.unwrap();
    let health = edge.edge.health();
    poll_until_async("the first connection is accepted", SOON, || {
        health.status()["connections"] == 1
    })
    .await;
    let mut second = TcpStream::connect(edge.addr()).await.unwrap();
    let mut received = Vec::new();
    let ended = tokio::time::timeout(SOON, second.read_to_end(&mut received)).await;
    assert_eq!(ended.unwrap().unwrap(), 0, "{received:?}");
    edge.metric_reaches(CLOSED, "too_many_connections", 1.0)
        .await;
    edge.stop().await;
}

#[tokio::test]
async fn a_changed_list_file_applies_to_new_connections_and_a_bad_one_changes_nothing() {
    const RELOADS: &str = "tickstorm_ip_list_reloads_total";
    let dir = TempDir::new("lists");
    let path = dir.write("blocked", "# nobody yet\n");
    let edge = TestEdge::start_without_clock(Config {
        ip_lists: IpListSources {
            blocked_file: Some(path),
            ..IpListSources::default()
        },
        ..config()
    })
    .await;
    let mut running = enter(connect_from(edge.addr(), "127.0.0.2").await).await;
    dir.write("blocked", "127.0.0.2/32 # a flood\n");
    edge.metric_reaches(RELOADS, "loaded", 1.0).await;
    expect_plain_close(connect_from(edge.addr(), "127.0.0.2").await).await;
    dir.write("blocked", "127.0.0.2\n");
    edge.metric_reaches(RELOADS, "failed", 1.0).await;
    expect_plain_close(connect_from(edge.addr(), "127.0.0.2").await).await;
    enter(connect_from(edge.addr(), "127.0.0.3").await).await;
    running.heartbeat(1).await;
    running.expect_pong().await;
    dir.write("blocked", "");
    edge.metric_reaches(RELOADS, "loaded", 2.0).await;
    enter(connect_from(edge.addr(), "127.0.0.2").await).await;
    edge.stop().await;
}

#[tokio::test]
async fn a_list_file_that_is_wrong_at_start_ends_the_edge_with_exit_code_78() {
    let dir = TempDir::new("lists");
    let error = TestEdge::start_error(Config {
        ip_lists: IpListSources {
            allowed_file: Some(dir.write("allowed", "10.0.0.0/8\nlocalhost\n")),
            ..IpListSources::default()
        },
        ..config()
    })
    .await;
    assert_eq!(error.exit_code(), 78);
    let text = ErrorChain(&error).to_string();
    for part in [
        "IP_ALLOWLIST_FILE=",
        "/allowed: line 2: ",
        "10.0.0.0/8 or 2001:db8::/32",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_wait_to_be_accepted_are_counted() {
    let edge = TestEdge::start_without_clock(Config {
        shards: 1,
        ..config()
    })
    .await;
    let health = edge.edge.health();
    assert!(health.status()["accept_queue"]["overflows"].is_u64());
    let (started, mut has_started) = unbounded_channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let block = edge.edge.on_shards(Arc::new(move |_, _| {
        started.send(()).unwrap();
        let _ = released.lock().unwrap().recv();
    }));
    let count = async {
        has_started.recv().await.unwrap();
        let mut waiting = Vec::new();
        for _ in 0..10 {
            waiting.push(Peer::connect(edge.addr()).await);
        }
        edge.counts("tickstorm_accept_queue_length", 10).await;
        assert_eq!(health.status()["accept_queue"]["length"], 10);
        drop(release);
        waiting
    };
    let ((), _waiting) = tokio::join!(block, count);
    poll_until_async("all are accepted", SOON, || {
        health.status()["accept_queue"]["length"] == 0
    })
    .await;
    edge.stop().await;
}
