//! The operators' routes of the admin port: listing connections, closing one, and moving clients to
//! other edges.

use std::net::SocketAddr;
use std::time::Duration;

use prometheus::Registry;
use serde_json::{Value, json};
use tickstorm_edge::Config;
use tickstorm_protocol::message::{Auth, ErrorMsg, GoingAway};
use tickstorm_service::admin::Admin;
use tickstorm_testkit::{Peer, RawFrame, Received, frame, poll_until_async};
use tickstorm_timebase::{Clock as _, Mode, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::flow::{Burst, enter};
use crate::support::{PASSWORD, SOON, TestEdge, USER, config};

/// The admin port of an edge.
pub(crate) struct AdminPort {
    addr: SocketAddr,
}

impl AdminPort {
    pub(crate) async fn of(edge: &TestEdge) -> Self {
        let admin = Admin::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .await
            .unwrap()
            .with_routes(edge.edge.routes())
            .with_routes(edge.edge.drain_route());
        let addr = admin.local_addr();
        let health = edge.edge.health();
        tokio::spawn(admin.serve(Registry::new(), health, CancellationToken::new()));
        Self { addr }
    }

    async fn ask(&self, method: &str, path: &str) -> (String, String) {
        self.ask_with(method, path, "").await
    }

    /// Sends a request with further headers.
    async fn ask_with(&self, method: &str, path: &str, headers: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].to_owned(), body.to_owned())
    }

    /// Returns the id of the oldest connection.
    async fn first_id(&self) -> String {
        let listed = self.list("?sort=age").await;
        listed[0]["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn list(&self, query: &str) -> Vec<Value> {
        let (code, body) = self.ask("GET", &format!("/connections{query}")).await;
        assert_eq!(code, "200", "{body}");
        serde_json::from_str(&body).unwrap()
    }
}

fn peers(listed: &[Value]) -> Vec<&str> {
    let each = listed.iter().map(|connection| connection["peer"].as_str());
    each.collect::<Option<_>>().unwrap()
}

#[tokio::test]
async fn the_list_shows_each_client_and_its_subscription() {
    let edge = TestEdge::start(config()).await;
    let port = AdminPort::of(&edge).await;
    assert_eq!(port.list("").await, Vec::<Value>::new());
    let mut subscriber = Peer::connect(edge.addr()).await;
    let auth = Auth {
        username: USER.to_owned(),
        password: PASSWORD.to_owned(),
        client_id: "desk\n7".to_owned(),
        client_version: "1.2".to_owned(),
        ..Auth::default()
    };
    subscriber.send_message(frame::AUTH, &auth).await;
    let ack = subscriber.expect_ack(frame::AUTH).await;
    subscriber.subscribe_with(Mode::Minute, None, true).await;
    subscriber.expect_ack(frame::SUBSCRIBE).await;
    let silent = Peer::connect(edge.addr()).await;
    let health = edge.edge.health();
    poll_until_async("both clients are connected", SOON, || {
        health.status()["connections"] == 2
    })
    .await;

    let mut listed = port.list("?sort=age").await;
    let ends = [subscriber.local_addr(), silent.local_addr()].map(|addr| addr.to_string());
    assert_eq!(peers(&listed), ends, "the oldest is first");
    let oldest = port.list("?sort=age&limit=1").await;
    assert_eq!(peers(&oldest), ends[..1]);
    let mut ids = Vec::new();
    for connection in &mut listed {
        let fields = connection.as_object_mut().unwrap();
        ids.push(fields.remove("id").unwrap());
        assert!(fields.remove("age_s").unwrap().as_u64().unwrap() < 60);
    }
    assert_eq!(ids[0], *ack.connection_id, "the client knows its id");
    assert!(ids[1].is_string() && ids[0] != ids[1], "{ids:?}");
    assert_eq!(
        listed,
        [
            json!({
                "peer": ends[0],
                "identity": "user",
                "client_id": "desk\\n7",
                "client_version": "1.2",
                "subscribed": true,
                "mode": "MINUTE",
                "ahead": true,
                "backlog_frames": 0,
                "certificate": null,
            }),
            json!({
                "peer": ends[1],
                "identity": null,
                "client_id": null,
                "client_version": null,
                "subscribed": false,
                "mode": null,
                "ahead": false,
                "backlog_frames": 0,
                "certificate": null,
            }),
        ]
    );
    edge.stop().await;
}

