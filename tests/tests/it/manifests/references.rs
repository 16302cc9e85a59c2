//! Checks that references by name or label between objects lead to the intended objects.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tickstorm_tests::manifests::{Manifests, Update, Workload, name, selects};

use super::containers::{effective_settings, setting};
use super::{container, each_overlay, full_environment, read};

#[test]
fn every_selector_selects_the_pods_of_one_workload_only() {
    each_overlay(|manifests| {
        for workload in &manifests.workloads {
            assert_selects_only(manifests, &workload.selector, &workload.name);
            for spread in workload.pod.topology_spread_constraints.iter().flatten() {
                assert_selects_only(
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
                assert_selects_only(
                    manifests,
                    term.label_selector.as_ref().unwrap(),
                    &workload.name,
                );
            }
        }
        for budget in &manifests.budgets {
            let spec = budget.spec.as_ref().unwrap();
            assert_selects_only(
                manifests,
                spec.selector.as_ref().unwrap(),
                name(&budget.metadata),
            );
            assert_eq!(spec.max_unavailable, Some(IntOrString::Int(1)));
        }
        assert_eq!(
            manifests.budgets.len(),
            manifests.workloads.len(),
            "each workload needs a disruption budget"
        );
        for service in &manifests.services {
            let spec = service.spec.as_ref().unwrap();
            let selector = LabelSelector {
                match_labels: spec.selector.clone(),
                ..LabelSelector::default()
            };
            let of = name(&service.metadata).trim_end_matches("-metrics");
            assert_selects_only(manifests, &selector, of);
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
                    panic!("a port of {of} does not refer to its pods' port by name: {port:?}");
                };
                let mut ports = container.ports.iter().flatten();
                let found = ports.find(|found| found.name.as_ref() == Some(target));
                let found = found.unwrap_or_else(|| panic!("no port of {of} is named {target}"));
                assert_eq!(
                    found.container_port, port.port,
                    "{of}: k8s/README.md gives the same port for both"
                );
            }
        }
    });
}

#[test]
fn every_stateful_sets_service_exists_and_is_headless() {
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
                .unwrap_or_else(|| panic!("no Service is named {service}"));
            assert_eq!(spec.cluster_ip.as_deref(), Some("None"));
            assert_eq!(spec.publish_not_ready_addresses, Some(true));
        }
    });
}

#[test]
fn edges_list_every_clock_and_all_programs_list_every_nats_server() {
    each_overlay(|manifests| {
        let clocks = pods(manifests, "clock").join(",");
        let edge = effective_settings(manifests, manifests.workload("edge"), "tickstorm-edge");
        assert_eq!(setting(&edge, "CLOCKS"), clocks);
        let servers = pods(manifests, "nats");
        let urls: Vec<_> = servers
            .iter()
            .map(|pod| format!("nats://{pod}.nats:4222"))
            .collect();
        let clock = effective_settings(manifests, manifests.workload("clock"), "tickstorm-clock");
        for settings in [&edge, &clock] {
            assert_eq!(setting(settings, "NATS_URL"), urls.join(","));
        }
        let routes: Vec<_> = servers
            .iter()
            .map(|pod| format!("nats://route:route_pass@{pod}.nats:6222"))
            .collect();
        let environment = full_environment(manifests, manifests.workload("nats"));
        let found: Vec<String> =
            serde_json::from_str(setting(&environment, "NATS_ROUTES")).unwrap();
        assert_eq!(found, routes);
    });
}

#[test]
fn a_clocks_id_is_its_pods_name_and_its_rank_is_the_ordinal() {
    each_overlay(|manifests| {
        let clock = effective_settings(manifests, manifests.workload("clock"), "tickstorm-clock");
        assert_eq!(
            (setting(&clock, "CLOCK_ID"), setting(&clock, "CLOCK_RANK")),
            ("clock-0", "0")
        );
    });
}

#[test]
fn the_daemons_nats_users_exist_in_the_nats_configuration() {
    let configuration = read("deploy/nats/nats.conf");
    each_overlay(|manifests| {
        for name in ["clock", "edge"] {
            let settings = effective_settings(
                manifests,
                manifests.workload(name),
                &format!("tickstorm-{name}"),
            );
            let user = setting(&settings, "NATS_USER");
            assert_eq!(user, name);
            assert!(
                configuration.contains(&format!("user: {user}\n")),
                "nats.conf has no user {user}"
            );
        }
    });
}

#[test]
fn the_autoscaler_uses_a_metric_that_exists() {
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
                "an apply would override the autoscaler"
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

fn assert_selects_only(manifests: &Manifests, selector: &LabelSelector, of: &str) {
    let selected: Vec<_> = manifests
        .workloads
        .iter()
        .filter(|workload| selects(selector, &workload.labels))
        .map(|workload: &Workload| workload.name.as_str())
        .collect();
    assert_eq!(selected, [of], "{selector:?}");
}

fn pods(manifests: &Manifests, workload: &str) -> Vec<String> {
    let replicas = manifests.replicas(manifests.workload(workload));
    (0..replicas)
        .map(|ordinal| format!("{workload}-{ordinal}"))
        .collect()
}
