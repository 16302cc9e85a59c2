//! The manifests of `k8s/` as `kubectl apply -k` would send them, parsed into Kubernetes' own
//! types. Tests examine these objects rather than the files that they are built from.

mod workload;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tickstorm_testkit::{TempDir, tool};

pub use self::workload::{Update, Workload};
use crate::certificates::{Authorities, requests};

/// The names of all overlays.
pub const OVERLAYS: [&str; 4] = ["dev", "prod", "prod-proxy-protocol", "prod-tls"];

/// The names of all components.
pub const COMPONENTS: [&str; 6] = [
    "monitoring",
    "mtls",
    "nats-tls",
    "proxy-protocol",
    "public",
    "tls",
];

/// The overlays with secrets of their own. Others use those of the overlay that they extend.
const WITH_SECRETS: [&str; 2] = ["dev", "prod"];

/// Labels of an object, or a selector's labels.
pub type Labels = BTreeMap<String, String>;

/// All objects of one overlay, by kind.
#[derive(Debug, Default)]
pub struct Manifests {
    /// The namespaces, of which there must be one.
    pub namespaces: Vec<Namespace>,
    /// The settings, and files that are not secret.
    pub config_maps: Vec<ConfigMap>,
    /// The passwords and other credentials.
    pub secrets: Vec<Secret>,
    /// The DNS names and the load balancers.
    pub services: Vec<Service>,
    /// The Deployments and StatefulSets.
    pub workloads: Vec<Workload>,
    /// The limits on how many pods may be evicted at a time.
    pub budgets: Vec<PodDisruptionBudget>,
    /// The rules for the number of pods.
    pub autoscalers: Vec<HorizontalPodAutoscaler>,
    /// The classes of importance that pods may name.
    pub priorities: Vec<PriorityClass>,
    /// The rules for connections between pods.
    pub policies: Vec<NetworkPolicy>,
    /// The objects of the Prometheus Operator, whose types are not among Kubernetes' own.
    pub monitors: Vec<Value>,
    /// The authorities that have signed the certificates in the Secrets, if there are any.
    pub authorities: Option<Authorities>,
}

impl Manifests {
    /// Builds an overlay with the examples' secrets, parses it, and adds the Secrets with
    /// certificates that `k8s/cert-manager.yaml` asks for.
    ///
    /// # Panics
    /// Panics if it can't be built or parsed.
    #[must_use]
    pub fn of(overlay: &str) -> Self {
        Self::read(&build(overlay)).with_certificates()
    }

    /// Adds the Secrets with certificates that `k8s/cert-manager.yaml` asks for.
    ///
    /// # Panics
    /// Panics if the manifests already contain one of them.
    #[must_use]
    pub fn with_certificates(mut self) -> Self {
        self.add_certificates(Authorities::new());
        self
    }

    /// Replaces all certificates by new ones. That of the edges comes from a new authority.
    ///
    /// # Panics
    /// Panics if there are no certificates to replace.
    pub fn renew_certificates(&mut self) {
        let authorities = self.authorities.take().expect("certificates were added");
        let old = requests();
        self.secrets
            .retain(|secret| old.iter().all(|one| one.secret != name(&secret.metadata)));
        self.add_certificates(authorities.with_new_public());
    }

    fn add_certificates(&mut self, authorities: Authorities) {
        for secret in authorities.issue() {
            let mut known = self.secrets.iter();
            let is_new = known.all(|own| own.metadata.name != secret.metadata.name);
            assert!(is_new, "the manifests contain {}", name(&secret.metadata));
            self.secrets.push(secret);
        }
        self.authorities = Some(authorities);
    }

    /// Parses the YAML that building an overlay has produced.
    ///
    /// # Panics
    /// Panics if it can't be parsed, or contains an object of an unknown kind.
    #[must_use]
    pub fn read(yaml: &str) -> Self {
        let objects: Vec<Value> = serde_saphyr::from_multiple(yaml)
            .unwrap_or_else(|error| panic!("could not parse the manifests: {error}\n{yaml}"));
        let mut manifests = Self::default();
        for object in objects {
            manifests.add(object);
        }
        manifests
    }

