//! `tickstorm dev`: a whole system in one process. The clock and the edge are the same libraries that the daemons run, with the
//! in-memory bus between them; the client that shows the ticks comes over TCP like any other.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tickstorm_client::Options;
use tickstorm_clock::Replica;
use tickstorm_command::{
    Failure, Pair,
    credentials::{self, ClientCredentials},
    logs,
};
use tickstorm_edge::Edge;
use tickstorm_edge::settings::{STREAM_PASS, STREAM_TOKENS_FILE, STREAM_USER};
use tickstorm_service::admin::{Admin, Health, Parts, reachable};
use tickstorm_service::daemon::log_listening;
use tickstorm_service::env::{Origin, Settings};
use tickstorm_service::exit;
use tickstorm_service::lifecycle::Lifecycle;
use tickstorm_service::logging::Logs;
use tickstorm_service::metrics;
use tickstorm_service::settings::ADMIN_ADDR;
use tickstorm_service::signals::Signals;

use crate::follow::{TickFormat, follow, print};

/// What a person at a terminal wants, beside credentials: nobody else's machine can reach it, and logs are readable.
const DEFAULTS: [(&str, &str); 2] = [("LISTEN_ADDR", "127.0.0.1:8080"), ("LOG_FORMAT", "text")];

/// What the parts have for stopping, of which they need milliseconds: Ctrl-C ends this at once.
const STOP_TIME_MAX: Duration = Duration::from_secs(2);

const AFTER_HELP: &str = "\
All settings of tickstorm-clock and tickstorm-edge are taken from the environment.
Without any, clients connect to 127.0.0.1:8080 as stream_user with the password
stream_pass, and the admin port is 127.0.0.1:8081. With STREAM_TOKENS_FILE nobody
has a password by default: set STREAM_USER and STREAM_PASS too, or STREAM_TOKEN, for
the client that shows the ticks.

Standard output: where to connect, an empty line, then each tick as `tickstorm tail`
shows it. Logs go to standard error.

Examples:
  tickstorm dev                  and in a second terminal: tickstorm tail
  tickstorm dev 2>dev.log        logs out of the way
  tickstorm dev --check-config   what each setting is, and where it comes from
  LISTEN_ADDR=127.0.0.1:0 ADMIN_ADDR=127.0.0.1:0 tickstorm dev
                                 on any free ports";

/// Runs a clock and an edge in one process and prints each tick as a client gets it. Needs nothing else.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Dev {
    /// Print what each setting is and where it comes from, secrets masked.
    #[arg(long)]
    check_config: bool,
}

impl Dev {
    /// Runs until it is told to end, or can't go on.
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let settings = settings()?;
        if self.check_config {
            for warning in settings.warnings() {
                eprintln!("tickstorm: warning: {warning}");
            }
            return print(settings.check_config().trim_end()).map(drop);
        }
        let logs = logs::start(&settings)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        let outcome = runtime.block_on(run(&settings, &logs));
        // Nothing that hangs holds up the process's end.
        runtime.shutdown_background();
        outcome
    }
}

/// All settings. The credentials that everybody knows are for a system that has no others.
fn settings() -> Result<Settings, Failure> {
    let settings = Pair::load_settings(&[&DEFAULTS[..], &credentials::DEFAULTS].concat())?;
    match settings.get(&STREAM_TOKENS_FILE) {
        None => Ok(settings),
        Some(_) => Pair::load_settings(&DEFAULTS),
    }
}

async fn run(settings: &Settings, logs: &Logs) -> Result<(), Failure> {
    let mut signals = Signals::catch().map_err(|error| Failure::new(exit::SOFTWARE, error))?;
    let credentials = ClientCredentials::from_settings(settings, None)?;
    let system = System::start(settings, logs).await?;
    let outcome = tokio::select! {
        _ = signals.next() => Ok(()),
        outcome = system.show(settings, &credentials) => outcome,
    };
    let _ = tokio::time::timeout(STOP_TIME_MAX, system.stop()).await;
    outcome
}

