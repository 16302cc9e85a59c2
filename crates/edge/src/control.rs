//! Control: starts, watches and stops all other parts of an edge. The startup order is fixed: the
//! open-file limit first, then all shards, and the listeners last, so that each shard can get its
//! own file descriptor table in between.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus::{IntGauge, Registry};
use tickstorm_bus::Bus;
use tickstorm_service::admin::Health;
use tickstorm_service::fd_limit::{self, FdLimit};
use tickstorm_service::file_watch::FileWatch;
use tickstorm_service::metrics::RegisterError;
use tickstorm_service::traces::Tracer;
use tickstorm_timebase::{Authority, Clock, SystemClock, Timekeeper, TimekeeperConfig};
use tokio::sync::{OnceCell, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accept_queue::AcceptQueue;
use crate::admission::{Admission, Attempts, Floods};
use crate::auth::Logins;
use crate::config::Config;
use crate::fd_budget::{self, FdTables};
use crate::fd_metrics::FdMetrics;
use crate::file_watchers::FileWatchers;
use crate::health::EdgeHealth;
use crate::heap;
use crate::memory::{self, KernelBound, Memory};
use crate::metrics::{Metrics, ReloadMetrics};
use crate::no_time::NoTimeWatch;
use crate::routes;
use crate::shard::{Commons, address_budgets};
use crate::shards::Shards;
use crate::start_error::StartError;
use crate::sys::socket;
use crate::timekeeper::{AuthorityPublisher, TimeReporter, TimekeeperDriver};
use crate::tls::TlsWatcher;
use crate::traces::{self, TraceReporter};

/// A running edge.
pub struct Edge {
    listen_addr: SocketAddr,
    spare_files: usize,
    shards: Shards,
    tasks: TaskTracker,
    stop: CancellationToken,
    health: Arc<EdgeHealth>,
    watched_files: Vec<FileWatch>,
    drain_delay: Duration,
    drain_timeout: Duration,
    drained: OnceCell<()>,
    /// 1 from when the drain begins.
    draining: IntGauge,
    /// Cancelled when an operator asks for a drain.
    drain_request: CancellationToken,
    has_panicked: Arc<AtomicBool>,
}

impl Edge {
    /// Starts an edge on the current runtime, and a separate thread for each shard. With per-shard
    /// file descriptor tables, everything that waits for the edge must run on this runtime too: a
    /// shard could not wake a runtime created later.
    ///
    /// # Errors
    /// Returns an error if a required resource is unavailable. Everything that was already started
    /// has then been stopped.
    pub async fn start(
        config: Config,
        bus: Arc<dyn Bus>,
        registry: &Registry,
    ) -> Result<Self, StartError> {
        // Boxed, because this future is large.
        Box::pin(Self::start_traced(config, bus, registry, None)).await
    }

    /// Does the same. With a tracer, ticks and handshakes are traced.
    ///
    /// # Errors
    /// Returns the same errors.
    pub async fn start_traced(
        config: Config,
        bus: Arc<dyn Bus>,
        registry: &Registry,
        tracer: Option<Tracer>,
    ) -> Result<Self, StartError> {
        let limit = raise_limit()?;
        let connections_max = connections_max(&config, limit)?;
        let (metrics, fd_metrics) = register_metrics(registry, limit, connections_max)?;
        // Boxed, because the future that holds it until the shards have started is large.
        let files = Box::new(FileWatchers::load(&config, registry)?);
        let (authority_sender, authority) = watch::channel(None);
        let (time_sender, time) = watch::channel(None);
        let (traces, collector) = tracer
            .map(|tracer| traces::channel(tracer, authority.clone()))
            .unzip();
        let commons = commons(
            &config,
            limit,
            connections_max,
            &files,
            &metrics,
            authority.clone(),
            traces.clone(),
        );
        let (shards, listen_addr) = start_shards(&config, &commons, limit, &fd_metrics).await?;
        let accept_queue = AcceptQueue::new(listen_addr);
        let no_time = NoTimeWatch::new(authority.clone(), metrics.time.no_time());
        let health = Arc::new(EdgeHealth {
            id: config.id.clone(),
            listen_addr,
            connections_max,
            time_error_max: config.time_error_max,
            admission: commons.admission,
            logins: commons.logins,
            memory: commons.memory,
            authority: authority.clone(),
            time,
            accept_queue: accept_queue.status(),
            tls: files.tls.as_ref().map(TlsWatcher::state),
            shards: shards.vitals(),
            draining: AtomicBool::new(false),
            no_time: no_time.is_raised(),
            bus: Arc::clone(&bus),
        });
        let edge = Self {
            listen_addr,
            spare_files: fd_budget::spare(limit, connections_max, config.fd_tables),
            shards,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            health,
            watched_files: files.access(),
            drain_delay: config.drain_delay,
            drain_timeout: config.drain_timeout,
            drained: OnceCell::new(),
            draining: metrics.connections.draining.clone(),
            drain_request: CancellationToken::new(),
            has_panicked: Arc::default(),
        };
        edge.follow_time(authority, config.ahead, no_time);
        edge.watch_arrivals(accept_queue, &metrics);
        edge.watch_files(*files, metrics.reloads);
        let publisher = AuthorityPublisher::new(authority_sender);
        let reporter = TimeReporter::new(time_sender, metrics.time, config.ahead);
        edge.keep_time(config.time, bus, publisher, reporter, traces);
        if let Some(collector) = collector {
            edge.spawn("traces", collector.run());
        }
        tracing::info!(edge_id = config.id, shards = config.shards, "edge started");
        Ok(edge)
    }

    /// Returns the address that clients connect to.
    #[must_use]
    pub fn listen_addr(&self) -> SocketAddr {
        self.listen_addr
    }

    /// Returns the edge's health, for the admin port.
    #[must_use]
    pub fn health(&self) -> Arc<dyn Health> {
        Arc::clone(&self.health) as Arc<dyn Health>
    }

    /// Returns how many open files this process has to spare when it has all its connections.
    #[must_use]
    pub fn spare_files(&self) -> usize {
        self.spare_files
    }

    /// Returns access to the files that are reread while the edge runs.
    #[must_use]
    pub fn watched_files(&self) -> Vec<FileWatch> {
        self.watched_files.clone()
    }

    /// Returns the operators' routes for the admin port: listing connections, closing one, and
    /// moving clients to other edges. They show clients and change something, so they must be
    /// behind the guard.
    pub fn routes(&self) -> axum::Router {
        let health = Arc::clone(&self.health);
        routes::routes(self.shards.handles(), self.drain_timeout, health)
    }

    /// Returns the route by which an operator asks for a drain, for a process that then drains the
    /// edge and ends ([`Edge::drain_requested`]). It must be behind the guard.
    pub fn drain_route(&self) -> axum::Router {
        routes::drain_route(self.drain_request.clone())
    }

    /// Waits until an operator asks for a drain. Cancel safe.
    pub async fn drain_requested(&self) {
        self.drain_request.cancelled().await;
    }

    /// Drains the edge, so that its clients move to other edges. It becomes not ready immediately.
    /// After DRAIN_DELAY it stops accepting and tells its clients that it goes away. Those that
    /// have not left in the first half of DRAIN_TIMEOUT are closed with SERVER_DRAINING, spread
    /// over the second. Returns when all connections are closed or the time is up. An edge drains
    /// only once; further calls wait for the same drain.
    pub async fn drain(&self) {
        self.drained.get_or_init(|| self.drain_once()).await;
    }

    /// Returns whether a drain has started.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.health.draining.load(Ordering::Relaxed)
    }

    async fn drain_once(&self) {
        self.health.draining.store(true, Ordering::Relaxed);
        self.draining.set(1);
        tracing::info!(delay = ?self.drain_delay, "draining: no longer ready");
        tokio::time::sleep(self.drain_delay).await;
        let connections = self.health.admission.connections();
        tracing::info!(
            connections,
            over = ?self.drain_timeout,
            "draining: no longer accepting, sending clients to other edges"
        );
        self.shards.drain(self.drain_timeout).await;
        let left = self.health.admission.connections();
        tracing::info!(left, "drained");
    }

    /// Closes all connections immediately and ends all threads.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.shards.stop().await;
        self.tasks.wait().await;
        assert!(
            !self.has_panicked.load(Ordering::Relaxed),
            "a task of the edge panicked"
        );
    }

    /// Starts the task that learns authority time from the clocks.
    fn keep_time(
        &self,
        config: TimekeeperConfig,
        bus: Arc<dyn Bus>,
        publisher: AuthorityPublisher,
        reporter: TimeReporter,
        traces: Option<TraceReporter>,
    ) {
        let clocks = config.clocks.clone();
        let timekeeper = Timekeeper::new(config, SystemClock.now());
        let timekeeper = TimekeeperDriver::new(timekeeper, &clocks, bus, publisher, reporter);
        self.spawn("timekeeper", timekeeper.with_traces(traces).run());
    }

    /// Starts the tasks that depend on authority time.
    fn follow_time(
        &self,
        authority: watch::Receiver<Option<Authority>>,
        ahead: Duration,
        no_time: NoTimeWatch,
    ) {
        self.spawn("time alarm", no_time.run());
        self.spawn(
            "time",
            Shards::wake_on_time_change(self.shards.handles(), authority.clone()),
        );
        let admission = Arc::clone(&self.health.admission);
        let memory = Arc::clone(&self.health.memory);
        self.spawn(
            "memory",
            heap::return_free_memory(admission, Arc::clone(&memory), authority, ahead),
        );
        let shards = self.shards.handles();
        self.spawn("kernel memory", memory::watch(memory, shards));
    }

    /// Starts the tasks that reread files.
    fn watch_files(&self, files: FileWatchers, metrics: ReloadMetrics) {
        let FileWatchers {
            credentials,
            ip_lists,
            tls,
        } = files;
        self.spawn("credentials", credentials.run(metrics.credentials));
        self.spawn("IP lists", ip_lists.run(metrics.ip_lists));
        if let Some(tls) = tls {
            self.spawn("TLS files", tls.run(metrics.tls));
        }
    }

    /// Starts the tasks that concern new connections.
    fn watch_arrivals(&self, queue: AcceptQueue, metrics: &Metrics) {
        self.spawn("accept queue", queue.run(metrics.accept_queue.clone()));
        let admission = Arc::clone(&self.health.admission);
        self.spawn("floods", Floods::log(admission));
        let logins = Arc::clone(&self.health.logins);
        self.spawn("logins", Logins::watch(logins, metrics.login_alarm.clone()));
    }

    /// Runs `future` as a task until the edge stops. If it panics, [`Edge::stop`] panics too; in a
    /// release build any panic ends the process.
    fn spawn(&self, task: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        let has_panicked = Arc::clone(&self.has_panicked);
        let running = tokio::spawn(async move {
            stop.run_until_cancelled(future).await;
        });
        self.tasks.spawn(async move {
            if let Err(error) = running.await {
                tracing::error!(%error, task, "a task of the edge panicked");
                has_panicked.store(true, Ordering::Relaxed);
            }
        });
    }
}

