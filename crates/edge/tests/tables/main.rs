//! FD_TABLES=per-shard, under a limit of open files that is far below the number of connections. A binary of its own, since it
//! lowers the limit of its whole process, which can't be raised again.
#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod crowd;
#[path = "../it/support.rs"]
#[expect(dead_code, reason = "made for the other test binary")]
mod support;

use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};
use prometheus::Registry;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use tickstorm_bus::MemoryBus;
use tickstorm_edge::{Config, Edge, FdTables, StartError};
use tickstorm_service::exit;
use tickstorm_testkit::poll_until_async;

use crowd::{Client, Crowd};
use support::{SOON, TestEdge, config};

/// The limit of open files of every test here. 256 of them are reserved, so that a shard's table has room for 44 clients.
const LIMIT: u64 = 300;
const SHARDS: usize = 16;
/// As many as the sixteen tables are trusted with.
const CONNECTIONS_MAX: usize = 683;
/// What one thread of clients has: its table holds what the process had open when it began, too.
const CROWD: usize = 140;

fn tables(shards: usize, connections_max: usize) -> Config {
    setrlimit(Resource::RLIMIT_NOFILE, LIMIT, LIMIT).unwrap();
    Config {
        shards,
        connections_max,
        fd_tables: FdTables::PerShard,
        heartbeat_timeout: Duration::from_secs(3_600),
        ..config()
    }
}

fn open_files(edge: &TestEdge) -> f64 {
    edge.metric("tickstorm_open_files", "")
}

/// Crowds of so many clients each, none of whom is refused.
async fn enter(edge: &TestEdge, counts: &[usize]) -> Vec<Crowd> {
    let mut crowds = Vec::new();
    for &count in counts {
        let crowd = Crowd::new();
        assert_eq!(crowd.enter(edge.addr(), count).await, 0, "none is refused");
        crowds.push(crowd);
    }
    crowds
}

async fn connections_are(edge: &TestEdge, expected: usize) {
    let health = edge.edge.health();
    let what = format!("{expected} connections");
    poll_until_async(&what, SOON, || health.status()["connections"] == expected).await;
}

#[tokio::test]
async fn an_edge_holds_more_clients_than_the_limit_of_open_files() {
    /// Some 20 a shard: none is full.
    const CLIENTS: usize = 320;
    const _: () = assert!(CLIENTS as u64 > LIMIT);
    let edge = TestEdge::start(tables(SHARDS, CONNECTIONS_MAX)).await;
    let at_first = open_files(&edge);
    let mut crowds = enter(&edge, &[CROWD, CROWD, CLIENTS - 2 * CROWD]).await;
    connections_are(&edge, CLIENTS).await;
    let added = open_files(&edge) - at_first;
    assert!((added - 320.0).abs() < 0.5, "{added} open files more");
    let fullest = edge.metric("tickstorm_open_files_in_fullest_table", "");
    let limit = edge.metric("tickstorm_open_files_limit", "");
    assert!(fullest < limit && limit < 300.5, "{fullest} of {limit}");
    for crowd in &crowds {
        crowd.get_ticks(3).await;
    }

    // Half of them come and go, again and again.
    for _ in 0..3 {
        crowds.pop().unwrap().end();
        crowds.pop().unwrap().end();
        connections_are(&edge, CROWD).await;
        crowds.extend(enter(&edge, &[CROWD, CLIENTS - 2 * CROWD]).await);
    }
    connections_are(&edge, CLIENTS).await;
    let added = open_files(&edge) - at_first;
    assert!((added - 320.0).abs() < 0.5, "{added} open files more");

    let drained = edge.edge.drain();
    let told = async {
        for crowd in &crowds {
            crowd.are_sent_away().await;
        }
    };
    tokio::join!(drained, told);
    connections_are(&edge, 0).await;
    // The listeners are closed, one a shard.
    poll_until_async("no open file more", SOON, || {
        (open_files(&edge) - at_first + 16.0).abs() < 0.5
    })
    .await;
    edge.stop().await;
}

/// The kernel spreads connections by a hash of their addresses: with nearly as many as there are places, some table is full
/// before others.
#[tokio::test]
async fn a_full_shard_says_so_while_others_have_room() {
    let edge = TestEdge::start(tables(SHARDS, CONNECTIONS_MAX)).await;
    let mut crowds = Vec::new();
    let (mut refused, mut left) = (0, CONNECTIONS_MAX);
    while left > 0 {
        let count = left.min(CROWD);
        let crowd = Crowd::new();
        refused += crowd.enter(edge.addr(), count).await;
        crowds.push(crowd);
        left -= count;
    }
    assert!(refused > 0, "no table was full");
    connections_are(&edge, CONNECTIONS_MAX - refused).await;
    edge.metric_reaches("tickstorm_connections_closed_total", "server_full", 1.0)
        .await;
    for crowd in &crowds {
        crowd.get_ticks(2).await;
    }
    // Another port may lead to another shard.
    let addr = edge.addr();
    let came_in = Crowd::new()
        .ask(move |_| (0..100).any(|_| Client::enter(addr).is_some()))
        .await;
    assert!(came_in, "refused a hundred times");
    // A place that becomes free is taken again, though others were refused meanwhile.
    drop(crowds.pop().unwrap());
    let crowd = Crowd::new();
    let refused_again = crowd.enter(addr, CROWD / 2).await;
    assert!(refused_again < CROWD / 2, "all were refused");
    edge.stop().await;
}

#[tokio::test]
async fn too_few_shards_are_an_error_that_says_how_many_it_takes() {
    let (bus, registry) = (Arc::new(MemoryBus::new().link("edge")), Registry::new());
    let start = Edge::start(tables(2, 100), bus, &registry);
    let error = start.await.err().unwrap();
    assert_eq!(error.exit_code(), exit::CONFIG);
    let text = error.to_string();
    for part in [
        "SHARDS=2 ",
        "MAX_CONNECTIONS=100:",
        " 300 ",
        "takes 3 or more",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

/// What the seccomp profile of Docker does to a process without CAP_SYS_ADMIN.
fn forbid_unshare() {
    let rules = [(libc::SYS_unshare, Vec::new())].into_iter().collect();
    let refusal = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refusal, architecture).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

#[test]
fn where_tables_are_refused_the_edge_says_so_and_does_not_start() {
    let (config, registry) = (tables(SHARDS, CONNECTIONS_MAX), Registry::new());
    // Threads that a filtered one starts are filtered, too; the rest of the process is not.
    let filtered = std::thread::spawn(move || {
        forbid_unshare();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let bus = Arc::new(MemoryBus::new().link("edge"));
        runtime.block_on(Edge::start(config, bus, &registry)).err()
    });
    let error = filtered.join().unwrap().expect("it does not start");
    assert!(matches!(error, StartError::Separate(_)), "{error:?}");
    assert_eq!(error.exit_code(), exit::UNAVAILABLE);
    let text = error.to_string();
    for part in ["FD_TABLES=per-shard", "not permitted", "seccomp", "unshare"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}