    /// Returns the name of the namespace that all objects are in.
    ///
    /// # Panics
    /// Panics if the manifests do not define exactly one namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        let [namespace] = &self.namespaces[..] else {
            panic!("expected one namespace, found {:?}", self.namespaces);
        };
        name(&namespace.metadata)
    }

    /// Returns the workload named `wanted`.
    ///
    /// # Panics
    /// Panics if there is none.
    #[must_use]
    pub fn workload(&self, wanted: &str) -> &Workload {
        let found = self.workloads.iter().find(|one| one.name == wanted);
        found.unwrap_or_else(|| panic!("no workload is named {wanted}"))
    }

    /// Returns the workloads whose pods run this program: `clock`, `edge` or `nats`. Each clock has
    /// a workload of its own.
    pub fn running<'a>(&'a self, program: &'a str) -> impl Iterator<Item = &'a Workload> {
        let all = self.workloads.iter();
        all.filter(move |one| one.program() == program)
    }

    /// Returns how many pods a workload starts with: the number that it sets or, if it sets none,
    /// its autoscaler's minimum.
    ///
    /// # Panics
    /// Panics if neither is set.
    #[must_use]
    pub fn replicas(&self, workload: &Workload) -> u32 {
        let scaled = || {
            let mut autoscalers = self.autoscalers.iter().filter_map(|one| one.spec.as_ref());
            let own = autoscalers.find(|spec| spec.scale_target_ref.name == workload.name)?;
            own.min_replicas?.try_into().ok()
        };
        workload
            .replicas
            .or_else(scaled)
            .unwrap_or_else(|| panic!("nothing sets the number of {}'s pods", workload.name))
    }

    fn add(&mut self, object: Value) {
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        match kind.as_str() {
            "Namespace" => self.namespaces.push(typed(object)),
            "ConfigMap" => self.config_maps.push(typed(object)),
            "Secret" => self.secrets.push(typed(unwrapped(object))),
            "Service" => self.services.push(typed(object)),
            "Deployment" => self
                .workloads
                .push(Workload::from_deployment(typed(object))),
            "StatefulSet" => self
                .workloads
                .push(Workload::from_stateful_set(typed(object))),
            "PodDisruptionBudget" => self.budgets.push(typed(object)),
            "HorizontalPodAutoscaler" => self.autoscalers.push(typed(object)),
            "PriorityClass" => self.priorities.push(typed(object)),
            "NetworkPolicy" => self.policies.push(typed(object)),
            "PodMonitor" | "PrometheusRule" => self.monitors.push(object),
            _ => panic!("no test examines objects of kind {kind}: {object:#}"),
        }
    }
}

/// Returns whether a selector selects objects with these labels.
///
/// # Panics
/// Panics if the selector has expressions, which the manifests do not use.
#[must_use]
pub fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    assert!(selector.match_expressions.is_none(), "{selector:?}");
    selector
        .match_labels
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value))
}

/// Returns the name of an object.
///
/// # Panics
/// Panics if it has none.
#[must_use]
pub fn name(metadata: &ObjectMeta) -> &str {
    metadata
        .name
        .as_deref()
        .unwrap_or_else(|| panic!("no name: {metadata:?}"))
}

/// Builds an overlay with `kubectl kustomize`, with `secrets.example` in place of an installation's
/// own secrets, and returns the YAML.
///
/// # Panics
/// Panics if the overlay can't be built.
#[must_use]
pub fn build(overlay: &str) -> String {
    kustomize(&copy_of_sources(), overlay)
        .unwrap_or_else(|error| panic!("could not build the overlay {overlay}: {error}"))
}

/// Builds an operator's own overlay, which consists of this `kustomization.yaml` in a directory
/// beside the other overlays.
///
/// # Errors
/// Returns what kubectl printed if it can't build the overlay.
///
/// # Panics
/// Panics if kubectl can't be run.
pub fn build_own(kustomization: &str) -> Result<String, String> {
    let sources = copy_of_sources();
    let overlay = sources.path().join("k8s/overlays/own");
    fs::create_dir(&overlay).expect("a new directory");
    fs::write(overlay.join("kustomization.yaml"), kustomization).expect("a new file");
    kustomize(&sources, "own")
}

/// Copies the directories that overlays refer to, so that an installation's secrets in the working
/// tree are neither used nor overwritten.
fn copy_of_sources() -> TempDir {
    let root = repository();
    let dir = TempDir::new("k8s");
    for source in ["k8s", "deploy/nats", "deploy/nats-logins", "deploy/grafana"] {
        copy(&root.join(source), &dir.path().join(source));
    }
    for overlay in WITH_SECRETS {
        let secrets = dir
            .path()
            .join("k8s/overlays")
            .join(overlay)
            .join("secrets");
        // Those of an installation, if there are any, were copied with the overlay.
        if secrets.exists() {
            fs::remove_dir_all(&secrets).expect("a directory that can be removed");
        }
        copy(&root.join("k8s/secrets.example"), &secrets);
    }
    dir
}

fn kustomize(sources: &TempDir, overlay: &str) -> Result<String, String> {
    let output = Command::new(tool("kubectl"))
        .arg("kustomize")
        .arg(sources.path().join("k8s/overlays").join(overlay))
        .output();
    let output = output.unwrap_or_else(|error| {
        panic!("could not run kubectl, which `cargo xtask test tests` installs: {error}")
    });
    // A warning is also a failure.
    let stderr = String::from_utf8_lossy(&output.stderr);
    if output.status.success() && stderr.is_empty() {
        Ok(String::from_utf8(output.stdout).expect("manifests are text"))
    } else {
        Err(stderr.into_owned())
    }
}

/// Returns the path of the repository's root.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap_or_else(|error| panic!("{}: {error}", to.display()));
    let entries = fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    for entry in entries {
        let from = entry.expect("an entry").path();
        let to = to.join(from.file_name().expect("a name"));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        }
    }
}

/// Joins the lines of a Secret's values. Kustomize wraps long values, and Kubernetes ignores the
/// newlines in them, but k8s-openapi does not.
fn unwrapped(mut secret: Value) -> Value {
    let data = secret["data"].as_object_mut();
    for value in data.into_iter().flat_map(|data| data.values_mut()) {
        let joined = value.as_str().expect("text").replace('\n', "");
        *value = Value::String(joined);
    }
    secret
}

/// Converts an object to one of Kubernetes' own types, or to a test's.
///
/// # Panics
/// Panics if it does not fit.
#[must_use]
pub fn typed<T: DeserializeOwned>(object: Value) -> T {
    let shown = object.to_string();
    serde_json::from_value(object).unwrap_or_else(|error| panic!("{error}: {shown}"))
}
