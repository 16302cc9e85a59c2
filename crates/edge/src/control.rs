//! Control: starts, watches and stops the rest of an edge. The order of start is fixed: limits first, then every shard's
//! runtime, and only when all are built listeners, so that per-shard tables of open files can be had.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use prometheus::Registry;
use tickstorm_bus::Bus;
use tickstorm_service::admin::Health;
use tickstorm_service::lifecycle::{OpenFiles, raise_open_files};
use tickstorm_service::metrics::RegisterError;
use tickstorm_timebase::{Clock, Mode, SystemClock, Tick, Timekeeper};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;

use crate::admission::Admission;
use crate::auth::{self, Credentials};
use crate::config::Config;
use crate::health::EdgeHealth;
use crate::metrics::Metrics;
use crate::shard::{self, Command, ShardThread, Shared, Vitals};
use crate::sys::socket;
use crate::timekeeper::{Driver, View};

/// Open files that are no clients' connections: listeners, runtimes, timers, the admin port, NATS, files read again.
const FILES_RESERVED: u64 = 256;

/// Why an edge can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A metric can't be had.
    #[error(transparent)]
    Metrics(#[from] RegisterError),
    /// Credentials can't be read.
    #[error(transparent)]
    Credentials(#[from] auth::Error),
    /// A shard's thread or runtime can't be had.
    #[error("shard {shard} can't be started: {error}")]
    Shard {
        /// Which one.
        shard: usize,
        /// What the system said.
        error: io::Error,
    },
    /// The address can't be listened on.
    #[error("LISTEN_ADDR={addr} can't be listened on: {error}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The limit of open files can't be raised, or leaves no room for clients.
    #[error("open files: {0}")]
    OpenFiles(String),
}

/// A running edge.
pub struct Edge {
    listen_addr: SocketAddr,
    shards: Vec<mpsc::UnboundedSender<Command>>,
    threads: Vec<JoinHandle<()>>,
    tasks: TaskTracker,
    stop: tokio_util::sync::CancellationToken,
    health: Arc<EdgeHealth>,
}

impl Edge {
    /// Starts an edge in the runtime that this is called in, with threads of its own for its shards.
    ///
    /// # Errors
    /// Where something that it needs can't be had; nothing of it runs on then.
    pub async fn start(
        config: Config,
        bus: Arc<dyn Bus>,
        registry: &Registry,
    ) -> Result<Self, StartError> {
        let connections_max = connections_max(config.connections_max)?;
        let metrics = Metrics::register(registry)?;
        let (say_credentials, credentials) =
            watch::channel(Credentials::load(&config.credentials)?);
        let (say_authority, authority) = watch::channel(None);
        let (say_time, time) = watch::channel(None);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Shared {
            settings: Arc::new(config.for_shards(cores)),
            admission: Admission::new(connections_max, config.handshakes_max),
            metrics: metrics.clone(),
            authority: authority.clone(),
            credentials,
        };
        let listen = |error| StartError::Listen {
            addr: config.listen_addr,
            error,
        };
        socket::check_free(config.listen_addr).map_err(listen)?;
        let (commands, threads, vitals) = start_shards(config.shards, &shared).await?;
        let listen_addr = listen_all(&commands, config.listen_addr)
            .await
            .map_err(listen)?;
        let health = Arc::new(EdgeHealth {
            id: config.id.clone(),
            listen_addr,
            connections_max,
            time_error_max: config.time_error_max,
            admission: shared.admission,
            authority,
            time,
            shards: vitals,
        });
        let edge = Self {
            listen_addr,
            shards: commands,
            threads,
            tasks: TaskTracker::new(),
            stop: tokio_util::sync::CancellationToken::new(),
            health,
        };
        edge.spawn(auth::watch_files(config.credentials, say_credentials));
        // Random, so that no answer to a request of an earlier start is taken for one to this one's.
        let timekeeper = Timekeeper::new(config.time, rand::random(), SystemClock.now());
        let view = View::new(say_authority, say_time, metrics.time, config.ahead);
        edge.spawn(Driver::new(timekeeper, bus, view).run());
        tracing::info!(addr = %listen_addr, edge = config.id, shards = config.shards, "listening");
        if !listen_addr.ip().is_loopback() {
            tracing::warn!(addr = %listen_addr, "passwords travel in plain text beyond loopback: there is no TLS");
        }
        Ok(edge)
    }

    /// The address that clients connect to.
    #[must_use]
    pub fn listen_addr(&self) -> SocketAddr {
        self.listen_addr
    }

    /// How the edge is, for the admin port.
    #[must_use]
    pub fn health(&self) -> Arc<dyn Health> {
        Arc::clone(&self.health) as Arc<dyn Health>
    }

    /// Sends `ticks` to all at-time subscribers of `mode`, as if they had been released now: how tests and benchmarks make
    /// bursts, which can't come from the grid in real time. Ticks at or before the last one sent are passed over.
    pub fn burst(&self, mode: Mode, ticks: &[Tick]) {
        for shard in &self.shards {
            // A shard that has ended has nobody to send to.
            let _ = shard.send(Command::Burst(mode, ticks.to_vec()));
        }
    }

    /// Closes all connections at once and ends all threads.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        for shard in &self.shards {
            // One that has ended already needs no word.
            let _ = shard.send(Command::Stop);
        }
        self.tasks.wait().await;
        let threads = self.threads;
        let joined = tokio::task::spawn_blocking(move || {
            threads
                .into_iter()
                .filter_map(|thread| thread.join().err())
                .count()
        });
        match joined.await {
            Ok(0) => {}
            Ok(panicked) => tracing::error!(panicked, "threads of shards had panicked"),
            Err(error) => tracing::error!(%error, "threads of shards were not waited for"),
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }
}

