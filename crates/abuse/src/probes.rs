//! [`HealthProbes`]: a thread that asks an admin port for its health all the time, as an
//! orchestrator and a load balancer do, and how long the answers take.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use serde::Serialize;
use tickstorm_bench::machine;
use tickstorm_timebase::{Clock as _, Mono, SystemClock};

use crate::http;

/// The pause between two probes.
const INTERVAL: Duration = Duration::from_millis(100);
/// The time after which a probe is given up, as an orchestrator would.
const PATIENCE: Duration = Duration::from_secs(5);

/// Probes an admin port until this is dropped.
pub(crate) struct HealthProbes {
    answers: Arc<Mutex<Vec<ProbeAnswer>>>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// The answers to the probes of a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct ProbeCounts {
    pub(crate) asked: u64,
    /// Probes without an answer, or whose answer says that the process is not alive.
    pub(crate) failed: u64,
    /// The longest time that an answer took, in milliseconds.
    pub(crate) worst_ms: f64,
}

/// The answer to one probe.
#[derive(Clone, Copy, Debug)]
struct ProbeAnswer {
    asked: Mono,
    took: Duration,
    is_good: bool,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
enum Probe {
    /// Must be answered with 200.
    Live,
    /// Must be answered; an edge without descriptors rightly says that it is not ready.
    Ready,
}

impl Probe {
    const ALL: [Self; 2] = [Self::Live, Self::Ready];

    const fn path(self) -> &'static str {
        match self {
            Self::Live => "/health/live",
            Self::Ready => "/health/ready",
        }
    }

    const fn accepts(self, status: u16) -> bool {
        match self {
            Self::Live => status == 200,
            Self::Ready => status == 200 || status == 503,
        }
    }
}

impl HealthProbes {
    /// Starts a thread on these CPUs; all if there are none.
    pub(crate) fn start(admin: SocketAddr, cpus: Vec<usize>) -> io::Result<Self> {
        let answers = Arc::<Mutex<Vec<ProbeAnswer>>>::default();
        let stopped = Arc::new(AtomicBool::new(false));
        let (found, stopping) = (Arc::clone(&answers), Arc::clone(&stopped));
        let run = move || {
            if !cpus.is_empty() {
                machine::pin(&cpus)?;
            }
            for probe in Probe::ALL.into_iter().cycle() {
                if stopping.load(Ordering::Relaxed) {
                    break;
                }
                let answer = ask(admin, probe);
                found
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(answer);
                std::thread::sleep(INTERVAL);
            }
            Ok(())
        };
        Ok(Self {
            answers,
            stopped,
            thread: Some(Builder::new().name("probes".into()).spawn(run)?),
        })
    }

    /// Returns the answers to probes of this time.
    pub(crate) fn counts(&self, from: Mono, until: Mono) -> ProbeCounts {
        let mut counts = ProbeCounts::default();
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        for answer in answers.iter() {
            if (from..until).contains(&answer.asked) {
                counts.add(answer);
            }
        }
        // Earlier ones are not asked for again.
        answers.retain(|answer| answer.asked >= until);
        counts
    }
}

impl ProbeCounts {
    fn add(&mut self, answer: &ProbeAnswer) {
        self.asked += 1;
        self.failed += u64::from(!answer.is_good);
        self.worst_ms = self.worst_ms.max(answer.took.as_secs_f64() * 1_000.0);
    }

    /// Adds the answers of another edge.
    pub(crate) fn with(self, other: Self) -> Self {
        Self {
            asked: self.asked + other.asked,
            failed: self.failed + other.failed,
            worst_ms: self.worst_ms.max(other.worst_ms),
        }
    }
}

impl Drop for HealthProbes {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => eprintln!("abuse: the probes have failed: {error}"),
            Some(Err(_)) => eprintln!("abuse: the probes have panicked"),
        }
    }
}

fn ask(admin: SocketAddr, probe: Probe) -> ProbeAnswer {
    let asked = SystemClock.now();
    let answer = http::get(admin, probe.path(), PATIENCE);
    ProbeAnswer {
        asked,
        took: SystemClock.now().since(asked),
        is_good: answer.is_ok_and(|answer| probe.accepts(answer.status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_may_be_not_ready_but_must_be_alive() {
        assert!(Probe::Live.accepts(200) && Probe::Ready.accepts(200));
        assert!(!Probe::Live.accepts(503) && Probe::Ready.accepts(503));
        assert!(!Probe::Live.accepts(429) && !Probe::Ready.accepts(429));
    }

    #[test]
    fn the_worst_answer_counts_and_so_does_each_failure() {
        let answer = |ms, is_good| ProbeAnswer {
            asked: Mono::ZERO,
            took: Duration::from_millis(ms),
            is_good,
        };
        let mut counts = ProbeCounts::default();
        for answer in [answer(3, true), answer(20, true), answer(5, false)] {
            counts.add(&answer);
        }
        let expected = ProbeCounts {
            asked: 3,
            failed: 1,
            worst_ms: 20.0,
        };
        assert_eq!(counts, expected);
        assert_eq!(ProbeCounts::default().with(counts), expected);
    }

    #[test]
    fn a_port_on_which_nothing_listens_fails_the_probe() {
        let addr = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap();
        assert!(!ask(addr, Probe::Live).is_good);
    }
}
