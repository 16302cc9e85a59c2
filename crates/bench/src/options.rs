//! The options that all scenarios share, and the checks of whether this machine can satisfy them.

use std::fs::OpenOptions;
use std::net::{SocketAddr, ToSocketAddrs};
use std::num::ParseIntError;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use tickstorm_command::{
    Failure, OUTPUT,
    credentials::{self, ClientCredentials},
};
use tickstorm_service::env::Settings;
use tickstorm_service::{duration, exit, fd_limit};

use super::generator::{ClientSetup, ClientSources};
use super::machine;
use super::tls::{BenchTlsArgs, ClientTls};

/// The largest number of clients, which 80 source addresses can hold.
const CLIENTS_MAX: i64 = 1_000_000;

/// The options of every scenario.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CommonOptions {
    /// Number of clients
    #[arg(
        long,
        short = 'n',
        value_name = "N",
        default_value_t = 1_000,
        value_parser = clap::value_parser!(u32).range(1..=CLIENTS_MAX)
    )]
    pub(crate) clients: u32,
    /// Test the edge at HOST:PORT instead of one in a child process; its CPU time and memory are
    /// not measured
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) addr: Option<String>,
    /// User name to authenticate with
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// CPUs for the edge under test: a list such as 0 or 0,1; `any` for all CPUs; or `auto`
    #[arg(long, value_name = "LIST", default_value = "auto", value_parser = Cpus::parse)]
    pub(crate) edge_cpus: Cpus,
    /// CPUs for the load generator, in the same form
    #[arg(long, value_name = "LIST", default_value = "auto", value_parser = Cpus::parse)]
    pub(crate) client_cpus: Cpus,
    /// Also measure the baseline, in alternating rounds: a bare loop over plain sockets in the
    /// edge's process
    #[arg(long, conflicts_with = "addr")]
    pub(crate) with_limit: bool,
    #[command(flatten)]
    pub(crate) tls: BenchTlsArgs,
    /// Write the results to FILE as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the results to FILE as a self-contained HTML page with charts
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

/// A value of `--edge-cpus` or `--client-cpus` that is not a list of CPUs.
#[derive(Debug, thiserror::Error)]
#[error("expected a list of CPUs such as 0 or 0,1, or `any`, or `auto`")]
pub(crate) struct NotCpus(#[source] ParseIntError);

/// A value that is not a duration, or is shorter than a second.
#[derive(Debug, thiserror::Error)]
#[error(
    "expected a duration of at least one second, written as {}",
    duration::FORM
)]
pub(crate) struct NotADuration;

/// The CPUs that threads may run on, as given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cpus {
    /// Separate CPUs for the edge and the load generator if the edge has one shard and there are at
    /// least two CPUs; otherwise all CPUs.
    Auto,
    Any,
    These(Vec<usize>),
}

impl Cpus {
    fn parse(text: &str) -> Result<Self, NotCpus> {
        match text {
            "auto" => Ok(Self::Auto),
            "any" => Ok(Self::Any),
            list => {
                let parsed: Result<Vec<usize>, _> = list.split(',').map(str::parse).collect();
                parsed.map(Self::These).map_err(NotCpus)
            }
        }
    }
}

/// The CPUs that were chosen. An empty list means all CPUs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Placement {
    pub(crate) edge: Vec<usize>,
    pub(crate) clients: Vec<usize>,
}

impl CommonOptions {
    /// Chooses the CPUs for the edge and for the load generator. Fails if a requested CPU is not
    /// available.
    pub(crate) fn placement(&self) -> Result<Placement, Failure> {
        let available = machine::cpus();
        let one_shard =
            std::env::var("SHARDS").map_or(true, |shards| shards.is_empty() || shards == "1");
        let apart = one_shard && available.len() > 1 && self.addr.is_none();
        let choose = |cpus: &Cpus, auto: usize, option: &str| match cpus {
            Cpus::Auto if apart => Ok(vec![available[auto]]),
            Cpus::Auto | Cpus::Any => Ok(Vec::new()),
            Cpus::These(these) => match these.iter().find(|cpu| !available.contains(cpu)) {
                None => Ok(these.clone()),
                Some(cpu) => {
                    let text = format!("{option}: no CPU {cpu}; available CPUs: {available:?}");
                    Err(Failure::message(exit::USAGE, text))
                }
            },
        };
        Ok(Placement {
            edge: choose(&self.edge_cpus, 0, "--edge-cpus")?,
            clients: choose(&self.client_cpus, 1, "--client-cpus")?,
        })
    }

