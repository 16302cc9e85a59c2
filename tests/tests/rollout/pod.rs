//! One pod, as its kubelet cares for it: starts its container, probes it, and ends it in the order that Kubernetes promises.

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
use crate::run::{RunArguments, run};

/// Until a new pod is ready, at most; a Deployment's own deadline is longer.
const READY_BOUND: Duration = Duration::from_secs(120);

/// A pod, from its creation on.
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) container: Container,
    pub(crate) ip: Ipv4Addr,
    /// The engine's name of it.
    pub(crate) id: String,
    grace: Duration,
    state: watch::Sender<PodState>,
    /// When its end began.
    ending: Mutex<Option<Mono>>,
    probes: Mutex<JoinSet<()>>,
    _volumes: TempDir,
}

/// What its kubelet would tell of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum PodState {
    NotReady(String),
    ReadySince(Mono),
    /// The container's exit code.
    Exited(String),
    /// What must not be.
    Failed(String),
}

impl Pod {
    /// Starts it; returns when its container runs.
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
                .unwrap_or_else(|_| panic!("{name} ended at once: {ip}")),
            grace: Duration::from_secs(grace.try_into().expect("no negative time")),
            state: watch::Sender::new(PodState::NotReady("it has just started".to_owned())),
            ending: Mutex::default(),
            probes: Mutex::default(),
            _volumes: volumes,
            name,
            id,
        });
        let mut probes = pod.probes.lock().unwrap();
        probes.spawn(Arc::clone(&pod).watch_exit());
        probes.spawn(Arc::clone(&pod).keep_probing());
        drop(probes);
        pod
    }

    /// Waits until it has been ready for that long.
    ///
    /// # Panics
    /// Where that takes too long, or the pod fails.
    pub(crate) async fn be_available(&self, min_ready: Duration) {
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
                // Either the time is over, or something has changed.
                let _ = timeout(left, state.changed()).await;
            }
        };
        let outcome = timeout(READY_BOUND + min_ready, available).await;
        assert!(
            outcome.is_ok(),
            "{} is not ready: {:?}",
            self.name,
            *self.state.borrow()
        );
    }

    /// Whether it passes its readiness probe.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(*self.state.borrow(), PodState::ReadySince(_))
    }

    /// Whether its end began at least that long ago.
    pub(crate) fn is_ending_for(&self, least: Duration) -> bool {
        let ending = self.ending.lock().unwrap();
        ending.is_some_and(|since| SystemClock.now().since(since) >= least)
    }

    /// Says what has gone wrong with it, if anything has.
    pub(crate) fn fault(&self) -> Option<String> {
        match &*self.state.borrow() {
            PodState::Failed(why) => Some(format!("{}: {why}", self.name)),
            PodState::NotReady(_) | PodState::ReadySince(_) | PodState::Exited(_) => None,
        }
    }

    /// Ends it: preStop, the signal, and, where its grace period is over before its container has ended, the end without a word, which is
    /// a failure here.
    pub(crate) async fn end(&self) {
        *self.ending.lock().unwrap() = Some(SystemClock.now());
        let orderly = async {
            self.pre_stop().await;
            let (signalled, said) = outcome(&["kill", "--signal=TERM", &self.id], self.grace).await;
            // Its preStop may have ended it.
            assert!(
                signalled || self.exit().is_some() || said.contains("is not running"),
                "{}: {said}",
                self.name
            );
            let mut state = self.state.subscribe();
            let _ = state
                .wait_for(|state| matches!(state, PodState::Exited(_)))
                .await;
        };
        let ended = timeout(self.grace, orderly).await;
        if ended.is_err() {
            docker(&["kill", &self.id]).await;
            self.fail(format!(
                "it had not ended after its {:?} of grace",
                self.grace
            ));
        } else if let Some(code) = self.exit().filter(|code| code != "0") {
            self.fail(format!(
                "it was asked to end and did so with exit code {code}"
            ));
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
                pause.seconds.try_into().expect("no negative time"),
            ))
            .await;
        } else if let Some(exec) = &stop.exec {
            let command = exec.command.iter().flatten().map(String::as_str);
            let arguments: Vec<_> = ["exec", &self.id].into_iter().chain(command).collect();
            let (succeeded, said) = outcome(&arguments, self.grace).await;
            if !succeeded {
                self.fail(format!("preStop: {said}"));
            }
        } else {
            panic!("not built here: {stop:?}");
        }
    }

    fn exit(&self) -> Option<String> {
        match &*self.state.borrow() {
            PodState::Exited(code) => Some(code.clone()),
            PodState::NotReady(_) | PodState::ReadySince(_) | PodState::Failed(_) => None,
        }
    }

    /// Whatever becomes of it later, that it failed stays.
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
        if self.is_ending_for(Duration::ZERO) {
            self.transition_to(PodState::Exited(code));
        } else {
            self.fail(format!(
                "its container ended by itself, with exit code {code}"
            ));
        }
    }

    /// First its start alone; then its life and its readiness, each by itself. Its readiness is asked for until it is gone.
    async fn keep_probing(self: Arc<Self>) {
        if let Some(startup) = self.prober(self.container.startup_probe.as_ref())
            && let Err(why) = succeeds_at_last(&startup).await
        {
            return self.fail(format!("it does not start: {why}"));
        }
        let liveness = self.prober(self.container.liveness_probe.as_ref());
        let readiness = self.prober(self.container.readiness_probe.as_ref());
        tokio::join!(self.watch_life(liveness), self.watch_readiness(readiness));
    }

    fn prober(&self, probe: Option<&Probe>) -> Option<Prober> {
        probe.map(|probe| Prober::new(probe, &self.container, &self.id, self.ip))
    }

    async fn watch_life(&self, liveness: Option<Prober>) {
        let Some(liveness) = liveness else { return };
        let why = fails_at_last(&liveness).await;
        if !self.is_ending_for(Duration::ZERO) {
            self.fail(format!("a kubelet would restart it: {why}"));
        }
    }

    async fn watch_readiness(&self, readiness: Option<Prober>) {
        let Some(readiness) = readiness else {
            return self.transition_to(PodState::ReadySince(SystemClock.now()));
        };
        loop {
            let note = |why| self.transition_to(PodState::NotReady(why));
            succeeds_in_a_row(&readiness, note).await;
            self.transition_to(PodState::ReadySince(SystemClock.now()));
            let why = fails_at_last(&readiness).await;
            self.transition_to(PodState::NotReady(why));
        }
    }
}

/// Asks until an answer is good, or the last one that is granted is not.
async fn succeeds_at_last(prober: &Prober) -> Result<(), String> {
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

/// Asks until as many answers in a row are good as it takes, and tells why others were not.
async fn succeeds_in_a_row(prober: &Prober, note: impl Fn(String)) {
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

/// Asks until as many answers in a row are bad as it takes; the last one.
async fn fails_at_last(prober: &Prober) -> String {
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
