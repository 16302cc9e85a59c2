//! A cluster of which nothing runs for a while. All clients come back by themselves, soon, and miss
//! no tick.

use std::env;
use std::thread;
use std::time::Duration;

use tickstorm_testkit::Nats;
use tickstorm_tests::clients::Clients;
use tickstorm_timebase::{Clock as _, SystemClock};

use crate::support::cluster::Cluster;
use crate::support::daemon::Daemon;

/// The time for which nothing runs: longer than HOLDOVER_MAX, and than the longest backoff.
const DARK: Duration = Duration::from_secs(90);
/// The time in which all clients must be back, of which their backoff may take 30 s.
const BACK_WITHIN: Duration = Duration::from_secs(35);
/// What a machine that is busy with other tests may take longer. Nothing, if the number of clients
/// is set, which is for a machine that does nothing else.
const BUSY: Duration = Duration::from_secs(15);
/// The number of clients, unless the variable sets another.
const CLIENTS: usize = 1_000;
const CLIENTS_VARIABLE: &str = "TICKSTORM_TEST_CLIENTS";

#[test]
fn all_clients_of_a_cluster_that_was_dark_for_90_s_are_back_soon_and_miss_no_tick() {
    let clients = env::var(CLIENTS_VARIABLE).map_or(CLIENTS, |text| {
        let number = text.parse();
        number.unwrap_or_else(|error| panic!("{CLIENTS_VARIABLE}={text}: {error}"))
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut cluster = Cluster::new(vec![Nats::run(&[])], 2, 2, &[("SHARDS", "1")]);
    runtime.block_on(cluster.start());
    let crowd = Clients::connect_with(&cluster.options(), clients);
    runtime.block_on(async {
        for daemon in cluster.clocks.iter_mut().chain(&mut cluster.edges) {
            daemon.kill().await;
        }
    });
    cluster.nats[0].kill();
    thread::sleep(DARK);
    cluster.nats[0].start();
    runtime.block_on(cluster.start());
    let started = SystemClock.now();
    crowd.assert_unbroken();
    let took = SystemClock.now().since(started);
    println!("all {clients} clients were back {took:.1?} after the edges were ready");
    let busy = match env::var(CLIENTS_VARIABLE) {
        Ok(_) => Duration::ZERO,
        Err(_) => BUSY,
    };
    assert!(took <= BACK_WITHIN + busy, "{took:?}");
    for edge in &cluster.edges {
        let overflows = runtime.block_on(overflows(edge));
        assert_eq!(overflows, Some(0), "{}", edge.log());
    }
}

/// Returns how many connections the kernel has dropped because the edge did not accept them in
/// time.
async fn overflows(edge: &Daemon) -> Option<u64> {
    edge.status().await["accept_queue"]["overflows"].as_u64()
}
