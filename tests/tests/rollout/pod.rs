//! One pod, with the work of its kubelet: starting its container, probing it, and terminating it in
//! the order that Kubernetes documents.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use tickstorm_testkit::TempDir;
use tickstorm_tests::manifests::{Labels, Manifests, Workload};
use tickstorm_timebase::{Clock as _, Mono, SystemClock};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::engine::{docker, outcome};
use crate::probe::Prober;
use crate::run::{RunArguments, run, write_volumes};

/// The time limit for a new pod to become ready, which is shorter than the Deployment's progress
/// deadline.
const READY_MAX: Duration = Duration::from_secs(120);

/// A pod that was created, and may have terminated since.
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) container: Container,
    pub(crate) ip: Ipv4Addr,
    /// The id of the container.
    pub(crate) id: String,
    grace: Duration,
    state: watch::Sender<PodState>,
    /// When the pod started to terminate; `None` before that.
    terminating_since: Mutex<Option<Mono>>,
    probes: Mutex<JoinSet<()>>,
    volumes: TempDir,
}

/// The state of a pod as its kubelet would report it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum PodState {
    /// Not ready, with the reason.
    NotReady(String),
    ReadySince(Mono),
    /// Exited, with the container's exit code.
    Exited(String),
    /// Failed, with a description of the fault.
    Failed(String),
}

impl Pod {
    /// Creates a pod and returns as soon as its container runs.
    pub(crate) async fn start(
        manifests: &Manifests,
        workload: &Workload,
        name: String,
        network: &str,
    ) -> Arc<Self> {
        let RunArguments { arguments, volumes } = run(manifests, workload, &name, network);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let id = docker(&arguments).await;
        docker(&["start", &id]).await;
        let ip = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
        let ip = docker(&["inspect", "--format", &ip, &id]).await;
        let grace = workload.pod.termination_grace_period_seconds.unwrap_or(30);
        let pod = Arc::new(Self {
            labels: workload.labels.clone(),
            container: workload.pod.containers[0].clone(),
            ip: ip
                .parse()
                .unwrap_or_else(|_| panic!("{name} exited immediately: its address is {ip:?}")),
            grace: Duration::from_secs(grace.try_into().expect("a time that is not negative")),
            state: watch::Sender::new(PodState::NotReady("it has just started".to_owned())),
            terminating_since: Mutex::default(),
            probes: Mutex::default(),
            volumes,
            name,
            id,
        });
        let mut probes = pod.probes.lock().unwrap();
        probes.spawn(Arc::clone(&pod).watch_exit());
        probes.spawn(Arc::clone(&pod).keep_probing());
        drop(probes);
        pod
    }

    /// Waits until the pod has been ready for `min_ready`.
    ///
    /// # Panics
    /// Panics if that takes too long, or the pod exits or fails.
    pub(crate) async fn await_available(&self, min_ready: Duration) {
        let mut state = self.state.subscribe();
        let available = async {
            loop {
                let seen = state.borrow_and_update().clone();
                let left = match seen {
                    PodState::ReadySince(since) => {
                        min_ready.saturating_sub(SystemClock.now().since(since))
                    }
                    PodState::NotReady(_) => Duration::MAX,
                    PodState::Exited(_) | PodState::Failed(_) => panic!("{}: {seen:?}", self.name),
                };
                if left.is_zero() {
                    return;
                }
                // Returns when the remaining time has passed or the state has changed.
                let _ = timeout(left, state.changed()).await;
            }
        };
        let outcome = timeout(READY_MAX + min_ready, available).await;
        assert!(
            outcome.is_ok(),
            "{} is not ready: {:?}",
            self.name,
            *self.state.borrow()
        );
    }

    /// Replaces the files of the pod's volumes, as a kubelet does after a Secret has changed.
    pub(crate) fn update_volumes(&self, manifests: &Manifests, workload: &Workload) {
        write_volumes(manifests, workload, &self.volumes);
    }

