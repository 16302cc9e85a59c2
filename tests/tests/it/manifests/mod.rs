//! Checks the Kubernetes manifests of every overlay: that they are valid according to Kubernetes'
//! schema, and that they fit the daemons and each other, which no schema can express.

mod containers;
mod drains;
mod monitoring;
mod network;
mod probes;
mod proxy;
mod references;
pub(crate) mod resources;
mod schema;
mod secrets;
mod tls;

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Container;
use tickstorm_tests::kubelet::{Environment, environment, files};
use tickstorm_tests::manifests::{Manifests, OVERLAYS, Workload, repository};

/// Runs a check for every overlay.
fn each_overlay(check: impl Fn(&Manifests)) {
    for overlay in OVERLAYS {
        println!("overlay {overlay}");
        check(&Manifests::of(overlay));
    }
}

/// Returns the only container of a workload's pods.
fn container(workload: &Workload) -> &Container {
    assert!(workload.pod.init_containers.is_none(), "{}", workload.name);
    assert_eq!(workload.pod.containers.len(), 1, "{}", workload.name);
    &workload.pod.containers[0]
}

/// Returns the name of the TickStorm daemon that a container runs, or `None` for NATS.
fn daemon(container: &Container) -> Option<&'static str> {
    match container.name.as_str() {
        "clock" => Some("tickstorm-clock"),
        "edge" => Some("tickstorm-edge"),
        "nats" => None,
        name => panic!("unknown container {name}"),
    }
}

/// Returns the environment of a workload's first pod, including the variables of its image.
fn full_environment(manifests: &Manifests, workload: &Workload) -> Environment {
    let container = container(workload);
    let pod = format!("{}-0", workload.name);
    let mut full = image_environment(container);
    for (name, value) in environment(manifests, container, &pod) {
        full.retain(|(known, _)| *known != name);
        full.push((name, value));
    }
    full
}

/// Returns the variables that the container's Dockerfile sets, if the image is one of TickStorm's.
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

/// Returns the files in the volumes of NATS that are text, by their absolute paths.
fn nats_files(manifests: &Manifests) -> BTreeMap<PathBuf, String> {
    let nats = manifests.workload("nats");
    let files = files(manifests, &nats.pod, container(nats)).into_iter();
    files
        .map(|file| (file.path, String::from_utf8(file.content).unwrap()))
        .collect()
}

/// Returns the value of the first setting `name` in nats.conf, without quotes.
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
