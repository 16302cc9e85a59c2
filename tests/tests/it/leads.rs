//! The lead of announcements compared with the lead of ahead feeds.

use tickstorm_testkit::Nats;

use crate::support::cluster::Cluster;

#[tokio::test]
async fn an_edge_warns_if_its_clock_announces_ticks_later_than_ahead_feeds_are_sent() {
    let mut cluster = Cluster::new(vec![Nats::run(&[])], 1, 1, &[("AHEAD_MS", "800")]);
    cluster.clocks[0].set("TICK_LEAD_MS", "500");
    cluster.start().await;
    cluster.edges[0]
        .logs("announces ticks less than AHEAD_MS")
        .await;
}
