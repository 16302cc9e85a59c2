//! The metrics of a whole edge, over real sockets.

use tickstorm_testkit::{Peer, frame, poll_until_async};
use tickstorm_timebase::Mode;

use crate::support::{PASSWORD, SOON, TestEdge, USER, config};

const STATES: [&str; 4] = ["handshake", "authenticated", "subscribed", "lingering"];

impl TestEdge {
    /// Waits until the connections are in these states, in the order of [`STATES`].
    async fn connections_are(&self, expected: [f64; 4]) {
        let states = || STATES.map(|state| self.metric("tickstorm_connections", state));
        let what = format!("connections are {expected:?}");
        poll_until_async(&what, SOON, || states() == expected).await;
    }
}

async fn entered(edge: &TestEdge) -> Peer {
    let mut peer = Peer::connect(edge.addr()).await;
    peer.auth(USER, PASSWORD).await;
    peer.expect_ack(frame::AUTH).await;
    peer
}

#[tokio::test]
async fn connections_and_subscribers_are_shown_until_the_last_has_left() {
    let edge = TestEdge::start(config()).await;
    edge.counts("tickstorm_max_connections", 10_000).await;
    let silent = Peer::connect(edge.addr()).await;
    let authenticated = entered(&edge).await;
    let mut subscribed = entered(&edge).await;
    subscribed.subscribe(Mode::Second).await;
    subscribed.expect_ack(frame::SUBSCRIBE).await;
    edge.connections_are([1.0, 1.0, 1.0, 0.0]).await;
    edge.metric_reaches("tickstorm_subscribers", "at_time", 1.0)
        .await;
    edge.metric_reaches("tickstorm_fanout_seconds", "at_time", 2.0)
        .await;
    edge.metric_reaches("tickstorm_frames_total", "data_batch", 2.0)
        .await;
    edge.counts("tickstorm_connections_accepted_total", 3).await;
    assert!(edge.metric("tickstorm_draining", "") <= 0.0);
    drop(silent);
    edge.edge.drain().await;
    edge.counts("tickstorm_draining", 1).await;
    drop((authenticated, subscribed));
    edge.connections_are([0.0; 4]).await;
    edge.counts("tickstorm_session_seconds", 2).await;
    edge.counts("tickstorm_handshake_seconds", 2).await;
    poll_until_async("no subscriber is left", SOON, || {
        edge.metric("tickstorm_subscribers", "") <= 0.0
    })
    .await;
    edge.stop().await;
}

#[tokio::test]
async fn the_round_trip_time_to_a_client_and_the_turns_of_each_shard_are_measured() {
    let edge = TestEdge::start(config()).await;
    let mut peer = entered(&edge).await;
    // The first HEARTBEAT of a shard is always sampled.
    peer.heartbeat(1).await;
    edge.metric_reaches("tickstorm_client_round_trip_seconds", "", 1.0)
        .await;
    edge.metric_reaches("tickstorm_loop_turn_seconds", "", 20.0)
        .await;
    let families = edge.registry.gather();
    let name = "tickstorm_shard_loop_lag_seconds";
    let lag = families.iter().find(|family| family.name() == name);
    let lags = lag.unwrap().get_metric();
    let lags: Vec<f64> = lags.iter().map(|one| one.get_gauge().get_value()).collect();
    // A turn takes time, and on the busiest machine not a minute.
    assert_eq!(lags.len(), 2, "one for each shard");
    assert!(
        lags.iter().all(|lag| (1e-9..60.0).contains(lag)),
        "{lags:?}"
    );
    edge.stop().await;
}
