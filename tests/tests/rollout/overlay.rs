//! All pods of an overlay, and what a cluster's controllers do with them: make them, replace them in the order of a rollout,
//! end them. Whatever happens, nothing of it is left on the engine; where a test fails, everything that the containers logged
//! is shown.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tickstorm_testkit::TempDir;
use tickstorm_tests::manifests::{Manifests, Update, Workload};
use tokio::task::JoinSet;

use crate::engine::{LABEL, docker, docker_now};
use crate::pod::Pod;
use crate::update::{Rollout, RolloutStep, share};

/// What is shown of a container's log.
const LOG_LINES_MAX: &str = "--tail=80";

/// Every pod that there ever was, with its workload's name: those that ended still have their logs.
pub(crate) type Pods = Arc<Mutex<Vec<Arc<Pod>>>>;

/// An overlay that runs.
pub(crate) struct RunningOverlay {
    pub(crate) manifests: Manifests,
    /// Those that are there, the oldest first, by the index of their workload in the manifests.
    running: Vec<Vec<Arc<Pod>>>,
    pods: Pods,
    network: String,
    /// How many pods of Deployments there were: their names differ.
    made: u32,
}

impl RunningOverlay {
    /// Starts all of it, in no order, and waits until it is available.
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
            made: 0,
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
                pod.be_available(cluster.min_ready(index)).await;
            }
        }
        cluster
    }

    /// Every pod that there ever was.
    pub(crate) fn pods(&self) -> Pods {
        Arc::clone(&self.pods)
    }

    /// Replaces all pods of a workload.
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

    /// Old pods end beside what else happens, as they do in a cluster; in the end they are waited for.
    async fn roll_with_surge(&mut self, index: usize, mut rollout: Rollout) {
        let mut ending = JoinSet::new();
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
                        .be_available(self.min_ready(index))
                        .await;
                    rollout.available += 1;
                }
                RolloutStep::Delete => {
                    let pod = old.next().unwrap();
                    ending.spawn(async move { pod.end().await });
                    rollout.old -= 1;
                }
                RolloutStep::Done => break,
            }
        }
        ending.join_all().await;
    }

    async fn roll_by_ordinals(&mut self, index: usize) {
        for ordinal in (0..self.wanted(index)).rev() {
            let nth = usize::try_from(ordinal).unwrap();
            self.running[index][nth].end().await;
            let pod = self.create(index, ordinal).await;
            pod.be_available(self.min_ready(index)).await;
            self.running[index][nth] = pod;
        }
    }

    /// Ends all of it: each pod within its grace period.
    pub(crate) async fn delete(&mut self) {
        let mut ending = JoinSet::new();
        for pod in self.running.iter().flatten().map(Arc::clone) {
            ending.spawn(async move { pod.end().await });
        }
        ending.join_all().await;
        self.assert_well();
    }

    /// Says what has gone wrong with pods, if anything has.
    pub(crate) fn assert_well(&self) {
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
            Update::Surge { .. } => format!("{}-{}", workload.name, self.made),
        };
        let pod = Pod::start(&self.manifests, workload, name, &self.network).await;
        self.made += 1;
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
                    "--- {} logged:\n{}",
                    pod.name,
                    docker_now(&["logs", LOG_LINES_MAX, &pod.id])
                );
            }
            docker_now(&["rm", "--force", "--volumes", &pod.id]);
        }
        docker_now(&["network", "rm", &self.network]);
    }
}
