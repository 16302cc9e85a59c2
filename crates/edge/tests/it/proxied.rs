//! The PROXY protocol over real sockets: clients behind a load balancer, direct clients, and
//! headers that are refused.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::ClientConfig;
use tickstorm_edge::{Config, Networks};
use tickstorm_service::env::Value as _;
use tickstorm_testkit::proxy::{self, LOCAL, PROXY, TCP4, UNSPEC, announce, announce_with, field};
use tickstorm_testkit::{
    CertificateAuthority, Peer, PeerOptions, Received, frame, peer, poll_until_async,
};
use tickstorm_timebase::Mode;
use tokio::task::JoinSet;

use crate::connections::AdminPort;
use crate::support::{PASSWORD, SOON, TestEdge, USER, config};
use crate::tls::{self, Files, TlsPeer, blocking};

const CLOSED: &str = "tickstorm_connections_closed_total";
const BALANCER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 5));
const CLIENT: &str = "203.0.113.7:50001";
const NEIGHBOUR: &str = "203.0.113.8:50001";

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Returns the configuration of an edge that trusts [`BALANCER`] only.
fn trusting() -> Config {
    Config {
        balancers: Some(Networks::parse("127.0.0.5/32", &()).unwrap()),
        ..config()
    }
}

/// Connects from the balancer's address and sends nothing.
async fn connect_balancer(edge: &TestEdge) -> Peer {
    let socket = PeerOptions {
        from: Some(BALANCER),
        ..PeerOptions::default()
    };
    Peer::connect_with(edge.addr(), socket).await
}

/// Connects through the balancer, as a client with this address.
async fn connect_through_balancer(edge: &TestEdge, client: &str) -> Peer {
    let mut peer = connect_balancer(edge).await;
    peer.send(&announce(addr(client))).await;
    peer
}

/// Expects that the edge closes the connection and sends nothing.
async fn expect_closed(peer: &mut Peer) {
    let received = peer.next_frame(SOON).await;
    let is_closed = matches!(
        received,
        Received::Eof { torn: 0 } | Received::Reset { torn: 0 }
    );
    assert!(is_closed, "{received:?}");
}

#[tokio::test]
async fn clients_of_a_balancer_are_listed_and_served_under_their_own_addresses() {
    let edge = TestEdge::start(trusting()).await;
    let admin = AdminPort::of(&edge).await;
    let mapped = "[::ffff:203.0.113.9]:50001";
    let mut clients = Vec::new();
    for client in [CLIENT, "[2001:db8::7]:50002", mapped] {
        let mut peer = connect_balancer(&edge).await;
        let header = announce_with(addr(client), &field(0x02, b"edge.example"));
        peer.send(&[header, peer::auth(USER, PASSWORD)].concat())
            .await;
        peer.expect_ack(frame::AUTH).await;
        clients.push(peer);
    }
    let mut direct = Peer::connect(edge.addr()).await;
    direct.enter(USER, PASSWORD, Mode::Second).await;
    direct.expect_ticks(1).await;
    let listed = admin.list("?sort=age").await;
    let peers: Vec<_> = listed.iter().map(|one| one["peer"].clone()).collect();
    let direct = direct.local_addr().to_string();
    assert_eq!(
        peers,
        [CLIENT, "[2001:db8::7]:50002", "203.0.113.9:50001", &direct]
    );
    for client in &mut clients {
        client.subscribe(Mode::Second).await;
        client.expect_ack(frame::SUBSCRIBE).await;
        client.expect_ticks(2).await;
    }
    edge.stop().await;
}

#[tokio::test]
async fn a_header_may_come_byte_by_byte() {
    let edge = TestEdge::start(trusting()).await;
    let mut peer = connect_balancer(&edge).await;
    peer.send_bytewise(&announce(addr(CLIENT))).await;
    peer.enter(USER, PASSWORD, Mode::Second).await;
    peer.expect_ticks(1).await;
    edge.stop().await;
}

#[tokio::test]
async fn the_balancers_own_connections_keep_its_address() {
    let edge = TestEdge::start(trusting()).await;
    let admin = AdminPort::of(&edge).await;
    let mut peers = Vec::new();
    for command in [LOCAL, PROXY] {
        let mut peer = connect_balancer(&edge).await;
        peer.send(&proxy::header(command, UNSPEC, &[])).await;
        peer.auth(USER, PASSWORD).await;
        peer.expect_ack(frame::AUTH).await;
        peers.push(peer);
    }
    for (listed, peer) in admin.list("?sort=age").await.iter().zip(&peers) {
        assert_eq!(listed["peer"], peer.local_addr().to_string());
    }
    let mut check = connect_balancer(&edge).await;
    check.send(&proxy::header(LOCAL, UNSPEC, &[])).await;
    drop(check);
    drop(connect_balancer(&edge).await);
    edge.metric_reaches(CLOSED, "health_check", 2.0).await;
    edge.stop().await;
}

