//! One clock, one NATS server and one edge. They may start in any order, and each may stop and
//! return: ticks resume by themselves, and clients miss none.

use std::time::Duration;

use tickstorm_client::Quality;
use tickstorm_testkit::Nats;

use crate::support::cluster::Cluster;
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::observer::{Observer, Observers, now_us};
use crate::tickstorm::PATIENCE;

#[derive(Clone, Copy, Debug)]
enum Process {
    Clock,
    Nats,
    Edge,
}

use Process::{Clock, Edge, Nats as Server};

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
        // The client tries to connect until the edge listens, and then waits until it knows the
        // time.
        let observer = Observer::start("first", cluster.options().reconnect(false));
        for process in order {
            match process {
                Clock => cluster.clocks[0].start().await,
                Server => cluster.nats[0].start(),
                Edge => cluster.edges[0].start().await,
            }
        }
        observer.await_quality(Quality::Normal, 2).await;
        assert!(cluster.edges[0].is_ready().await);
        assert!(cluster.clocks[0].is_ready().await);
        observer.finish(2);
    }
}

#[tokio::test]
async fn an_outage_shorter_than_holdover_max_costs_no_client_a_tick() {
    let mut cluster = Cluster::new(vec![Nats::run(&[])], 1, 1, &[]);
    cluster.start().await;
    let (connected, resuming) = (
        cluster.observers_without_reconnect(),
        cluster.reconnecting_observers(),
    );
    connected.await_first_ticks().await;
    resuming.await_first_ticks().await;

    assert_eq!(cluster.clocks[0].terminate().await, Some(0));
    await_unannounced_ticks(&connected).await;
    cluster.clocks[0].start().await;
    await_announced_ticks(&connected).await;

    cluster.clocks[0].kill().await;
    await_holdover(&cluster.edges[0]).await;
    await_unannounced_ticks(&connected).await;
    cluster.clocks[0].start().await;
    await_announced_ticks(&connected).await;

    cluster.nats[0].kill();
    await_holdover(&cluster.edges[0]).await;
    await_unannounced_ticks(&connected).await;
    cluster.nats[0].start();
    await_announced_ticks(&connected).await;
    connected.finish();

    cluster.edges[0].restart().await;
    await_announced_ticks(&resuming).await;
    cluster.edges[0].kill().await;
    cluster.edges[0].start().await;
    await_announced_ticks(&resuming).await;
    resuming.finish();
}

/// Waits until the edge accepts no clock, which happens when the last samples are 10 s old.
async fn await_holdover(edge: &Daemon) {
    let holds_over = async || edge.metric("tickstorm_holdover").await == 1.0;
    eventually("the edge is in holdover", PATIENCE, holds_over).await;
    assert_eq!(edge.following().await, None);
    assert!(edge.is_ready().await);
}

/// Waits until ticks have arrived that no clock had announced.
async fn await_unannounced_ticks(observers: &Observers) {
    observers.plain().await_quality(Quality::Holdover, 2).await;
}

/// Waits until ticks have arrived that were announced.
async fn await_announced_ticks(observers: &Observers) {
    observers.plain().await_quality(Quality::Normal, 3).await;
}

/// A HOLDOVER_MAX that is shorter than the outages of the test below.
const HOLDOVER_MAX: &str = "5s";
/// RESUME_WINDOW of the second edge, which is shorter than the time without ticks.
const RESUME_WINDOW: Duration = Duration::from_secs(3);
/// The time for which the test watches that no tick arrives.
const SILENCE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn after_an_outage_longer_than_holdover_max_the_missed_ticks_come_first() {
    // With the longer DRAIN_TIMEOUT, the outages are over before clients are sent to other edges.
    let settings = [("HOLDOVER_MAX", HOLDOVER_MAX), ("DRAIN_TIMEOUT", "10m")];
    let mut cluster = Cluster::new(vec![Nats::run(&[])], 1, 2, &settings);
    let window = format!("{}s", RESUME_WINDOW.as_secs());
    cluster.edges[1].set("RESUME_WINDOW", &window);
    cluster.start().await;
    let watch = |name, edge: &Daemon| Observer::start(name, edge.client().reconnect(false));
    let long = watch("long window", &cluster.edges[0]);
    let short = watch("short window", &cluster.edges[1]);
    long.await_ticks(1).await;
    short.await_ticks(1).await;

    cluster.nats[0].kill();
    let count = await_silence(&cluster, &long).await;
    cluster.nats[0].start();
    assert_missed_ticks_come_first(&cluster, &long, count).await;

    cluster.clocks[0].kill().await;
    let count = await_silence(&cluster, &long).await;
    cluster.clocks[0].start().await;
    assert_missed_ticks_come_first(&cluster, &long, count).await;

    long.finish(20);
    short.await_quality(Quality::Normal, 1).await;
    let gaps = short.finish_with_gaps();
    assert_eq!(gaps.len(), 2, "{gaps:?}");
}

/// Waits until the edge no longer knows the time, and asserts that no tick arrives afterwards.
/// Returns how many ticks had arrived before.
async fn await_silence(cluster: &Cluster, observer: &Observer) -> usize {
    let edge = &cluster.edges[0];
    let unready = async || !edge.is_ready().await;
    eventually("the edge is not ready", PATIENCE, unready).await;
    let (code, reasons) = edge.get("/health/ready").await.unwrap();
    assert_eq!(code, 503, "{reasons}");
    assert!(reasons.contains("the time is unknown"), "{reasons}");
    // A tick that was released earlier may still be in transit, but a tick that becomes due now is
    // a defect.
    let unready_ms = now_us() / 1_000;
    let silence = i64::try_from(SILENCE.as_millis()).unwrap();
    eventually("no tick arrives", PATIENCE, async || {
        let ticks = observer.ticks();
        let last = ticks.last().expect("ticks have arrived before");
        assert!(last.epoch_ms <= unready_ms, "a tick arrived: {ticks:?}");
        now_us() / 1_000 > unready_ms + silence
    })
    .await;
    assert!(edge.is_live().await && !edge.is_ready().await);
    let ticks = observer.ticks();
    assert_eq!(
        ticks[ticks.len() - 1].quality,
        Quality::Holdover,
        "{ticks:?}"
    );
    ticks.len()
}

/// Waits until NORMAL ticks arrive again, and asserts that the ticks after the first `count` are
/// the missed ones.
async fn assert_missed_ticks_come_first(cluster: &Cluster, observer: &Observer, count: usize) {
    observer.await_quality(Quality::Normal, 3).await;
    observer.assert_no_faults();
    let ticks = observer.ticks();
    let missed = i64::try_from(SILENCE.as_secs()).unwrap();
    let missed = usize::try_from(missed - 1).unwrap();
    for tick in &ticks[count..count + missed] {
        assert_eq!(tick.quality, Quality::Replay, "{:?}", &ticks[count..]);
    }
    assert!(cluster.edges[0].is_ready().await);
}
