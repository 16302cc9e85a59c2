//! The manifests of `k8s/` as `kubectl apply -k` would send them, read into Kubernetes' own types. Everything else here looks
//! at these, and never at the files that they are built from.

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

/// Every overlay that there is.
pub const OVERLAYS: [&str; 2] = ["dev", "prod"];

/// Labels, or what they are selected by.
pub type Labels = BTreeMap<String, String>;

/// All objects of one overlay, by their kinds.
#[derive(Debug, Default)]
pub struct Manifests {
    /// Its one namespace.
    pub namespaces: Vec<Namespace>,
    /// Settings, and files that are not secret.
    pub config_maps: Vec<ConfigMap>,
    /// Secrets.
    pub secrets: Vec<Secret>,
    /// Names and balancers.
    pub services: Vec<Service>,
    /// What makes pods.
    pub workloads: Vec<Workload>,
    /// How many pods may be away at a time.
    pub budgets: Vec<PodDisruptionBudget>,
    /// What decides how many pods there are.
    pub autoscalers: Vec<HorizontalPodAutoscaler>,
    /// Who may talk to whom.
    pub policies: Vec<NetworkPolicy>,
}

/// A Deployment or a StatefulSet.
#[derive(Debug)]
pub struct Workload {
    /// Its name.
    pub name: String,
    /// Its number of pods, where it says one.
    pub replicas: Option<u32>,
    /// How long a pod has been ready before it counts as available, in seconds.
    pub min_ready_seconds: u32,
    /// Which pods are its own.
    pub selector: LabelSelector,
    /// Its pods' labels.
    pub labels: Labels,
    /// Its pods.
    pub pod: PodSpec,
    /// How it replaces them.
    pub update: Update,
}

/// How a workload replaces its pods.
#[derive(Debug)]
pub enum Update {
    /// A Deployment: new ones come before old ones go.
    Surge {
        /// How many pods there may be besides those that it is to have.
        surge: IntOrString,
        /// How many of those may be away.
        unavailable: IntOrString,
    },
    /// A StatefulSet: one after the other, from the highest ordinal on.
    Ordinals {
        /// The Service that names its pods.
        service: String,
    },
}

impl Manifests {
    /// Builds an overlay with the secrets of `.env.example`, and reads it.
    ///
    /// # Panics
    /// Where it can't be built or read.
    #[must_use]
    pub fn of(overlay: &str) -> Self {
        Self::read(&build(overlay))
    }

    /// Reads what was built.
    ///
    /// # Panics
    /// Where it is not understood.
    #[must_use]
    pub fn read(yaml: &str) -> Self {
        let objects: Vec<Value> = serde_saphyr::from_multiple(yaml)
            .unwrap_or_else(|error| panic!("not understood: {error}\n{yaml}"));
        let mut manifests = Self::default();
        for object in objects {
            manifests.take(object);
        }
        manifests
    }

    /// The namespace that all of it is in.
    ///
    /// # Panics
    /// Where there is none, or more than one.
    #[must_use]
    pub fn namespace(&self) -> &str {
        let [namespace] = &self.namespaces[..] else {
            panic!("one namespace, not {:?}", self.namespaces);
        };
        name(&namespace.metadata)
    }

    /// The workload of that name.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn workload(&self, wanted: &str) -> &Workload {
        let found = self.workloads.iter().find(|one| one.name == wanted);
        found.unwrap_or_else(|| panic!("no workload is named {wanted}"))
    }

    /// How many pods a workload has at first: its own number or, where it names none, the least that its autoscaler allows.
    ///
    /// # Panics
    /// Where neither says.
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
            .unwrap_or_else(|| panic!("how many pods has {}?", workload.name))
    }

    fn take(&mut self, object: Value) {
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
            _ => panic!("nothing here looks at a {kind}: {object:#}"),
        }
    }
}

impl Workload {
    fn from_deployment(deployment: Deployment) -> Self {
        let spec = deployment.spec.expect("a spec");
        let rolling = spec.strategy.and_then(|strategy| strategy.rolling_update);
        // What Kubernetes takes where nothing is said.
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

/// Whether a selector takes what has these labels.
///
/// # Panics
/// Where it selects by more than equality, which nothing here does.
#[must_use]
pub fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    assert!(selector.match_expressions.is_none(), "{selector:?}");
    selector
        .match_labels
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value))
}

/// The name of an object.
///
/// # Panics
/// Where it has none.
#[must_use]
pub fn name(metadata: &ObjectMeta) -> &str {
    metadata
        .name
        .as_deref()
        .unwrap_or_else(|| panic!("no name: {metadata:?}"))
}

/// What `kubectl` makes of an overlay, with the secrets of `.env.example` in the place of those that an installation fills in.
///
/// # Panics
/// Where that fails.
#[must_use]
pub fn build(overlay: &str) -> String {
    let root = repository();
    let dir = TempDir::new("k8s");
    // What the overlays may refer to, and nothing of the installation that may be in the working tree.
    for part in ["k8s", "deploy/nats"] {
        copy(&root.join(part), &dir.path().join(part));
    }
    let overlay = dir.path().join("k8s/overlays").join(overlay);
    fs::copy(root.join("k8s/.env.example"), overlay.join(".env"))
        .expect("an overlay takes secrets");
    let output = Command::new(tool("kubectl"))
        .arg("kustomize")
        .arg(&overlay)
        .output();
    let output = output.unwrap_or_else(|error| {
        panic!("manifests are built by `kubectl kustomize`: `cargo xtask test tests` installs kubectl: {error}")
    });
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{} can't be built: {stderr}",
        overlay.display()
    );
    assert!(stderr.is_empty(), "{}: {stderr}", overlay.display());
    String::from_utf8(output.stdout).expect("manifests are text")
}

/// The repository's root.
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
    number.try_into().expect("no negative number")
}
