//! The process of a daemon: its command line, the order of its start, and how it exits. The work
//! that the daemon does in between belongs to its own `main`.

use std::{
    env,
    error::Error,
    ffi::OsString,
    fmt,
    io::{self, Write},
    net::SocketAddr,
    process::{self, ExitCode},
};

use clap::{Arg, ArgAction, ArgMatches, Command};
use prometheus::Registry;

use crate::{
    VERSION,
    admin::Admin,
    admin_client::Scheme,
    env::{Section, Settings},
    error_chain::ErrorChain,
    exit,
    file_watch::ReloadCounters,
    healthcheck,
    lifecycle::Lifecycle,
    logging::{self, Logs},
    metrics, private_memory,
    settings::{ADMIN_ADDR, ADMIN_TLS_CERT_FILE, LOG_FORMAT, LOG_LEVEL},
    signals::{self, Hangups, QUIT_EXIT_CODE, Signals},
    stderr,
    traces::{Source, TraceCounters, TraceFiles, Tracer, Traces},
};

/// The number of runtime threads, which run everything but shards. There are two, so that a long
/// response on the admin port delays nothing else.
const THREADS: usize = 2;

const AFTER_HELP: &str = "\
All settings are read from environment variables; --check-config lists them.
Logs are written to standard error.

Signals:
  SIGTERM, SIGINT  Shut down
  SIGHUP           Reread all files and log what has changed
  SIGQUIT          End at once
  SIGUSR1          Log at level debug for 60 s

Exit codes:
  0   Shut down as requested; healthcheck: healthy
  1   Ended immediately by a second signal; healthcheck: not healthy
  64  Invalid command line
  69  Cannot listen on an address, or the system refuses another resource
  70  Internal error
  78  Invalid settings
  131 Ended at once by SIGQUIT";

/// The description of one daemon.
#[derive(Clone, Copy, Debug)]
pub struct Daemon {
    /// The binary's name.
    pub name: &'static str,
    /// The first line of its help.
    pub about: &'static str,
    /// The sections of settings that it takes, including [`COMMON`](crate::settings::COMMON), in
    /// the order in which they are printed.
    pub sections: &'static [Section],
    /// Its own defaults, including the one for ADMIN_ADDR, as pairs of a name and a text.
    pub defaults: &'static [(&'static str, &'static str)],
    /// Returns the id of the clock or the edge, for collectors of traces.
    pub id: fn(&Settings) -> String,
}

/// The process as a daemon's own code receives it: settings are valid, logging has started, signals
/// are caught, and the admin port is bound but not served yet.
#[derive(Debug)]
pub struct Process {
    /// The settings.
    pub settings: Settings,
    /// The registry for the daemon's metrics.
    pub registry: Registry,
    /// The admin port.
    pub admin: Admin,
    /// The signals that ask the process to shut down.
    pub signals: Signals,
    /// The signal that asks the process to reread its files.
    pub hangups: Hangups,
    /// Tasks that run beside the daemon's own code and are stopped after it.
    pub tasks: Lifecycle,
    /// The tracer, if traces are sent.
    pub tracer: Option<Tracer>,
}

/// The reason that a process exits with an error.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    error: Box<dyn Error + Send + Sync>,
}

impl Failure {
    /// Creates a failure with the exit code `code`.
    pub fn new(code: u8, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let error = error.into();
        Self { code, error }
    }

    /// Creates the failure of a process that a second signal ended, because its shutdown took too
    /// long.
    #[must_use]
    pub fn second_signal() -> Self {
        Self::new(exit::FAILED, "ended immediately by a second signal")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ErrorChain(&*self.error).fmt(f)
    }
}

impl Daemon {
    /// Runs the process: parses the command line and does what it asks for. Without options or a
    /// subcommand, that is to run `body`, the daemon's own code.
    pub fn main<F>(&self, body: impl FnOnce(Process) -> F) -> ExitCode
    where
        F: Future<Output = Result<(), Failure>>,
    {
        // Before anything else, because reading the settings puts secrets into memory.
        let protected = private_memory::protect();
        let matches = match self.command_line(env::args_os()) {
            Ok(matches) => matches,
            Err(error) => {
                // If even this can't be printed, the exit code has to suffice.
                let _ = error.print();
                let code = if error.use_stderr() {
                    exit::USAGE
                } else {
                    exit::OK
                };
                return ExitCode::from(code);
            }
        };
        let outcome = if let Some(healthcheck) = matches.subcommand_matches(HEALTHCHECK) {
            self.ask_health(healthcheck.get_flag(READY))
        } else if matches.get_flag(CHECK_CONFIG) {
            self.check_config()
        } else {
            self.run(protected, body)
        };
        outcome.unwrap_or_else(|failure| {
            stderr::notice(format_args!("{}: {failure}", self.name));
            ExitCode::from(failure.code)
        })
    }

