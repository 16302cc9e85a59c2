//! Deployments and StatefulSets in one form, with the fields that tests examine.

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Labels, name};

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
        /// Whether a pod is only replaced when an operator deletes it.
        waits_for_delete: bool,
    },
}

impl Workload {
    /// Returns what the workload's pods run: `clock`, `edge` or `nats`, which is the name of their
    /// first container. A component may put another one beside it.
    ///
    /// # Panics
    /// Panics if the pods have no container.
    #[must_use]
    pub fn program(&self) -> &str {
        let [container, ..] = &self.pod.containers[..] else {
            panic!("{} has no container", self.name);
        };
        &container.name
    }

    pub(super) fn from_deployment(deployment: Deployment) -> Self {
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

    pub(super) fn from_stateful_set(set: StatefulSet) -> Self {
        let spec = set.spec.expect("a spec");
        let strategy = spec.update_strategy.and_then(|strategy| strategy.type_);
        Self {
            name: name(&set.metadata).to_owned(),
            replicas: Some(spec.replicas.map_or(1, unsigned)),
            min_ready_seconds: spec.min_ready_seconds.map_or(0, unsigned),
            selector: spec.selector,
            labels: labels(spec.template.metadata.as_ref()),
            pod: spec.template.spec.expect("a pod"),
            update: Update::Ordinals {
                service: spec.service_name.expect("a StatefulSet names its Service"),
                waits_for_delete: strategy.as_deref() == Some("OnDelete"),
            },
        }
    }
}

fn labels(metadata: Option<&ObjectMeta>) -> Labels {
    metadata
        .and_then(|metadata| metadata.labels.clone())
        .unwrap_or_default()
}

fn unsigned(number: i32) -> u32 {
    number.try_into().expect("a number that is not negative")
}
