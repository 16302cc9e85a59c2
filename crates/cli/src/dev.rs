//! `tickstorm dev`: a complete system in one process. The clock and the edge are the same libraries
//! that the daemons run, connected by the in-memory bus. The client that shows the ticks connects
//! over TCP like any other.

mod scenario;
mod tls;

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
use tickstorm_service::admin::{Admin, Health, Parts, reachable, register_ready};
use tickstorm_service::daemon::log_listening;
use tickstorm_service::env::{Origin, Settings};
use tickstorm_service::exit;
use tickstorm_service::lifecycle::Lifecycle;
use tickstorm_service::logging::Logs;
use tickstorm_service::metrics;
use tickstorm_service::signals::Signals;
use tickstorm_service::stderr;

use self::tls::{DevTlsArgs, Served};
use crate::follow::{TickFormat, follow, print};

/// Defaults for a person at a terminal, apart from credentials: other machines can't connect, and
/// logs are readable.
const DEFAULTS: [(&str, &str); 2] = [("LISTEN_ADDR", "127.0.0.1:8080"), ("LOG_FORMAT", "text")];

/// The time limit for an orderly stop. It normally takes milliseconds, so Ctrl-C seems immediate.
const STOP_TIME_MAX: Duration = Duration::from_secs(2);

const AFTER_HELP: &str = "\
No other service is needed. The settings of tickstorm-clock and tickstorm-edge are
read from environment variables, except NATS_*, which do not apply to the in-memory
bus.

By default, clients connect to 127.0.0.1:8080 as stream_user with the password
stream_pass, and the admin port is 127.0.0.1:8081. With STREAM_TOKENS_FILE there is no
default login: also set STREAM_USER and STREAM_PASS, or STREAM_TOKEN, for the client
that prints the ticks. If LISTEN_ADDR is not a loopback address, a password of your own
is required: set STREAM_PASS or STREAM_PASS_FILE.

With --tls, clients connect over TLS, with a throw-away certificate for localhost,
127.0.0.1, ::1 and the host of LISTEN_ADDR. The printed command trusts the authority
that signed it. The files are in a private directory, and are removed at the end.
With TLS_ENABLED, TLS_CERT_FILE and TLS_KEY_FILE, the edge uses that certificate
instead; --tls-ca and --tls-name tell the client that prints the ticks how to check
it.

Standard output contains the addresses to connect to, an empty line, and one line per
tick in the format of `tickstorm tail`. Logs are written to standard error.

Scenarios:
  With --scenario, there is no clock and no real edge. Instead, one that misbehaves on
  purpose waits for a client, plays the scenario to it, and compares what the client
  does with docs/protocol.md. It listens at LISTEN_ADDR without TLS, and the login is
  STREAM_USER and STREAM_PASS. Give the client this address only; each connection leads
  to another edge_id, as behind a balancer. A client must keep its subscription through
  everything, and must neither miss a tick nor get one twice. Only in step-back do ticks
  come again, after TIME_STEPPED.

  A scenario takes up to 40 s, wrong-password 70 s, and all 8 minutes, since the waits of
  the client must be short again before each. Standard output has the address, the login,
  what happens, and each fault of the client with the section of docs/protocol.md whose
  rule it broke. Lateness of up to 1.5 s is no fault. It gives up if no client comes
  within 60 s. After Ctrl-C, or if the client does not come back, it lists the scenarios
  that were not played to their end.

  --json prints one object per line instead, by its field event: listening (addr, login),
  begin (scenario), note (scenario, message), fault (scenario, rule, message), end
  (scenario, faults, and interrupted: true after a signal) and unplayed (scenarios).

  Exit code with --scenario:
    0   All scenarios were played, and the client broke no rule
    1   The client broke a rule, or a signal or the client ended the scenarios early
    69  No client came within 60 s, or LISTEN_ADDR cannot be listened on

Examples:
  tickstorm dev
      Start the system; then run `tickstorm tail` in a second terminal
  tickstorm dev 2>dev.log
      Keep the logs out of the way
  tickstorm dev --check-config
      Show all settings with their values and sources
  tickstorm dev --scenario going-away
      Try whether a client moves to another edge in time
  tickstorm dev --tls
      Serve TLS; run the printed `tickstorm tail --tls …` in a second terminal
  LISTEN_ADDR=127.0.0.1:0 ADMIN_ADDR=127.0.0.1:0 tickstorm dev
      Listen on any free ports";

/// Run a clock and an edge in one process, and print each tick as a client receives it.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Dev {
    /// Print all settings with their values and sources (secrets masked), and exit.
    #[arg(long)]
    check_config: bool,
    /// Play an edge that misbehaves on purpose instead, and say what a client does wrong.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["tls", "tls_ca", "tls_name"])]
    scenario: Option<scenario::Choice>,
    /// With --scenario: print JSON objects instead of text, one per line.
    #[arg(long, requires = "scenario")]
    json: bool,
    #[command(flatten)]
    tls: DevTlsArgs,
}

