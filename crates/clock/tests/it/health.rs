use std::sync::Arc;
use std::time::Duration;

use tickstorm_clock::Replica;

use crate::{Cluster, config};

#[tokio::test(start_paused = true)]
async fn a_clock_is_ready_while_it_is_connected() {
    let mut cluster = Cluster::new(0).await;
    let clock = cluster.start("clock-0");
    let health = clock.replica.health();
    assert_eq!(
        health.ready().len(),
        1,
        "the clock has not been notified of its connection yet"
    );
    cluster.hear(Duration::from_millis(10)).await;
    assert_eq!(health.ready(), [""; 0]);
    cluster.bus.cut("clock-0");
    cluster.hear(Duration::from_millis(10)).await;
    assert_eq!(health.ready().len(), 1);
    assert_eq!(clock.status("id"), "clock-0");
}

#[tokio::test(start_paused = true)]
async fn a_clock_is_alive_while_its_loop_turns_connected_or_not() {
    let mut cluster = Cluster::new(0).await;
    let clock = cluster.start("clock-0");
    let health = clock.replica.health();
    cluster.bus.cut("clock-0");
    cluster.hear(Duration::from_secs(60)).await;
    assert_eq!(health.live(), [""; 0]);
    clock.replica.stop().await;
    cluster.hear(Duration::from_secs(9)).await;
    assert_eq!(health.live(), [""; 0]);
    cluster.hear(Duration::from_secs(2)).await;
    assert_eq!(health.live().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_registry_serves_one_clock() {
    let cluster = Cluster::new(0).await;
    let clock = cluster.start("clock-0");
    let link = Arc::new(cluster.bus.link("clock-1"));
    assert!(Replica::start(config("clock-1"), link, &clock.registry).is_err());
}
