//! Checks that references by name or label between objects lead to the intended objects.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;
use tickstorm_tests::manifests::{Manifests, Update, Workload, name, selects};

use super::containers::{effective_settings, setting};
use super::{container, each_overlay, full_environment, read};

#[test]
fn every_selector_selects_the_pods_of_one_workload_or_of_all_clocks() {
    each_overlay(|manifests| {
        for workload in &manifests.workloads {
            let selected = selected(manifests, &workload.selector);
            let names: Vec<_> = selected.iter().map(|one| one.name.as_str()).collect();
            assert_eq!(names, [workload.name.as_str()], "{:?}", workload.selector);
            for spread in workload.pod.topology_spread_constraints.iter().flatten() {
                let selector = spread.label_selector.as_ref().unwrap();
                assert_selects_only(manifests, selector, workload.program());
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
                let selector = term.label_selector.as_ref().unwrap();
                assert_selects_only(manifests, selector, workload.program());
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
            // Otherwise a pod that never becomes ready keeps its node from being drained.
            let policy = spec.unhealthy_pod_eviction_policy.as_deref();
            assert_eq!(policy, Some("AlwaysAllow"), "{}", name(&budget.metadata));
        }
        let budgets: BTreeSet<_> = manifests
            .budgets
            .iter()
            .map(|budget| name(&budget.metadata))
            .collect();
        let programs: BTreeSet<_> = manifests.workloads.iter().map(Workload::program).collect();
        assert_eq!(budgets, programs);
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
            let workload = manifests.running(of).next();
            let container = container(workload.unwrap_or_else(|| panic!("no pod runs {of}")));
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
            let Update::Ordinals { service, .. } = &workload.update else {
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
        let clocks: Vec<_> = manifests
            .running("clock")
            .map(|clock| clock.name.as_str())
            .collect();
        let edge = effective_settings(manifests, manifests.workload("edge"), "tickstorm-edge");
        assert_eq!(setting(&edge, "CLOCKS"), clocks.join(","));
        let servers = pods(manifests, "nats");
        let urls: Vec<_> = servers
            .iter()
            .map(|pod| format!("nats://{pod}.nats:4222"))
            .collect();
        let clocks = manifests.running("clock");
        let clocks = clocks.map(|clock| effective_settings(manifests, clock, "tickstorm-clock"));
        for settings in clocks.chain([edge]) {
            assert_eq!(setting(&settings, "NATS_URL"), urls.join(","));
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
fn each_clock_has_one_pod_and_its_id_and_rank_are_those_in_its_workloads_name() {
    each_overlay(|manifests| {
        for (rank, clock) in manifests.running("clock").enumerate() {
            let settings = effective_settings(manifests, clock, "tickstorm-clock");
            let found = ["CLOCK_ID", "CLOCK_RANK"].map(|name| setting(&settings, name));
            assert_eq!(found, [clock.name.as_str(), &rank.to_string()]);
            // Two pods under one id would be falsetickers.
            assert_eq!(manifests.replicas(clock), 1, "{}", clock.name);
        }
    });
}

#[test]
fn clocks_are_never_replaced_together() {
    each_overlay(|manifests| {
        for clock in manifests.running("clock") {
            let Update::Ordinals {
                waits_for_delete, ..
            } = clock.update
            else {
                panic!("{} may have two pods at a time", clock.name);
            };
            assert!(waits_for_delete, "{} is updated by itself", clock.name);
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
            let adapter = read("k8s/prometheus-adapter.yaml");
            let adapter: Value = serde_saphyr::from_str(&adapter).unwrap();
            let series = adapter["rules"][0]["seriesQuery"].as_str().unwrap();
            let served = format!("{}{{namespace!=\"\",pod!=\"\"}}", pods.metric.name);
            assert_eq!(series, served, "the adapter does not serve the metric");
            assert!(metrics.iter().any(|metric| metric.resource.is_some()));
        }
    });
    assert_eq!(Manifests::of("prod").autoscalers.len(), 1);
}

/// Asserts that a selector selects exactly the pods that run `program`.
fn assert_selects_only(manifests: &Manifests, selector: &LabelSelector, program: &str) {
    let selected: Vec<_> = selected(manifests, selector)
        .iter()
        .map(|workload| workload.name.as_str())
        .collect();
    let expected: Vec<_> = manifests
        .running(program)
        .map(|workload| workload.name.as_str())
        .collect();
    assert!(!expected.is_empty(), "no pod runs {program}");
    assert_eq!(selected, expected, "{selector:?}");
}

fn selected<'a>(manifests: &'a Manifests, selector: &LabelSelector) -> Vec<&'a Workload> {
    let all = manifests.workloads.iter();
    all.filter(|workload| selects(selector, &workload.labels))
        .collect()
}

fn pods(manifests: &Manifests, workload: &str) -> Vec<String> {
    let replicas = manifests.replicas(manifests.workload(workload));
    (0..replicas)
        .map(|ordinal| format!("{workload}-{ordinal}"))
        .collect()
}
