//! The pods of `k8s/` for real: their containers on the local Docker engine, run and probed as a kubelet would and replaced
//! as Kubernetes does, with clients in front. All that is known of them is what `kubectl kustomize` makes of an overlay.
//! `cargo xtask rollout-test` runs this.
#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod balancer;
mod engine;
mod newcomers;
mod overlay;
mod pod;
mod probe;
mod run;
mod update;

use tickstorm_testkit::{PATIENCE, poll_until};
use tickstorm_tests::crowd::Crowd;
use tickstorm_tests::manifests::Manifests;
use tokio::runtime;

use crate::balancer::Balancer;
use crate::newcomers::Newcomers;
use crate::overlay::RunningOverlay;

/// Clients that are there all the time: enough that a drain takes its time.
const CROWD: usize = 200;

#[test]
fn a_rollout_of_one_of_each_loses_no_tick_and_all_of_it_ends_in_time() {
    replace_all("dev", RunningOverlay::delete);
}

#[test]
fn a_rollout_of_three_of_each_loses_no_tick() {
    // Its edges would take minutes to let everybody go.
    replace_all("prod", async |_| ());
}

/// Replaces all edges of an overlay, then all clocks, then all NATS servers, under the eyes of clients.
fn replace_all(overlay: &str, at_last: impl AsyncFnOnce(&mut RunningOverlay)) {
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let _guard = runtime.enter();
    let mut cluster = runtime.block_on(RunningOverlay::apply(Manifests::of(overlay)));
    let balancer = runtime.block_on(Balancer::of("edge", &cluster));
    let crowd = Crowd::gather(balancer.addr(), CROWD);
    crowd.assert_unbroken();
    for workload in ["edge", "clock", "nats"] {
        let ends = crowd.ends();
        let newcomers = Newcomers::come(balancer.addr());
        runtime.block_on(cluster.roll(workload));
        crowd.assert_unbroken();
        let came = newcomers.leave();
        let moved = crowd.ends() - ends;
        println!(
            "{overlay}, {workload}: {CROWD} clients moved {moved} times, and {came} came meanwhile"
        );
        if workload == "edge" {
            assert!(moved >= CROWD, "edges were replaced without their clients");
        } else {
            assert_eq!(moved, 0, "{workload} is nothing that clients notice");
        }
        cluster.assert_well();
        assert_eq!(
            balancer.refused(),
            0,
            "clients were sent to an edge that took none"
        );
    }
    poll_until(
        "all connections are of edges that are there",
        PATIENCE,
        || balancer.open() == CROWD,
    );
    runtime.block_on(at_last(&mut cluster));
}