    /// Raises the limit of open files as far as allowed and returns it. Fails if it is too low to
    /// work with.
    pub(crate) fn files_limit(&self) -> Result<u64, Failure> {
        let files = fd_limit::raise().map_err(|error| Failure::new(exit::UNAVAILABLE, error))?;
        let limit = files.after;
        if limit < 1_024 {
            let text = format!(
                "the limit of open files (ulimit -n) is {limit}, but at least 1024 is required"
            );
            return Err(Failure::message(exit::UNAVAILABLE, text));
        }
        Ok(limit)
    }

    /// Checks that the result files can be written, before hours are spent on measuring.
    pub(crate) fn check_files(&self) -> Result<(), Failure> {
        for path in self.json.iter().chain(&self.html) {
            let opened = OpenOptions::new().create(true).append(true).open(path);
            opened.map_err(|error| {
                let what = format!("can't write {}", path.display());
                Failure::new(OUTPUT, anyhow::Error::new(error).context(what))
            })?;
        }
        Ok(())
    }

    /// Returns the credentials that clients authenticate with.
    pub(crate) fn credentials(&self) -> Result<ClientCredentials, Failure> {
        let settings = Settings::load(&credentials::SECTIONS, &credentials::DEFAULTS)
            .map_err(|errors| Failure::new(exit::CONFIG, errors))?;
        ClientCredentials::from_settings(&settings, self.user.as_deref())
    }

    /// Resolves `--addr`; `None` if it was not given.
    pub(crate) fn remote(&self) -> Result<Option<SocketAddr>, Failure> {
        let Some(addr) = &self.addr else {
            return Ok(None);
        };
        let found = addr.to_socket_addrs().map(|mut found| found.next());
        match found {
            Ok(Some(found)) => Ok(Some(found)),
            Ok(None) => Err(Failure::new(
                exit::UNAVAILABLE,
                anyhow!("--addr {addr}: the host has no address"),
            )),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
                let text =
                    format!("--addr {addr}: expected a host and a port, such as 127.0.0.1:8080");
                Err(Failure::message(exit::USAGE, text))
            }
            Err(error) => Err(Failure::new(
                exit::UNAVAILABLE,
                anyhow::Error::new(error).context(format!("--addr {addr}")),
            )),
        }
    }

    /// Fails if `--addr` was given to a scenario that can only test an edge in a child process.
    pub(crate) fn needs_child(&self, scenario: &str) -> Result<(), Failure> {
        match self.addr {
            None => Ok(()),
            Some(_) => Err(Failure::message(
                exit::USAGE,
                format!(
                    "`bench {scenario}` can only test an edge in a child process; remove --addr"
                ),
            )),
        }
    }

    /// Fails if `--with-limit` was given to a scenario without a baseline.
    pub(crate) fn has_no_limit(&self, scenario: &str) -> Result<(), Failure> {
        if !self.with_limit {
            return Ok(());
        }
        let text = format!(
            "`bench {scenario}` has no bare loop to compare the edge with; remove --with-limit"
        );
        Err(Failure::message(exit::USAGE, text))
    }

    /// Returns the setup of clients that connect to the edge at `addr`.
    pub(crate) fn setup(
        &self,
        addr: SocketAddr,
        placement: &Placement,
        credentials: ClientCredentials,
        tls: Option<ClientTls>,
    ) -> ClientSetup {
        ClientSetup {
            addr,
            sources: ClientSources::default(),
            mode: tickstorm_client::Mode::Second,
            ahead: false,
            lead: Duration::ZERO,
            credentials,
            tls,
            heartbeat: HEARTBEAT,
            yields: false,
            cpus: placement.clients.clone(),
        }
    }
}

/// The interval between two heartbeats of a client: two thirds of the edge's default interval, as
/// docs/protocol.md recommends.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(10);

/// Parses a duration on the command line, which must be at least a second.
pub(crate) fn duration(text: &str) -> Result<Duration, NotADuration> {
    let parsed = duration::parse(text).ok();
    parsed
        .filter(|duration| *duration >= Duration::from_secs(1))
        .ok_or(NotADuration)
}
