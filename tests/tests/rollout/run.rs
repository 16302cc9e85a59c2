//! Translates the manifests of a pod's container into a command line of the container engine.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use nix::unistd::Uid;
use tickstorm_testkit::TempDir;
use tickstorm_tests::kubelet::{VolumeFile, environment, files};
use tickstorm_tests::manifests::{Manifests, Update, Workload, name};

use crate::engine::LABEL;

/// The command line that creates a container, and the files for it.
pub(crate) struct RunArguments {
    /// The arguments of docker, beginning with `create`.
    pub(crate) arguments: Vec<String>,
    /// The directory with the files of the volumes.
    pub(crate) volumes: TempDir,
}

/// Returns the arguments that run the container of the pod named `pod` on `network`, and writes the
/// files of its volumes.
pub(crate) fn run(
    manifests: &Manifests,
    workload: &Workload,
    pod: &str,
    network: &str,
) -> RunArguments {
    let [container] = &workload.pod.containers[..] else {
        panic!("{} does not have exactly one container", workload.name);
    };
    let volumes = TempDir::new(pod);
    let mut arguments = vec![
        "create".to_owned(),
        format!("--label={LABEL}"),
        format!("--hostname={pod}"),
        format!("--network={network}"),
    ];
    arguments.extend(names(manifests, workload, pod).map(|name| format!("--network-alias={name}")));
    arguments.extend(rights(&workload.pod, container));
    arguments.extend(resources(container));
    for (name, value) in environment(manifests, container, pod) {
        // A machine that runs tests need not be synchronised, unlike a node in production.
        let value = if name == "REQUIRE_SYNC" {
            "false".to_owned()
        } else {
            value
        };
        arguments.push(format!("--env={name}={value}"));
    }
    write_volumes(manifests, workload, &volumes);
    arguments.extend(mounts(container, &volumes));
    let mut command = container.command.iter().flatten();
    arguments.extend(
        command
            .next()
            .map(|program| format!("--entrypoint={program}")),
    );
    arguments.push(container.image.clone().expect("an image"));
    arguments.extend(command.cloned());
    arguments.extend(container.args.iter().flatten().cloned());
    RunArguments { arguments, volumes }
}

/// Returns the names that the cluster's DNS resolves to a pod: the names of its headless Services
/// and, for a StatefulSet's pod, its own name under its Service.
fn names(manifests: &Manifests, workload: &Workload, pod: &str) -> impl Iterator<Item = String> {
    let headless = manifests.services.iter().filter(|service| {
        let spec = service.spec.as_ref().expect("a spec");
        let mut selector = spec.selector.iter().flatten();
        spec.cluster_ip.as_deref() == Some("None")
            && selector.all(|(key, value)| workload.labels.get(key) == Some(value))
    });
    let mut names: Vec<_> = headless
        .map(|service| name(&service.metadata).to_owned())
        .collect();
    if let Update::Ordinals { service, .. } = &workload.update
        && names.contains(service)
    {
        names.push(format!("{pod}.{service}"));
    }
    let namespace = manifests.namespace().to_owned();
    names.into_iter().flat_map(move |name| {
        let longer =
            ["", ".svc", ".svc.cluster.local"].map(|end| format!("{name}.{namespace}{end}"));
        [name].into_iter().chain(longer)
    })
}

