//! Starting and stopping an edge, and its health reports.

use std::time::Duration;

use tickstorm_edge::StartError;
use tickstorm_testkit::{Peer, frame, poll_until_async};
use tickstorm_timebase::Mode;

use crate::support::{PASSWORD, SOON, TestEdge, USER, config};

#[tokio::test]
async fn an_edge_is_ready_once_it_knows_the_time_and_ticks_flow() {
    let mut edge = TestEdge::start_without_clock(config()).await;
    let health = edge.edge.health();
    assert_eq!(health.live(), Vec::<String>::new());
    let reasons = health.ready();
    assert!(
        reasons
            .iter()
            .any(|reason| reason.contains("the time is unknown")),
        "{reasons:?}"
    );
    assert!(
        reasons
            .iter()
            .any(|reason| reason.contains("last SECOND tick")),
        "{reasons:?}"
    );
    let status = health.status();
    assert_eq!(status["id"], "edge-under-test");
    assert_eq!(status["listen_addr"], edge.addr().to_string());
    assert_eq!(status["connections"], 0);
    assert_eq!(status["shards"], 2);
    assert!(status["authority"].is_null(), "{status}");

    edge.start_clock();
    poll_until_async("the edge is ready", SOON, || health.ready().is_empty()).await;
    let status = health.status();
    assert_eq!(status["authority"]["following"], "clock-0", "{status}");
    assert_eq!(status["clocks"][0]["id"], "clock-0", "{status}");
    assert_eq!(status["clocks"][0]["state"], "accepted", "{status}");
    assert_eq!(health.live(), Vec::<String>::new());
    edge.stop().await;
}

#[tokio::test]
async fn an_edge_that_has_lost_the_time_is_not_ready_until_it_knows_it_again() {
    let mut config = config();
    config.time.holdover_max = Duration::from_secs(1);
    let edge = TestEdge::start(config).await;
    let health = edge.edge.health();
    poll_until_async("the edge is ready", SOON, || health.ready().is_empty()).await;
    edge.bus.cut("clock");
    poll_until_async("the time is unknown", SOON, || {
        let reasons = health.ready();
        reasons
            .iter()
            .any(|reason| reason.contains("the time is unknown"))
    })
    .await;
    let mut peer = Peer::connect(edge.addr()).await;
    peer.auth(USER, PASSWORD).await;
    peer.expect_ack(frame::AUTH).await;
    peer.heartbeat(1).await;
    assert_eq!(peer.expect_pong().await.received_unix_us, 0);
    edge.bus.restore("clock");
    poll_until_async("the edge is ready again", SOON, || {
        health.ready().is_empty()
    })
    .await;
    edge.stop().await;
}

#[tokio::test]
async fn stop_ends_every_connection_and_every_thread() {
    let edge = TestEdge::start(config()).await;
    let addr = edge.addr();
    let (registry, health) = (edge.registry.clone(), edge.edge.health());
    let mut silent = Peer::connect(addr).await;
    let mut subscriber = Peer::connect(addr).await;
    subscriber.enter(USER, PASSWORD, Mode::Minute).await;
    poll_until_async("both clients are connected", SOON, || {
        health.status()["connections"] == 2
    })
    .await;
    // This waits for all threads: a shard that kept running would keep it from returning.
    edge.stop().await;
    silent.expect_eof().await;
    subscriber.expect_eof().await;
    let refused = tokio::net::TcpStream::connect(addr).await;
    assert!(refused.is_err(), "the listener is closed");
    assert_eq!(health.status()["connections"], 0);
    let families = registry.gather();
    let shutdowns = families
        .iter()
        .filter(|family| family.name() == "tickstorm_connections_closed_total")
        .flat_map(|family| family.get_metric())
        .filter(|metric| {
            metric
                .get_label()
                .iter()
                .any(|label| label.value() == "shutdown")
        })
        .map(|metric| metric.get_counter().get_value())
        .sum::<f64>();
    assert!((shutdowns - 2.0).abs() < 0.5, "{shutdowns}");
}

#[tokio::test]
async fn an_address_in_use_is_an_error_that_names_it() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = taken.local_addr().unwrap();
    let mut config = config();
    config.listen_addr = addr;
    let bus = tickstorm_bus::MemoryBus::new().link("edge");
    let registry = prometheus::Registry::new();
    let outcome = tickstorm_edge::Edge::start(config, std::sync::Arc::new(bus), &registry).await;
    let Err(error) = outcome else {
        panic!("two listeners on {addr}");
    };
    assert!(matches!(error, StartError::Listen { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&format!("LISTEN_ADDR={addr}")), "{text}");
}
