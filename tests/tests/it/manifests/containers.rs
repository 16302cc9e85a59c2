//! What containers are given: settings that the daemons know and take, ports that they listen on, images that there are, and
//! no more rights than they need.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use tickstorm_testkit::TempDir;
use tickstorm_tests::kubelet::{Environment, files};
use tickstorm_tests::manifests::{Manifests, Workload};

use super::{container, daemon, each_overlay, read, whole_environment};
use crate::tickstorm::binary;

/// What `--check-config` of a daemon says of the environment and the files that its container is given.
pub(super) fn checked(manifests: &Manifests, workload: &Workload, program: &str) -> Environment {
    let dir = TempDir::new("given");
    let container = container(workload);
    for file in files(manifests, &workload.pod, container) {
        let path = inside(&dir, &file.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file.content).unwrap();
    }
    let environment = whole_environment(manifests, workload);
    // The paths in it are the container's.
    let moved = environment.iter().map(|(name, value)| {
        let value = if name.ends_with("_FILE") {
            inside(&dir, Path::new(value)).to_str().unwrap().to_owned()
        } else {
            value.clone()
        };
        (name.clone(), value)
    });
    let mut command = Command::new(binary(program));
    let output = command
        .arg("--check-config")
        .env_clear()
        .envs(moved)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && stderr.is_empty(),
        "{program}: {stderr}"
    );
    let lines = String::from_utf8(output.stdout).unwrap();
    let settings = lines.lines().filter_map(|line| line.split_once('='));
    settings
        .map(|(name, value)| {
            let value = value.rsplit_once(" (").map_or(value, |(value, _)| value);
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

/// The value of a setting.
pub(super) fn setting<'a>(settings: &'a Environment, name: &str) -> &'a str {
    let found = settings.iter().find(|(known, _)| known == name);
    found.map_or_else(|| panic!("no setting is named {name}"), |(_, value)| value)
}

fn inside(dir: &TempDir, path: &Path) -> PathBuf {
    dir.path().join(
        path.strip_prefix("/")
            .unwrap_or_else(|_| panic!("{} is no whole path", path.display())),
    )
}

fn each_container(look: impl Fn(&Manifests, &Workload, &Container)) {
    each_overlay(|manifests| {
        for workload in &manifests.workloads {
            look(manifests, workload, container(workload));
        }
    });
}

#[test]
fn every_variable_is_a_setting_and_its_value_is_taken() {
    each_container(|manifests, workload, container| {
        let Some(program) = daemon(container) else {
            return;
        };
        let settings = checked(manifests, workload, program);
        for (name, _) in whole_environment(manifests, workload) {
            let named = name.strip_suffix("_FILE").unwrap_or(&name);
            let known = settings
                .iter()
                .any(|(known, _)| *known == name || known == named);
            assert!(known, "{program} knows no {name}");
        }
    });
}

#[test]
fn nats_finds_the_variables_that_its_configuration_names() {
    let configuration = read("deploy/nats/nats.conf");
    let code = configuration
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let wanted: BTreeSet<_> = code
        .filter_map(|line| line.split_once('$'))
        .map(|(_, name)| {
            name.trim_end_matches(|end: char| !end.is_ascii_alphanumeric())
                .to_owned()
        })
        .collect();
    each_overlay(|manifests| {
        let environment = whole_environment(manifests, manifests.workload("nats"));
        for name in &wanted {
            let (_, value) = environment
                .iter()
                .find(|(known, _)| known == name)
                .unwrap_or_else(|| panic!("no {name}"));
            assert!(
                !value.contains("$("),
                "{name} is {value}: what it refers to is not defined before it"
            );
            let quoted = value.starts_with('"') || value.starts_with('[');
            assert!(
                quoted || name == "NATS_SERVER_NAME",
                "{name} is not quoted: {value}"
            );
        }
    });
}

#[test]
fn ports_are_those_that_the_programs_listen_on() {
    each_container(|manifests, workload, container| {
        let ports = container.ports.iter().flatten();
        let declared: BTreeSet<_> = ports
            .map(|port| (port.name.clone().unwrap(), port.container_port.to_string()))
            .collect();
        let expected = match daemon(container) {
            None => [("clients", nats_port("")), ("routes", nats_port("  "))]
                .map(owned)
                .into(),
            Some(program) => {
                let settings = checked(manifests, workload, program);
                let bound = [("clients", "LISTEN_ADDR"), ("admin", "ADMIN_ADDR")].into_iter();
                let bound =
                    bound.filter(|(_, name)| program == "tickstorm-edge" || *name == "ADMIN_ADDR");
                bound
                    .map(|(port, name)| {
                        let (ip, number) = setting(&settings, name).rsplit_once(':').unwrap();
                        assert_eq!(ip, "0.0.0.0", "{name} is out of reach");
                        owned((port, number.to_owned()))
                    })
                    .collect()
            }
        };
        assert_eq!(declared, expected, "{}", workload.name);
    });
}

#[test]
fn images_are_those_that_compose_builds_and_runs() {
    let compose = read("compose/docker-compose.yml");
    let images: BTreeSet<_> = compose
        .lines()
        .filter_map(|line| line.trim().strip_prefix("image:"))
        .map(str::trim)
        .collect();
    each_container(|_, _, container| {
        let image = container.image.as_deref().unwrap();
        assert!(
            images.contains(image),
            "compose has {images:?}, not {image}"
        );
        assert!(
            daemon(container).is_none_or(|program| image.starts_with(&format!("{program}:"))),
            "{image}"
        );
    });
}

#[test]
fn nobody_has_more_rights_than_it_needs() {
    each_container(|_, workload, container| {
        let pod = &workload.pod;
        assert_eq!(pod.automount_service_account_token, Some(false));
        assert_eq!(pod.enable_service_links, Some(false));
        for shared in [pod.host_network, pod.host_pid, pod.host_ipc] {
            assert!(shared.is_none());
        }
        assert_bounded(pod, container);
    });
}

fn assert_bounded(pod: &PodSpec, container: &Container) {
    let rights = pod.security_context.as_ref().unwrap();
    assert_eq!(rights.run_as_non_root, Some(true));
    assert!(rights.run_as_user.is_some_and(|user| user > 0));
    assert_eq!(
        rights.seccomp_profile.as_ref().unwrap().type_,
        "RuntimeDefault"
    );
    let rights = container.security_context.as_ref().unwrap();
    assert_eq!(rights.allow_privilege_escalation, Some(false));
    assert_eq!(rights.read_only_root_filesystem, Some(true));
    let capabilities = rights.capabilities.as_ref().unwrap();
    assert_eq!(capabilities.drop.as_deref(), Some(&["ALL".to_owned()][..]));
    assert!(capabilities.add.is_none());
    let resources = container.resources.as_ref().unwrap();
    let of = |amounts: &Option<BTreeMap<String, _>>| -> Vec<String> {
        amounts
            .iter()
            .flatten()
            .map(|(resource, _)| resource.clone())
            .collect()
    };
    assert_eq!(of(&resources.requests), ["cpu", "memory"]);
    assert_eq!(
        of(&resources.limits),
        ["memory"],
        "a throttled program is late"
    );
}

/// A port of nats.conf: the servers' own stands at the margin, the routes' in its block.
fn nats_port(margin: &str) -> String {
    let configuration = read("deploy/nats/nats.conf");
    let port = format!("{margin}port:");
    let mut ports = configuration
        .lines()
        .filter_map(|line| line.strip_prefix(&port));
    ports.next().expect("a port").trim().to_owned()
}

fn owned((name, port): (&str, String)) -> (String, String) {
    (name.to_owned(), port)
}
