//! All pods of an overlay, with the work of a cluster's controllers: creating pods, replacing them
//! in the order of a rollout, and terminating them. On drop, all containers and the network are
//! removed. If the test has failed, the ends of all containers' logs are printed first.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tickstorm_testkit::{TempDir, poll_until};
use tickstorm_tests::manifests::{Manifests, Update, Workload};
use tokio::task::JoinSet;

use crate::engine::{LABEL, docker, docker_now};
use crate::pod::Pod;
use crate::update::{Rollout, RolloutStep, share};

/// The option that limits how much of a container's log is printed.
const LOG_LINES_MAX: &str = "--tail=80";

/// The time limit for a line in a log. NATS servers notice renewed certificates within a minute.
const LOG_TIME_MAX: Duration = Duration::from_secs(120);

/// All pods that were ever created. Terminated pods are kept, since they still have their logs.
pub(crate) type Pods = Arc<Mutex<Vec<Arc<Pod>>>>;

/// An overlay whose pods are running.
pub(crate) struct RunningOverlay {
    pub(crate) manifests: Manifests,
    /// The current pods of each workload, oldest first, in the order of workloads in the manifests.
    running: Vec<Vec<Arc<Pod>>>,
    pods: Pods,
    network: String,
    /// The number of pods created so far, which makes the names of a Deployment's pods unique.
    created: u32,
}

impl RunningOverlay {
    /// Starts all pods in no particular order, and waits until they are available.
    pub(crate) async fn apply(manifests: Manifests) -> Self {
        let name = TempDir::new("rollout");
        let name = name
            .path()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        docker(&["network", "create", &format!("--label={LABEL}"), &name]).await;
        let mut cluster = Self {
            running: manifests.workloads.iter().map(|_| Vec::new()).collect(),
            pods: Pods::default(),
            network: name,
            created: 0,
            manifests,
        };
        for index in 0..cluster.manifests.workloads.len() {
            let wanted = cluster.wanted(index);
            for ordinal in 0..wanted {
                let pod = cluster.create(index, ordinal).await;
                cluster.running[index].push(pod);
            }
        }
        for (index, pods) in cluster.running.iter().enumerate() {
            for pod in pods {
                pod.await_available(cluster.min_ready(index)).await;
            }
        }
        cluster
    }

    /// Returns all pods that were ever created.
    pub(crate) fn pods(&self) -> Pods {
        Arc::clone(&self.pods)
    }

    /// Replaces all pods of a workload, in an order that Kubernetes guarantees. If it waits for an
    /// operator to delete a pod, deletes it.
    pub(crate) async fn roll(&mut self, workload: &str) {
        let index = self
            .manifests
            .workloads
            .iter()
            .position(|one| one.name == workload);
        let index = index.unwrap_or_else(|| panic!("no workload is named {workload}"));
        match &self.workload(index).update {
            Update::Surge { surge, unavailable } => {
                let wanted = self.wanted(index);
                let rollout = Rollout {
                    wanted,
                    surge: share(surge, wanted, true),
                    unavailable: share(unavailable, wanted, false),
                    old: wanted,
                    new: 0,
                    available: 0,
                };
                self.roll_with_surge(index, rollout).await;
            }
            Update::Ordinals { .. } => self.roll_by_ordinals(index).await,
        }
    }

    /// Replaces a Deployment's pods. Old pods terminate in the background, as in a cluster, and are
    /// awaited at the end.
    async fn roll_with_surge(&mut self, index: usize, mut rollout: Rollout) {
        let mut terminating = JoinSet::new();
        let mut old = std::mem::take(&mut self.running[index]).into_iter();
        loop {
            match rollout.next() {
                RolloutStep::Create => {
                    let pod = self.create(index, 0).await;
                    self.running[index].push(pod);
                    rollout.new += 1;
                }
                RolloutStep::Await => {
                    let newest = usize::try_from(rollout.available).unwrap();
                    self.running[index][newest]
                        .await_available(self.min_ready(index))
                        .await;
                    rollout.available += 1;
                }
                RolloutStep::Delete => {
                    let pod = old.next().unwrap();
                    terminating.spawn(async move { pod.terminate().await });
                    rollout.old -= 1;
                }
                RolloutStep::Done => break,
            }
        }
        terminating.join_all().await;
    }

    async fn roll_by_ordinals(&mut self, index: usize) {
        for ordinal in (0..self.wanted(index)).rev() {
            let nth = usize::try_from(ordinal).unwrap();
            self.running[index][nth].terminate().await;
            let pod = self.create(index, ordinal).await;
            pod.await_available(self.min_ready(index)).await;
            self.running[index][nth] = pod;
        }
    }

    /// Replaces all certificates by new ones in the volumes of all running pods.
    pub(crate) fn renew_certificates(&mut self) {
        self.manifests.renew_certificates();
        for (workload, pods) in self.manifests.workloads.iter().zip(&self.running) {
            for pod in pods {
                pod.update_volumes(&self.manifests, workload);
            }
        }
    }

    /// Waits until the log of each pod of a workload contains `text`.
    pub(crate) fn await_log(&self, workload: &str, text: &str) {
        for (of, pods) in self.manifests.workloads.iter().zip(&self.running) {
            for pod in pods.iter().filter(|_| of.name == workload) {
                let what = format!("{} logs {text:?}", pod.name);
                poll_until(&what, LOG_TIME_MAX, || {
                    docker_now(&["logs", &pod.id]).contains(text)
                });
            }
        }
    }

    /// Terminates all pods and asserts that each stops within its grace period.
    pub(crate) async fn delete(&mut self) {
        let mut terminating = JoinSet::new();
        for pod in self.running.iter().flatten().map(Arc::clone) {
            terminating.spawn(async move { pod.terminate().await });
        }
        terminating.join_all().await;
        self.assert_no_faults();
    }

    /// Asserts that nothing has gone wrong with any pod so far.
    pub(crate) fn assert_no_faults(&self) {
        let faults: Vec<_> = self
            .pods
            .lock()
            .unwrap()
            .iter()
            .filter_map(|pod| pod.fault())
            .collect();
        assert!(faults.is_empty(), "{faults:#?}");
    }

    async fn create(&mut self, index: usize, ordinal: u32) -> Arc<Pod> {
        let workload = self.workload(index);
        let name = match &workload.update {
            Update::Ordinals { .. } => format!("{}-{ordinal}", workload.name),
            Update::Surge { .. } => format!("{}-{}", workload.name, self.created),
        };
        let pod = Pod::start(&self.manifests, workload, name, &self.network).await;
        self.created += 1;
        self.pods.lock().unwrap().push(Arc::clone(&pod));
        pod
    }

    fn workload(&self, index: usize) -> &Workload {
        &self.manifests.workloads[index]
    }

    fn wanted(&self, index: usize) -> u32 {
        self.manifests.replicas(self.workload(index))
    }

    fn min_ready(&self, index: usize) -> Duration {
        Duration::from_secs(self.workload(index).min_ready_seconds.into())
    }
}

impl Drop for RunningOverlay {
    fn drop(&mut self) {
        let pods = self
            .pods
            .lock()
            .map(|pods| pods.clone())
            .unwrap_or_default();
        for pod in &pods {
            if thread::panicking() {
                eprintln!(
                    "--- log of {}:\n{}",
                    pod.name,
                    docker_now(&["logs", LOG_LINES_MAX, &pod.id])
                );
            }
            docker_now(&["rm", "--force", "--volumes", &pod.id]);
        }
        docker_now(&["network", "rm", &self.network]);
    }
}
