//! What a daemon's process is before and around its part: the command line, the order of its start, how it ends. What the part
//! does in between, its own `main` says.

use std::{
    env,
    error::Error,
    ffi::OsString,
    fmt,
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
};

use clap::{Arg, ArgAction, ArgMatches, Command};
use prometheus::Registry;

use crate::{
    VERSION,
    admin::Admin,
    env::{Section, Settings},
    error_chain::ErrorChain,
    exit, healthcheck,
    lifecycle::Lifecycle,
    logging, metrics,
    settings::{ADMIN_ADDR, LOG_FORMAT, LOG_LEVEL},
    signals::Signals,
};

/// The threads of the runtime for all that is not a shard: two, so that a long answer of the admin port holds up nothing else.
const THREADS: usize = 2;

const AFTER_HELP: &str = "\
All settings come from the environment; --check-config lists them. Logs go to
standard error. SIGTERM and SIGINT end it, SIGUSR1 makes it log at level debug for
60 s.

Exit codes:
  0   ended as it was asked to, or healthy
  1   not healthy; ended at once by a second signal
  64  the command line is wrong
  69  an address can't be listened on
  70  a defect of the program
  78  a setting in the environment is wrong";

/// What one daemon has of its own.
#[derive(Clone, Copy, Debug)]
pub struct Daemon {
    /// The binary's name.
    pub name: &'static str,
    /// What it is, in a sentence.
    pub about: &'static str,
    /// The settings that it takes, [`COMMON`](crate::settings::COMMON) among them, in the order in which they are printed.
    pub sections: &'static [Section],
    /// Its own defaults, ADMIN_ADDR's among them.
    pub defaults: &'static [(&'static str, &'static str)],
}

/// What a daemon's part finds when its turn has come: settings that are right, logs, signals that are caught, and an admin port
/// that is open and waits to be served.
#[derive(Debug)]
pub struct Process {
    /// Its settings.
    pub settings: Settings,
    /// Where its metrics belong.
    pub registry: Registry,
    /// Its admin port.
    pub admin: Admin,
    /// What asks it to end.
    pub signals: Signals,
    /// What runs beside the part and ends after it.
    pub tasks: Lifecycle,
}

/// Why a process ends other than well.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    error: Box<dyn Error + Send + Sync>,
}

impl Failure {
    /// Ends with `code` because of `error`.
    pub fn new(code: u8, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let error = error.into();
        Self { code, error }
    }

    /// Ends because a second signal asked for the end of what took too long.
    #[must_use]
    pub fn hurried() -> Self {
        Self::new(exit::FAILED, "ended at once by a second signal")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ErrorChain(&*self.error).fmt(f)
    }
}

