//! The edge under test: a process started by the load generator. It runs a clock, the in-memory bus
//! and the edge's library, and carries out orders from its standard input.
//!
//! The bare loops that the edge is compared with also run in this process, so that both use the
//! same CPUs at the same time of day.

mod accept;
mod bare;
mod echo;
mod feeding;
mod sampler;

use std::io::{self, BufRead, Write};
use std::sync::{Arc, Mutex};

use tickstorm_clock::Replica;
use tickstorm_command::{Failure, Pair, credentials, logs};
use tickstorm_edge::Edge;
use tickstorm_edge::FdTables;
use tickstorm_edge::settings::{AHEAD_MS, BATCH_WINDOW_MS, FD_TABLES, SHARDS, WRITE_DEADLINE_MS};
use tickstorm_service::admin::Admin;
use tickstorm_service::env::Settings;
use tickstorm_service::exit;
use tickstorm_service::lifecycle::Lifecycle;
use tickstorm_service::metrics;
use tickstorm_timebase::{Clock as _, SystemClock};
use tokio::runtime::Runtime;

use self::accept::ListenError;
use self::sampler::Sampler;
use super::machine;
use super::orders::{ChildAnswer, ChildOrder, Drained, EdgeFacts};

/// The time that the edge may take to learn authority time.
const READY_WITHIN: std::time::Duration = std::time::Duration::from_secs(20);

/// The threads of a daemon's runtime, which the admin port shares with the timekeeper.
const DAEMON_THREADS: usize = 2;

/// Run the edge under test of `bench` (internal)
#[derive(Debug, clap::Args)]
pub struct BenchEdge {
    /// CPUs to run on, separated by commas
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
    /// Most open files, instead of the system's limit
    #[arg(long)]
    files_max: Option<u64>,
    /// Serve the admin port at ADMIN_ADDR
    #[arg(long)]
    admin: bool,
}

impl BenchEdge {
    /// Runs until standard input ends.
    pub fn run(&self) -> Result<(), Failure> {
        if !self.cpus.is_empty() {
            machine::pin(&self.cpus).map_err(|error| {
                let what = format!("can't pin the edge to CPUs {:?}", self.cpus);
                Failure::new(exit::UNAVAILABLE, anyhow::Error::new(error).context(what))
            })?;
        }
        if let Some(files_max) = self.files_max {
            machine::limit_files(files_max).map_err(|error| {
                let what = format!("can't lower the limit of open files to {files_max}");
                Failure::new(exit::UNAVAILABLE, anyhow::Error::new(error).context(what))
            })?;
        }
        let settings = Pair::load_settings_with_tls(&credentials::DEFAULTS)?;
        credentials::refuse_known_password(&settings)?;
        // Buffered log lines are written when this is dropped.
        let _logs = logs::start(&settings)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(if self.admin { DAEMON_THREADS } else { 1 })
            .enable_all()
            .build()
            .map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        let under_test = Arc::new(runtime.block_on(UnderTest::start(&settings, self.admin))?);
        write_answer(
            &under_test.output,
            &ChildAnswer::Ready(under_test.ready.clone()),
        );
        run_orders(&under_test, &runtime);
        // The process exits next, so there is nothing to wait for.
        runtime.shutdown_background();
        Ok(())
    }
}

/// Everything that orders act on.
struct UnderTest {
    edge: Edge,
    /// Stops when this is dropped.
    _clock: Replica,
    sampler: Sampler,
    ready: EdgeFacts,
    /// Whether each shard has its own table of open files.
    per_shard: bool,
    output: Arc<Mutex<io::Stdout>>,
}

impl UnderTest {
    async fn start(settings: &Settings, has_admin_port: bool) -> Result<Self, Failure> {
        let pair = Pair::from_settings(settings);
        let registry = metrics::registry().map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        // As in a daemon, its socket is opened before those of the edge.
        let admin = match has_admin_port {
            true => Some(Admin::from_settings(settings, &registry).await),
            false => None,
        };
        let admin = admin
            .transpose()
            .map_err(|error| Failure::new(error.exit_code(), error))?;
        let (clock, edge) = pair.start(&registry).await?;
        let admin_addr = admin.as_ref().map(Admin::local_addr);
        if let Some(admin) = admin {
            let admin = admin
                .with_routes(edge.routes())
                .with_spare_files(edge.spare_files());
            // It is served until the process exits.
            let tasks = Lifecycle::new();
            let stopping = tasks.stopping();
            tasks.spawn(admin.serve(registry.clone(), edge.health(), stopping));
        }
        let per_shard = settings.get(&FD_TABLES) == FdTables::PerShard;
        let sampler = Sampler::new(edge.health(), registry, per_shard);
        let known = tokio::time::timeout(READY_WITHIN, sampler.time_is_known()).await;
        known.map_err(|_| {
            let text =
                format!("the edge under test did not learn the time within {READY_WITHIN:?}");
            Failure::message(exit::UNAVAILABLE, text)
        })?;
        let millis = |of| u64::try_from(settings.get::<std::time::Duration>(of).as_millis());
        let ready = EdgeFacts {
            addr: edge.listen_addr(),
            admin: admin_addr,
            shards: settings.get(&SHARDS),
            connections_max: sampler.connections_max(),
            ahead_ms: millis(&AHEAD_MS).unwrap_or(u64::MAX),
            write_deadline_ms: millis(&WRITE_DEADLINE_MS).unwrap_or(u64::MAX),
            batch_window_ms: millis(&BATCH_WINDOW_MS).unwrap_or(u64::MAX),
        };
        Ok(Self {
            edge,
            _clock: clock,
            sampler,
            ready,
            per_shard,
            output: Arc::new(Mutex::new(io::stdout())),
        })
    }
}

