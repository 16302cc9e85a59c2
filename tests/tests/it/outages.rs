//! Clock, NATS and edge, one of each: whichever ends and comes back, in whatever order they start, ticks come back by themselves, and
//! clients miss none.

use std::time::Duration;

use tickstorm_client::Quality;
use tickstorm_testkit::Nats;

use crate::support::cluster::Cluster;
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::witness::{Audience, Witness, now_us};
use crate::tickstorm::PATIENCE;

#[derive(Clone, Copy, Debug)]
enum Part {
    Clock,
    Nats,
    Edge,
}

use Part::{Clock, Edge, Nats as Server};

#[tokio::test]
async fn clock_nats_and_edge_may_be_started_in_any_order() {
    for order in [
        [Clock, Server, Edge],
        [Clock, Edge, Server],
        [Server, Clock, Edge],
        [Server, Edge, Clock],
        [Edge, Clock, Server],
        [Edge, Server, Clock],
    ] {
        println!("{order:?}");
        let mut cluster = Cluster::new(vec![Nats::create(&[])], 1, 1, &[]);
        // It knocks until the edge is there, and waits there until the edge knows the time.
        let witness = Witness::start("first", cluster.options().reconnect(false));
        for part in order {
            match part {
                Clock => cluster.clocks[0].start().await,
                Server => cluster.nats[0].start(),
                Edge => cluster.edges[0].start().await,
            }
        }
        witness.sees_quality(Quality::Normal, 2).await;
        assert!(cluster.edges[0].is_ready().await);
        assert!(cluster.clocks[0].is_ready().await);
        witness.testify(2);
    }
}

#[tokio::test]
async fn an_outage_shorter_than_holdover_max_costs_no_client_a_tick() {
    let mut cluster = Cluster::new(vec![Nats::run(&[])], 1, 1, &[]);
    cluster.start().await;
    let (connected, resuming) = (cluster.steadfast_audience(), cluster.audience());
    connected.is_there().await;
    resuming.is_there().await;

    assert_eq!(cluster.clocks[0].terminate().await, Some(0));
    are_unannounced(&connected).await;
    cluster.clocks[0].start().await;
    are_as_before(&connected).await;

    cluster.clocks[0].kill().await;
    holds_over(&cluster.edges[0]).await;
    are_unannounced(&connected).await;
    cluster.clocks[0].start().await;
    are_as_before(&connected).await;

    cluster.nats[0].kill();
    holds_over(&cluster.edges[0]).await;
    are_unannounced(&connected).await;
    cluster.nats[0].start();
    are_as_before(&connected).await;
    connected.testify();

    cluster.edges[0].restart().await;
    are_as_before(&resuming).await;
    cluster.edges[0].kill().await;
    cluster.edges[0].start().await;
    are_as_before(&resuming).await;
    resuming.testify();
}

/// Waits until the edge believes no clock, as it does when the last samples are 10 s old.
async fn holds_over(edge: &Daemon) {
    let holds_over = async || edge.metric("tickstorm_holdover").await == 1.0;
    eventually("the edge holds over", PATIENCE, holds_over).await;
    assert_eq!(edge.following().await, None);
    assert!(edge.is_ready().await);
}

/// Waits until ticks have come that no clock had announced.
async fn are_unannounced(audience: &Audience) {
    audience.plain().sees_quality(Quality::Holdover, 2).await;
}

/// Waits until ticks have come that were announced.
async fn are_as_before(audience: &Audience) {
    audience.plain().sees_quality(Quality::Normal, 3).await;
}

/// HOLDOVER_MAX, so that an outage can be longer.
const HOLDOVER_MAX: &str = "5s";
/// RESUME_WINDOW of an edge with a short memory, less than lasts what the test does not see.
const RESUME_WINDOW: Duration = Duration::from_secs(3);
/// How long it is watched that nothing comes.
const SILENCE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn after_an_outage_longer_than_holdover_max_the_missed_ticks_come_first() {
    let settings = [("HOLDOVER_MAX", HOLDOVER_MAX)];
    let mut cluster = Cluster::new(vec![Nats::run(&[])], 1, 2, &settings);
    let window = format!("{}s", RESUME_WINDOW.as_secs());
    cluster.edges[1].set("RESUME_WINDOW", &window);
    cluster.start().await;
    let watch = |name, edge: &Daemon| Witness::start(name, edge.client().reconnect(false));
    let all = watch("remembering", &cluster.edges[0]);
    let few = watch("forgetful", &cluster.edges[1]);
    all.sees(1).await;
    few.sees(1).await;

    cluster.nats[0].kill();
    let stopped = all_is_silent(&cluster, &all).await;
    cluster.nats[0].start();
    comes_back_with_what_was_missed(&cluster, &all, stopped).await;

    cluster.clocks[0].kill().await;
    let stopped = all_is_silent(&cluster, &all).await;
    cluster.clocks[0].start().await;
    comes_back_with_what_was_missed(&cluster, &all, stopped).await;

    all.testify(20);
    few.sees_quality(Quality::Normal, 1).await;
    let gaps = few.testify_to_gaps();
    assert_eq!(gaps.len(), 2, "{gaps:?}");
}

/// Waits until the edge has forgotten the time, and sees that no tick comes then; how many had come.
async fn all_is_silent(cluster: &Cluster, witness: &Witness) -> usize {
    let edge = &cluster.edges[0];
    let unready = async || !edge.is_ready().await;
    eventually("the edge is not ready", PATIENCE, unready).await;
    let (code, reasons) = edge.get("/health/ready").await.unwrap();
    assert_eq!(code, 503, "{reasons}");
    assert!(reasons.contains("the time is unknown"), "{reasons}");
    // A tick that was released before may still be on its way: one that is due from now on is a defect.
    let unready_ms = now_us() / 1_000;
    let silence = i64::try_from(SILENCE.as_millis()).unwrap();
    eventually("nothing comes", PATIENCE, async || {
        let ticks = witness.ticks();
        let last = ticks.last().expect("it has seen ticks");
        assert!(last.epoch_ms <= unready_ms, "a tick came: {ticks:?}");
        now_us() / 1_000 > unready_ms + silence
    })
    .await;
    assert!(edge.is_live().await && !edge.is_ready().await);
    let ticks = witness.ticks();
    assert_eq!(
        ticks[ticks.len() - 1].quality,
        Quality::Holdover,
        "{ticks:?}"
    );
    ticks.len()
}

/// Ticks come again, NORMAL ones in the end, and first those that did not come at their time.
async fn comes_back_with_what_was_missed(cluster: &Cluster, witness: &Witness, stopped: usize) {
    witness.sees_quality(Quality::Normal, 3).await;
    witness.check();
    let ticks = witness.ticks();
    let missed = i64::try_from(SILENCE.as_secs()).unwrap();
    let missed = usize::try_from(missed - 1).unwrap();
    for seen in &ticks[stopped..stopped + missed] {
        assert_eq!(seen.quality, Quality::Replay, "{:?}", &ticks[stopped..]);
    }
    assert!(cluster.edges[0].is_ready().await);
}