#[tokio::test]
async fn the_client_with_the_longest_backlog_is_listed_first() {
    let edge = TestEdge::start(Config {
        write_buffer: 4_096,
        batch_window: Duration::ZERO,
        write_deadline: Duration::from_secs(60),
        queue_frames_max: 100_000,
        ..config()
    })
    .await;
    let port = AdminPort::of(&edge).await;
    let mut burst = Burst::new();
    let mut reader = Peer::connect(edge.addr()).await;
    let mut of_reader = enter(&mut reader, &burst).await;
    let mut stalled = edge.narrow_peer().await;
    enter(&mut stalled, &burst).await;
    for _ in 0..30 {
        burst.send(&edge.edge, 1_000);
        of_reader.follow(&mut reader, burst.last()).await;
    }
    let listed = port.list("").await;
    let ends = [&stalled, &reader].map(|peer| peer.local_addr().to_string());
    assert_eq!(peers(&listed), ends);
    assert!(
        listed[0]["backlog_frames"].as_u64().unwrap() > 1,
        "{listed:?}"
    );
    edge.stop().await;
}

#[tokio::test]
async fn an_operator_closes_one_connection_and_no_other() {
    let edge = TestEdge::start_without_clock(config()).await;
    let port = AdminPort::of(&edge).await;
    let mut first = Peer::connect(edge.addr()).await;
    first.auth(USER, PASSWORD).await;
    first.expect_ack(frame::AUTH).await;
    let mut second = Peer::connect(edge.addr()).await;
    second.auth(USER, PASSWORD).await;
    second.expect_ack(frame::AUTH).await;
    let id = port.first_id().await;
    let path = format!("/connections/{id}");
    assert_eq!(
        port.ask("DELETE", &path).await,
        ("204".to_owned(), String::new())
    );
    assert_eq!(first.next_frame(SOON).await, Received::Eof { torn: 0 });
    assert_eq!(port.ask("DELETE", &path).await.0, "404");
    second.heartbeat(1).await;
    second.expect_pong().await;
    let closed = edge.metric("tickstorm_connections_closed_total", "operator");
    assert!((closed - 1.0).abs() < 0.5, "{closed}");
    edge.stop().await;
}

#[tokio::test]
async fn an_invalid_request_is_refused_with_the_allowed_values() {
    let edge = TestEdge::start_without_clock(config()).await;
    let port = AdminPort::of(&edge).await;
    for query in ["?sort=id", "?limit=0", "?limit=10001", "?order=age"] {
        let (code, body) = port.ask("GET", &format!("/connections{query}")).await;
        assert_eq!(code, "400", "{query}: {body}");
        assert!(body.contains("sort=backlog or sort=age"), "{body}");
        assert!(body.contains("from 1 to 10000"), "{body}");
    }
    for id in ["first", "7", "7-short", "7-K7M2Q9XD", "%0a"] {
        let (code, body) = port.ask("DELETE", &format!("/connections/{id}")).await;
        assert_eq!(code, "400", "{id}: {body}");
        assert!(body.contains("as in 4821-k7m2q9xd"), "{body}");
    }
    let (code, body) = port.ask("DELETE", "/connections/7-k7m2q9xd").await;
    assert_eq!(code, "404", "{body}");
    assert!(body.contains("of another edge"), "{body}");
    let get = port.ask("GET", "/connections/7-k7m2q9xd").await;
    assert_eq!(get.0, "405", "{get:?}");
    edge.stop().await;
}

/// Reads ticks until the next frame of this type.
async fn skip_to(peer: &mut Peer, kind: u8) -> RawFrame {
    loop {
        let next = peer.expect_frame().await;
        if next.kind == kind {
            return next;
        }
        assert_eq!(next.kind, frame::DATA_BATCH, "{next:?}");
    }
}