/// MAX_CONNECTIONS, or less where the limit of open files is lower. The soft limit is raised to the hard one first, always.
fn connections_max(wanted: usize) -> Result<usize, StartError> {
    let OpenFiles { after: limit, .. } =
        raise_open_files().map_err(|error| StartError::OpenFiles(error.to_string()))?;
    let room = usize::try_from(limit.saturating_sub(FILES_RESERVED)).unwrap_or(usize::MAX);
    if room == 0 {
        return Err(StartError::OpenFiles(format!(
            "the limit is {limit}; more than {FILES_RESERVED} are needed (ulimit -n)"
        )));
    }
    if room < wanted {
        tracing::warn!(
            max_connections = room,
            wanted,
            open_files_limit = limit,
            "MAX_CONNECTIONS is cut to what the limit of open files allows; raise that (ulimit -n, LimitNOFILE)"
        );
    }
    Ok(room.min(wanted))
}

type Shards = (
    Vec<mpsc::UnboundedSender<Command>>,
    Vec<JoinHandle<()>>,
    Vec<Arc<Vitals>>,
);

/// Starts all shards and waits until each has built its runtime.
async fn start_shards(count: usize, shared: &Shared) -> Result<Shards, StartError> {
    let (mut commands, mut threads, mut vitals) = (Vec::new(), Vec::new(), Vec::new());
    let mut barrier = Vec::new();
    for index in 0..count {
        let started = shard::spawn(index, shared.clone());
        let ShardThread {
            commands: sender,
            built,
            vitals: shown,
            thread,
        } = started.map_err(|error| StartError::Shard {
            shard: index,
            error,
        })?;
        commands.push(sender);
        threads.push(thread);
        vitals.push(shown);
        barrier.push(built);
    }
    for (shard, built) in barrier.into_iter().enumerate() {
        let outcome = built
            .await
            .unwrap_or_else(|_| Err(io::Error::other("its thread ended")));
        outcome.map_err(|error| StartError::Shard { shard, error })?;
    }
    for shard in &commands {
        // One that has ended since shows by not listening.
        let _ = shard.send(Command::Peers(commands.clone()));
    }
    Ok((commands, threads, vitals))
}

/// Lets each shard listen; the first one's port is the others', where the system chooses it.
async fn listen_all(
    shards: &[mpsc::UnboundedSender<Command>],
    addr: SocketAddr,
) -> io::Result<SocketAddr> {
    let mut addr = addr;
    for shard in shards {
        let (reply, bound) = oneshot::channel();
        let _ = shard.send(Command::Listen(addr, reply));
        addr = bound
            .await
            .unwrap_or_else(|_| Err(io::Error::other("a shard ended")))?;
    }
    Ok(addr)
}
