//! The Kubernetes manifests of every overlay: what a schema says of them, and what no schema can say, that they fit the
//! daemons and each other.

mod containers;
mod drains;
mod network;
mod probes;
mod references;
mod schema;

use k8s_openapi::api::core::v1::Container;
use tickstorm_tests::kubelet::{Environment, environment};
use tickstorm_tests::manifests::{Manifests, OVERLAYS, Workload, repository};

/// Looks at all overlays, each by its name.
fn each_overlay(look: impl Fn(&Manifests)) {
    for overlay in OVERLAYS {
        println!("overlay {overlay}");
        look(&Manifests::of(overlay));
    }
}

/// The one container of a workload's pods.
fn container(workload: &Workload) -> &Container {
    let [container] = &workload.pod.containers[..] else {
        panic!("{} has one container", workload.name);
    };
    assert!(workload.pod.init_containers.is_none(), "{}", workload.name);
    container
}

/// The daemon of ours that a container runs, if it does.
fn daemon(container: &Container) -> Option<&'static str> {
    match container.name.as_str() {
        "clock" => Some("tickstorm-clock"),
        "edge" => Some("tickstorm-edge"),
        "nats" => None,
        name => panic!("what does {name} run?"),
    }
}

/// The environment of a workload's first pod, with what its image brings.
fn whole_environment(manifests: &Manifests, workload: &Workload) -> Environment {
    let container = container(workload);
    let pod = format!("{}-0", workload.name);
    let mut whole = image_environment(container);
    for (name, value) in environment(manifests, container, &pod) {
        whole.retain(|(known, _)| *known != name);
        whole.push((name, value));
    }
    whole
}

/// What a Dockerfile of ours sets.
fn image_environment(container: &Container) -> Environment {
    let lines = match container.name.as_str() {
        "nats" => String::new(),
        name => read(&format!("Dockerfile.{name}")),
    };
    let set = lines
        .lines()
        .filter_map(|line| line.strip_prefix("ENV ")?.split_once('='));
    set.map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn read(path: &str) -> String {
    let path = repository().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The value behind `name` and a colon or an equals sign, as it stands in NATS' configuration.
fn nats_setting(name: &str) -> String {
    let lines = read("deploy/nats/nats.conf");
    let mut values = lines
        .lines()
        .filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
    let value = values
        .next()
        .unwrap_or_else(|| panic!("nats.conf sets no {name}"));
    value.trim().trim_matches('"').to_owned()
}
