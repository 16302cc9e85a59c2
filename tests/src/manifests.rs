//! The manifests of `k8s/` as `kubectl apply -k` would send them, parsed into Kubernetes' own
//! types. Tests examine these objects rather than the files that they are built from.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PodSpec, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tickstorm_testkit::{TempDir, tool};

/// The names of all overlays.
pub const OVERLAYS: [&str; 2] = ["dev", "prod"];

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
    /// The rules for connections between pods.
    pub policies: Vec<NetworkPolicy>,
}

/// A Deployment or a StatefulSet.
#[derive(Debug)]
pub struct Workload {
    /// The workload's name.
    pub name: String,
    /// The number of pods, if the workload sets it.
    pub replicas: Option<u32>,
    /// The time for which a pod must have been ready to count as available, in seconds.
    pub min_ready_seconds: u32,
    /// The selector of the workload's pods.
    pub selector: LabelSelector,
    /// The labels of the pods.
    pub labels: Labels,
    /// The specification of the pods.
    pub pod: PodSpec,
    /// The way in which pods are replaced.
    pub update: Update,
}

/// The way in which a workload replaces its pods.
#[derive(Debug)]
pub enum Update {
    /// A Deployment's: new pods may start before old ones end.
    Surge {
        /// The number of pods that may exist in addition to the wanted number.
        surge: IntOrString,
        /// The number of pods by which the available ones may fall below the wanted number.
        unavailable: IntOrString,
    },
    /// A StatefulSet's: one pod after the other, starting with the highest ordinal.
    Ordinals {
        /// The headless Service that gives the pods their DNS names.
        service: String,
    },
}

impl Manifests {
    /// Builds an overlay with the secrets of `.env.example`, and parses it.
    ///
    /// # Panics
    /// Panics if it can't be built or parsed.
    #[must_use]
    pub fn of(overlay: &str) -> Self {
        Self::read(&build(overlay))
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
            "Secret" => self.secrets.push(typed(object)),
            "Service" => self.services.push(typed(object)),
            "Deployment" => self
                .workloads
                .push(Workload::from_deployment(typed(object))),
            "StatefulSet" => self
                .workloads
                .push(Workload::from_stateful_set(typed(object))),
            "PodDisruptionBudget" => self.budgets.push(typed(object)),
            "HorizontalPodAutoscaler" => self.autoscalers.push(typed(object)),
            "NetworkPolicy" => self.policies.push(typed(object)),
            _ => panic!("no test examines objects of kind {kind}: {object:#}"),
        }
    }
}

impl Workload {
    fn from_deployment(deployment: Deployment) -> Self {
        let spec = deployment.spec.expect("a spec");
        let rolling = spec.strategy.and_then(|strategy| strategy.rolling_update);
        // Kubernetes' default.
        let default = || IntOrString::String("25%".to_owned());
        let (surge, unavailable) = rolling.map_or((None, None), |rolling| {
            (rolling.max_surge, rolling.max_unavailable)
        });
        Self {
            name: name(&deployment.metadata).to_owned(),
            replicas: spec.replicas.map(unsigned),
            min_ready_seconds: spec.min_ready_seconds.map_or(0, unsigned),
            selector: spec.selector,
            labels: labels(spec.template.metadata.as_ref()),
            pod: spec.template.spec.expect("a pod"),
            update: Update::Surge {
                surge: surge.unwrap_or_else(default),
                unavailable: unavailable.unwrap_or_else(default),
            },
        }
    }

    fn from_stateful_set(set: StatefulSet) -> Self {
        let spec = set.spec.expect("a spec");
        Self {
            name: name(&set.metadata).to_owned(),
            replicas: Some(spec.replicas.map_or(1, unsigned)),
            min_ready_seconds: spec.min_ready_seconds.map_or(0, unsigned),
            selector: spec.selector,
            labels: labels(spec.template.metadata.as_ref()),
            pod: spec.template.spec.expect("a pod"),
            update: Update::Ordinals {
                service: spec.service_name.expect("a StatefulSet names its Service"),
            },
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

/// Builds an overlay with `kubectl kustomize`, with `.env.example` in place of an installation's
/// own secrets, and returns the YAML.
///
/// # Panics
/// Panics if the overlay can't be built.
#[must_use]
pub fn build(overlay: &str) -> String {
    let root = repository();
    let dir = TempDir::new("k8s");
    // Build a copy of the directories that overlays refer to, so that an installation's `.env` in
    // the working tree is neither used nor overwritten.
    for source in ["k8s", "deploy/nats"] {
        copy(&root.join(source), &dir.path().join(source));
    }
    let overlay = dir.path().join("k8s/overlays").join(overlay);
    fs::copy(root.join("k8s/.env.example"), overlay.join(".env"))
        .expect("an overlay reads its secrets from .env");
    let output = Command::new(tool("kubectl"))
        .arg("kustomize")
        .arg(&overlay)
        .output();
    let output = output.unwrap_or_else(|error| {
        panic!("could not run kubectl, which `cargo xtask test tests` installs: {error}")
    });
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "could not build {}: {stderr}",
        overlay.display()
    );
    assert!(
        stderr.is_empty(),
        "kubectl printed a warning about {}: {stderr}",
        overlay.display()
    );
    String::from_utf8(output.stdout).expect("manifests are text")
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

fn typed<T: DeserializeOwned>(object: Value) -> T {
    let shown = object.to_string();
    serde_json::from_value(object).unwrap_or_else(|error| panic!("{error}: {shown}"))
}

fn labels(metadata: Option<&ObjectMeta>) -> Labels {
    metadata
        .and_then(|metadata| metadata.labels.clone())
        .unwrap_or_default()
}

fn unsigned(number: i32) -> u32 {
    number.try_into().expect("a number that is not negative")
}