/// Access to an edge's internals, for benchmarks and tests.
#[cfg(feature = "bench")]
impl Edge {
    /// Sends `ticks` to all at-time subscribers of `mode`, as if they had been released now. Tests
    /// and benchmarks use this to make bursts, since the grid can't produce them in real time.
    /// Ticks at or before the last one sent are ignored.
    pub fn burst(&self, mode: tickstorm_timebase::Mode, ticks: &[tickstorm_timebase::Tick]) {
        self.shards.burst(mode, ticks);
    }

    /// Lets the shards shed connections, as if the kernel's TCP memory were `used` bytes and its
    /// bound `bound`.
    pub fn shed(&self, used: u64, bound: u64) {
        if let Some(excess) = memory::Excess::of(used, bound) {
            self.shards.shed(excess);
        }
    }

    /// Runs `work` once on each shard's thread, and returns when it has run on all of them. Each
    /// call gets the descriptors of the shard's subscribers that have received every frame, and the
    /// shard does nothing else meanwhile. Benchmarks use this to compare the engine with a bare
    /// loop over the same sockets. With TLS, each call also gets the keys with which these sockets
    /// seal, in the same order, and without TLS none. `work` must leave every descriptor open and
    /// every stream at the boundary of a frame and a record. The sockets are in blocking mode: a
    /// send without `MSG_DONTWAIT` waits if the socket is full.
    pub async fn on_shards(&self, work: crate::Work) {
        self.shards.run(&work).await;
    }
}