#[tokio::test]
async fn headers_that_are_missing_wrong_or_not_allowed_are_refused_and_counted() {
    let edge = TestEdge::start(trusting()).await;
    let invalid = proxy::header(PROXY, TCP4, &[0; 11]);
    let too_long = proxy::header(PROXY, UNSPEC, &[0; 4_081]);
    let text = b"PROXY TCP4 203.0.113.7 192.0.2.80 50001 8080\r\n".to_vec();
    let missing = peer::auth(USER, PASSWORD);
    let mut count = 0.0;
    for input in [invalid, too_long, text.clone(), missing] {
        let mut peer = connect_balancer(&edge).await;
        peer.send(&input).await;
        expect_closed(&mut peer).await;
        count += 1.0;
    }
    for header in [announce(addr(CLIENT)), text] {
        let mut peer = Peer::connect(edge.addr()).await;
        peer.send(&[header, peer::auth(USER, PASSWORD)].concat())
            .await;
        expect_closed(&mut peer).await;
        count += 1.0;
    }
    let mut truncated = connect_balancer(&edge).await;
    truncated.send(&announce(addr(CLIENT))[..20]).await;
    truncated.finish().await;
    expect_closed(&mut truncated).await;
    edge.metric_reaches(CLOSED, "proxy_header", count + 1.0)
        .await;
    assert!(edge.metric(CLOSED, "") <= count + 1.0, "counted otherwise");
    edge.stop().await;
}

#[tokio::test]
async fn auth_timeout_covers_the_header() {
    let edge = TestEdge::start(Config {
        auth_timeout: std::time::Duration::from_millis(500),
        ..trusting()
    })
    .await;
    for len in [0, 20] {
        let mut peer = connect_balancer(&edge).await;
        peer.send(&announce(addr(CLIENT))[..len]).await;
        peer.expect_refusal("AUTH_TIMEOUT").await;
    }
    edge.stop().await;
}

/// Makes enough wrong attempts from one client's address for some of them to be refused unjudged,
/// while they wait, and returns how many were.
async fn attack(edge: &TestEdge) -> usize {
    const ATTEMPTS: usize = 40;
    let mut attempts = JoinSet::new();
    for _ in 0..ATTEMPTS {
        let mut peer = connect_through_balancer(edge, CLIENT).await;
        peer.auth(USER, "wrong").await;
        attempts.spawn(async move {
            let answer = peer.expect_frame().await;
            let error: tickstorm_protocol::message::ErrorMsg = answer.decode();
            error.code == "AUTH_RATE_LIMITED"
        });
    }
    let limited = attempts.join_all().await;
    limited.into_iter().filter(|limited| *limited).count()
}

#[tokio::test]
async fn of_two_addresses_behind_a_balancer_one_attacks_the_limit_and_the_other_is_served() {
    let edge = TestEdge::start(Config {
        auth_rate_limit: 10,
        ..trusting()
    })
    .await;
    assert!(attack(&edge).await > 0, "the attacker was not limited");
    for client in [NEIGHBOUR, "[2001:db8::7]:50002"] {
        let mut peer = connect_through_balancer(&edge, client).await;
        peer.enter(USER, PASSWORD, Mode::Second).await;
        peer.expect_ticks(1).await;
    }
    edge.stop().await;
}

/// Connects through the balancer, as a client that uses TLS. The header and the first message of
/// the handshake are in one segment only if the system puts them there.
async fn connect_with_tls(
    edge: &TestEdge,
    client: &str,
    config: &Arc<ClientConfig>,
) -> std::io::Result<TlsPeer> {
    let (edge, client, config) = (edge.addr(), addr(client), Arc::clone(config));
    blocking(move || {
        let mut socket = balancer_socket(edge);
        socket.write_all(&announce(client))?;
        TlsPeer::start(socket, config)
    })
    .await
}

/// Connects from the balancer's address, with calls that block.
fn balancer_socket(edge: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(BALANCER, 0).into()).unwrap();
    socket.connect(&edge.into()).unwrap();
    let socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tls_clients_of_a_balancer_are_served_under_their_own_addresses() {
    let authority = CertificateAuthority::new();
    let files = Files::new(&authority.issue(tls::NAME), None);
    let edge = TestEdge::start(Config {
        tls: Some(files.files.clone()),
        ..trusting()
    })
    .await;
    let admin = AdminPort::of(&edge).await;
    let config = tls::client(&authority, None);
    let mut client = connect_with_tls(&edge, CLIENT, &config).await.unwrap();
    let listed = admin.list("").await;
    assert_eq!(listed[0]["peer"], CLIENT);
    blocking(move || client.subscribe().unwrap()).await;

    // The header and the first message of the handshake in one segment, and split in between.
    let hello = [announce(addr(NEIGHBOUR)), tls::client_hello(&authority)].concat();
    let to = edge.addr();
    for at in [hello.len(), 20, 28, 40] {
        let hello = hello.clone();
        let answer = blocking(move || {
            let mut socket = balancer_socket(to);
            socket.set_nodelay(true).unwrap();
            socket.write_all(&hello[..at]).unwrap();
            socket.write_all(&hello[at..]).unwrap();
            let mut answer = [0; 3];
            socket.read_exact(&mut answer).map(|()| answer)
        });
        let answer = answer.await.unwrap();
        assert_eq!(answer, [22, 3, 3], "split at {at}: a handshake message");
    }
    let to = edge.addr();
    let refused = blocking(move || {
        let mut socket = balancer_socket(to);
        let hello = tls::client_hello(&authority);
        socket.write_all(&hello).unwrap();
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        answer
    });
    assert_eq!(refused.await, b"", "no alert");
    poll_until_async("the missing header is counted", SOON, || {
        edge.metric(CLOSED, "proxy_header") >= 1.0
    })
    .await;
    edge.stop().await;
}
