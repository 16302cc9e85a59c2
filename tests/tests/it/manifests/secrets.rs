//! Checks that each clock has a login of its own, and that no pod can read the secrets of another
//! one, except NATS servers, which know all logins.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use k8s_openapi::api::core::v1::Volume;
use tickstorm_tests::kubelet::files;
use tickstorm_tests::manifests::{Manifests, Workload};

use super::containers::{effective_settings, setting};
use super::{container, each_overlay, full_environment, nats_files};

/// The login of a clock or of the edges for NATS.
struct Login {
    user: String,
    password: String,
    /// The block of permissions.conf that the login needs.
    permissions: String,
}

/// Returns the logins that the daemons use, by the name of their workload.
fn logins(manifests: &Manifests) -> BTreeMap<&str, Login> {
    let daemons = ["clock", "edge"]
        .iter()
        .flat_map(|of| manifests.running(of));
    let logins = daemons.map(|workload| {
        let program = format!("tickstorm-{}", workload.program());
        let settings = effective_settings(manifests, workload, &program);
        let of_user = file_of(manifests, workload, "NATS_USER_FILE");
        assert_eq!(setting(&settings, "NATS_USER"), of_user);
        let login = Login {
            user: of_user,
            password: file_of(manifests, workload, "NATS_PASSWORD_FILE"),
            permissions: workload.name.to_uppercase().replace('-', "_"),
        };
        (workload.name.as_str(), login)
    });
    logins.collect()
}

/// Returns the content of the file that a setting of a workload names.
fn file_of(manifests: &Manifests, workload: &Workload, setting: &str) -> String {
    let environment = full_environment(manifests, workload);
    let path = environment.iter().find(|(name, _)| name == setting);
    let (_, path) = path.unwrap_or_else(|| panic!("{} has no {setting}", workload.name));
    let files = files(manifests, &workload.pod, container(workload));
    let file = files.iter().find(|file| file.path == Path::new(path));
    let content = &file.unwrap_or_else(|| panic!("no file {path}")).content;
    String::from_utf8(content.clone()).unwrap()
}

#[test]
fn every_login_is_one_of_nats_and_has_the_permissions_of_its_clock_or_of_edges() {
    each_overlay(|manifests| {
        let users = &nats_files(manifests)[Path::new("/etc/nats-logins/users.conf")];
        let logins = logins(manifests);
        for (workload, login) in &logins {
            let Login {
                user,
                password,
                permissions,
            } = login;
            assert_eq!(user, workload);
            let line = format!(
                "{{ user: {user}, password: \"{password}\", permissions: ${permissions} }}"
            );
            assert!(users.contains(&line), "no {line} in {users}");
        }
        let passwords: BTreeSet<_> = logins.values().map(|login| &login.password).collect();
        assert_eq!(
            passwords.len(),
            logins.len(),
            "two logins have one password"
        );
    });
}

#[test]
fn the_permissions_of_a_clock_name_no_other_clock() {
    let permissions = super::read("deploy/nats/permissions.conf");
    let blocks = permissions.split("\n}").filter_map(|block| {
        let (name, allowed) = block.trim().rsplit_once(": {\n")?;
        Some((name.lines().last()?, allowed))
    });
    let blocks: BTreeMap<_, _> = blocks.collect();
    assert_eq!(
        blocks.keys().copied().collect::<Vec<_>>(),
        ["CLOCK_0", "CLOCK_1", "CLOCK_2", "EDGE"]
    );
    for (name, allowed) in blocks {
        let Some(number) = name.strip_prefix("CLOCK_") else {
            continue;
        };
        let subjects = allowed.split('"').skip(1).step_by(2);
        for subject in subjects.filter(|subject| *subject != "tickstorm.v1.time") {
            let id = format!(".clock-{number}");
            assert!(subject.ends_with(&id), "{name} may use {subject}");
        }
    }
}

#[test]
fn no_pod_can_read_the_password_of_another_one() {
    each_overlay(|manifests| {
        let logins = logins(manifests);
        for workload in ["clock", "edge"]
            .iter()
            .flat_map(|of| manifests.running(of))
        {
            let files = files(manifests, &workload.pod, container(workload));
            let files = files
                .iter()
                .map(|file| String::from_utf8_lossy(&file.content));
            let environment = full_environment(manifests, workload);
            let variables = environment.iter().map(|(_, value)| value.as_str().into());
            for text in files.chain(variables) {
                let others = logins.iter().filter(|(of, _)| **of != workload.name);
                for (of, login) in others {
                    assert!(
                        !text.contains(&login.password),
                        "{} can read the password of {of}",
                        workload.name
                    );
                }
            }
        }
    });
}

/// Kubernetes lets a node read every Secret that one of its pods refers to, and all of its keys.
#[test]
fn each_secret_belongs_to_one_workload() {
    each_overlay(|manifests| {
        let mut owners = BTreeMap::<String, BTreeSet<&str>>::new();
        for workload in &manifests.workloads {
            for secret in secrets(workload) {
                owners.entry(secret).or_default().insert(&workload.name);
            }
        }
        for (secret, owners) in owners {
            // The certificates of clocks, which are no logins, are the exception.
            let of_all_clocks = secret == "nats-clock-tls";
            assert!(owners.len() == 1 || of_all_clocks, "{secret}: {owners:?}");
        }
        for clock in manifests.running("clock") {
            assert!(secrets(clock).contains(&clock.name), "{}", clock.name);
        }
    });
}

/// Returns the names of all Secrets that a workload's pods refer to.
fn secrets(workload: &Workload) -> BTreeSet<String> {
    let container = container(workload);
    let env_from = container.env_from.iter().flatten();
    assert!(env_from.clone().all(|source| source.secret_ref.is_none()));
    let variables = container.env.iter().flatten();
    let variables = variables.filter_map(|variable| {
        let reference = variable.value_from.as_ref()?.secret_key_ref.as_ref()?;
        Some(reference.name.clone())
    });
    let volumes = workload.pod.volumes.iter().flatten().flat_map(of_volume);
    variables.chain(volumes).collect()
}

fn of_volume(volume: &Volume) -> Vec<String> {
    let own = volume.secret.iter();
    let own = own.filter_map(|secret| secret.secret_name.clone());
    let projected = volume
        .projected
        .iter()
        .flat_map(|projected| &projected.sources);
    let projected = projected
        .flatten()
        .filter_map(|source| Some(source.secret.as_ref()?.name.clone()));
    own.chain(projected).collect()
}
