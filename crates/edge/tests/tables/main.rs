//! FD_TABLES=per-shard, with an open-file limit far below the number of connections. This is a
//! separate binary, since it lowers the limit of the whole process, which can't be raised again.
#![expect(clippy::unwrap_used, reason = "a test that can't continue has failed")]

mod clients;
#[path = "../it/support.rs"]
#[expect(
    dead_code,
    reason = "shared with another test binary, which uses more of it"
)]
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

use clients::{Client, ClientGroup};
use support::{SOON, TestEdge, config};

/// The open-file limit in every test here. 256 files are reserved, so a shard's table has room for
/// 44 clients.
const LIMIT: u64 = 300;
const SHARDS: usize = 16;
/// The highest MAX_CONNECTIONS that the edge accepts for sixteen such tables.
const CONNECTIONS_MAX: usize = 683;
/// The most clients in a group. The table of its thread also holds the files that the process had
/// open when the thread started.
const GROUP: usize = 140;

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

/// Connects a group of clients for each of `counts`, none of which may be refused.
async fn enter(edge: &TestEdge, counts: &[usize]) -> Vec<ClientGroup> {
    let mut groups = Vec::new();
    for &count in counts {
        let group = ClientGroup::new();
        assert_eq!(group.enter(edge.addr(), count).await, 0, "none is refused");
        groups.push(group);
    }
    groups
}

async fn connections_are(edge: &TestEdge, expected: usize) {
    let health = edge.edge.health();
    let what = format!("{expected} connections");
    poll_until_async(&what, SOON, || health.status()["connections"] == expected).await;
}

#[tokio::test]
async fn an_edge_holds_more_clients_than_the_open_file_limit() {
    /// About 20 per shard, so no shard is full.
    const CLIENTS: usize = 320;
    const _: () = assert!(CLIENTS as u64 > LIMIT);
    let edge = TestEdge::start(tables(SHARDS, CONNECTIONS_MAX)).await;
    let at_first = open_files(&edge);
    let mut groups = enter(&edge, &[GROUP, GROUP, CLIENTS - 2 * GROUP]).await;
    connections_are(&edge, CLIENTS).await;
    let added = open_files(&edge) - at_first;
    assert!((added - 320.0).abs() < 0.5, "{added} more open files");
    let fullest = edge.metric("tickstorm_open_files_in_fullest_table", "");
    let limit = edge.metric("tickstorm_open_files_limit", "");
    assert!(fullest < limit && limit < 300.5, "{fullest} of {limit}");
    for group in &groups {
        group.expect_ticks(3).await;
    }

    // About half of the clients disconnect and reconnect, several times.
    for _ in 0..3 {
        groups.pop().unwrap().end();
        groups.pop().unwrap().end();
        connections_are(&edge, GROUP).await;
        groups.extend(enter(&edge, &[GROUP, CLIENTS - 2 * GROUP]).await);
    }
    connections_are(&edge, CLIENTS).await;
    let added = open_files(&edge) - at_first;
    assert!((added - 320.0).abs() < 0.5, "{added} more open files");

    let drained = edge.edge.drain();
    let notified = async {
        for group in &groups {
            group.are_drained().await;
        }
    };
    tokio::join!(drained, notified);
    connections_are(&edge, 0).await;
    // This includes the listeners, one per shard.
    poll_until_async("the sockets and listeners are closed", SOON, || {
        (open_files(&edge) - at_first + 16.0).abs() < 0.5
    })
    .await;
    edge.stop().await;
}

/// The kernel spreads connections by a hash of their addresses. With almost as many connections as
/// free slots, some tables are full before others.
#[tokio::test]
async fn a_full_shard_answers_server_full_while_others_have_room() {
    let edge = TestEdge::start(tables(SHARDS, CONNECTIONS_MAX)).await;
    let mut groups = Vec::new();
    let (mut refused, mut left) = (0, CONNECTIONS_MAX);
    while left > 0 {
        let count = left.min(GROUP);
        let group = ClientGroup::new();
        refused += group.enter(edge.addr(), count).await;
        groups.push(group);
        left -= count;
    }
    assert!(refused > 0, "no table was full");
    connections_are(&edge, CONNECTIONS_MAX - refused).await;
    edge.metric_reaches("tickstorm_connections_closed_total", "server_full", 1.0)
        .await;
    for group in &groups {
        group.expect_ticks(2).await;
    }
    // A connection from another port may reach another shard.
    let addr = edge.addr();
    let entered = ClientGroup::new()
        .ask(move |_| (0..100).any(|_| Client::enter(addr).is_some()))
        .await;
    assert!(entered, "refused a hundred times");
    // Slots that become free are used again, although clients were refused in the meantime.
    drop(groups.pop().unwrap());
    let group = ClientGroup::new();
    let refused_again = group.enter(addr, GROUP / 2).await;
    assert!(refused_again < GROUP / 2, "all were refused");
    edge.stop().await;
}

#[tokio::test]
async fn too_few_shards_are_an_error_that_names_the_number_needed() {
    let (bus, registry) = (Arc::new(MemoryBus::new().link("edge")), Registry::new());
    let start = Edge::start(tables(2, 100), bus, &registry);
    let error = start.await.err().unwrap();
    assert_eq!(error.exit_code(), exit::CONFIG);
    let text = error.to_string();
    for part in [
        "SHARDS=2 ",
        "MAX_CONNECTIONS=100:",
        " 300 ",
        "at least 3 shards are needed",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

/// Forbids unshare(2) to this thread, as Docker's seccomp profile does for a process without
/// CAP_SYS_ADMIN.
fn forbid_unshare() {
    let rules = [(libc::SYS_unshare, Vec::new())].into_iter().collect();
    let refusal = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refusal, architecture).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

#[test]
fn an_edge_whose_system_refuses_separate_tables_does_not_start_and_says_why() {
    let (config, registry) = (tables(SHARDS, CONNECTIONS_MAX), Registry::new());
    // The filter applies to this thread and the threads that it starts, not to the rest of the
    // process.
    let filtered = std::thread::spawn(move || {
        forbid_unshare();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let bus = Arc::new(MemoryBus::new().link("edge"));
        runtime.block_on(Edge::start(config, bus, &registry)).err()
    });
    let error = filtered.join().unwrap().expect("the edge does not start");
    assert!(matches!(error, StartError::Separate(_)), "{error:?}");
    assert_eq!(error.exit_code(), exit::UNAVAILABLE);
    let text = error.to_string();
    for part in ["FD_TABLES=per-shard", "not permitted", "seccomp", "unshare"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}