    fn command_line(
        &self,
        args: impl IntoIterator<Item = OsString>,
    ) -> Result<ArgMatches, clap::Error> {
        let args = args.into_iter().map(|arg| match arg.to_str() {
            Some("-health-check") => HEALTHCHECK.into(),
            Some(_) | None => arg,
        });
        let flag = |name: &'static str, help: &'static str| {
            Arg::new(name)
                .long(name)
                .help(help)
                .action(ArgAction::SetTrue)
        };
        let healthcheck = Command::new(HEALTHCHECK)
            .about(
                "Check that the daemon running with this environment is alive \
                 [alias: -health-check]",
            )
            .arg(flag(READY, "Check that it is ready instead"));
        Command::new(self.name)
            .about(self.about)
            .version(VERSION)
            .after_help(AFTER_HELP)
            .disable_help_subcommand(true)
            .args_conflicts_with_subcommands(true)
            .arg(flag(
                CHECK_CONFIG,
                "Print all settings with their values and sources (secrets masked), and exit",
            ))
            .subcommand(healthcheck)
            .try_get_matches_from(args)
    }

    fn settings(&self) -> Result<Settings, Failure> {
        Settings::load(self.sections, self.defaults)
            .map_err(|errors| Failure::new(exit::CONFIG, errors))
    }

    fn check_config(&self) -> Result<ExitCode, Failure> {
        let settings = self.settings()?;
        for warning in settings.warnings() {
            stderr::notice(format_args!("{}: warning: {warning}", self.name));
        }
        io::stdout()
            .write_all(settings.check_config().as_bytes())
            .map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        Ok(ExitCode::SUCCESS)
    }

    fn ask_health(&self, ready: bool) -> Result<ExitCode, Failure> {
        let unhealthy = |error: Box<dyn Error + Send + Sync>| Failure::new(exit::FAILED, error);
        let addr = Settings::load_one(&ADMIN_ADDR, self.defaults)
            .map_err(|error| unhealthy(error.into()))?;
        let certificate = Settings::load_one(&ADMIN_TLS_CERT_FILE, self.defaults)
            .map_err(|error| unhealthy(error.into()))?;
        let scheme = match certificate {
            Some(_) => Scheme::Https,
            None => Scheme::Http,
        };
        let path = if ready {
            "/health/ready"
        } else {
            "/health/live"
        };
        healthcheck::ask(scheme, addr, path).map_err(|error| unhealthy(error.into()))?;
        Ok(ExitCode::SUCCESS)
    }

    fn traces(
        &self,
        settings: &Settings,
        counters: &TraceCounters,
    ) -> Result<Option<(Traces, TraceFiles)>, Failure> {
        let source = Source {
            service: self.name,
            instance: (self.id)(settings),
        };
        Traces::start(settings, &source, counters)
            .map_err(|error| Failure::new(error.exit_code(), error))
    }