/// Warns once if clients on other machines can connect without TLS.
fn warn_of_plain_text(has_tls: bool, listen_addr: SocketAddr) {
    if !has_tls && !listen_addr.ip().is_loopback() {
        tracing::warn!(
            %listen_addr,
            "clients on other machines send passwords in plain text: set TLS_ENABLED"
        );
    }
}

/// Returns the number of cores that this process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Registers the metrics of the edge and its limits.
fn register_metrics(
    registry: &Registry,
    limit: u64,
    connections_max: usize,
) -> Result<(Metrics, FdMetrics), RegisterError> {
    let metrics = Metrics::register(registry)?;
    metrics.connections.show_max(connections_max);
    memory::register_limit(registry)?;
    Ok((metrics, FdMetrics::register(registry, limit)?))
}

/// Returns the state that all shards share.
fn commons(
    config: &Config,
    limit: u64,
    connections_max: usize,
    files: &FileWatchers,
    metrics: &Metrics,
    authority: watch::Receiver<Option<Authority>>,
    traces: Option<TraceReporter>,
) -> Commons {
    Commons {
        settings: Arc::new(config.for_shards(cores(), lingering_max(config, limit))),
        admission: Admission::new(
            config.admission_limits(connections_max),
            files.ip_lists.lists(),
            metrics.admission_gauges(),
        ),
        attempts: Attempts::new(config.auth_rate_limit),
        logins: Arc::default(),
        replays: Arc::new(address_budgets(config.resume_window)),
        memory: Memory::new(&metrics.memory, config.buffered_max, KernelBound::find()),
        metrics: metrics.clone(),
        authority,
        credentials: files.credentials.credentials(),
        tls: files.tls.as_ref().map(TlsWatcher::configs),
        refusals: Arc::default(),
        balancers: config.balancers.clone(),
        proxy_faults: Arc::default(),
        traces,
    }
}

