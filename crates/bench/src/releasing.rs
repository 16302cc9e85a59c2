//! Clients of the Rust client that take ticks ahead and release them at their time: how exactly, by their own estimate.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hdrhistogram::Histogram;
use tickstorm_client::{Event, Options, connect};
use tokio::sync::watch;

use super::generator::{ClientSetup, histogram};
use super::machine;

/// Each releases its clients' ticks one after the other, at the same moment as the others: on a CPU of its own, where it waits for nobody.
const THREADS_MAX: usize = 2;

/// Them, on threads of their own. They end with this.
pub(crate) struct ReleasingClients {
    late: Arc<Mutex<Histogram<u64>>>,
    /// Whether what is measured has begun.
    begun: Arc<AtomicBool>,
    count: u32,
    /// Ends the threads when it goes.
    _ending: watch::Sender<()>,
}

impl ReleasingClients {
    /// So many clients of the edge that the others are clients of.
    pub(crate) fn start(count: u32, setup: &ClientSetup) -> anyhow::Result<Self> {
        let late = Arc::new(Mutex::new(histogram()));
        let begun = Arc::<AtomicBool>::default();
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
                    let options = setup
                        .credentials
                        .put_into(Options::new(setup.addr.to_string()))
                        .client_id("tickstorm bench")
                        .ahead(true);
                    follow(options, Arc::clone(&late), Arc::clone(&begun))
                })
                .collect();
            let mut ended = ended.clone();
            std::thread::Builder::new()
                .name("released".into())
                .spawn(move || {
                    // Real ones have hosts of their own; where that is refused, they wait behind all others here.
                    let _ = machine::go_first();
                    // Likewise; on a CPU of the edge's they are seen in its figures.
                    let _ = machine::pin(&[cpu]);
                    runtime.block_on(async {
                        for client in clients {
                            tokio::spawn(client);
                        }
                        // An error says that the sender has gone.
                        let _ = ended.changed().await;
                    });
                })?;
        }
        Ok(Self {
            late,
            begun,
            count,
            _ending: ending,
        })
    }

    /// Ticks count from now on: those of before came while clients did, and some of them after their time.
    pub(crate) fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    /// How late ticks were released, in nanoseconds; none without clients.
    pub(crate) fn finish(self) -> Option<Histogram<u64>> {
        let late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        (self.count > 0).then(|| late.clone())
    }
}

/// What fails shows by ticks that are not counted.
async fn follow(options: Options, late: Arc<Mutex<Histogram<u64>>>, begun: Arc<AtomicBool>) {
    let Ok(mut ticks) = connect(options).await else {
        return;
    };
    while let Some(Ok(event)) = ticks.next().await {
        let Event::Tick(tick) = event else { continue };
        if !begun.load(Ordering::Relaxed) {
            continue;
        }
        let Some(late_us) = tick.late_us() else {
            continue;
        };
        let late_ns = late_us.unsigned_abs().saturating_mul(1_000).max(1);
        late.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .saturating_record(late_ns);
    }
}
