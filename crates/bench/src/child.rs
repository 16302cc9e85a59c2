//! The edge under test: a process that the load generator starts, with a clock, the in-memory bus and the edge's library in it, that
//! obeys orders on its standard input. With it lie the bare loops that the edge is held against, so that both run in the same
//! process, on the same CPUs, at the same time of day.

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
use tickstorm_service::env::Settings;
use tickstorm_service::exit;
use tickstorm_service::metrics;
use tokio::runtime::Runtime;

use self::accept::ListenError;
use self::sampler::Sampler;
use super::machine;
use super::orders::{ChildAnswer, ChildOrder, EdgeFacts};

/// How long the edge has to learn the time.
const READY_WITHIN: std::time::Duration = std::time::Duration::from_secs(20);

/// Is what `bench` starts: not for people.
#[derive(Debug, clap::Args)]
pub struct BenchEdge {
    /// The CPUs to run on, separated by commas.
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
}

impl BenchEdge {
    /// Runs until its standard input ends.
    pub fn run(&self) -> Result<(), Failure> {
        if !self.cpus.is_empty() {
            machine::pin(&self.cpus).map_err(|error| {
                let what = format!("the edge can't be put on CPUs {:?}", self.cpus);
                Failure::new(exit::UNAVAILABLE, anyhow::Error::new(error).context(what))
            })?;
        }
        let settings = Pair::load_settings(&credentials::DEFAULTS)?;
        // What waits is written when this goes.
        let _logs = logs::start(&settings)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        let under_test = Arc::new(runtime.block_on(UnderTest::start(&settings))?);
        say(
            &under_test.output,
            &ChildAnswer::Ready(under_test.ready.clone()),
        );
        obey(&under_test, &runtime);
        // Nothing of it outlives the process, and nobody waits for it.
        runtime.shutdown_background();
        Ok(())
    }
}

/// Everything that orders are about.
struct UnderTest {
    edge: Edge,
    /// Ends with this.
    _clock: Replica,
    sampler: Sampler,
    ready: EdgeFacts,
    /// Each shard has its own table of open files.
    per_shard: bool,
    output: Arc<Mutex<io::Stdout>>,
}

impl UnderTest {
    async fn start(settings: &Settings) -> Result<Self, Failure> {
        let pair = Pair::from_settings(settings)?;
        let registry = metrics::registry().map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        let (clock, edge) = pair.start(&registry).await?;
        let per_shard = settings.get(&FD_TABLES) == FdTables::PerShard;
        let sampler = Sampler::new(edge.health(), registry, per_shard);
        let known = tokio::time::timeout(READY_WITHIN, sampler.time_is_known()).await;
        known.map_err(|_| {
            let text = format!("the edge under test does not know the time after {READY_WITHIN:?}");
            Failure::said(exit::UNAVAILABLE, text)
        })?;
        let millis = |of| u64::try_from(settings.get::<std::time::Duration>(of).as_millis());
        let ready = EdgeFacts {
            addr: edge.listen_addr(),
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

/// Carries out orders until there are no more.
fn obey(under_test: &Arc<UnderTest>, runtime: &Runtime) {
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
                    say(&output, &ChildAnswer::Burst { cpu_us });
                });
                None
            }
            Ok(ChildOrder::Bare(burst)) => {
                let under_test = Arc::clone(under_test);
                runtime.spawn(async move {
                    let offset_ns = under_test.sampler.offset_ns().unwrap_or_default();
                    let bare = bare::send(&under_test.edge, burst, offset_ns).await;
                    say(&under_test.output, &ChildAnswer::Bare(bare));
                });
                None
            }
            Ok(ChildOrder::Accept) => {
                let own_files = under_test.per_shard;
                let begun = accept::AcceptLoops::begin(under_test.ready.shards, own_files);
                Some(begin(begun, &mut accepting))
            }
            Ok(ChildOrder::AcceptEnd) => Some(match accepting.take() {
                Some(running) => ChildAnswer::AcceptEnd(accept::AcceptLoops::end(running)),
                None => ChildAnswer::Failed("no accept loop runs".into()),
            }),
            Ok(ChildOrder::Echo { pong_len }) => {
                Some(begin(echo::EchoLoop::begin(pong_len), &mut echoing))
            }
            Ok(ChildOrder::EchoUsage) => Some(match &echoing {
                Some(echo) => ChildAnswer::EchoUsage(echo::EchoLoop::usage(echo)),
                None => ChildAnswer::Failed("no echo loop runs".into()),
            }),
        };
        if let Some(answer) = answer {
            say(&under_test.output, &answer);
        }
    }
}

/// Keeps what was begun, and says where it listens.
fn begin<T>(
    begun: Result<(T, std::net::SocketAddr), ListenError>,
    kept: &mut Option<T>,
) -> ChildAnswer {
    match begun {
        Ok((running, addr)) => {
            *kept = Some(running);
            ChildAnswer::Listening(addr)
        }
        Err(error) => ChildAnswer::Failed(format!("a bare loop can't listen: {error}")),
    }
}

fn say(output: &Mutex<io::Stdout>, answer: &ChildAnswer) {
    let Ok(mut line) = serde_json::to_string(answer) else {
        return;
    };
    line.push('\n');
    // Where nobody listens any more, standard input ends too, and with it this process.
    if let Ok(mut output) = output.lock() {
        let _ = output
            .write_all(line.as_bytes())
            .and_then(|()| output.flush());
    }
}
