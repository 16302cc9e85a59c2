//! Checks who can reach the load balancer and in which form, the components that turn TLS on, and
//! that certificates and keys reach the pods as files that can be renewed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{ConfigMap, Service, Volume};
use tickstorm_testkit::CertificateAuthority;
use tickstorm_tests::certificates::requests;
use tickstorm_tests::manifests::{
    COMPONENTS, Manifests, OVERLAYS, build, build_own, name, repository,
};

use super::containers::{effective_settings, setting};
use super::{container, daemon, each_overlay, full_environment, nats_files, read};

/// The annotations that decide whether a balancer has a public address: the value on a private
/// network, and the public one, if there is one. Without the annotation, Azure's and Google's
/// balancers are public, while AWS' existing balancer stays as it is.
const REACH: [(&str, &str, Option<&str>); 3] = [
    (
        "service.beta.kubernetes.io/aws-load-balancer-scheme",
        "internal",
        Some("internet-facing"),
    ),
    (
        "service.beta.kubernetes.io/azure-load-balancer-internal",
        "true",
        Some("false"),
    ),
    ("networking.gke.io/load-balancer-type", "Internal", None),
];

/// Returns an operator's own overlay: `prod` with these components, in this order.
pub(super) fn prod_with(components: &[&str]) -> String {
    let components: String = components
        .iter()
        .map(|component| format!("  - ../../components/{component}\n"))
        .collect();
    format!("resources:\n  - ../prod\ncomponents:\n{components}")
}

fn balancer(manifests: &Manifests) -> &Service {
    let balancers: Vec<_> = manifests
        .services
        .iter()
        .filter(|service| service.spec.as_ref().unwrap().type_.as_deref() == Some("LoadBalancer"))
        .collect();
    let [balancer] = balancers[..] else {
        panic!("expected one load balancer, found {balancers:?}");
    };
    assert_eq!(name(&balancer.metadata), "edge");
    balancer
}

/// Returns whether clouds give the balancer a public address.
fn is_public(manifests: &Manifests) -> bool {
    let annotations = balancer(manifests).metadata.annotations.as_ref().unwrap();
    let found = REACH.map(|(annotation, ..)| annotations.get(annotation).map(String::as_str));
    if found == REACH.map(|(_, private, _)| Some(private)) {
        return false;
    }
    assert_eq!(
        found,
        REACH.map(|(.., public)| public),
        "the balancer is public in some clouds and private in others"
    );
    true
}

/// Returns whether edges serve clients over TLS, by the edge's own account.
fn edges_use_tls(manifests: &Manifests) -> bool {
    let settings = effective_settings(manifests, manifests.workload("edge"), "tickstorm-edge");
    setting(&settings, "TLS_ENABLED") == "true"
}

#[test]
fn a_balancer_is_public_only_if_clients_use_tls() {
    let of = |overlay| {
        let manifests = Manifests::of(overlay);
        (is_public(&manifests), edges_use_tls(&manifests))
    };
    assert_eq!(
        OVERLAYS.map(|overlay| (overlay, of(overlay))),
        [
            ("dev", (false, false)),
            ("prod", (false, false)),
            ("prod-proxy-protocol", (false, false)),
            ("prod-tls", (true, true)),
        ]
    );
    let own = build_own(&prod_with(&["tls"])).unwrap();
    let own = Manifests::read(&own).with_certificates();
    assert_eq!((is_public(&own), edges_use_tls(&own)), (false, true));
}

#[test]
fn no_overlay_can_make_the_balancer_public_without_tls() {
    for components in [&["public"][..], &["public", "tls"], &["nats-tls", "public"]] {
        let error = build_own(&prod_with(components)).unwrap_err();
        assert!(
            error.contains("tickstorm~1transport"),
            "{components:?}: {error}"
        );
    }
}