impl Daemon {
    /// The whole life of the process: does what the command line asks for, which is `part` unless it asks for less.
    pub fn main<F>(&self, part: impl FnOnce(Process) -> F) -> ExitCode
    where
        F: Future<Output = Result<(), Failure>>,
    {
        let asked = match self.command_line(env::args_os()) {
            Ok(asked) => asked,
            Err(error) => {
                // Where not even this can be printed, the exit code has to do.
                let _ = error.print();
                let code = if error.use_stderr() {
                    exit::USAGE
                } else {
                    exit::OK
                };
                return ExitCode::from(code);
            }
        };
        let outcome = if let Some(healthcheck) = asked.subcommand_matches(HEALTHCHECK) {
            self.ask_health(healthcheck.get_flag(READY))
        } else if asked.get_flag(CHECK_CONFIG) {
            self.check_config()
        } else {
            self.run(part)
        };
        outcome.unwrap_or_else(|failure| {
            eprintln!("{}: {failure}", self.name);
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
            .about("Asks the daemon that runs with this environment whether it is alive; -health-check is the same")
            .arg(flag(READY, "Ask whether it is ready instead"));
        Command::new(self.name)
            .about(self.about)
            .version(VERSION)
            .after_help(AFTER_HELP)
            .disable_help_subcommand(true)
            .args_conflicts_with_subcommands(true)
            .arg(flag(
                CHECK_CONFIG,
                "Print what each setting is and where it comes from, secrets masked",
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
            eprintln!("{}: warning: {warning}", self.name);
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
        let path = if ready {
            "/health/ready"
        } else {
            "/health/live"
        };
        healthcheck::ask(addr, path).map_err(|error| unhealthy(error.into()))?;
        Ok(ExitCode::SUCCESS)
    }

    /// Runs `part`. What is wrong before there are logs is an error here, and an event from then on.
    fn run<F>(&self, part: impl FnOnce(Process) -> F) -> Result<ExitCode, Failure>
    where
        F: Future<Output = Result<(), Failure>>,
    {
        let settings = self.settings()?;
        let level = settings.get(&LOG_LEVEL);
        // Held to the end: what is logged last is what tells why it ended.
        let logs = logging::init(level, settings.get(&LOG_FORMAT)).map_err(defect)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .enable_all()
            .build()
            .map_err(defect)?;
        let outcome = runtime.block_on(async {
            tracing::info!(version = VERSION, "{} starts", self.name);
            for warning in settings.warnings() {
                tracing::warn!("{warning}");
            }
            let signals = Signals::catch().map_err(defect)?;
            let tasks = Lifecycle::new();
            let stop = tasks.stopping();
            let debug = logging::debug_on_signal(logs.levels(), level).map_err(defect)?;
            let registry = metrics::registry().map_err(defect)?;
            let count = logs.count_dropped(&registry).map_err(defect)?;
            tasks.spawn(async move {
                let about_logs = async { tokio::join!(debug, count) };
                stop.run_until_cancelled(about_logs).await;
            });
            let process = Process {
                registry,
                admin: Admin::bind(settings.get(&ADMIN_ADDR))
                    .await
                    .map_err(|error| Failure::new(exit::UNAVAILABLE, error))?,
                settings,
                signals,
                tasks,
            };
            part(process).await
        });
        // Nothing that hangs holds up the process's end.
        runtime.shutdown_background();
        Ok(match outcome {
            Ok(()) => {
                tracing::info!("ended");
                ExitCode::SUCCESS
            }
            Err(failure) => {
                tracing::error!(error = %failure, "ended");
                ExitCode::from(failure.code)
            }
        })
    }
}

const CHECK_CONFIG: &str = "check-config";
const HEALTHCHECK: &str = "healthcheck";
const READY: &str = "ready";

fn defect(error: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
    Failure::new(exit::SOFTWARE, error)
}

/// An address that was to be listened on, and the one that was bound: another one if its port was 0.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// What was asked for.
    pub asked: SocketAddr,
    /// What it became.
    pub addr: SocketAddr,
}

impl Bound {
    fn was_chosen_by_the_system(&self) -> bool {
        self.asked.port() == 0
    }
}

/// Says on which addresses the process listens: `clients` is where it serves clients, if it does. If one of them was left to the
/// system by port 0, they are printed too.
pub fn say_listening(clients: Option<Bound>, admin: Bound) {
    print_chosen(clients, admin);
    log_listening(clients.map(|bound| bound.addr), admin.addr);
}

/// Logs the event `listening` with the addresses that were bound.
pub fn log_listening(clients: Option<SocketAddr>, admin: SocketAddr) {
    let listen_addr = clients.map(tracing::field::display);
    tracing::info!(listen_addr, admin_addr = %admin, "listening");
}

/// Prints the addresses that were bound, each with what is there, where nobody knows them otherwise.
fn print_chosen(clients: Option<Bound>, admin: Bound) {
    let mut bound = clients.iter().chain([&admin]);
    if !bound.any(Bound::was_chosen_by_the_system) {
        return;
    }
    let clients = clients.map_or_else(String::new, |Bound { addr, .. }| {
        format!("  clients  {addr}\n")
    });
    let admin = admin.addr;
    // A daemon whose standard output is closed is as good a daemon.
    let _ = writeln!(io::stdout(), "{clients}  admin    http://{admin}/status")
        .and_then(|()| io::stdout().flush());
}