fn rights(pod: &PodSpec, container: &Container) -> Vec<String> {
    let of_pod = pod.security_context.as_ref().expect("a security context");
    let own = container
        .security_context
        .as_ref()
        .expect("a security context");
    let user = of_pod.run_as_user.expect("a user");
    assert!(
        user != 0 || of_pod.run_as_non_root != Some(true),
        "a kubelet would refuse to start {}: it runs as root",
        container.name
    );
    let mut arguments = vec![format!(
        "--user={user}:{}",
        of_pod.run_as_group.unwrap_or(0)
    )];
    arguments.extend(of_pod.fs_group.map(|group| format!("--group-add={group}")));
    // The engine applies its default seccomp profile by itself.
    let profile = of_pod
        .seccomp_profile
        .as_ref()
        .map(|profile| profile.type_.as_str());
    assert_eq!(profile, Some("RuntimeDefault"));
    if own.read_only_root_filesystem == Some(true) {
        arguments.push("--read-only".to_owned());
    }
    if own.allow_privilege_escalation == Some(false) {
        arguments.push("--security-opt=no-new-privileges".to_owned());
    }
    let dropped = own
        .capabilities
        .iter()
        .flat_map(|capabilities| capabilities.drop.iter().flatten());
    arguments.extend(dropped.map(|capability| format!("--cap-drop={capability}")));
    arguments
}

fn resources(container: &Container) -> Vec<String> {
    let resources = container.resources.as_ref().expect("resources");
    let amount = |amounts: &Option<std::collections::BTreeMap<String, Quantity>>,
                  resource: &str| {
        amounts
            .as_ref()
            .and_then(|amounts| amounts.get(resource))
            .map(|amount| amount.0.clone())
    };
    let memory = amount(&resources.limits, "memory").expect("a limit of memory");
    let memory = memory
        .strip_suffix('i')
        .unwrap_or_else(|| panic!("not a binary unit of memory: {memory}"));
    let cpu = amount(&resources.requests, "cpu").expect("a request of CPU");
    let thousandths = cpu
        .strip_suffix('m')
        .map_or_else(|| cpu.parse::<u64>().map(|whole| whole * 1_000), str::parse);
    let thousandths = thousandths.unwrap_or_else(|_| panic!("not an amount of CPU: {cpu}"));
    let shares = thousandths * 1_024 / 1_000;
    vec![
        format!("--memory={}", memory.to_lowercase()),
        format!("--cpu-shares={}", shares.max(2)),
    ]
}

/// Returns the arguments that mount the volumes.
fn mounts(container: &Container, volumes: &TempDir) -> Vec<String> {
    let mounted = container.volume_mounts.iter().flatten();
    mounted
        .map(|mount| {
            let dir = volumes.path().join(&mount.name);
            let mode = if mount.read_only == Some(true) {
                "ro"
            } else {
                "rw"
            };
            format!("--volume={}:{}:{mode}", dir.display(), mount.mount_path)
        })
        .collect()
}

/// Writes the files of a pod's volumes, or replaces those that exist.
pub(crate) fn write_volumes(manifests: &Manifests, workload: &Workload, volumes: &TempDir) {
    let container = &workload.pod.containers[0];
    let rights = workload.pod.security_context.as_ref();
    let group = rights.and_then(|of| of.fs_group);
    let files = files(manifests, &workload.pod, container);
    for mount in container.volume_mounts.iter().flatten() {
        let at = Path::new(&mount.mount_path);
        let dir = volumes.path().join(&mount.name);
        fs::create_dir_all(&dir).unwrap();
        for file in files.iter().filter(|file| file.path.starts_with(at)) {
            write(&dir.join(file.path.file_name().unwrap()), file, group);
        }
    }
}

/// Writes a file and gives it to the pod's group, as a kubelet does. Only root can do that, so if
/// another user runs the tests, the file is readable for everyone instead. An existing file is
/// replaced at once: no reader sees a part of the new one.
fn write(path: &Path, file: &VolumeFile, group: Option<i64>) {
    let new = path.with_extension("new");
    fs::write(&new, &file.content).unwrap();
    let mode = if Uid::effective().is_root() {
        chown(
            &new,
            Some(0),
            group.map(|group| group.try_into().expect("a group")),
        )
        .unwrap();
        file.mode
    } else {
        file.mode | 0o444
    };
    fs::set_permissions(&new, Permissions::from_mode(mode)).unwrap();
    fs::rename(new, path).unwrap();
}