#[test]
fn every_component_fits_the_daemons() {
    let mut dirs: Vec<_> = fs::read_dir(repository().join("k8s/components"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    dirs.sort();
    assert_eq!(dirs, COMPONENTS);
    for (components, settings) in [
        (&["tls"][..], &["TLS_CERT_FILE", "TLS_KEY_FILE"][..]),
        (&["tls", "public"], &["TLS_CERT_FILE"]),
        (&["tls", "mtls"], &["TLS_CA_FILE"]),
        (
            &["nats-tls"],
            &["NATS_CA_FILE", "NATS_CERT_FILE", "NATS_KEY_FILE"],
        ),
        (&["proxy-protocol"], &["PROXY_TRUSTED"]),
        (
            &["nats-tls", "tls", "mtls", "public", "proxy-protocol"],
            &["NATS_CA_FILE", "TLS_CA_FILE", "PROXY_TRUSTED"],
        ),
    ] {
        println!("components {components:?}");
        let mut own = prod_with(components);
        if components.contains(&"proxy-protocol") {
            own += &trusted_balancers();
        }
        let yaml = build_own(&own).unwrap();
        let mut manifests = Manifests::read(&yaml).with_certificates();
        manifests.config_maps.push(client_authorities());
        let edge = effective_settings(&manifests, manifests.workload("edge"), "tickstorm-edge");
        for name in settings {
            assert_ne!(setting(&edge, name), "", "{name} is not set");
        }
        for clock in manifests.running("clock") {
            effective_settings(&manifests, clock, "tickstorm-clock");
        }
    }
}

/// Returns the patches of the overlay `prod-proxy-protocol`, which name the networks that its edges
/// trust.
fn trusted_balancers() -> String {
    let overlay = read("k8s/overlays/prod-proxy-protocol/kustomization.yaml");
    let patches = overlay.find("patches:").expect("patches");
    overlay[patches..].to_owned()
}

#[test]
fn the_patch_in_the_readme_adds_a_revocation_list() {
    let readme = read("k8s/README.md");
    let mut blocks = readme.split("```\n");
    let patch = blocks.find(|block| block.starts_with("patches:")).unwrap();
    let yaml = build_own(&(prod_with(&["tls", "mtls"]) + patch)).unwrap();
    let mut manifests = Manifests::read(&yaml).with_certificates();
    manifests.config_maps.push(client_authorities());
    let edge = effective_settings(&manifests, manifests.workload("edge"), "tickstorm-edge");
    assert_ne!(setting(&edge, "TLS_CRL_FILE"), "");
}

/// Returns the ConfigMap that `k8s/README.md` tells operators of the component `mtls` to make.
fn client_authorities() -> ConfigMap {
    let authority = CertificateAuthority::new();
    let map = serde_json::json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": "edge-clients" },
        "data": { "ca.crt": authority.certificate(), "ca.crl": authority.revoke(&[]) },
    });
    serde_json::from_value(map).unwrap()
}

#[test]
fn nats_servers_use_tls_exactly_if_clocks_and_edges_require_it() {
    each_overlay(|manifests| {
        let files = nats_files(manifests);
        let nats = container(manifests.workload("nats"));
        let started = nats
            .args
            .iter()
            .flatten()
            .any(|arg| arg.contains("nats-tls.conf"));
        let configuration = &files[Path::new("/etc/nats/nats-tls.conf")];
        let named = ["cert_file", "key_file", "ca_file"].map(|setting| {
            let mut lines = configuration.lines();
            let value = lines.find_map(|line| line.trim().strip_prefix(setting)?.strip_prefix(':'));
            PathBuf::from(value.unwrap().trim().trim_matches('"'))
        });
        for file in named {
            assert_eq!(files.contains_key(&file), started, "{}", file.display());
        }
        for workload in ["clock", "edge"]
            .iter()
            .flat_map(|of| manifests.running(of))
        {
            let program = format!("tickstorm-{}", workload.program());
            let settings = effective_settings(manifests, workload, &program);
            for name in ["NATS_CA_FILE", "NATS_CERT_FILE", "NATS_KEY_FILE"] {
                assert_eq!(!setting(&settings, name).is_empty(), started, "{name}");
            }
        }
    });
}

#[test]
fn the_certificate_of_nats_names_every_server() {
    let manifests = Manifests::of("prod-tls");
    let request = requests()
        .into_iter()
        .find(|one| one.secret == "nats-tls")
        .unwrap();
    let nats = manifests.workload("nats");
    let pods = 0..manifests.replicas(nats);
    let pods: Vec<_> = pods.map(|ordinal| format!("nats-{ordinal}.nats")).collect();
    assert_eq!(request.names, pods);
}