/// Starts all shards, gives each its own file descriptor table if FD_TABLES asks for it, and only
/// then lets them listen.
async fn start_shards(
    config: &Config,
    commons: &Commons,
    limit: u64,
    fd_metrics: &FdMetrics,
) -> Result<(Shards, SocketAddr), StartError> {
    let listen = |source| StartError::Listen {
        addr: config.listen_addr,
        source,
    };
    socket::check_free(config.listen_addr).map_err(listen)?;
    let shards = Shards::start(config.shards, commons).await?;
    commons.metrics.loops.show(shards.vitals());
    if config.fd_tables == FdTables::PerShard {
        match shards.separate(limit).await {
            Ok(tables) => fd_metrics.add(tables),
            Err(error) => {
                shards.stop().await;
                return Err(StartError::Separate(error));
            }
        }
    }
    match shards.listen(config.listen_addr).await {
        Ok(addr) => {
            warn_of_plain_text(commons.tls.is_some(), addr);
            Ok((shards, addr))
        }
        Err(error) => {
            shards.stop().await;
            Err(listen(error))
        }
    }
}

/// Raises the soft open-file limit to the hard limit, before anything else starts, and returns it.
fn raise_limit() -> Result<u64, StartError> {
    let FdLimit { after, .. } = fd_limit::raise().map_err(StartError::RaiseLimit)?;
    Ok(after)
}

/// Returns the most connections that the edge can accept. With a shared file descriptor table this
/// is MAX_CONNECTIONS, lowered to what a table of `limit` open files has room for. Per-shard tables
/// must have room for all MAX_CONNECTIONS; otherwise this fails.
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
            "MAX_CONNECTIONS is lowered to what the open-file limit allows; raise the limit \
             (ulimit -n, LimitNOFILE)"
        );
    }
    Ok(room.min(wanted))
}

/// Returns how many connections of each shard may linger if all shards share one file descriptor
/// table of at most `limit` open files. Shards with tables of their own find out for themselves.
fn lingering_max(config: &Config, limit: u64) -> usize {
    let all = fd_budget::lingering_max(fd_budget::room(limit), config.connections_max);
    all.div_ceil(config.shards)
}