    /// Runs `body`. Errors before logging has started are returned; later ones are logged.
    /// `protected` tells whether the memory of the process is protected.
    fn run<F>(
        &self,
        protected: io::Result<()>,
        body: impl FnOnce(Process) -> F,
    ) -> Result<ExitCode, Failure>
    where
        F: Future<Output = Result<(), Failure>>,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .enable_all()
            .build()
            .map_err(defect)?;
        // Before anything that takes time: a SIGHUP would end the process.
        let hangups = {
            let _entered = runtime.enter();
            signals::ignore_stray().map_err(defect)?;
            Hangups::catch().map_err(defect)?
        };
        let settings = self.settings()?;
        let levels = settings.get(&LOG_LEVEL);
        let trace_counters = TraceCounters::new();
        let (traces, trace_files) = self.traces(&settings, &trace_counters)?.unzip();
        // The logs are kept to the end, so that the last events, which show why the process ended,
        // are written.
        let sdk = traces.as_ref().map(Traces::sdk);
        let logs =
            logging::init_with(levels.clone(), settings.get(&LOG_FORMAT), sdk).map_err(defect)?;
        end_at_quit(&logs).map_err(defect)?;
        let outcome = runtime.block_on(async {
            tracing::info!(version = VERSION, "starting {}", self.name);
            if let Err(error) = protected {
                tracing::warn!(%error, "{}", private_memory::UNPROTECTED);
            }
            for warning in settings.warnings() {
                tracing::warn!("{warning}");
            }
            let signals = Signals::catch().map_err(defect)?;
            let tasks = Lifecycle::new();
            let stop = tasks.stopping();
            let debug = logging::debug_on_signal(logs.levels(), levels).map_err(defect)?;
            let registry = metrics::registry().map_err(defect)?;
            let count = logs.count_dropped(&registry).map_err(defect)?;
            trace_counters.register(&registry).map_err(defect)?;
            let file_counters = TraceFiles::counters(&registry).map_err(defect)?;
            let access = trace_files.as_ref().map(TraceFiles::access);
            tasks.spawn(async move {
                let files = Box::pin(watch(trace_files, file_counters));
                let own_tasks = async { tokio::join!(debug, count, files) };
                stop.run_until_cancelled(own_tasks).await;
            });
            let admin = Admin::from_settings(&settings, &registry)
                .await
                .map_err(|error| Failure::new(error.exit_code(), error))?
                .with_watched_files(access);
            let process = Process {
                registry,
                admin,
                settings,
                signals,
                hangups,
                tasks,
                tracer: traces.as_ref().map(Traces::tracer),
            };
            body(process).await
        });
        // Tasks that hang must not delay the exit.
        runtime.shutdown_background();
        // A process that must end at once does not wait for its last spans.
        if let (Some(traces), Ok(())) = (traces, &outcome) {
            traces.end();
        }
        Ok(match outcome {
            Ok(()) => {
                tracing::info!("stopped");
                ExitCode::SUCCESS
            }
            Err(failure) => {
                tracing::error!(error = %failure, "failed");
                ExitCode::from(failure.code)
            }
        })
    }
}

async fn watch(files: Option<TraceFiles>, counters: ReloadCounters) {
    if let Some(files) = files {
        files.run(counters).await;
    }
}

/// Makes SIGQUIT end the process, without a drain or a core dump.
fn end_at_quit(logs: &Logs) -> io::Result<()> {
    let write_logs = logs.end_quickly();
    signals::at_quit(move || {
        tracing::warn!("ended at once by SIGQUIT");
        write_logs();
        process::exit(QUIT_EXIT_CODE.into());
    })
}

const CHECK_CONFIG: &str = "check-config";
const HEALTHCHECK: &str = "healthcheck";
const READY: &str = "ready";

fn defect(error: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
    Failure::new(exit::SOFTWARE, error)
}

/// The address to listen on and the address that was bound, which differs if the port was 0.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// The requested address.
    pub asked: SocketAddr,
    /// The address that was bound.
    pub addr: SocketAddr,
}

impl Bound {
    const fn was_chosen_by_the_system(&self) -> bool {
        self.asked.port() == 0
    }
}

/// Logs the addresses on which the process listens; `clients` is the one for clients, if there is
/// one. If the system chose one of the ports because it was set to 0, the addresses are also
/// printed.
pub fn report_listening(clients: Option<Bound>, admin: &Admin) {
    print_chosen(clients, admin);
    log_listening(clients.map(|bound| bound.addr), admin.local_addr());
}

/// Logs the bound addresses in the event `listening`.
pub fn log_listening(clients: Option<SocketAddr>, admin: SocketAddr) {
    let listen_addr = clients.map(tracing::field::display);
    tracing::info!(listen_addr, admin_addr = %admin, "listening");
}

/// Prints the bound addresses, each with its purpose, if the system chose a port, since the
/// settings do not show it in that case.
fn print_chosen(clients: Option<Bound>, admin: &Admin) {
    let mut bound = clients.into_iter().chain([admin.bound()]);
    if !bound.any(|bound| bound.was_chosen_by_the_system()) {
        return;
    }
    let clients = clients.map_or_else(String::new, |Bound { addr, .. }| {
        format!("  clients  {addr}\n")
    });
    let admin = admin.status_url();
    // A daemon works just as well with its standard output closed.
    let _ =
        writeln!(io::stdout(), "{clients}  admin    {admin}").and_then(|()| io::stdout().flush());
}