    /// Returns whether the pod passes its readiness probe.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(*self.state.borrow(), PodState::ReadySince(_))
    }

    /// Returns whether the pod has been terminating for at least `time_min`.
    pub(crate) fn is_terminating_for(&self, time_min: Duration) -> bool {
        let since = self.terminating_since.lock().unwrap();
        since.is_some_and(|since| SystemClock.now().since(since) >= time_min)
    }

    /// Returns a description of what has gone wrong with the pod, if anything has.
    pub(crate) fn fault(&self) -> Option<String> {
        match &*self.state.borrow() {
            PodState::Failed(why) => Some(format!("{}: {why}", self.name)),
            PodState::NotReady(_) | PodState::ReadySince(_) | PodState::Exited(_) => None,
        }
    }

    /// Terminates the pod: runs its preStop hook, sends SIGTERM, and waits until the container
    /// exits. If the grace period ends before that, kills the container and records a fault.
    pub(crate) async fn terminate(&self) {
        *self.terminating_since.lock().unwrap() = Some(SystemClock.now());
        let graceful = async {
            self.pre_stop().await;
            let (signalled, printed) =
                outcome(&["kill", "--signal=TERM", &self.id], self.grace).await;
            // The container may have exited during preStop.
            assert!(
                signalled || self.exit().is_some() || printed.contains("is not running"),
                "{}: {printed}",
                self.name
            );
            let mut state = self.state.subscribe();
            let _ = state
                .wait_for(|state| matches!(state, PodState::Exited(_)))
                .await;
        };
        let terminated = timeout(self.grace, graceful).await;
        if terminated.is_err() {
            docker(&["kill", &self.id]).await;
            self.fail(format!(
                "it did not exit within its grace period of {:?}",
                self.grace
            ));
        } else if let Some(code) = self.exit().filter(|code| code != "0") {
            self.fail(format!("when terminated, it exited with code {code}"));
        }
        self.probes.lock().unwrap().abort_all();
    }

    async fn pre_stop(&self) {
        let lifecycle = self.container.lifecycle.as_ref();
        let Some(stop) = lifecycle.and_then(|lifecycle| lifecycle.pre_stop.as_ref()) else {
            return;
        };
        if let Some(pause) = &stop.sleep {
            sleep(Duration::from_secs(
                pause
                    .seconds
                    .try_into()
                    .expect("a time that is not negative"),
            ))
            .await;
        } else if let Some(exec) = &stop.exec {
            let command = exec.command.iter().flatten().map(String::as_str);
            let arguments: Vec<_> = ["exec", &self.id].into_iter().chain(command).collect();
            let (succeeded, printed) = outcome(&arguments, self.grace).await;
            if !succeeded {
                self.fail(format!("preStop failed: {printed}"));
            }
        } else {
            panic!("not implemented: {stop:?}");
        }
    }

    fn exit(&self) -> Option<String> {
        match &*self.state.borrow() {
            PodState::Exited(code) => Some(code.clone()),
            PodState::NotReady(_) | PodState::ReadySince(_) | PodState::Failed(_) => None,
        }
    }

    /// Records a fault, which no later state replaces.
    fn fail(&self, why: String) {
        self.state.send_replace(PodState::Failed(why));
    }

    fn transition_to(&self, next: PodState) {
        self.state.send_if_modified(|state| {
            let stays =
                matches!(state, PodState::Failed(_) | PodState::Exited(_)) || *state == next;
            if !stays {
                *state = next;
            }
            !stays
        });
    }

    async fn watch_exit(self: Arc<Self>) {
        let (_, code) = outcome(&["wait", &self.id], Duration::MAX).await;
        let code = code.trim().to_owned();
        if self.is_terminating_for(Duration::ZERO) {
            self.transition_to(PodState::Exited(code));
        } else {
            self.fail(format!("its container exited by itself with code {code}"));
        }
    }

    /// Runs the startup probe until it succeeds, then the liveness and readiness probes side by
    /// side. The readiness probe continues until the pod has terminated.
    async fn keep_probing(self: Arc<Self>) {
        if let Some(startup) = self.prober(self.container.startup_probe.as_ref())
            && let Err(why) = await_start(&startup).await
        {
            return self.fail(format!("its startup probe failed: {why}"));
        }
        let liveness = self.prober(self.container.liveness_probe.as_ref());
        let readiness = self.prober(self.container.readiness_probe.as_ref());
        tokio::join!(
            self.watch_liveness(liveness),
            self.watch_readiness(readiness)
        );
    }

    fn prober(&self, probe: Option<&Probe>) -> Option<Prober> {
        probe.map(|probe| Prober::new(probe, &self.container, &self.id, self.ip))
    }

    async fn watch_liveness(&self, liveness: Option<Prober>) {
        let Some(liveness) = liveness else { return };
        let why = await_failure(&liveness).await;
        if !self.is_terminating_for(Duration::ZERO) {
            self.fail(format!(
                "its liveness probe failed, so a kubelet would restart it: {why}"
            ));
        }
    }

    async fn watch_readiness(&self, readiness: Option<Prober>) {
        let Some(readiness) = readiness else {
            return self.transition_to(PodState::ReadySince(SystemClock.now()));
        };
        loop {
            let note = |why| self.transition_to(PodState::NotReady(why));
            await_success(&readiness, note).await;
            self.transition_to(PodState::ReadySince(SystemClock.now()));
            let why = await_failure(&readiness).await;
            self.transition_to(PodState::NotReady(why));
        }
    }
}

/// Probes until a probe succeeds or the failure threshold is reached. Returns the last failure's
/// reason in that case.
async fn await_start(prober: &Prober) -> Result<(), String> {
    sleep(prober.initial_delay()).await;
    let mut failures = 0;
    loop {
        let Err(why) = prober.ask().await else {
            return Ok(());
        };
        failures += 1;
        if failures >= prober.failures_max() {
            return Err(why);
        }
        sleep(prober.period()).await;
    }
}

/// Probes until the success threshold is reached, and passes the reason of each failure to `note`.
async fn await_success(prober: &Prober, note: impl Fn(String)) {
    let mut successes = 0;
    while successes < prober.successes_min() {
        match prober.ask().await {
            Ok(()) => successes += 1,
            Err(why) => {
                successes = 0;
                note(why);
            }
        }
        sleep(prober.period()).await;
    }
}

/// Probes until the failure threshold is reached, and returns the last failure's reason.
async fn await_failure(prober: &Prober) -> String {
    let mut failures = 0;
    loop {
        match prober.ask().await {
            Ok(()) => failures = 0,
            Err(why) => {
                failures += 1;
                if failures >= prober.failures_max() {
                    return why;
                }
            }
        }
        sleep(prober.period()).await;
    }
}
