//! Checks that pods have the resources that they need at their worst, that the smallest cluster
//! that k8s/README.md names has room for a rollout, and which pods give way first.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tickstorm_tests::manifests::{Manifests, OVERLAYS, Update, Workload, name};

use super::containers::{effective_settings, setting};
use super::{container, each_overlay, read};

pub(crate) const MIB: u64 = 1 << 20;

/// The memory of one client that was cut off without a word, until the edge notices: its connection
/// and its unsent ticks, in the edge and in the kernel, and what TLS adds. docs/operations.md has
/// the same numbers.
pub(crate) const CLIENT_BYTES: u64 = 8_806;
pub(crate) const TLS_BYTES: u64 = 1_843;

/// The memory of an edge without clients, with room for its history of ticks.
pub(crate) const PROGRAM_BYTES: u64 = 64 * MIB;

#[test]
fn an_edges_memory_limit_holds_all_of_its_clients_cut_off_at_once() {
    each_overlay(|manifests| {
        let edge = manifests.workload("edge");
        let settings = effective_settings(manifests, edge, "tickstorm-edge");
        let clients: u64 = setting(&settings, "MAX_CONNECTIONS").parse().unwrap();
        let buffered = setting(&settings, "MAX_BUFFERED_BYTES");
        let buffered: u64 = buffered.strip_suffix("MiB").unwrap().parse().unwrap();
        let needed = PROGRAM_BYTES + buffered * MIB + clients * (CLIENT_BYTES + TLS_BYTES);
        let limit = amount(edge, "limits", "memory");
        assert!(
            limit >= needed,
            "{clients} clients need {} MiB, but the limit is {} MiB",
            needed / MIB,
            limit / MIB
        );
        // An edge that may use more than it requests could be evicted when its node is full.
        if manifests.replicas(edge) > 1 {
            assert_eq!(amount(edge, "requests", "memory"), limit);
        }
    });
}

#[test]
fn the_formula_of_the_memory_limit_is_that_of_the_documentation() {
    let text = read("docs/operations.md");
    let (client, tls) = (CLIENT_BYTES as f64 / 1024.0, TLS_BYTES as f64 / 1024.0);
    for number in [format!("{client:.1} KiB"), format!("{tls:.1} KiB")] {
        assert!(text.contains(&number), "no {number}");
    }
}

/// A node for pods: what is left of it, in thousandths of a CPU and in bytes, and the programs of
/// which it may have only one pod and has one.
#[derive(Clone)]
struct Node {
    cpu: u64,
    memory: u64,
    taken: Vec<String>,
}

impl Node {
    fn has_room_for(&self, pod: &Workload) -> bool {
        self.cpu >= amount(pod, "requests", "cpu")
            && self.memory >= amount(pod, "requests", "memory")
            && !(is_alone(pod) && self.taken.iter().any(|program| program == pod.program()))
    }
}

/// Places a pod on the node with the most CPU that has room for it. Returns whether there is one.
fn place(nodes: &mut [Node], pod: &Workload) -> bool {
    let fitting = nodes.iter_mut().filter(|node| node.has_room_for(pod));
    let Some(node) = fitting.max_by_key(|node| node.cpu) else {
        return false;
    };
    node.cpu -= amount(pod, "requests", "cpu");
    node.memory -= amount(pod, "requests", "memory");
    node.taken.push(pod.program().to_owned());
    true
}

/// Returns whether a node may have only one pod of this program.
fn is_alone(pod: &Workload) -> bool {
    let affinity = pod.pod.affinity.as_ref();
    let apart = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    apart.is_some_and(|apart| {
        apart
            .required_during_scheduling_ignored_during_execution
            .is_some()
    })
}

