//! What refers to something else by a name or a label finds just that.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tickstorm_tests::manifests::{Manifests, Update, Workload, name, selects};

use super::containers::{checked, setting};
use super::{container, each_overlay, read, whole_environment};

#[test]
fn every_selector_takes_one_workload_s_pods_and_no_others() {
    each_overlay(|manifests| {
        for workload in &manifests.workloads {
            assert_takes(manifests, &workload.selector, &workload.name);
            for spread in workload.pod.topology_spread_constraints.iter().flatten() {
                assert_takes(
                    manifests,
                    spread.label_selector.as_ref().unwrap(),
                    &workload.name,
                );
            }
            let apart = workload
                .pod
                .affinity
                .iter()
                .filter_map(|affinity| affinity.pod_anti_affinity.as_ref());
            for term in apart.flat_map(|apart| {
                apart
                    .required_during_scheduling_ignored_during_execution
                    .iter()
                    .flatten()
            }) {
                assert_takes(
                    manifests,
                    term.label_selector.as_ref().unwrap(),
                    &workload.name,
                );
            }
        }
        for budget in &manifests.budgets {
            let spec = budget.spec.as_ref().unwrap();
            assert_takes(
                manifests,
                spec.selector.as_ref().unwrap(),
                name(&budget.metadata),
            );
            assert_eq!(spec.max_unavailable, Some(IntOrString::Int(1)));
        }
        assert_eq!(
            manifests.budgets.len(),
            manifests.workloads.len(),
            "each workload has a budget"
        );
        for service in &manifests.services {
            let spec = service.spec.as_ref().unwrap();
            let selector = LabelSelector {
                match_labels: spec.selector.clone(),
                ..LabelSelector::default()
            };
            let of = name(&service.metadata).trim_end_matches("-metrics");
            assert_takes(manifests, &selector, of);
        }
    });
}

#[test]
fn every_port_of_a_service_is_one_of_its_pods() {
    each_overlay(|manifests| {
        for service in &manifests.services {
            let of = name(&service.metadata).trim_end_matches("-metrics");
            let container = container(manifests.workload(of));
            for port in service.spec.as_ref().unwrap().ports.iter().flatten() {
                let Some(IntOrString::String(target)) = &port.target_port else {
                    panic!("{of} names no port of its pods: {port:?}");
                };
                let mut ports = container.ports.iter().flatten();
                let found = ports.find(|found| found.name.as_ref() == Some(target));
                let found = found.unwrap_or_else(|| panic!("no port of {of} is named {target}"));
                assert_eq!(
                    found.container_port, port.port,
                    "{of}: what people read in the README"
                );
            }
        }
    });
}

#[test]
fn stateful_sets_are_named_by_a_headless_service() {
    each_overlay(|manifests| {
        for workload in &manifests.workloads {
            let Update::Ordinals { service } = &workload.update else {
                continue;
            };
            let found = manifests
                .services
                .iter()
                .find(|one| name(&one.metadata) == service);
            let spec = found
                .and_then(|one| one.spec.as_ref())
                .unwrap_or_else(|| panic!("no Service {service}"));
            assert_eq!(spec.cluster_ip.as_deref(), Some("None"));
            assert_eq!(spec.publish_not_ready_addresses, Some(true));
        }
    });
}

#[test]
fn the_edges_know_every_clock_and_everybody_every_nats_server() {
    each_overlay(|manifests| {
        let clocks = pods(manifests, "clock").join(",");
        let edge = checked(manifests, manifests.workload("edge"), "tickstorm-edge");
        assert_eq!(setting(&edge, "CLOCKS"), clocks);
        let servers = pods(manifests, "nats");
        let urls: Vec<_> = servers
            .iter()
            .map(|pod| format!("nats://{pod}.nats:4222"))
            .collect();
        let clock = checked(manifests, manifests.workload("clock"), "tickstorm-clock");
        for settings in [&edge, &clock] {
            assert_eq!(setting(settings, "NATS_URL"), urls.join(","));
        }
        let routes: Vec<_> = servers
            .iter()
            .map(|pod| format!("nats://route:route_pass@{pod}.nats:6222"))
            .collect();
        let environment = whole_environment(manifests, manifests.workload("nats"));
        let given: Vec<String> =
            serde_json::from_str(setting(&environment, "NATS_ROUTES")).unwrap();
        assert_eq!(given, routes);
    });
}

#[test]
fn a_clock_s_ordinal_is_its_id_and_its_rank() {
    each_overlay(|manifests| {
        let clock = checked(manifests, manifests.workload("clock"), "tickstorm-clock");
        assert_eq!(
            (setting(&clock, "CLOCK_ID"), setting(&clock, "CLOCK_RANK")),
            ("clock-0", "0")
        );
    });
}

#[test]
fn logins_are_those_that_nats_lets_in() {
    let configuration = read("deploy/nats/nats.conf");
    each_overlay(|manifests| {
        for name in ["clock", "edge"] {
            let settings = checked(
                manifests,
                manifests.workload(name),
                &format!("tickstorm-{name}"),
            );
            let user = setting(&settings, "NATS_USER");
            assert_eq!(user, name);
            assert!(
                configuration.contains(&format!("user: {user}\n")),
                "nats.conf has no {user}"
            );
        }
    });
}

#[test]
fn the_autoscaler_goes_by_a_metric_that_there_is() {
    each_overlay(|manifests| {
        for autoscaler in &manifests.autoscalers {
            let spec = autoscaler.spec.as_ref().unwrap();
            let target = manifests.workload(&spec.scale_target_ref.name);
            assert!(
                matches!(target.update, Update::Surge { .. })
                    && spec.scale_target_ref.kind == "Deployment"
            );
            assert!(
                target.replicas.is_none(),
                "an apply would undo what the autoscaler did"
            );
            let metrics = spec.metrics.as_ref().unwrap();
            let pods = metrics
                .iter()
                .find_map(|metric| metric.pods.as_ref())
                .unwrap();
            assert!(read("docs/operations.md").contains(&format!("`{}`", pods.metric.name)));
            assert!(metrics.iter().any(|metric| metric.resource.is_some()));
        }
    });
    assert_eq!(Manifests::of("prod").autoscalers.len(), 1);
}

fn assert_takes(manifests: &Manifests, selector: &LabelSelector, of: &str) {
    let taken: Vec<_> = manifests
        .workloads
        .iter()
        .filter(|workload| selects(selector, &workload.labels))
        .map(|workload: &Workload| workload.name.as_str())
        .collect();
    assert_eq!(taken, [of], "{selector:?}");
}

fn pods(manifests: &Manifests, workload: &str) -> Vec<String> {
    let replicas = manifests.replicas(manifests.workload(workload));
    (0..replicas)
        .map(|ordinal| format!("{workload}-{ordinal}"))
        .collect()
}