impl Dev {
    /// Runs until a signal ends it or an error occurs.
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        // Caught before there are files of a throw-away certificate, so that no signal leaves them
        // behind.
        let signals = {
            let _entered = runtime.enter();
            Signals::catch_at_terminal()
        };
        let signals = signals.map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        // `served` is kept to the end: its files are removed with it.
        let (settings, served) = self.tls.settings(settings)?;
        credentials::refuse_known_password(&settings)?;
        if self.check_config {
            for warning in settings.warnings() {
                stderr::notice(format_args!("tickstorm: warning: {warning}"));
            }
            return print(settings.check_config().trim_end()).map(drop);
        }
        let outcome = match self.scenario {
            Some(choice) => {
                let mut signals = signals;
                let played = scenario::run(choice, self.json, &settings, &mut signals);
                runtime.block_on(Box::pin(played))
            }
            None => {
                let logs = logs::start(&settings)?;
                runtime.block_on(run(&settings, &served, &logs, signals))
            }
        };
        // Tasks that hang must not delay the exit.
        runtime.shutdown_background();
        outcome
    }
}

/// Loads all settings, with these defaults in addition to those of `dev`. The well-known default
/// credentials apply only if there is no tokens file.
fn settings(defaults: &[(&str, &str)]) -> Result<Settings, Failure> {
    let defaults = [&DEFAULTS[..], defaults].concat();
    let with_login = [&defaults[..], &credentials::DEFAULTS].concat();
    let settings = Pair::load_settings_with_tls(&with_login)?;
    match settings.get(&STREAM_TOKENS_FILE) {
        None => Ok(settings),
        Some(_) => Pair::load_settings_with_tls(&defaults),
    }
}

async fn run(
    settings: &Settings,
    served: &Served,
    logs: &Logs,
    mut signals: Signals,
) -> Result<(), Failure> {
    let credentials = ClientCredentials::from_settings(settings, None)?;
    // Boxed, because an edge's start is a large future.
    let system = Box::pin(System::start(settings, logs)).await?;
    let outcome = tokio::select! {
        _ = signals.next() => Ok(()),
        outcome = system.show(settings, served, &credentials) => outcome,
    };
    let _ = tokio::time::timeout(STOP_TIME_MAX, system.stop()).await;
    outcome
}

/// Everything that runs in this process.
struct System {
    clock: Replica,
    edge: Edge,
    status_url: String,
    tasks: Lifecycle,
}

impl System {
    async fn start(settings: &Settings, logs: &Logs) -> Result<Self, Failure> {
        let pair = Pair::from_settings(settings);
        let registry = metrics::registry().map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        let count_dropped_lines = logs
            .count_dropped(&registry)
            .map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        let admin = Admin::from_settings(settings, &registry)
            .await
            .map_err(|error| Failure::new(error.exit_code(), error))?;
        let (clock, edge) = pair.start(&registry).await?;
        let (tasks, status_url) = (Lifecycle::new(), admin.status_url());
        log_listening(Some(edge.listen_addr()), admin.local_addr());
        let health: Arc<dyn Health> = Arc::new(Both::new(clock.health(), edge.health()));
        register_ready(&registry, Arc::clone(&health))
            .map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        let admin = admin
            .with_routes(edge.routes())
            .with_watched_files(edge.watched_files())
            .with_spare_files(edge.spare_files());
        tasks.spawn(admin.serve(registry, health, tasks.stopping()));
        let stop = tasks.stopping();
        tasks.spawn(async move {
            stop.run_until_cancelled(count_dropped_lines).await;
        });
        Ok(Self {
            clock,
            edge,
            status_url,
            tasks,
        })
    }

    /// Prints the addresses to connect to, and then ticks, until the connection ends or standard
    /// output is closed.
    async fn show(
        &self,
        settings: &Settings,
        served: &Served,
        credentials: &ClientCredentials,
    ) -> Result<(), Failure> {
        if print(&self.introduction(settings, served))?.is_break() {
            return Ok(());
        }
        let addr = reachable(self.edge.listen_addr()).to_string();
        let options = credentials
            .apply_to(Options::new(addr))
            .client_id("tickstorm dev")
            .exact_time(true);
        let options = match served.client_options() {
            Some(tls) => options.tls(tls),
            None => options,
        };
        let ticks = tickstorm_client::connect(options).await?;
        follow(ticks, TickFormat::Text, |_| Ok(ControlFlow::Continue(()))).await
    }

    fn introduction(&self, settings: &Settings, served: &Served) -> String {
        let (version, login) = (tickstorm_service::VERSION, login(settings));
        let (clients, status) = (self.edge.listen_addr(), &self.status_url);
        let (here, tls) = (reachable(clients), served.tail_options());
        format!(
            "TickStorm {version}: a clock and an edge in one process, until Ctrl-C.\n  \
             clients  {clients}  ({login})\n  \
             admin    {status}\n  \
             try      tickstorm tail --addr {here}{tls}\n"
        )
    }

    async fn stop(self) {
        // Tasks that are still running after that end with the process.
        let _ = self.tasks.stop(STOP_TIME_MAX).await;
        self.edge.stop().await;
        self.clock.stop().await;
    }
}

/// Describes how clients authenticate, without printing any secret but the well-known default.
fn login(settings: &Settings) -> String {
    let Some(user) = settings.get(&STREAM_USER) else {
        return "a token from STREAM_TOKENS_FILE".into();
    };
    let (user, [_, (_, known)]) = (user.escape_debug(), credentials::DEFAULTS);
    match settings.origin_of(&STREAM_PASS) {
        Origin::Default => format!("user {user}, password {known}"),
        Origin::Env | Origin::File(_) => format!("user {user}, password from STREAM_PASS"),
    }
}

/// The health of the clock and the edge on one admin port, which responds like the admin port of an
/// edge, with the status of the clock added.
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

    fn is_pressed(&self) -> bool {
        self.parts.is_pressed()
    }
}