/// Returns the smallest cluster of k8s/README.md: its nodes, without what the system takes of them.
fn least_cluster() -> Vec<Node> {
    let text = read("k8s/README.md");
    let (_, text) = text
        .split_once("\n## The smallest cluster\n")
        .expect("the section");
    let mut numbers = text
        .split(|letter: char| !letter.is_ascii_digit())
        .filter_map(|digits| digits.parse::<u64>().ok());
    let mut next = || numbers.next().expect("a number");
    let (nodes, cpus, gib, percent) = (next(), next(), next(), next());
    let node = Node {
        cpu: cpus * 1_000 * (100 - percent) / 100,
        memory: gib * 1_024 * MIB * (100 - percent) / 100,
        taken: Vec::new(),
    };
    vec![node; usize::try_from(nodes).unwrap()]
}

/// Places all pods of `prod` on nodes, and the pod that a rollout of the edges adds. Returns
/// whether there was room.
fn rollout_fits(mut nodes: Vec<Node>) -> bool {
    let manifests = Manifests::of("prod");
    let mut pods = Vec::new();
    for workload in &manifests.workloads {
        let surge = u32::from(matches!(workload.update, Update::Surge { .. }));
        let count = manifests.replicas(workload) + surge;
        pods.extend((0..count).map(|_| workload));
    }
    // Pods of a higher class are placed first.
    pods.sort_by_key(|pod| pod.program() == "edge");
    pods.into_iter().all(|pod| place(&mut nodes, pod))
}

#[test]
fn the_smallest_cluster_has_room_for_a_rollout_and_one_with_half_the_cpus_does_not() {
    let nodes = least_cluster();
    assert!(rollout_fits(nodes.clone()));
    let halved = nodes.into_iter().map(|node| Node {
        cpu: node.cpu / 2,
        ..node
    });
    assert!(!rollout_fits(halved.collect()), "it is not the smallest");
}

#[test]
fn clocks_and_nats_come_before_edges_and_edges_before_everything_else() {
    for overlay in OVERLAYS {
        let manifests = Manifests::of(overlay);
        let values: BTreeMap<_, _> = manifests
            .priorities
            .iter()
            .map(|class| (name(&class.metadata), class.value))
            .collect();
        for workload in &manifests.workloads {
            let class = workload.pod.priority_class_name.as_deref();
            let Some(class) = class else {
                // Its removal would take the classes from another installation.
                assert_eq!((overlay, values.len()), ("dev", 0), "{}", workload.name);
                continue;
            };
            let value = *values
                .get(class)
                .unwrap_or_else(|| panic!("no class is named {class}"));
            assert!(value > 0);
            let of_edges = values["tickstorm-edge"];
            assert_eq!(value > of_edges, workload.program() != "edge", "{class}");
        }
    }
}

#[test]
fn in_production_a_clock_on_a_node_that_is_not_synchronised_stays_silent() {
    for overlay in OVERLAYS {
        let manifests = Manifests::of(overlay);
        for clock in manifests.running("clock") {
            let settings = effective_settings(&manifests, clock, "tickstorm-clock");
            let expected = (overlay != "dev").to_string();
            assert_eq!(setting(&settings, "REQUIRE_SYNC"), expected, "{overlay}");
        }
    }
}

/// Returns a workload's `requests` or `limits` of a resource: thousandths of a CPU, or bytes.
fn amount(workload: &Workload, kind: &str, resource: &str) -> u64 {
    let resources = container(workload).resources.as_ref().unwrap();
    let amounts = match kind {
        "requests" => &resources.requests,
        "limits" => &resources.limits,
        _ => panic!("{kind} is neither requests nor limits"),
    };
    let Quantity(text) = &amounts.as_ref().unwrap()[resource];
    let unit = text.trim_start_matches(|digit: char| digit.is_ascii_digit());
    let number: u64 = text[..text.len() - unit.len()].parse().unwrap();
    let scale = match (resource, unit) {
        ("cpu", "m") => 1,
        ("cpu", "") => 1_000,
        ("memory", "Mi") => MIB,
        ("memory", "Gi") => 1_024 * MIB,
        _ => panic!("not implemented: {text}"),
    };
    number * scale
}