/// Everything that runs here.
struct System {
    clock: Replica,
    edge: Edge,
    admin_addr: SocketAddr,
    tasks: Lifecycle,
}

impl System {
    async fn start(settings: &Settings, logs: &Logs) -> Result<Self, Failure> {
        let pair = Pair::from_settings(settings)?;
        let registry = metrics::registry().map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        let count_dropped_lines = logs
            .count_dropped(&registry)
            .map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        let admin = Admin::bind(settings.get(&ADMIN_ADDR))
            .await
            .map_err(|error| Failure::new(exit::UNAVAILABLE, error))?;
        let (clock, edge) = pair.start(&registry).await?;
        let (tasks, admin_addr) = (Lifecycle::new(), admin.local_addr());
        log_listening(Some(edge.listen_addr()), admin_addr);
        let health = Arc::new(Both::new(clock.health(), edge.health()));
        let admin = admin.with_routes(edge.routes());
        tasks.spawn(admin.serve(registry, health, tasks.stopping()));
        let stop = tasks.stopping();
        tasks.spawn(async move {
            stop.run_until_cancelled(count_dropped_lines).await;
        });
        Ok(Self {
            clock,
            edge,
            admin_addr,
            tasks,
        })
    }

    /// Says where to connect, and then shows ticks until the connection ends or nobody reads them any more.
    async fn show(
        &self,
        settings: &Settings,
        credentials: &ClientCredentials,
    ) -> Result<(), Failure> {
        if print(&self.introduction(settings))?.is_break() {
            return Ok(());
        }
        let addr = reachable(self.edge.listen_addr()).to_string();
        let options = credentials
            .put_into(Options::new(addr))
            .client_id("tickstorm dev")
            .exact_time();
        follow(options, TickFormat::Text, |_| Ok(ControlFlow::Continue(()))).await
    }

    fn introduction(&self, settings: &Settings) -> String {
        let (version, login) = (tickstorm_service::VERSION, login(settings));
        let (clients, admin) = (self.edge.listen_addr(), self.admin_addr);
        let here = reachable(clients);
        format!(
            "TickStorm {version}: a clock and an edge in one process, until Ctrl-C.\n  \
             clients  {clients}  ({login})\n  \
             admin    http://{admin}/status\n  \
             try      tickstorm tail --addr {here}\n"
        )
    }

    async fn stop(self) {
        // Whatever still runs after that ends with the process.
        let _ = self.tasks.stop(STOP_TIME_MAX).await;
        self.edge.stop().await;
        self.clock.stop().await;
    }
}

/// How clients authenticate, without any secret but the one that everybody knows.
fn login(settings: &Settings) -> String {
    let Some(user) = settings.get(&STREAM_USER) else {
        return "a token that STREAM_TOKENS_FILE knows".into();
    };
    let (user, [_, (_, known)]) = (user.escape_debug(), credentials::DEFAULTS);
    match settings.origin_of(&STREAM_PASS) {
        Origin::Default => format!("user {user}, password {known}"),
        Origin::Env | Origin::File(_) => format!("user {user}, password as STREAM_PASS has it"),
    }
}

/// Clock and edge on one admin port: it answers as the edge's would, and with the clock's own status beside.
struct Both {
    clock: Arc<dyn Health>,
    edge: Arc<dyn Health>,
    parts: Parts,
}

impl Both {
    fn new(clock: Arc<dyn Health>, edge: Arc<dyn Health>) -> Self {
        let parts = Parts::new()
            .with("clock", Arc::clone(&clock))
            .with("edge", Arc::clone(&edge));
        Self { clock, edge, parts }
    }
}

impl Health for Both {
    fn live(&self) -> Vec<String> {
        self.parts.live()
    }

    fn ready(&self) -> Vec<String> {
        self.parts.ready()
    }

    fn status(&self) -> Value {
        let mut status = self.edge.status();
        status["clock"] = self.clock.status();
        status
    }
}
