//! SIGTERM to an edge with a thousand clients. Each client is served until the drain sends it
//! elsewhere, and the edge exits in time.

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use tickstorm_protocol::message::{DataBatch, ErrorMsg, GoingAway};
use tickstorm_testkit::{Nats, Peer, frame};
use tickstorm_timebase::{Clock as _, Mode, SystemClock};
use tokio::task::JoinSet;

use crate::support::cluster::Cluster;
use crate::support::daemon::{PASSWORD, USER};
use crate::support::eventually;
use crate::support::observer::now_us;
use crate::tickstorm::PATIENCE;

const CLIENTS: usize = 1_000;
const DELAY: Duration = Duration::from_secs(4);
const TIMEOUT: Duration = Duration::from_secs(14);
/// The time that an edge may take to exit after both, according to docs/operations.md.
const EXIT: Duration = Duration::from_secs(2);
/// The number of open files that the test needs in addition to one per client.
const OTHER_FILES: u64 = 200;
/// The delay that a machine under load may add. Defects add more: clients that receive no tick
/// after SIGTERM, or an edge that waits for its clients.
const DELAY_MAX: Duration = Duration::from_secs(5);
const DELAY_MAX_MS: i64 = 5_000;

/// Settings with which no client is closed for its silence, since these clients only listen.
const SILENCE: [(&str, &str); 2] = [("HEARTBEAT_INTERVAL", "5m"), ("HEARTBEAT_TIMEOUT", "10m")];

/// The end of one client's connection.
struct End {
    /// The arrival of GOING_AWAY by the host's clock, and the deadline in it.
    told_us: i64,
    within_ms: u32,
    /// The arrival of the ERROR frame by the host's clock.
    at_us: i64,
    retry_after_ms: u32,
}

#[tokio::test]
async fn a_thousand_clients_are_served_until_they_are_sent_elsewhere_and_the_edge_exits_in_time() {
    let files = u64::try_from(CLIENTS).unwrap() + OTHER_FILES;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(files).min(hard), hard).unwrap();
    let mut cluster = Cluster::new(vec![Nats::run(&[])], 1, 1, &SILENCE);
    let edge = &mut cluster.edges[0];
    edge.set("DRAIN_DELAY", &format!("{}s", DELAY.as_secs()));
    edge.set("DRAIN_TIMEOUT", &format!("{}s", TIMEOUT.as_secs()));
    cluster.start().await;
    let edge = &mut cluster.edges[0];
    let mut followed = JoinSet::new();
    for _ in 0..CLIENTS {
        let mut peer = Peer::connect(edge.clients()).await;
        let ack = peer.enter(USER, PASSWORD, Mode::Second).await;
        followed.spawn(follow_to_drain(peer, ack.start_epoch_ms));
    }

    let (start, start_us) = (SystemClock.now(), now_us());
    edge.send(Signal::SIGTERM);
    let (code, reasons) = loop {
        let (code, reasons) = edge.get("/health/ready").await.unwrap();
        if code != 200 {
            break (code, reasons);
        }
    };
    assert!(
        code == 503 && reasons.contains("draining"),
        "{code} {reasons}"
    );
    assert!(edge.is_live().await);
    // During DRAIN_DELAY, new clients are served as usual.
    let mut peer = Peer::connect(edge.clients()).await;
    let ack = peer.enter(USER, PASSWORD, Mode::Second).await;
    let end_of_new = follow_to_drain(peer, ack.start_epoch_ms).await;
    assert_eq!(edge.ended().await, Some(0));
    let took = SystemClock.now().since(start);
    assert!(
        took <= DELAY + TIMEOUT + EXIT + DELAY_MAX,
        "the edge took {took:?} to exit"
    );

    let mut ends = followed.join_all().await;
    ends.push(end_of_new);
    assert_spread(
        "hints",
        &[100; 5],
        ends.iter().map(|end| i64::from(end.retry_after_ms) - 1),
    );
    let delay_us = i64::try_from(DELAY.as_micros()).unwrap();
    let since_delay = ends
        .iter()
        .map(|end| (end.at_us - start_us - delay_us) / 1_000);
    let timeout_ms = i64::try_from(TIMEOUT.as_millis()).unwrap();
    for end in &ends {
        let within_ms = i64::from(end.within_ms);
        assert!((timeout_ms / 2 - 1..timeout_ms).contains(&within_ms));
        let since_ms = (end.told_us - start_us - delay_us) / 1_000;
        assert!((0..timeout_ms / 10 + DELAY_MAX_MS).contains(&since_ms));
    }
    // Clients are closed in the second half, and the last one has 1.3 s at the end.
    let mut spans = [(timeout_ms / 2 - 1_300) / 4; 4];
    // A busy machine may read the last ERROR frames late.
    spans[3] += DELAY_MAX_MS;
    assert_spread("ends", &spans, since_delay.map(|ms| ms - timeout_ms / 2));
}

