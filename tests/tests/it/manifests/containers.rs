//! Checks the manifests of containers: settings that the daemons know and accept, ports that they
//! listen on, images that exist, and no more privileges than necessary.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use tickstorm_testkit::TempDir;
use tickstorm_tests::kubelet::{Environment, files};
use tickstorm_tests::manifests::{Manifests, Workload};

use super::{container, daemon, each_overlay, full_environment, nats_files, read};
use crate::tickstorm::binary;

/// Returns the settings that a daemon's `--check-config` reports for the environment and the files
/// of its container.
pub(super) fn effective_settings(
    manifests: &Manifests,
    workload: &Workload,
    program: &str,
) -> Environment {
    let dir = TempDir::new("given");
    let container = container(workload);
    for file in files(manifests, &workload.pod, container) {
        let path = inside(&dir, &file.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file.content).unwrap();
    }
    let environment = full_environment(manifests, workload);
    // Paths in the container are replaced by those of the files that were just written.
    let environment = environment.iter().map(|(name, value)| {
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
        .envs(environment)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    // Network policies protect the admin port, and overlays without TLS for NATS are for networks
    // that can be trusted.
    let expected = ["set ADMIN_TLS_CERT_FILE", "without TLS"];
    let is_expected = |line: &str| expected.iter().any(|text| line.contains(text));
    assert!(
        output.status.success() && stderr.lines().all(is_expected),
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

/// Returns the value of a setting.
pub(super) fn setting<'a>(settings: &'a Environment, name: &str) -> &'a str {
    let found = settings.iter().find(|(known, _)| known == name);
    found.map_or_else(|| panic!("no setting is named {name}"), |(_, value)| value)
}

fn inside(dir: &TempDir, path: &Path) -> PathBuf {
    dir.path().join(
        path.strip_prefix("/")
            .unwrap_or_else(|_| panic!("{} is not an absolute path", path.display())),
    )
}

fn each_container(check: impl Fn(&Manifests, &Workload, &Container)) {
    each_overlay(|manifests| {
        for workload in &manifests.workloads {
            check(manifests, workload, container(workload));
        }
    });
}

#[test]
fn every_variable_is_a_setting_and_its_value_is_accepted() {
    each_container(|manifests, workload, container| {
        let Some(program) = daemon(container) else {
            return;
        };
        let settings = effective_settings(manifests, workload, program);
        for (name, _) in full_environment(manifests, workload) {
            let named = name.strip_suffix("_FILE").unwrap_or(&name);
            let known = settings
                .iter()
                .any(|(known, _)| *known == name || known == named);
            assert!(known, "{program} has no setting {name}");
        }
    });
}

#[test]
fn the_variables_in_the_nats_configuration_are_set_and_quoted() {
    each_overlay(|manifests| {
        let wanted = nats_variables(manifests);
        assert!(wanted.contains("NATS_SERVER_NAME"), "{wanted:?}");
        let environment = full_environment(manifests, manifests.workload("nats"));
        for name in &wanted {
            let (_, value) = environment
                .iter()
                .find(|(known, _)| known == name)
                .unwrap_or_else(|| panic!("{name} is not set"));
            assert!(
                !value.contains("$("),
                "{name} is {value}: it refers to a variable that is not defined before it"
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
fn the_declared_ports_are_the_ones_that_the_programs_listen_on() {
    each_container(|manifests, workload, container| {
        let ports = container.ports.iter().flatten();
        let declared: BTreeSet<_> = ports
            .map(|port| (port.name.clone().unwrap(), port.container_port.to_string()))
            .collect();
        let expected = match daemon(container) {
            None => [
                ("clients", nats_port("nats.conf")),
                ("routes", nats_port("cluster.conf")),
            ]
            .map(owned)
            .into(),
            Some(program) => {
                let settings = effective_settings(manifests, workload, program);
                let bound = [("clients", "LISTEN_ADDR"), ("admin", "ADMIN_ADDR")].into_iter();
                let bound =
                    bound.filter(|(_, name)| program == "tickstorm-edge" || *name == "ADMIN_ADDR");
                bound
                    .map(|(port, name)| {
                        let (ip, number) = setting(&settings, name).rsplit_once(':').unwrap();
                        assert_eq!(ip, "0.0.0.0", "{name} can't be reached from other pods");
                        owned((port, number.to_owned()))
                    })
                    .collect()
            }
        };
        assert_eq!(declared, expected, "{}", workload.name);
    });
}

#[test]
fn the_images_are_the_ones_that_compose_builds_and_runs() {
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
            "{image} is not among the images of compose: {images:?}"
        );
        assert!(
            daemon(container).is_none_or(|program| image.starts_with(&format!("{program}:"))),
            "{image}"
        );
    });
}

#[test]
fn no_container_has_more_privileges_than_it_needs() {
    each_container(|_, workload, container| {
        let pod = &workload.pod;
        assert_eq!(pod.automount_service_account_token, Some(false));
        assert_eq!(pod.enable_service_links, Some(false));
        for shared in [pod.host_network, pod.host_pid, pod.host_ipc] {
            assert!(shared.is_none());
        }
        assert_restricted(pod, container);
    });
}

/// Asserts that a container has no rights, and requests and limits as every container here.
pub(super) fn assert_restricted(pod: &PodSpec, container: &Container) {
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
        "a CPU limit would make the program late"
    );
}

/// Returns the variables that the configuration of NATS takes from the environment: those that it
/// uses but does not define.
fn nats_variables(manifests: &Manifests) -> BTreeSet<String> {
    let files = nats_files(manifests);
    let code = || {
        let lines = files.values().flat_map(|content| content.lines());
        lines.filter(|line| !line.trim_start().starts_with('#'))
    };
    let word = |text: &str| -> String {
        let letters = text.chars();
        letters
            .take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '_')
            .collect()
    };
    let used = code().flat_map(|line| line.split('$').skip(1)).map(word);
    let defined: BTreeSet<_> = code().filter(|line| line.contains(':')).map(word).collect();
    used.filter(|name| !defined.contains(name)).collect()
}

/// Returns the port in a file of the configuration of NATS.
fn nats_port(file: &str) -> String {
    let configuration = read(&format!("deploy/nats/{file}"));
    let mut ports = configuration
        .lines()
        .filter_map(|line| line.strip_prefix("port:"));
    ports.next().expect("a port").trim().to_owned()
}

fn owned((name, port): (&str, String)) -> (String, String) {
    (name.to_owned(), port)
}
