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

use tickstorm_client::{Options, TlsOptions, connect};
use tickstorm_testkit::{PATIENCE, TempDir, poll_until};
use tickstorm_tests::certificates::requests;
use tickstorm_tests::clients::{self, Clients};
use tickstorm_tests::kubelet;
use tickstorm_tests::manifests::Manifests;
use tokio::runtime;
use tokio::time::timeout;

use crate::balancer::Balancer;
use crate::new_clients::NewClients;
use crate::overlay::RunningOverlay;

/// The number of clients that are always connected: enough to make a drain take its full time.
const CLIENTS: usize = 200;

#[test]
fn a_rollout_of_the_dev_overlay_loses_no_tick_and_its_pods_stop_in_time() {
    replace_all("dev", async |overlay, _, _| overlay.delete().await);
}

#[test]
fn a_rollout_of_the_prod_overlay_loses_no_tick() {
    // The pods are not stopped in order at the end: draining these edges would take minutes.
    replace_all("prod", async |_, _, _| ());
}

#[test]
fn a_rollout_of_the_prod_tls_overlay_loses_no_tick_and_its_certificates_can_be_renewed() {
    replace_all("prod-tls", renew_certificates);
}

/// Replaces all edges of an overlay, then one clock after the other, then all NATS servers, while
/// clients check every tick. Finally calls `finish`.
fn replace_all(overlay: &str, finish: impl AsyncFnOnce(&mut RunningOverlay, &Balancer, &Clients)) {
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let _guard = runtime.enter();
    let mut cluster = runtime.block_on(RunningOverlay::apply(Manifests::of(overlay)));
    let balancer = runtime.block_on(Balancer::of("edge", &cluster));
    let trusted = TempDir::new("trusted");
    let options = client_options(&cluster.manifests, &balancer, &trusted);
    let clients = Clients::connect_with(&options, CLIENTS);
    clients.assert_unbroken();
    let order = ["edge", "clock", "nats"];
    let order: Vec<_> = order
        .iter()
        .flat_map(|program| cluster.manifests.running(program))
        .map(|workload| workload.name.clone())
        .collect();
    for workload in order {
        let left = || clients.disconnections() + clients.moved().len();
        let left_before = left();
        let new_clients = NewClients::start(options.clone());
        runtime.block_on(cluster.roll(&workload));
        clients.assert_unbroken();
        let connected = new_clients.stop();
        let moved = left() - left_before;
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
    runtime.block_on(finish(&mut cluster, &balancer, &clients));
}

/// Renews all certificates while clients are connected. Asserts that every edge presents its new
/// one, that every NATS server reads its own again, and that no connection of a client ends.
async fn renew_certificates(overlay: &mut RunningOverlay, balancer: &Balancer, clients: &Clients) {
    let disconnections = clients.disconnections();
    overlay.renew_certificates();
    let trusted = TempDir::new("renewed");
    let options = client_options(&overlay.manifests, balancer, &trusted);
    let edges = overlay
        .manifests
        .replicas(overlay.manifests.workload("edge"));
    let renewed = async {
        // The balancer takes the edges in turn.
        let mut in_a_row = 0;
        while in_a_row < edges {
            in_a_row = connect(options.clone()).await.map_or(0, |_| in_a_row + 1);
        }
    };
    let outcome = timeout(PATIENCE, renewed).await;
    assert!(
        outcome.is_ok(),
        "an edge still presents the old certificate"
    );
    overlay.await_log("nats", "Reloaded server configuration");
    clients.assert_unbroken();
    assert_eq!(clients.disconnections(), disconnections);
    overlay.assert_no_faults();
}

/// Returns the options of clients that connect through the balancer. They use TLS if the edges do,
/// and verify the edges' certificate for the first name that `k8s/cert-manager.yaml` asks for.
fn client_options(manifests: &Manifests, balancer: &Balancer, trusted: &TempDir) -> Options {
    let options = clients::options(balancer.addr());
    let edge = &manifests.workload("edge").pod.containers[0];
    let uses_tls = kubelet::environment(manifests, edge, "edge-0")
        .contains(&("TLS_ENABLED".to_owned(), "true".to_owned()));
    if !uses_tls {
        return options;
    }
    let request = requests().into_iter().find(|one| one.secret == "edge-tls");
    let authorities = manifests.authorities.as_ref();
    let authority = authorities
        .expect("certificates were issued")
        .public_certificate();
    let authority = trusted.write("ca.pem", authority);
    options.tls(
        TlsOptions::new()
            .ca_file(authority)
            .server_name(&request.expect("a certificate for the edges").names[0]),
    )
}
