//! Checks the component `monitoring`: that its objects have only fields that the Prometheus
//! Operator knows, that they select the pods and ports that exist, and that Prometheus may reach
//! them.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::Deserialize;
use serde_json::Value;
use tickstorm_tests::manifests::{Manifests, build_own, name, selects, typed};

use super::containers::assert_restricted;
use super::network::assert_allowed;
use super::read;
use super::tls::prod_with;

/// The longest interval between scrapes, and between evaluations, for which the rules hold, in
/// seconds.
const INTERVAL_MAX_S: u64 = 30;

/// The longest time from the beginning of holdover to TickstormHoldover, in seconds. The time is
/// lost 52 s after holdover has begun, and Alertmanager waits for 10 s.
const HOLDOVER_RAISED_WITHIN_S: u64 = 30;

/// What an overlay with the component needs, since the namespace of `prod` is not that of objects
/// that are added to it.
const NAMESPACE: &str = "namespace: tickstorm\n";

/// The fields of the operator's objects that we use. Any other field is refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Object<S> {
    api_version: String,
    #[expect(dead_code, reason = "every object has it, and `read` has looked at it")]
    kind: String,
    metadata: ObjectMeta,
    spec: S,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PodMonitor {
    selector: LabelSelector,
    pod_metrics_endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Endpoint {
    port: String,
    path: String,
    interval: String,
    scrape_timeout: String,
    relabelings: Vec<Relabeling>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Relabeling {
    action: String,
    target_label: String,
    replacement: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PrometheusRule {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    name: String,
    #[serde(default)]
    interval: Option<String>,
    rules: Vec<Rule>,
}

/// Either `record` or `alert` is set.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    record: Option<String>,
    alert: Option<String>,
    expr: String,
    #[serde(rename = "for")]
    lasts: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Builds `prod` with the component, without and with TLS for NATS, and checks it.
fn each_monitored(check: impl Fn(&Manifests)) {
    for components in [&["monitoring"][..], &["nats-tls", "monitoring"]] {
        println!("components {components:?}");
        let own = prod_with(components) + NAMESPACE;
        let yaml = build_own(&own).unwrap();
        check(&Manifests::read(&yaml));
    }
}

fn objects<S: serde::de::DeserializeOwned>(manifests: &Manifests, kind: &str) -> Vec<Object<S>> {
    let all = manifests.monitors.iter();
    let found: Vec<Object<S>> = all
        .filter(|object| object["kind"] == kind)
        .map(|object| typed(object.clone()))
        .collect();
    for object in &found {
        assert_eq!(object.api_version, "monitoring.coreos.com/v1");
        let namespace = object.metadata.namespace.as_deref();
        assert_eq!(namespace, Some(manifests.namespace()));
    }
    found
}

/// Returns a duration such as `15s` in seconds.
fn seconds(duration: &str) -> u64 {
    let (number, scale) = duration
        .strip_suffix('s')
        .map(|number| (number, 1))
        .or_else(|| duration.strip_suffix('m').map(|number| (number, 60)))
        .or_else(|| duration.strip_suffix('h').map(|number| (number, 3_600)))
        .unwrap_or_else(|| panic!("{duration} has no unit"));
    let number: u64 = number.parse().unwrap();
    number * scale
}

#[test]
fn every_program_is_scraped_at_the_port_that_it_has_under_the_name_that_the_rules_expect() {
    let config: Value = serde_saphyr::from_str(&read("deploy/prometheus/prometheus.yml")).unwrap();
    let jobs: BTreeSet<_> = config["scrape_configs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| job["job_name"].as_str().unwrap().to_owned())
        .collect();
    each_monitored(|manifests| {
        let monitors: Vec<Object<PodMonitor>> = objects(manifests, "PodMonitor");
        let mut scraped = BTreeSet::new();
        for monitor in &monitors {
            let [endpoint] = &monitor.spec.pod_metrics_endpoints[..] else {
                panic!("{} has several endpoints", name(&monitor.metadata));
            };
            assert_eq!(endpoint.path, "/metrics");
            assert!(seconds(&endpoint.interval) <= INTERVAL_MAX_S);
            assert!(seconds(&endpoint.scrape_timeout) < seconds(&endpoint.interval));
            let [job] = &endpoint.relabelings[..] else {
                panic!("{} sets more than the job", name(&monitor.metadata));
            };
            let (action, label) = (job.action.as_str(), job.target_label.as_str());
            assert_eq!((action, label), ("replace", "job"));
            assert!(jobs.contains(&job.replacement), "{}", job.replacement);
            let pods = manifests.workloads.iter();
            for pod in pods.filter(|pod| selects(&monitor.spec.selector, &pod.labels)) {
                let containers = pod.pod.containers.iter();
                let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
                let named = ports.any(|port| port.name.as_ref() == Some(&endpoint.port));
                assert!(named, "{} has no port {}", pod.name, endpoint.port);
                assert!(job.replacement.ends_with(pod.program()), "{}", pod.name);
                scraped.insert(pod.name.clone());
            }
        }
        let all: BTreeSet<_> = manifests
            .workloads
            .iter()
            .map(|pod| pod.name.clone())
            .collect();
        assert_eq!(scraped, all);
    });
}

#[test]
fn every_alert_of_the_files_is_an_alert_of_an_object() {
    let mut files = BTreeSet::new();
    for entry in std::fs::read_dir(super::repository().join("deploy/prometheus/rules")).unwrap() {
        let file: PrometheusRule =
            serde_saphyr::from_str(&std::fs::read_to_string(entry.unwrap().path()).unwrap())
                .unwrap();
        let rules = file.groups.into_iter().flat_map(|group| group.rules);
        files.extend(rules.filter_map(|rule| rule.alert));
    }
    assert!(files.len() > 30, "{files:?}");
    each_monitored(|manifests| {
        let rules: Vec<Object<PrometheusRule>> = objects(manifests, "PrometheusRule");
        let mut alerts = BTreeSet::new();
        for group in rules.iter().flat_map(|object| &object.spec.groups) {
            // Without an interval, it would be that of a Prometheus that we do not know.
            let interval = group.interval.as_deref().expect("an interval");
            assert!(seconds(interval) <= INTERVAL_MAX_S, "{}", group.name);
            for rule in &group.rules {
                assert!(!rule.expr.is_empty(), "{}", group.name);
                assert_ne!(
                    rule.alert.is_some(),
                    rule.record.is_some(),
                    "{}",
                    group.name
                );
                let has_texts = !rule.labels.is_empty() && !rule.annotations.is_empty();
                assert_eq!(has_texts, rule.alert.is_some(), "{:?}", rule.record);
                rule.lasts.as_deref().map(seconds);
                alerts.extend(rule.alert.clone());
            }
        }
        assert_eq!(alerts, files);
    });
}

#[test]
fn holdover_is_raised_before_the_time_is_lost() {
    each_monitored(|manifests| {
        let monitors: Vec<Object<PodMonitor>> = objects(manifests, "PodMonitor");
        let edge = monitors.iter().find(|it| name(&it.metadata) == "edge");
        let scrapes = seconds(&edge.unwrap().spec.pod_metrics_endpoints[0].interval);
        let rules: Vec<Object<PrometheusRule>> = objects(manifests, "PrometheusRule");
        let groups = rules.iter().flat_map(|object| &object.spec.groups);
        let mut all = groups.flat_map(|group| group.rules.iter().map(move |rule| (group, rule)));
        let is_holdover = |rule: &Rule| rule.alert.as_deref() == Some("TickstormHoldover");
        let (group, rule) = all.find(|(_, rule)| is_holdover(rule)).unwrap();
        let evaluations = seconds(group.interval.as_deref().unwrap());
        let lasts = rule.lasts.as_deref().map_or(0, seconds);
        let all = scrapes + evaluations + lasts;
        assert!(all <= HOLDOVER_RAISED_WITHIN_S, "{all} s");
    });
}

#[test]
fn the_overlay_in_the_readme_has_the_namespace() {
    let readme = read("k8s/README.md");
    let mut blocks = readme.split("```\n");
    let overlay = blocks.find(|block| block.contains("components/monitoring\n"));
    let overlay = overlay.expect("an overlay");
    assert!(overlay.starts_with(NAMESPACE), "{overlay}");
    let manifests = Manifests::read(&build_own(overlay).unwrap());
    assert!(!objects::<PodMonitor>(&manifests, "PodMonitor").is_empty());
    for policy in &manifests.policies {
        let namespace = policy.metadata.namespace.as_deref();
        assert_eq!(namespace, Some(manifests.namespace()), "{policy:?}");
    }
}

#[test]
fn prometheus_may_scrape_the_exporters_of_nats_and_nothing_else_is_opened() {
    each_monitored(|manifests| {
        assert_allowed(manifests, &[(&["prometheus"], "nats", "TCP", 7777)]);
    });
}

#[test]
fn each_nats_pod_has_an_exporter_without_rights_that_cannot_make_it_unready() {
    each_monitored(|manifests| {
        let nats = manifests.workload("nats");
        let [server, exporter] = &nats.pod.containers[..] else {
            panic!("expected NATS and its exporter: {:?}", nats.pod.containers);
        };
        assert_eq!((&*server.name, &*exporter.name), ("nats", "exporter"));
        assert_restricted(&nats.pod, exporter);
        assert!(exporter.readiness_probe.is_none());
        let image = exporter.image.as_deref().unwrap();
        let compose = read("compose/monitoring.yml");
        assert!(compose.contains(&format!("image: {image}\n")), "{image}");
        // Its server listens on loopback, where the exporter asks it.
        let variables = server.env.iter().flatten();
        let address = variables
            .filter(|one| one.name == "NATS_MONITOR_ADDR")
            .find_map(|one| one.value.as_deref())
            .unwrap();
        let url = format!("http://{}", address.trim_matches('"'));
        assert_eq!(exporter.args.as_ref().unwrap().last(), Some(&url));
    });
}

#[test]
fn the_dashboards_are_in_a_config_map_that_grafana_finds() {
    each_monitored(|manifests| {
        let mut maps = manifests.config_maps.iter();
        let is_ours = |map: &&ConfigMap| name(&map.metadata) == "grafana-dashboards";
        let map = maps.rfind(is_ours).expect("a ConfigMap");
        let labels = map.metadata.labels.as_ref().unwrap();
        assert_eq!(labels["grafana_dashboard"], "1");
        let shown: BTreeSet<_> = map
            .data
            .iter()
            .flatten()
            .map(|(file, _)| file.clone())
            .collect();
        let directory = super::repository().join("deploy/grafana/dashboards");
        let files: BTreeSet<_> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|file| file.ends_with(".json"))
            .collect();
        assert_eq!(shown, files);
    });
}