#[test]
fn secret_files_are_mounted_as_directories_that_only_the_pods_group_reads() {
    each_overlay(|manifests| {
        for workload in &manifests.workloads {
            let group = workload.pod.security_context.as_ref().unwrap().fs_group;
            for volume in workload.pod.volumes.iter().flatten() {
                let Some((mode, has_items)) = secret_volume(volume) else {
                    continue;
                };
                let name = &volume.name;
                assert_eq!(mode, Some(0o440), "{}: {name}", workload.name);
                assert_eq!(group, Some(65_532), "{}", workload.name);
                assert!(has_items, "{}: {name} has all keys", workload.name);
                let mounts = container(workload).volume_mounts.iter().flatten();
                let mounts: Vec<_> = mounts.filter(|mount| mount.name == *name).collect();
                let [mount] = mounts[..] else {
                    panic!("{}: {name} has {} mounts", workload.name, mounts.len());
                };
                // With a subPath, the file would never change.
                assert!(mount.sub_path.is_none() && mount.sub_path_expr.is_none());
                assert_eq!(mount.read_only, Some(true));
            }
        }
    });
}

/// Returns the mode of a volume with a Secret's files, and whether it has only certain keys of the
/// Secret.
fn secret_volume(volume: &Volume) -> Option<(Option<i32>, bool)> {
    if let Some(secret) = &volume.secret {
        return Some((secret.default_mode, secret.items.is_some()));
    }
    let projected = volume.projected.as_ref()?;
    let mut secrets = projected
        .sources
        .iter()
        .flatten()
        .filter_map(|source| source.secret.as_ref())
        .peekable();
    secrets.peek()?;
    let has_items = secrets.all(|secret| secret.items.is_some());
    Some((projected.default_mode, has_items))
}

#[test]
fn every_path_to_a_secret_file_is_one_of_the_mounted_files() {
    each_overlay(|manifests| {
        for workload in &manifests.workloads {
            let container = container(workload);
            if daemon(container).is_none() {
                continue;
            }
            let files = tickstorm_tests::kubelet::files(manifests, &workload.pod, container);
            for (name, value) in full_environment(manifests, workload) {
                let is_file = files.iter().any(|file| file.path == Path::new(&value));
                assert!(
                    is_file || !name.ends_with("_FILE"),
                    "{name} names {value}, which no volume contains"
                );
            }
        }
    });
}

#[test]
fn nothing_in_the_repository_and_no_overlay_contains_a_certificates_key() {
    each_file(&repository().join("k8s"), &mut |path| {
        let content = fs::read(path).unwrap();
        let text = String::from_utf8_lossy(&content);
        assert!(!text.contains("PRIVATE KEY-----"), "{}", path.display());
    });
    for overlay in OVERLAYS {
        let manifests = Manifests::read(&build(overlay));
        let secrets: BTreeSet<_> = manifests
            .secrets
            .iter()
            .map(|secret| name(&secret.metadata))
            .collect();
        let clocks = manifests.running("clock").map(|clock| clock.name.as_str());
        let expected: BTreeSet<_> = clocks.chain(["edge", "nats"]).collect();
        assert_eq!(secrets, expected, "{overlay}");
    }
}

fn each_file(dir: &Path, check: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            each_file(&path, check);
        } else {
            check(&path);
        }
    }
}

#[test]
fn cert_manager_is_asked_for_exactly_the_secrets_that_pods_mount() {
    let asked: BTreeSet<_> = requests()
        .into_iter()
        .map(|request| request.secret)
        .collect();
    let manifests = Manifests::of("prod-tls");
    let volumes = manifests
        .workloads
        .iter()
        .flat_map(|workload| workload.pod.volumes.iter().flatten());
    let mounted: BTreeSet<_> = volumes
        .filter_map(|volume| volume.secret.as_ref()?.secret_name.clone())
        .collect();
    let own = Manifests::read(&build("prod-tls")).secrets;
    let own: BTreeSet<_> = own
        .iter()
        .map(|secret| name(&secret.metadata).to_owned())
        .collect();
    assert_eq!(asked, &mounted - &own);
}
