//! Control: starts, watches and stops the rest of an edge. The order of start is fixed: limits
//! first, then all shards, and only then listeners, so that each shard can have a table of open
//! files of its own in between.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus::Registry;
use tickstorm_bus::Bus;
use tickstorm_service::admin::Health;
use tickstorm_service::fd_limit::{self, FdLimit};
use tickstorm_timebase::{Clock, SystemClock, Timekeeper};
use tokio::sync::{OnceCell, watch};
use tokio_util::task::TaskTracker;

use crate::admission::{Admission, Attempts};
use crate::auth::{self, AcceptedCredentials};
use crate::config::Config;
use crate::fd_budget::{self, FdTables};
use crate::fd_metrics::FdMetrics;
use crate::health::EdgeHealth;
use crate::metrics::Metrics;
use crate::routes;
use crate::shard::Commons;
use crate::shards::Shards;
use crate::start_error::StartError;
use crate::sys::socket;
use crate::timekeeper::{AuthorityPublisher, TimeReporter, TimekeeperDriver};

/// A running edge.
pub struct Edge {
    listen_addr: SocketAddr,
    shards: Shards,
    tasks: TaskTracker,
    stop: tokio_util::sync::CancellationToken,
    health: Arc<EdgeHealth>,
    drain_delay: Duration,
    drain_timeout: Duration,
    drained: OnceCell<()>,
    has_panicked: Arc<AtomicBool>,
}

impl Edge {
    /// Starts an edge in the runtime that this is called in, with threads of its own for its
    /// shards. With per-shard tables of open files, everything that waits for the edge has to run
    /// in this runtime, too: a shard could not wake a younger one.
    ///
    /// # Errors
    /// Where something that it needs can't be had; nothing of it runs on then.
    pub async fn start(
        config: Config,
        bus: Arc<dyn Bus>,
        registry: &Registry,
    ) -> Result<Self, StartError> {
        let limit = raise_limit()?;
        let connections_max = connections_max(&config, limit)?;
        let metrics = Metrics::register(registry)?;
        let counted = FdMetrics::register(registry, limit)?;
        let (say_credentials, credentials) =
            watch::channel(AcceptedCredentials::load(&config.credentials)?);
        let (say_authority, authority) = watch::channel(None);
        let (say_time, time) = watch::channel(None);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let commons = Commons {
            settings: Arc::new(config.for_shards(cores)),
            admission: Admission::new(
                connections_max,
                config.handshakes_max,
                metrics.active_connections.clone(),
            ),
            attempts: Attempts::new(config.auth_rate_limit),
            metrics: metrics.clone(),
            authority: authority.clone(),
            credentials,
        };
        let (shards, listen_addr) = start_shards(&config, &commons, limit, &counted).await?;
        let health = Arc::new(EdgeHealth {
            id: config.id.clone(),
            listen_addr,
            connections_max,
            time_error_max: config.time_error_max,
            admission: commons.admission,
            authority: authority.clone(),
            time,
            shards: shards.vitals(),
            draining: AtomicBool::new(false),
        });
        let edge = Self {
            listen_addr,
            shards,
            tasks: TaskTracker::new(),
            stop: tokio_util::sync::CancellationToken::new(),
            health,
            drain_delay: config.drain_delay,
            drain_timeout: config.drain_timeout,
            drained: OnceCell::new(),
            has_panicked: Arc::default(),
        };
        edge.spawn("time", Shards::tell_time(edge.shards.handles(), authority));
        edge.spawn(
            "credentials",
            auth::watch_files(config.credentials, say_credentials),
        );
        // Random, so that no answer to a request of an earlier start is taken for one to this
        // one's.
        let timekeeper = Timekeeper::new(config.time, rand::random(), SystemClock.now());
        let publisher = AuthorityPublisher::new(say_authority);
        let reporter = TimeReporter::new(say_time, metrics.time, config.ahead);
        let timekeeper = TimekeeperDriver::new(timekeeper, bus, publisher, reporter);
        edge.spawn("timekeeper", timekeeper.run());
        tracing::info!(edge_id = config.id, shards = config.shards, "edge");
        if !listen_addr.ip().is_loopback() {
            tracing::warn!(%listen_addr, "passwords travel in plain text beyond loopback: there is no TLS");
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

    /// What operators on this machine may ask and do, for the admin port: the list of connections,
    /// and closing one.
    pub fn routes(&self) -> axum::Router {
        routes::routes(self.shards.handles())
    }

    /// Sends everybody elsewhere: not ready at once; after DRAIN_DELAY nobody new is accepted, and
    /// connections are closed with SERVER_DRAINING, spread over DRAIN_TIMEOUT. Ends when all are
    /// closed or the time is over, for everybody who calls this: an edge drains once.
    pub async fn drain(&self) {
        self.drained.get_or_init(|| self.drain_once()).await;
    }

    /// Whether a drain has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.health.draining.load(Ordering::Relaxed)
    }

    async fn drain_once(&self) {
        self.health.draining.store(true, Ordering::Relaxed);
        tracing::info!(delay = ?self.drain_delay, "draining: no longer ready");
        tokio::time::sleep(self.drain_delay).await;
        let connections = self.health.admission.connections();
        tracing::info!(connections, over = ?self.drain_timeout, "draining: accepting ends, connections are closed");
        self.shards.drain(self.drain_timeout).await;
        let left = self.health.admission.connections();
        tracing::info!(left, "drained");
    }

    /// Closes all connections at once and ends all threads.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.shards.stop().await;
        self.tasks.wait().await;
        assert!(
            !self.has_panicked.load(Ordering::Relaxed),
            "a part of the edge has panicked"
        );
    }