#[tokio::test]
async fn an_operator_moves_one_client_gently_and_no_other() {
    let edge = TestEdge::start(config()).await;
    let port = AdminPort::of(&edge).await;
    let mut moved = Peer::connect(edge.addr()).await;
    moved.enter(USER, PASSWORD, Mode::Second).await;
    let mut other = Peer::connect(edge.addr()).await;
    other.enter(USER, PASSWORD, Mode::Second).await;
    let id = port.first_id().await;
    let path = format!("/connections/{id}?gently");
    let began = SystemClock.now();
    let (code, body) = port.ask("DELETE", &path).await;
    assert_eq!(code, "202", "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer, json!({ "deadline_ms": 3_000 }), "DRAIN_TIMEOUT");
    let told: GoingAway = skip_to(&mut moved, frame::GOING_AWAY).await.decode();
    assert_eq!(told.deadline_ms, 3_000);
    assert!(told.reason.contains("operator"), "{told:?}");
    let (code, body) = port.ask("DELETE", &path).await;
    assert_eq!(code, "202", "it keeps its deadline: {body}");
    // It is served until then.
    let error: ErrorMsg = skip_to(&mut moved, frame::ERROR).await.decode();
    assert!(SystemClock.now().since(began) >= Duration::from_millis(2_999));
    assert_eq!(error.code, "SERVER_DRAINING");
    assert!(!error.message.contains("shut down"), "{error:?}");
    moved.expect_eof().await;
    assert_eq!(port.ask("DELETE", &path).await.0, "404");
    other.heartbeat(1).await;
    assert_eq!(skip_to(&mut other, frame::PONG).await.kind, frame::PONG);
    edge.counts("tickstorm_going_away_total", 1).await;
    edge.stop().await;
}

#[tokio::test]
async fn a_client_that_can_not_be_told_is_not_moved() {
    let edge = TestEdge::start_without_clock(Config {
        auth_timeout: Duration::from_secs(60),
        drain_timeout: Duration::from_secs(600),
        ..config()
    })
    .await;
    let port = AdminPort::of(&edge).await;
    let _silent = Peer::connect(edge.addr()).await;
    let health = edge.edge.health();
    poll_until_async("the client is connected", SOON, || {
        health.status()["connections"] == 1
    })
    .await;
    let id = port.first_id().await;
    let (code, body) = port
        .ask("DELETE", &format!("/connections/{id}?gently"))
        .await;
    assert_eq!(code, "409", "{body}");
    assert!(body.contains("has not authenticated"), "{body}");
    for query in ["?gently=yes", "?kindly", "?gently&gently"] {
        let (code, body) = port
            .ask("DELETE", &format!("/connections/{id}{query}"))
            .await;
        assert_eq!(code, "400", "{query}: {body}");
        assert!(body.contains("allowed is only gently"), "{body}");
    }
    assert_eq!(port.list("").await.len(), 1, "it is still connected");
    edge.stop().await;
}

#[tokio::test]
async fn an_operator_moves_a_share_of_the_clients_over_some_time() {
    let edge = TestEdge::start(config()).await;
    let port = AdminPort::of(&edge).await;
    let mut peers = Vec::new();
    for _ in 0..300 {
        let mut peer = Peer::connect(edge.addr()).await;
        peer.enter(USER, PASSWORD, Mode::Minute).await;
        peers.push(peer);
    }
    let (code, body) = port.ask("POST", "/rebalance?share=0.2&over=8s").await;
    assert_eq!(code, "202", "{body}");
    let state: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(state["connections"], 60, "{state}");
    assert_eq!(
        (&state["share"], &state["over"]),
        (&json!(0.2), &json!("8s"))
    );

    let (code, body) = port.ask("POST", "/rebalance?share=1&over=1m").await;
    assert_eq!(code, "409", "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert!(answer["error"].as_str().unwrap().contains("under way"));
    assert_eq!(answer["rebalance"]["connections"], 60, "{answer}");
    let ends_in_ms = answer["rebalance"]["ends_in_ms"].as_u64().unwrap();
    assert!(ends_in_ms <= 8_000, "{answer}");

    edge.metric_reaches("tickstorm_going_away_total", "rebalance", 60.0)
        .await;
    edge.metric_reaches(
        "tickstorm_connections_closed_total",
        "server_draining",
        60.0,
    )
    .await;
    let mut moved = 0;
    for peer in &mut peers {
        peer.heartbeat(1).await;
        let mut first = peer.expect_frame().await;
        // A minute may have begun meanwhile.
        while first.kind == frame::DATA_BATCH {
            first = peer.expect_frame().await;
        }
        if first.kind != frame::GOING_AWAY {
            continue;
        }
        moved += 1;
        let told: GoingAway = first.decode();
        assert_eq!(
            told.deadline_ms, 3_000,
            "DRAIN_TIMEOUT, and less than half of 8 s"
        );
    }
    assert_eq!(moved, 60);
    // Once it has ended, another one may start.
    let began = SystemClock.now();
    while port.ask("POST", "/rebalance?share=0.0001&over=2s").await.0 != "202" {
        assert!(SystemClock.now().since(began) < SOON);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    edge.counts("tickstorm_going_away_total", 60).await;
    edge.stop().await;
}

#[tokio::test]
async fn an_invalid_rebalance_is_refused_with_what_is_wrong() {
    let edge = TestEdge::start_without_clock(config()).await;
    let port = AdminPort::of(&edge).await;
    for (query, named) in [
        ("", "share is missing"),
        ("?share=0.2", "over is missing"),
        ("?share=0&over=60s", "above 0 and at most 1"),
        ("?share=20%25&over=60s", "above 0 and at most 1"),
        ("?share=0.2&over=60", "from 2s to 1h"),
        ("?share=0.2&over=1s", "from 2s to 1h"),
        ("?share=0.2&over=2h", "from 2s to 1h"),
        ("?part=0.2&over=60s", "allowed are share and over"),
    ] {
        let (code, body) = port.ask("POST", &format!("/rebalance{query}")).await;
        assert_eq!(code, "400", "{query}: {body}");
        assert!(body.contains(named), "{query}: {body}");
    }
    assert_eq!(port.ask("GET", "/rebalance?share=1&over=2s").await.0, "405");
    assert_eq!(port.ask("GET", "/drain").await.0, "405");
    edge.stop().await;
}

#[tokio::test]
async fn requests_to_move_clients_are_behind_the_guard() {
    let edge = TestEdge::start_without_clock(config()).await;
    let port = AdminPort::of(&edge).await;
    for (method, path) in [
        ("POST", "/drain"),
        ("POST", "/rebalance?share=1&over=2s"),
        ("DELETE", "/connections/1?gently"),
        ("GET", "/debug"),
        ("POST", "/debug?client=127.0.0.1&for=1s"),
        ("DELETE", "/debug"),
    ] {
        for header in [
            "Origin: http://localhost\r\n",
            "Sec-Fetch-Site: cross-site\r\n",
            "Host: edge.example\r\n",
        ] {
            let (code, body) = port.ask_with(method, path, header).await;
            assert_eq!(code, "403", "{path} with {header}: {body}");
        }
    }
    let requested = edge.edge.drain_requested();
    let early = tokio::time::timeout(Duration::from_millis(1), requested).await;
    assert!(early.is_err(), "no request got through");
    edge.stop().await;
}

#[tokio::test]
async fn an_operator_asks_for_a_drain_which_then_moves_every_client() {
    let edge = TestEdge::start(Config {
        drain_timeout: Duration::from_secs(4),
        ..config()
    })
    .await;
    let port = AdminPort::of(&edge).await;
    let mut peer = Peer::connect(edge.addr()).await;
    peer.enter(USER, PASSWORD, Mode::Second).await;
    let id = port.first_id().await;
    let mut gone = Peer::connect(edge.addr()).await;
    gone.auth(USER, PASSWORD).await;
    let gone = gone.expect_ack(frame::AUTH).await.connection_id;
    let closed = port.ask("DELETE", &format!("/connections/{gone}")).await;
    assert_eq!(closed.0, "204", "{closed:?}");
    for _ in 0..2 {
        let (code, body) = port.ask("POST", "/drain").await;
        assert_eq!(
            (code.as_str(), body.as_str()),
            ("202", r#"{"draining":true}"#)
        );
    }
    edge.edge.drain_requested().await;
    let told = async {
        skip_to(&mut peer, frame::GOING_AWAY).await;
        // The drain moves every client anyway, also those that it has closed meanwhile.
        let single = format!("/connections/{id}?gently");
        let unknown = format!("/connections/{gone}?gently");
        for (method, path) in [
            ("DELETE", single.as_str()),
            ("DELETE", unknown.as_str()),
            ("POST", "/rebalance?share=1&over=2s"),
        ] {
            let (code, body) = port.ask(method, path).await;
            assert_eq!(code, "409", "{path}: {body}");
            assert!(body.contains("this edge drains"), "{body}");
        }
        skip_to(&mut peer, frame::ERROR).await;
    };
    tokio::join!(edge.edge.drain(), told);
    edge.stop().await;
}
