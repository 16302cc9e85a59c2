//! Runs the pods of `k8s/` as containers on the local Docker engine. The pods are started and
//! probed as by a kubelet and replaced as by Kubernetes, while clients are connected. Everything
//! about them comes from the output of `kubectl kustomize` for an overlay. The tests are run by
//! `cargo xtask rollout-test`.
#![expect(clippy::unwrap_used, reason = "a test that can't continue has failed")]

mod balancer;
mod engine;
mod new_clients;
mod overlay;
mod pod;
mod probe;
mod run;
mod update;

use tickstorm_testkit::{PATIENCE, poll_until};
use tickstorm_tests::clients::Clients;
use tickstorm_tests::manifests::Manifests;
use tokio::runtime;

use crate::balancer::Balancer;
use crate::new_clients::NewClients;
use crate::overlay::RunningOverlay;

/// The number of clients that are always connected: enough to make a drain take its full time.
const CLIENTS: usize = 200;

#[test]
fn a_rollout_of_the_dev_overlay_loses_no_tick_and_its_pods_stop_in_time() {
    replace_all("dev", RunningOverlay::delete);
}

#[test]
fn a_rollout_of_the_prod_overlay_loses_no_tick() {
    // The pods are not stopped in order at the end: draining these edges would take minutes.
    replace_all("prod", async |_| ());
}

/// Replaces all edges of an overlay, then all clocks, then all NATS servers, while clients check
/// every tick. Finally calls `finish`.
fn replace_all(overlay: &str, finish: impl AsyncFnOnce(&mut RunningOverlay)) {
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let _guard = runtime.enter();
    let mut cluster = runtime.block_on(RunningOverlay::apply(Manifests::of(overlay)));
    let balancer = runtime.block_on(Balancer::of("edge", &cluster));
    let clients = Clients::connect(balancer.addr(), CLIENTS);
    clients.assert_unbroken();
    for workload in ["edge", "clock", "nats"] {
        let disconnections = clients.disconnections();
        let new_clients = NewClients::start(balancer.addr());
        runtime.block_on(cluster.roll(workload));
        clients.assert_unbroken();
        let connected = new_clients.stop();
        let moved = clients.disconnections() - disconnections;
        println!(
            "{overlay}, {workload}: {CLIENTS} clients moved {moved} times, \
             and {connected} new ones connected"
        );
        if workload == "edge" {
            assert!(
                moved >= CLIENTS,
                "all edges were replaced, but only {moved} clients moved"
            );
        } else {
            assert_eq!(moved, 0, "replacing {workload} disconnected clients");
        }
        cluster.assert_no_faults();
        assert_eq!(
            balancer.refused(),
            0,
            "clients were sent to an edge that did not accept them"
        );
    }
    poll_until("only the permanent clients are connected", PATIENCE, || {
        balancer.open() == CLIENTS
    });
    runtime.block_on(finish(&mut cluster));
}
