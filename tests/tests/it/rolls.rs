//! A roll of edges that run as processes: how late ticks are at clients that follow GOING_AWAY.
//! `tests/tests/cluster/edges.rs` rolls edges in containers, whose starts take so much of a small
//! machine that they delay ticks themselves.

use std::env;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tickstorm_testkit::Nats;
use tickstorm_tests::clients::{Clients, Lateness};
use tokio::runtime::Runtime;

use crate::support::cluster::Cluster;

/// The environment variable with the number of clients, for a release build on a machine that does
/// nothing else. The test then allows no delay by the machine.
const CLIENTS_VARIABLE: &str = "TICKSTORM_TEST_CLIENTS";
const CLIENTS: usize = 200;
/// The seconds before the roll whose median is what is usual, and how many without the variable.
const BEFORE_SECS: i64 = 60;
const BEFORE_SECS_IN_CI: i64 = 15;
/// The most by which a roll may delay a tick, beyond the usual lateness at the client that gets it
/// last.
const DELAY_MAX: Duration = Duration::from_millis(100);
/// What a machine under load may add.
const NOISE_MAX: Duration = Duration::from_secs(2);
/// The open files that a client needs while it moves.
const FILES_PER_CLIENT: usize = 2;
const OTHER_FILES: usize = 300;

// The clients have a runtime of their own, which must not be dropped by a task.
#[test]
fn a_roll_of_two_edges_delays_no_tick_of_clients_that_move() {
    let runtime = Runtime::new().unwrap();
    let given = env::var(CLIENTS_VARIABLE).ok();
    let count = given.as_ref().map_or(CLIENTS, |text| text.parse().unwrap());
    let (secs, noise_max) = match given {
        Some(_) => (BEFORE_SECS, Duration::ZERO),
        None => (BEFORE_SECS_IN_CI, NOISE_MAX),
    };
    let files = u64::try_from(count * FILES_PER_CLIENT + OTHER_FILES).unwrap();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(files).min(hard), hard).unwrap();
    let settings = [("DRAIN_DELAY", "1s"), ("DRAIN_TIMEOUT", "15s")];
    let mut cluster = Cluster::new(vec![Nats::run(&[])], 1, 2, &settings);
    runtime.block_on(cluster.start());
    let address = |edge: usize| cluster.edges[edge].clients().to_string();
    let [first, second] = [(0, 1), (1, 0)].map(|(near, far)| {
        let options = cluster.edges[near].client().or_at(address(far));
        Clients::connect_with(&options, count / 2)
    });
    first.await_ticks(5);
    take_lateness(&first, &second);
    first.await_ticks(secs);
    let mut before = take_lateness(&first, &second);
    before.sort_unstable();
    let usual = before[before.len() / 2];

    runtime.block_on(async {
        for edge in &mut cluster.edges {
            assert_eq!(edge.terminate().await, Some(0));
            edge.start().await;
        }
        cluster.settled().await;
    });
    first.await_ticks(2);
    let during = take_lateness(&first, &second);
    for clients in [&first, &second] {
        clients.assert_unbroken();
    }
    let moves = first.moved().len() + second.moved().len();
    let closed = first.drained().len() + second.drained().len();
    let worst = during.iter().max().copied().unwrap_or_default();
    println!(
        "{count} clients, {moves} moves, {closed} clients closed; the latest tick of a second: \
         {usual:?} at the median and {:?} at most before, {worst:?} at most during the roll",
        before.last().copied().unwrap_or_default()
    );
    assert!(moves >= count, "{moves} moves of {count} clients");
    assert!(worst <= usual + DELAY_MAX + noise_max, "{during:?}");
}

/// Returns how late each tick was at the client that got it last.
fn take_lateness(first: &Clients, second: &Clients) -> Vec<Duration> {
    let (first, second) = (first.take_lateness(), second.take_lateness());
    let worst = |(first, second): (&Lateness, &Lateness)| first.worst().max(second.worst());
    first.iter().zip(&second).map(worst).collect()
}
