//! Clients that use the Rust client: they receive ticks ahead and release them at their time. Each
//! measures, by its own estimate of authority time, how exactly it does so.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hdrhistogram::Histogram;
use tickstorm_client::{Event, Options, connect};
use tokio::sync::watch;

use super::generator::{ClientSetup, histogram};
use super::machine;

/// The largest number of threads. Each releases the ticks of its clients one after another, at the
/// same moment as the other threads, and therefore has its own CPU.
const THREADS_MAX: usize = 2;

/// Releasing clients on their own threads, which end when this is dropped.
pub(crate) struct ReleasingClients {
    lateness: Arc<Mutex<Histogram<u64>>>,
    /// Whether the measurement has started.
    measuring: Arc<AtomicBool>,
    count: u32,
    /// Ends the threads when it is dropped.
    _ending: watch::Sender<()>,
}

impl ReleasingClients {
    /// Connects `count` clients to the edge that the other clients are connected to.
    pub(crate) fn start(count: u32, setup: &ClientSetup) -> anyhow::Result<Self> {
        let lateness = Arc::new(Mutex::new(histogram()));
        let measuring = Arc::<AtomicBool>::default();
        let (ending, ended) = watch::channel(());
        let mut cpus = if setup.cpus.is_empty() {
            machine::cpus()
        } else {
            setup.cpus.clone()
        };
        cpus.truncate(THREADS_MAX);
        for (thread, cpu) in (0..count).zip(cpus.clone()) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let clients: Vec<_> = (thread..count)
                .step_by(cpus.len())
                .map(|_| {
                    let mut options = setup
                        .credentials
                        .apply_to(Options::new(setup.addr.to_string()))
                        .client_id("tickstorm bench")
                        .ahead(true);
                    if let Some(tls) = &setup.tls {
                        options = options.tls(tls.options.clone());
                    }
                    follow(options, Arc::clone(&lateness), Arc::clone(&measuring))
                })
                .collect();
            let mut ended = ended.clone();
            std::thread::Builder::new()
                .name("released".into())
                .spawn(move || {
                    // Real clients have their own hosts. If this is refused, the thread competes
                    // with all others here.
                    let _ = machine::raise_priority();
                    // For the same reason, each thread has its own CPU. If it is a CPU of the edge,
                    // the clients show up in the edge's figures.
                    let _ = machine::pin(&[cpu]);
                    runtime.block_on(async {
                        for client in clients {
                            tokio::spawn(client);
                        }
                        // An error means that the sender was dropped.
                        let _ = ended.changed().await;
                    });
                })?;
        }
        Ok(Self {
            lateness,
            measuring,
            count,
            _ending: ending,
        })
    }

    /// Starts to count ticks. Earlier ones arrived while clients were still connecting, and some of
    /// them after their time.
    pub(crate) fn start_measuring(&self) {
        self.measuring.store(true, Ordering::Relaxed);
    }

    /// Returns the deviations of the releases from the ticks' times, in nanoseconds; `None` if
    /// there are no clients.
    pub(crate) fn finish(self) -> Option<Histogram<u64>> {
        let lateness = self.lateness.lock().unwrap_or_else(PoisonError::into_inner);
        (self.count > 0).then(|| lateness.clone())
    }
}

/// Follows the edge with one client and counts its releases. If the client fails, its ticks are not
/// counted.
async fn follow(
    options: Options,
    lateness: Arc<Mutex<Histogram<u64>>>,
    measuring: Arc<AtomicBool>,
) {
    let Ok(mut ticks) = connect(options).await else {
        return;
    };
    while let Some(Ok(event)) = ticks.next().await {
        let Event::Tick(tick) = event else { continue };
        if !measuring.load(Ordering::Relaxed) {
            continue;
        }
        let Some(late_us) = tick.late_us() else {
            continue;
        };
        let lateness_ns = late_us.unsigned_abs().saturating_mul(1_000).max(1);
        lateness
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .saturating_record(lateness_ns);
    }
}