/// Receives ticks until the ERROR frame and the end of file after it. Asserts that no tick is
/// missing.
async fn follow_to_drain(mut peer: Peer, mut last_ms: i64) -> End {
    let (mut told_us, mut within_ms) = (0, 0);
    loop {
        let next = peer.expect_frame().await;
        if next.kind == frame::GOING_AWAY {
            told_us = now_us();
            within_ms = next.decode::<GoingAway>().deadline_ms;
            continue;
        }
        if next.kind == frame::DATA_BATCH {
            let batch: DataBatch = next.decode();
            for tick in batch.ticks {
                assert_eq!(tick.epoch_ms, last_ms + 1_000);
                last_ms = tick.epoch_ms;
            }
            continue;
        }
        assert_eq!(next.kind, frame::ERROR, "{next:?}");
        let error: ErrorMsg = next.decode();
        assert_eq!(error.code, "SERVER_DRAINING", "{error:?}");
        let at_us = now_us();
        let since_ms = at_us / 1_000 - last_ms;
        assert!(
            since_ms < 1_000 + DELAY_MAX_MS,
            "no tick in the last {since_ms} ms before the ERROR frame"
        );
        peer.expect_eof().await;
        return End {
            told_us,
            within_ms,
            at_us,
            retry_after_ms: error.retry_after_ms,
        };
    }
}

/// Asserts that all values are within consecutive spans of these lengths, which begin at zero, and
/// that the values are distributed roughly evenly among the spans.
fn assert_spread(what: &str, spans: &[i64], values: impl Iterator<Item = i64>) {
    let values: Vec<_> = values.collect();
    let (mut from, mut shares) = (0, Vec::new());
    for span in spans {
        let range = from..from + span;
        shares.push(values.iter().filter(|value| range.contains(value)).count());
        from += span;
    }
    let fair = values.len() / spans.len();
    let uneven = shares
        .iter()
        .any(|share| *share < fair / 4 || *share > fair * 2);
    let all = shares.iter().sum::<usize>() == values.len();
    let (least, most) = (values.iter().min(), values.iter().max());
    assert!(
        !uneven && all,
        "{what}: {shares:?} of {} values from {least:?} to {most:?}",
        values.len()
    );
    println!("{what}: {shares:?}, {least:?} to {most:?}");
}

#[tokio::test]
async fn after_a_second_sigterm_an_edge_exits_immediately_even_if_it_still_has_clients() {
    let mut cluster = Cluster::new(vec![Nats::run(&[])], 1, 1, &SILENCE);
    cluster.edges[0].set("DRAIN_TIMEOUT", "10m");
    cluster.start().await;
    let edge = &mut cluster.edges[0];
    let mut peers = Vec::new();
    for _ in 0..100 {
        let mut peer = Peer::connect(edge.clients()).await;
        peer.enter(USER, PASSWORD, Mode::Second).await;
        peers.push(peer);
    }
    edge.send(Signal::SIGTERM);
    let refused = async || {
        tokio::net::TcpStream::connect(edge.clients())
            .await
            .is_err()
    };
    eventually("the edge has closed its listener", PATIENCE, refused).await;
    let connections = edge.metric("tickstorm_active_connections").await;
    assert!(
        connections > 50.0,
        "only {connections} connections are left at the start of a drain of ten minutes"
    );
    edge.send(Signal::SIGTERM);
    // This waits for much less than the rest of the ten minutes.
    assert_eq!(edge.ended().await, Some(1));
}

/// Starts an edge with one client, asks for a drain at its admin port, and waits until the client
/// is told to go.
async fn drained_by_operator(timeout: &str) -> (Cluster, Peer) {
    let mut cluster = Cluster::new(vec![Nats::run(&[])], 1, 1, &SILENCE);
    cluster.edges[0].set("DRAIN_TIMEOUT", timeout);
    cluster.start().await;
    let edge = &mut cluster.edges[0];
    let mut peer = Peer::connect(edge.clients()).await;
    peer.enter(USER, PASSWORD, Mode::Second).await;
    let (code, body) = edge.request("POST", "/drain").await.unwrap();
    assert_eq!((code, body.as_str()), (202, r#"{"draining":true}"#));
    while peer.expect_frame().await.kind != frame::GOING_AWAY {}
    (cluster, peer)
}

#[tokio::test]
async fn an_edge_that_an_operator_drains_exits_when_its_clients_have_left() {
    let (mut cluster, peer) = drained_by_operator("10m").await;
    drop(peer);
    assert_eq!(cluster.edges[0].ended().await, Some(0));
    let log = cluster.edges[0].log();
    assert!(log.contains("an operator asked for a drain"), "{log}");
}

#[tokio::test]
async fn sigterm_joins_a_drain_by_an_operator_and_a_second_one_ends_it() {
    let (mut cluster, mut peer) = drained_by_operator("10m").await;
    let edge = &mut cluster.edges[0];
    edge.send(Signal::SIGTERM);
    edge.logs("already draining").await;
    // The client is served meanwhile.
    while peer.expect_frame().await.kind != frame::DATA_BATCH {}
    edge.send(Signal::SIGTERM);
    assert_eq!(edge.ended().await, Some(1));
}

#[tokio::test]
async fn sigterm_after_a_drain_by_an_operator_does_not_cut_it_short() {
    let (mut cluster, peer) = drained_by_operator("10m").await;
    cluster.edges[0].send(Signal::SIGTERM);
    cluster.edges[0].logs("already draining").await;
    drop(peer);
    assert_eq!(cluster.edges[0].ended().await, Some(0));
}