impl UnderTest {
    async fn drain(&self) -> Drained {
        let started = SystemClock.now();
        self.edge.drain().await;
        let took = SystemClock.now().since(started);
        Drained {
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            left: self.sampler.sample(false).connections,
        }
    }
}

/// Carries out orders until standard input ends.
fn run_orders(under_test: &Arc<UnderTest>, runtime: &Runtime) {
    let mut accepting = None;
    let mut echoing = None;
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        let answer = match serde_json::from_str(&line) {
            Err(error) => Some(ChildAnswer::Failed(format!("{error} in {line}"))),
            Ok(ChildOrder::Sample { all }) => {
                Some(ChildAnswer::Sample(under_test.sampler.sample(all)))
            }
            Ok(ChildOrder::Burst(burst)) => {
                let (fed, output) = (Arc::clone(under_test), Arc::clone(&under_test.output));
                std::thread::spawn(move || {
                    let cpu_us = feeding::feed(&fed.edge, burst);
                    write_answer(&output, &ChildAnswer::Burst { cpu_us });
                });
                None
            }
            Ok(ChildOrder::Bare(burst)) => {
                let under_test = Arc::clone(under_test);
                runtime.spawn(async move {
                    let offset_ns = under_test.sampler.offset_ns().unwrap_or_default();
                    let bare = bare::send(&under_test.edge, burst, offset_ns).await;
                    write_answer(&under_test.output, &ChildAnswer::Bare(bare));
                });
                None
            }
            Ok(ChildOrder::Accept) => {
                let own_files = under_test.per_shard;
                let started = accept::AcceptLoops::start(under_test.ready.shards, own_files);
                Some(keep_running(started, &mut accepting))
            }
            Ok(ChildOrder::AcceptEnd) => Some(match accepting.take() {
                Some(running) => ChildAnswer::AcceptEnd(accept::AcceptLoops::stop(running)),
                None => ChildAnswer::Failed("no accept loop is running".into()),
            }),
            Ok(ChildOrder::Echo { pong_len }) => {
                Some(keep_running(echo::EchoLoop::start(pong_len), &mut echoing))
            }
            Ok(ChildOrder::Drain) => {
                let under_test = Arc::clone(under_test);
                runtime.spawn(async move {
                    let drained = under_test.drain().await;
                    write_answer(&under_test.output, &ChildAnswer::Drained(drained));
                });
                None
            }
            Ok(ChildOrder::EchoUsage) => Some(match &echoing {
                Some(echo) => ChildAnswer::EchoUsage(echo::EchoLoop::usage(echo)),
                None => ChildAnswer::Failed("no echo loop is running".into()),
            }),
        };
        if let Some(answer) = answer {
            write_answer(&under_test.output, &answer);
        }
    }
}

/// Stores a loop that was started, and returns the address that it listens on.
fn keep_running<T>(
    started: Result<(T, std::net::SocketAddr), ListenError>,
    running: &mut Option<T>,
) -> ChildAnswer {
    match started {
        Ok((bare_loop, addr)) => {
            *running = Some(bare_loop);
            ChildAnswer::Listening(addr)
        }
        Err(error) => ChildAnswer::Failed(format!("can't start a bare loop: {error}")),
    }
}

fn write_answer(output: &Mutex<io::Stdout>, answer: &ChildAnswer) {
    let Ok(mut line) = serde_json::to_string(answer) else {
        return;
    };
    line.push('\n');
    // If the load generator is gone, standard input ends too, which ends this process.
    if let Ok(mut output) = output.lock() {
        let _ = output
            .write_all(line.as_bytes())
            .and_then(|()| output.flush());
    }
}
