//! The operators' routes of the admin port: listing connections, and closing one.

use std::net::SocketAddr;
use std::time::Duration;

use prometheus::Registry;
use serde_json::{Value, json};
use tickstorm_edge::Config;
use tickstorm_protocol::message::Auth;
use tickstorm_service::admin::Admin;
use tickstorm_testkit::{Peer, Received, frame, poll_until_async};
use tickstorm_timebase::Mode;
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
            .with_routes(edge.edge.routes());
        let addr = admin.local_addr();
        let health = edge.edge.health();
        tokio::spawn(admin.serve(Registry::new(), health, CancellationToken::new()));
        Self { addr }
    }

    async fn ask(&self, method: &str, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].to_owned(), body.to_owned())
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
    subscriber.expect_ack(frame::AUTH).await;
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
    for connection in &mut listed {
        let fields = connection.as_object_mut().unwrap();
        assert!(fields.remove("id").unwrap().as_u64().unwrap() > 0);
        assert!(fields.remove("age_s").unwrap().as_u64().unwrap() < 60);
    }
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
    let id = port.list("?sort=age").await[0]["id"].as_u64().unwrap();
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
    assert_eq!(port.ask("DELETE", "/connections/first").await.0, "400");
    assert_eq!(port.ask("DELETE", "/connections/7").await.0, "404");
    assert_eq!(port.ask("GET", "/connections/7").await.0, "405");
    edge.stop().await;
}
