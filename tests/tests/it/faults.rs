//! Three clocks, or three NATS servers: whatever one of them does, no client misses a tick, gets one twice, or gets them later than
//! before by what anybody would notice, and no connection ends.

use tickstorm_client::Quality;
use tickstorm_testkit::Nats;

use crate::support::cluster::{Cluster, SETTLING};
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::witness::Witness;

/// A clock is paused for so many ticks: longer than its last sample counts.
const PAUSE_TICKS: usize = 12;
/// CLOCK_SKEW_MS of a falseticker.
const HOUR_AHEAD: &str = "3600000";
/// And of one that is behind.
const HOUR_BEHIND: &str = "-3600000";

/// HOLDOVER_MAX, after which a falseticker is forgiven, short for a test's sake.
const PROBATION: &str = "8s";

#[tokio::test]
async fn the_death_of_a_clock_is_borne() {
    let mut cluster = three_clocks(vec![Nats::run(&[])]).await;
    let audience = cluster.steadfast_audience();
    follows(&cluster.edges[0], "clock-0").await;
    let followed = &mut cluster.clocks[0];
    audience
        .bears("the clock that is followed is killed", async || {
            followed.kill().await;
        })
        .await;
    follows(&cluster.edges[0], "clock-1").await;
    is(&cluster.edges[0], "clock-0", "silent").await;
    cluster.clocks[0].start().await;
    follows(&cluster.edges[0], "clock-0").await;
    let other = &mut cluster.clocks[2];
    audience
        .bears("another clock is killed", async || other.kill().await)
        .await;
    follows(&cluster.edges[0], "clock-0").await;
    audience.testify();
}

#[tokio::test]
async fn a_clock_that_stands_still_and_goes_on_is_borne() {
    let cluster = three_clocks(vec![Nats::run(&[])]).await;
    let audience = cluster.steadfast_audience();
    follows(&cluster.edges[0], "clock-0").await;
    audience
        .bears("the clock that is followed is paused", async || {
            cluster.clocks[0].pause();
            audience.plain().sees(PAUSE_TICKS).await;
            follows(&cluster.edges[0], "clock-1").await;
            cluster.clocks[0].unpause();
        })
        .await;
    follows(&cluster.edges[0], "clock-0").await;
    audience.testify();
}

#[tokio::test]
async fn the_death_of_a_nats_server_is_borne() {
    let cluster = three_clocks(Nats::cluster::<3>().into()).await;
    let audience = cluster.steadfast_audience();
    let (edge, clock) = (&cluster.edges[0], &cluster.clocks[0]);
    for (whose, daemon) in [("the edge", edge), ("the clock that is followed", clock)] {
        follows(edge, "clock-0").await;
        let server = daemon.nats().expect("it is connected");
        let server = cluster.nats.iter().find(|nats| nats.address() == server);
        let server = server.expect("it is connected to one of them");
        let what = format!("the NATS server of {whose} is killed");
        audience.bears(&what, async || server.kill()).await;
        assert_ne!(daemon.nats(), Some(server.address()));
        server.start();
        cluster.settled().await;
    }
    audience.testify();
}

#[tokio::test]
async fn a_falseticker_is_borne() {
    let settings = [("HOLDOVER_MAX", PROBATION)];
    let mut cluster = Cluster::new(vec![Nats::run(&[])], 3, 2, &settings);
    let mut newcomer = cluster.edges.pop().expect("there are two");
    cluster.start().await;
    let audience = cluster.steadfast_audience();
    let (edge, clock) = (&cluster.edges[0], &mut cluster.clocks[0]);
    for skew in [HOUR_AHEAD, HOUR_BEHIND] {
        follows(edge, "clock-0").await;
        let what = format!("the clock that is followed starts again, {skew} ms ahead");
        audience
            .bears(&what, async || {
                clock.set("CLOCK_SKEW_MS", skew);
                clock.restart().await;
                is_outvoted(edge).await;
            })
            .await;

        // An edge that has known nothing but a falseticker in clock-0.
        newcomer.start().await;
        let witness = Witness::start("newcomer", newcomer.client().reconnect(false));
        witness.sees_quality(Quality::Normal, 2).await;
        is_outvoted(&newcomer).await;
        witness.testify(2);
        assert_eq!(newcomer.terminate().await, Some(0));

        clock.set("CLOCK_SKEW_MS", "0");
        clock.restart().await;
        is(edge, "clock-0", "accepted").await;
    }
    audience.testify();
}

/// Waits until clock-0 is no longer believed, as /status and the metrics say, and the next clock is followed.
async fn is_outvoted(edge: &Daemon) {
    is(edge, "clock-0", "false").await;
    let clocks = async |state| {
        edge.metric(&format!("tickstorm_clocks{{state=\"{state}\"}}"))
            .await
    };
    // Eventually, since on a busy machine an edge may hear nothing of another clock for as long as samples count.
    let outvoted = async || {
        let counts = (clocks("false").await, clocks("accepted").await);
        let followed = edge.following().await;
        counts == (1.0, 2.0) && followed.as_deref() == Some("clock-1") && edge.is_ready().await
    };
    eventually("clock-0 is outvoted", SETTLING, outvoted).await;
}

/// A cluster that has settled, with three clocks and an edge.
async fn three_clocks(nats: Vec<Nats>) -> Cluster {
    let mut cluster = Cluster::new(nats, 3, 1, &[]);
    cluster.start().await;
    cluster
}

async fn follows(edge: &Daemon, clock: &str) {
    let follows = async || edge.following().await.as_deref() == Some(clock);
    eventually(&format!("{clock} is followed"), SETTLING, follows).await;
}

async fn is(edge: &Daemon, clock: &str, state: &str) {
    let is = async || edge.state_of(clock).await.as_deref() == Some(state);
    eventually(&format!("{clock} is {state}"), SETTLING, is).await;
}
