//! Draining an edge: its clients are closed a few at a time, so that they move to other edges, and
//! are served as usual until then.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tickstorm_edge::Config;
use tickstorm_protocol::message::{DataBatch, ErrorMsg, GoingAway};
use tickstorm_testkit::{Peer, frame, poll_until_async};
use tickstorm_timebase::{Clock, Mode, Mono, SystemClock};
use tokio::task::JoinSet;

use crate::flow::{Burst, enter};
use crate::support::{PASSWORD, SOON, TestEdge, USER, config};
use crate::witness::expect_gapless;

/// The delay that a busy machine may add. A client that blocked the drain would add a minute.
const LATE: Duration = Duration::from_secs(15);

/// The end of one client's connection.
struct End {
    /// The time that GOING_AWAY gave it; `None` if it received none.
    told: Option<Duration>,
    at: Mono,
    retry_after_ms: u32,
}

/// Reads ticks, which must have no gap, until the ERROR and the end of file after it.
async fn follow_to_drain(mut peer: Peer, mut last: i64) -> End {
    let mut told = None;
    loop {
        let next = peer.expect_frame().await;
        if next.kind == frame::GOING_AWAY {
            assert_eq!(told, None, "a client is told once");
            let going: GoingAway = next.decode();
            let within = Duration::from_millis(going.deadline_ms.into());
            told = Some(within);
            continue;
        }
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
            told,
            at,
            retry_after_ms: error.retry_after_ms,
        };
    }
}

#[tokio::test]
async fn a_drain_spreads_the_closing_of_a_thousand_clients_over_its_timeout() {
    const CLIENTS: usize = 1_000;
    const TIMEOUT: Duration = Duration::from_secs(10);
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
        (1..100).contains(&least) && (401..=500).contains(&most),
        "{least} to {most}"
    );
    for end in &ends {
        let within = end.told.expect("every client is told");
        // The edge has read the clock before it sent the frame.
        let half = TIMEOUT / 2 - Duration::from_millis(1);
        assert!(within >= half && within < TIMEOUT, "{within:?}");
        // The frame may have been read late, but it was sent after the drain began, and nobody is
        // closed before the deadline in it.
        let kept = end.at.since(began) + Duration::from_millis(1);
        assert!(kept >= within, "closed after {kept:?} of {within:?}");
    }
    // Closing is spread evenly over the 3.2 s after 5 s, so half of the clients go in 1.6 s.
    let until = began + TIMEOUT / 2 + Duration::from_millis(1_600);
    let half = ends.iter().filter(|end| end.at <= until).count();
    assert!(half < CLIENTS * 3 / 4, "{half} in the first half");
    assert!(took >= TIMEOUT * 3 / 4, "all closed after {took:?}");
    edge.counts("tickstorm_going_away_total", CLIENTS).await;
    edge.metric_reaches("tickstorm_connections_closed_total", "server_draining", 1e3)
        .await;
    edge.stop().await;
}

#[tokio::test]
async fn a_draining_edge_is_not_ready_but_accepts_new_clients_until_the_delay_is_over() {
    let edge = TestEdge::start(Config {
        // Long enough for a new client to subscribe, on a busy machine.
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
        let mut new_client = Peer::connect(edge.addr()).await;
        let ack = new_client.enter(USER, PASSWORD, Mode::Second).await;
        let silent = Peer::connect(edge.addr()).await;
        let end = follow_to_drain(new_client, ack.start_epoch_ms).await;
        assert!(end.told.is_some());
        let end = follow_to_drain(silent, 0).await;
        assert!(end.told.is_none(), "it has not authenticated");
    };
    tokio::join!(edge.edge.drain(), served);
    let refused = tokio::net::TcpStream::connect(edge.addr()).await;
    assert!(refused.is_err(), "the listener is closed");
    poll_until_async("all connections are closed", SOON, || {
        health.status()["connections"] == 0
    })
    .await;
    edge.stop().await;
}

#[tokio::test]
async fn a_drain_without_clients_ends_immediately_and_further_drains_join_it() {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_waiting_to_be_accepted_get_server_draining() {
    let edge = TestEdge::start_without_clock(Config {
        shards: 1,
        drain_timeout: Duration::from_secs(2),
        ..config()
    })
    .await;
    let (started, mut has_started) = tokio::sync::mpsc::unbounded_channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = Mutex::new(released);
    let block = edge.edge.on_shards(Arc::new(move |_, _| {
        started.send(()).unwrap();
        let _ = released.lock().unwrap().recv();
    }));
    let drain = async {
        has_started.recv().await.unwrap();
        let mut peers = Vec::new();
        for _ in 0..10 {
            peers.push(Peer::connect(edge.addr()).await);
        }
        let drain = edge.edge.drain();
        tokio::pin!(drain);
        // The drain reaches the shard before the shard can accept, and can't end before it does.
        let early = tokio::time::timeout(Duration::from_millis(100), &mut drain).await;
        assert!(early.is_err());
        drop(release);
        tokio::time::timeout(SOON, drain).await.unwrap();
        peers
    };
    let ((), peers) = tokio::join!(block, drain);
    for mut peer in peers {
        let error = peer.expect_refusal("SERVER_DRAINING").await;
        assert!((1..=500).contains(&error.retry_after_ms), "{error:?}");
    }
    edge.stop().await;
}

#[tokio::test]
async fn with_a_zero_drain_timeout_all_clients_are_closed_immediately() {
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
async fn a_client_that_does_not_read_does_not_delay_a_drain_or_get_an_error_inside_a_frame() {
    let edge = TestEdge::start(Config {
        write_buffer: 4_096,
        write_deadline: Duration::from_secs(60),
        // With one shard, the edge has tried to send to the stalled client by the time the reader
        // has everything.
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
    poll_until_async("both connections are closed", SOON, || {
        health.status()["connections"] == 0
    })
    .await;
    // This panics if it reads an ERROR.
    of_stalled.follow_to_end(&mut stalled).await;
    assert!(of_stalled.last < burst.last(), "{of_stalled:?}");
    follow_to_drain(reader, burst.last()).await;
    edge.stop().await;
}

#[tokio::test]
async fn a_drain_ends_as_soon_as_its_clients_have_left() {
    let edge = TestEdge::start(Config {
        drain_timeout: Duration::from_secs(600),
        ..config()
    })
    .await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut peer = Peer::connect(edge.addr()).await;
        peer.enter(USER, PASSWORD, Mode::Second).await;
        clients.push(peer);
    }
    let leave = async {
        for mut peer in clients {
            while peer.expect_frame().await.kind != frame::GOING_AWAY {}
        }
    };
    let both = async { tokio::join!(edge.edge.drain(), leave) };
    tokio::time::timeout(LATE + SOON * 3, both).await.unwrap();
    edge.counts("tickstorm_going_away_total", 20).await;
    edge.stop().await;
}