    /// Runs a part of the edge until it stops. If that panics, so does [`Edge::stop`]; in release a
    /// panic ends the process.
    fn spawn(&self, part: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        let has_panicked = Arc::clone(&self.has_panicked);
        let running = tokio::spawn(async move {
            stop.run_until_cancelled(task).await;
        });
        self.tasks.spawn(async move {
            if let Err(error) = running.await {
                tracing::error!(%error, part, "a part of the edge has panicked");
                has_panicked.store(true, Ordering::Relaxed);
            }
        });
    }
}

/// What benchmarks and tests do to an edge, beside being its clients.
#[cfg(feature = "bench")]
impl Edge {
    /// Sends `ticks` to all at-time subscribers of `mode`, as if they had been released now: how
    /// tests and benchmarks make bursts, which can't come from the grid in real time. Ticks at or
    /// before the last one sent are passed over.
    pub fn burst(&self, mode: tickstorm_timebase::Mode, ticks: &[tickstorm_timebase::Tick]) {
        self.shards.burst(mode, ticks);
    }

    /// Runs `work` once on each shard's own thread, with the descriptors of its subscribers that
    /// have every frame there is, and ends when all have run. A shard does nothing else meanwhile:
    /// how benchmarks hold the engine against a bare loop over the same sockets. `work` leaves
    /// every descriptor open, and every stream at a frame's boundary. The sockets are in blocking
    /// mode: a call without `MSG_DONTWAIT` waits where one is full.
    pub async fn on_shards(&self, work: crate::Work) {
        self.shards.run(&work).await;
    }
}

/// Starts all shards, lets each have a table of open files of its own where that is asked for, and
/// only then listen.
async fn start_shards(
    config: &Config,
    commons: &Commons,
    limit: u64,
    counted: &FdMetrics,
) -> Result<(Shards, SocketAddr), StartError> {
    let listen = |source| StartError::Listen {
        addr: config.listen_addr,
        source,
    };
    socket::check_free(config.listen_addr).map_err(listen)?;
    let shards = Shards::start(config.shards, commons).await?;
    if config.fd_tables == FdTables::PerShard {
        match shards.separate(limit).await {
            Ok(tables) => counted.add(tables),
            Err(error) => {
                shards.stop().await;
                return Err(StartError::Separate(error));
            }
        }
    }
    match shards.listen(config.listen_addr).await {
        Ok(addr) => Ok((shards, addr)),
        Err(error) => {
            shards.stop().await;
            Err(listen(error))
        }
    }
}

/// Raises the soft limit of open files to the hard one, which comes before all else, and gives it.
fn raise_limit() -> Result<u64, StartError> {
    let FdLimit { after, .. } = fd_limit::raise().map_err(StartError::RaiseLimit)?;
    Ok(after)
}

/// MAX_CONNECTIONS, or less where there is one table of at most `limit` open files and that is
/// lower. Tables of the shards' own have room for all of them, or there is no start.
fn connections_max(config: &Config, limit: u64) -> Result<usize, StartError> {
    let wanted = config.connections_max;
    if config.fd_tables == FdTables::PerShard {
        fd_budget::check_shards(config.shards, wanted, limit)?;
        return Ok(wanted);
    }
    let room = fd_budget::room(limit);
    if room == 0 {
        let reserved = fd_budget::RESERVED;
        return Err(StartError::LowLimit { limit, reserved });
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
