//! SIGTERM for an edge with a thousand clients: each is served until its turn, sent elsewhere, and the edge ends in time.

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use tickstorm_protocol::message::{DataBatch, ErrorMsg};
use tickstorm_testkit::{Nats, Peer, frame};
use tickstorm_timebase::{Clock as _, Mode, SystemClock};
use tokio::task::JoinSet;

use crate::support::cluster::Cluster;
use crate::support::daemon::{PASSWORD, USER};
use crate::support::eventually;
use crate::support::witness::now_us;
use crate::tickstorm::PATIENCE;

const CLIENTS: usize = 1_000;
const DELAY: Duration = Duration::from_secs(4);
const TIMEOUT: Duration = Duration::from_secs(10);
/// What an edge may take for its end beyond both, as docs/operations.md says.
const END: Duration = Duration::from_secs(2);
/// Open files that the test needs beside its clients.
const FILES_BESIDE: u64 = 200;
/// What a machine under load may add. Clients that got no tick from SIGTERM on, or an edge that waits for its clients, take longer.
const LATE: Duration = Duration::from_secs(5);
const LATE_MS: i64 = 5_000;

/// Settings so that nobody is closed for silence: these clients only listen.
const SILENCE: [(&str, &str); 2] = [("HEARTBEAT_INTERVAL", "5m"), ("HEARTBEAT_TIMEOUT", "10m")];

/// The end of one client's connection.
struct End {
    /// When its ERROR came, by the host's clock.
    at_us: i64,
    retry_after_ms: u32,
}

#[tokio::test]
async fn a_thousand_clients_are_served_to_their_turn_and_sent_elsewhere_in_time() {
    let files = u64::try_from(CLIENTS).unwrap() + FILES_BESIDE;
    let (soft, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(files).min(most), most).unwrap();
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

    let (began, began_us) = (SystemClock.now(), now_us());
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
    // Before anybody's turn a newcomer is served as ever.
    let mut newcomer = Peer::connect(edge.clients()).await;
    let ack = newcomer.enter(USER, PASSWORD, Mode::Second).await;
    let newcomer = follow_to_drain(newcomer, ack.start_epoch_ms).await;
    assert_eq!(edge.ended().await, Some(0));
    let took = SystemClock.now().since(began);
    assert!(took <= DELAY + TIMEOUT + END + LATE, "it took {took:?}");

    let mut ends = followed.join_all().await;
    ends.push(newcomer);
    assert_spread(
        "hints",
        &[1_000; 5],
        ends.iter().map(|end| i64::from(end.retry_after_ms) - 1),
    );
    let delay_us = i64::try_from(DELAY.as_micros()).unwrap();
    let since_delay = ends
        .iter()
        .map(|end| (end.at_us - began_us - delay_us) / 1_000);
    let mut spans = [i64::try_from(TIMEOUT.as_millis()).unwrap() / 5; 5];
    // A busy machine may read the last ones late.
    spans[4] += LATE_MS;
    assert_spread("ends", &spans, since_delay);
}

/// Takes ticks, none missing, until the ERROR and the end of file after it.
async fn follow_to_drain(mut peer: Peer, mut last_ms: i64) -> End {
    loop {
        let next = peer.expect_frame().await;
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
            since_ms < 1_000 + LATE_MS,
            "no tick for {since_ms} ms before its end"
        );
        peer.expect_eof().await;
        return End {
            at_us,
            retry_after_ms: error.retry_after_ms,
        };
    }
}

/// All values lie in these spans, one behind the other from zero on, and each span has about its share of them.
fn assert_spread(what: &str, spans: &[i64], values: impl Iterator<Item = i64>) {
    let values: Vec<_> = values.collect();
    let (mut from, mut shares) = (0, Vec::new());
    for span in spans {
        let range = from..from + span;
        shares.push(values.iter().filter(|value| range.contains(value)).count());
        from += span;
    }
    let fair = values.len() / spans.len();
    let wrong = shares
        .iter()
        .any(|share| *share < fair / 4 || *share > fair * 2);
    let all = shares.iter().sum::<usize>() == values.len();
    let (least, most) = (values.iter().min(), values.iter().max());
    assert!(
        !wrong && all,
        "{what}: {shares:?} of {}, {least:?} to {most:?}",
        values.len()
    );
    println!("{what}: {shares:?}, {least:?} to {most:?}");
}

#[tokio::test]
async fn a_second_sigterm_ends_an_edge_at_once_whatever_clients_it_still_has() {
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
    eventually("nobody listens any more", PATIENCE, refused).await;
    let connections = edge.metric("tickstorm_active_connections").await;
    assert!(
        connections > 50.0,
        "{connections} are left at the begin of ten minutes"
    );
    edge.send(Signal::SIGTERM);
    // It waits for far less than what is left of the ten minutes.
    assert_eq!(edge.ended().await, Some(1));
}
