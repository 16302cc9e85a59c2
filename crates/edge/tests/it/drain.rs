//! The orderly end of an edge: everybody is sent elsewhere, a few at a time, and served as ever until then.

use std::time::Duration;

use tickstorm_edge::Config;
use tickstorm_protocol::message::{DataBatch, ErrorMsg};
use tickstorm_testkit::{Peer, frame, poll_until_async};
use tickstorm_timebase::{Clock, Mode, Mono, SystemClock};
use tokio::task::JoinSet;

use crate::flow::{Burst, enter};
use crate::support::{PASSWORD, SOON, TestEdge, USER, config};
use crate::witness::expect_gapless;

/// What a busy machine may add. One client that holds up the drain adds a minute.
const LATE: Duration = Duration::from_secs(15);

/// The end of one client.
struct End {
    at: Mono,
    retry_after_ms: u32,
}

/// Takes ticks without a gap until the ERROR and the end of file after it.
async fn follow_to_drain(mut peer: Peer, mut last: i64) -> End {
    loop {
        let next = peer.expect_frame().await;
        if next.kind == frame::DATA_BATCH {
            let batch: DataBatch = next.decode();
            last = expect_gapless(&batch.ticks, last, Mode::Second);
            continue;
        }
        assert_eq!(next.kind, frame::ERROR, "{next:?}");
        let error: ErrorMsg = next.decode();
        assert_eq!(error.code, "SERVER_DRAINING", "{error:?}");
        let at = SystemClock.now();
        peer.expect_eof().await;
        return End {
            at,
            retry_after_ms: error.retry_after_ms,
        };
    }
}

#[tokio::test]
async fn a_thousand_clients_are_sent_elsewhere_spread_over_the_time() {
    const CLIENTS: usize = 1_000;
    const TIMEOUT: Duration = Duration::from_secs(5);
    let edge = TestEdge::start(Config {
        drain_timeout: TIMEOUT,
        ..config()
    })
    .await;
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let mut peer = Peer::connect(edge.addr()).await;
        let ack = peer.enter(USER, PASSWORD, Mode::Second).await;
        clients.spawn(follow_to_drain(peer, ack.start_epoch_ms));
    }
    assert!(!edge.edge.is_draining());
    let began = SystemClock.now();
    edge.edge.drain().await;
    let took = SystemClock.now().since(began);
    assert!(took <= TIMEOUT + LATE, "the drain took {took:?}");
    let ends = clients.join_all().await;
    let hints = ends.iter().map(|end| end.retry_after_ms);
    let (least, most) = (hints.clone().min().unwrap(), hints.max().unwrap());
    assert!(
        (1..1_000).contains(&least) && (4_001..=5_000).contains(&most),
        "{least} to {most}"
    );
    // Evenly over some 4 s: about a quarter of them is closed in each of these seconds.
    let before = |ms| {
        let until = began + Duration::from_millis(ms);
        ends.iter().filter(|end| end.at <= until).count()
    };
    let (early, half) = (before(200), before(2_000));
    assert!(early < CLIENTS / 4, "{early} within 200 ms");
    assert!(half < CLIENTS * 3 / 4, "{half} within 2 s");
    assert!(took >= Duration::from_secs(3), "all closed after {took:?}");
    edge.metric_reaches("tickstorm_connections_closed_total", "server_draining", 1e3)
        .await;
    edge.stop().await;
}

#[tokio::test]
async fn a_draining_edge_is_not_ready_at_once_and_serves_newcomers_until_the_delay_is_over() {
    let edge = TestEdge::start(Config {
        // Enough for a newcomer to come in, on a busy machine.
        drain_delay: Duration::from_secs(5),
        drain_timeout: Duration::from_secs(2),
        auth_timeout: Duration::from_secs(60),
        ..config()
    })
    .await;
    let health = edge.edge.health();
    let served = async {
        while !edge.edge.is_draining() {
            tokio::task::yield_now().await;
        }
        assert!(
            health.ready().contains(&"draining".to_owned()),
            "{:?}",
            health.ready()
        );
        assert_eq!(health.live(), Vec::<String>::new());
        let mut newcomer = Peer::connect(edge.addr()).await;
        let ack = newcomer.enter(USER, PASSWORD, Mode::Second).await;
        let silent = Peer::connect(edge.addr()).await;
        follow_to_drain(newcomer, ack.start_epoch_ms).await;
        follow_to_drain(silent, 0).await;
    };
    tokio::join!(edge.edge.drain(), served);
    let refused = tokio::net::TcpStream::connect(edge.addr()).await;
    assert!(refused.is_err(), "nobody listens any more");
    poll_until_async("all are gone", SOON, || health.status()["connections"] == 0).await;
    edge.stop().await;
}

#[tokio::test]
async fn a_drain_of_nobody_is_over_at_once_and_a_second_one_is_the_same() {
    let edge = TestEdge::start_without_clock(Config {
        drain_timeout: Duration::from_secs(600),
        ..config()
    })
    .await;
    let both = async { tokio::join!(edge.edge.drain(), edge.edge.drain()) };
    tokio::time::timeout(SOON, both).await.unwrap();
    tokio::time::timeout(SOON, edge.edge.drain()).await.unwrap();
    assert!(edge.edge.is_draining());
    edge.stop().await;
}

#[tokio::test]
async fn who_waits_to_be_accepted_is_told_too() {
    let edge = TestEdge::start_without_clock(Config {
        handshakes_max: 1,
        shards: 1,
        drain_timeout: Duration::from_secs(2),
        ..config()
    })
    .await;
    // The first ones fill the handshakes: the others are not accepted yet.
    let mut peers = Vec::new();
    for _ in 0..10 {
        peers.push(Peer::connect(edge.addr()).await);
    }
    tokio::time::timeout(SOON, edge.edge.drain()).await.unwrap();
    for mut peer in peers {
        let error = peer.expect_refusal("SERVER_DRAINING").await;
        assert!((1..=5_000).contains(&error.retry_after_ms), "{error:?}");
    }
    edge.stop().await;
}

#[tokio::test]
async fn without_time_to_drain_all_are_told_at_once() {
    let edge = TestEdge::start(Config {
        drain_timeout: Duration::ZERO,
        ..config()
    })
    .await;
    let mut clients = JoinSet::new();
    for _ in 0..100 {
        let mut peer = Peer::connect(edge.addr()).await;
        let ack = peer.enter(USER, PASSWORD, Mode::Second).await;
        clients.spawn(follow_to_drain(peer, ack.start_epoch_ms));
    }
    tokio::time::timeout(SOON, edge.edge.drain()).await.unwrap();
    assert_eq!(clients.join_all().await.len(), 100);
    edge.stop().await;
}

#[tokio::test]
async fn who_does_not_read_holds_up_no_drain_and_gets_no_error_within_a_frame() {
    let edge = TestEdge::start(Config {
        write_buffer: 4_096,
        write_deadline: Duration::from_secs(60),
        // Who reads has it all only when the other was tried.
        shards: 1,
        drain_timeout: Duration::from_secs(2),
        ..config()
    })
    .await;
    let mut burst = Burst::new();
    let mut reader = Peer::connect(edge.addr()).await;
    let mut of_reader = enter(&mut reader, &burst).await;
    let mut stalled = edge.narrow_peer().await;
    let mut of_stalled = enter(&mut stalled, &burst).await;
    burst.send(&edge.edge, 60_000);
    of_reader.follow(&mut reader, burst.last()).await;
    tokio::time::timeout(SOON, edge.edge.drain()).await.unwrap();
    let health = edge.edge.health();
    poll_until_async("both are gone", SOON, || {
        health.status()["connections"] == 0
    })
    .await;
    // It panics at an ERROR.
    of_stalled.follow_to_end(&mut stalled).await;
    assert!(of_stalled.last < burst.last(), "{of_stalled:?}");
    reader.expect_refusal("SERVER_DRAINING").await;
    edge.stop().await;
}
