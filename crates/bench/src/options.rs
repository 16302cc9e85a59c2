//! What all scenarios are told on the command line, and whether this machine can do it.

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

use super::generator::ClientSetup;
use super::machine;

/// The most clients: those of 50 source addresses.
const CLIENTS_MAX: i64 = 1_000_000;

/// Options of every scenario.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CommonOptions {
    /// How many clients.
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=CLIENTS_MAX))]
    pub(crate) clients: u32,
    /// Test the edge at this address instead of a child process: then nothing is known of its CPU time and memory.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) addr: Option<String>,
    /// The user's name.
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// The CPUs of the edge under test, as in 0 or 0,1; any: all that there are.
    #[arg(long, value_name = "LIST", default_value = "auto", value_parser = Cpus::parse)]
    pub(crate) edge_cpus: Cpus,
    /// The CPUs of the load generator.
    #[arg(long, value_name = "LIST", default_value = "auto", value_parser = Cpus::parse)]
    pub(crate) client_cpus: Cpus,
    /// Measure the yardstick too, in turn: a bare loop over plain sockets in the same process.
    #[arg(long, conflicts_with = "addr")]
    pub(crate) with_limit: bool,
    /// Write the results to this file as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the results to this file as a page of HTML with charts, which needs nothing else.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

/// A value of --edge-cpus or --client-cpus that says nothing.
#[derive(Debug, thiserror::Error)]
#[error("it takes numbers of CPUs, as in 0 or 0,1, or any, or auto")]
pub(crate) struct NotCpus(#[source] ParseIntError);

/// A value of an option that takes a duration, that is none, or too short.
#[derive(Debug, thiserror::Error)]
#[error("it takes a duration of a second or more, in {}", duration::FORM)]
pub(crate) struct NotADuration;

/// Where threads run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cpus {
    /// Apart from each other where the edge has one shard and there are two CPUs, else anywhere.
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

/// The placement that was chosen. Empty: anywhere.
#[derive(Clone, Debug, Default)]
pub(crate) struct Placement {
    pub(crate) edge: Vec<usize>,
    pub(crate) clients: Vec<usize>,
}

impl CommonOptions {
    /// Where edge and clients run.
    pub(crate) fn placement(&self) -> Result<Placement, Failure> {
        let there = machine::cpus();
        let one_shard =
            std::env::var("SHARDS").map_or(true, |shards| shards.is_empty() || shards == "1");
        let apart = one_shard && there.len() > 1 && self.addr.is_none();
        let choose = |cpus: &Cpus, auto: usize, option: &str| match cpus {
            Cpus::Auto if apart => Ok(vec![there[auto]]),
            Cpus::Auto | Cpus::Any => Ok(Vec::new()),
            Cpus::These(these) => match these.iter().find(|cpu| !there.contains(cpu)) {
                None => Ok(these.clone()),
                Some(cpu) => {
                    let text = format!("{option}: there is no CPU {cpu} here; there are {there:?}");
                    Err(Failure::said(exit::USAGE, text))
                }
            },
        };
        Ok(Placement {
            edge: choose(&self.edge_cpus, 0, "--edge-cpus")?,
            clients: choose(&self.client_cpus, 1, "--client-cpus")?,
        })
    }

    /// The limit of open files, raised as far as it goes; a limit that leaves no room is an error.
    pub(crate) fn files_limit(&self) -> Result<u64, Failure> {
        let files = fd_limit::raise().map_err(|error| Failure::new(exit::UNAVAILABLE, error))?;
        let limit = files.after;
        if limit < 1_024 {
            let text =
                format!("the limit of open files is {limit}; at least 1024 are needed (ulimit -n)");
            return Err(Failure::said(exit::UNAVAILABLE, text));
        }
        Ok(limit)
    }

    /// Makes sure that results can be written, before hours are spent on them.
    pub(crate) fn check_files(&self) -> Result<(), Failure> {
        for path in self.json.iter().chain(&self.html) {
            let opened = OpenOptions::new().create(true).append(true).open(path);
            opened.map_err(|error| {
                let what = format!("{} can't be written", path.display());
                Failure::new(OUTPUT, anyhow::Error::new(error).context(what))
            })?;
        }
        Ok(())
    }

    /// As whom clients come.
    pub(crate) fn credentials(&self) -> Result<ClientCredentials, Failure> {
        let settings = Settings::load(&credentials::SECTIONS, &credentials::DEFAULTS)
            .map_err(|errors| Failure::new(exit::CONFIG, errors))?;
        ClientCredentials::from_settings(&settings, self.user.as_deref())
    }

    /// The address of --addr.
    pub(crate) fn remote(&self) -> Result<Option<SocketAddr>, Failure> {
        let Some(addr) = &self.addr else {
            return Ok(None);
        };
        let found = addr.to_socket_addrs().map(|mut found| found.next());
        match found {
            Ok(Some(found)) => Ok(Some(found)),
            Ok(None) => Err(Failure::new(
                exit::UNAVAILABLE,
                anyhow!("--addr {addr}: no such host"),
            )),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
                let text =
                    format!("--addr {addr}: it takes a host and a port, as in 127.0.0.1:8080");
                Err(Failure::said(exit::USAGE, text))
            }
            Err(error) => Err(Failure::new(
                exit::UNAVAILABLE,
                anyhow::Error::new(error).context(format!("--addr {addr}")),
            )),
        }
    }

    /// Fails where this scenario needs the edge in a child process.
    pub(crate) fn needs_child(&self, scenario: &str) -> Result<(), Failure> {
        match self.addr {
            None => Ok(()),
            Some(_) => Err(Failure::said(
                exit::USAGE,
                format!("{scenario} needs the edge in a child process: leave --addr out"),
            )),
        }
    }

    /// What clients are, of an edge at `addr`.
    pub(crate) fn setup(
        &self,
        addr: SocketAddr,
        placement: &Placement,
        credentials: ClientCredentials,
    ) -> ClientSetup {
        ClientSetup {
            addr,
            mode: tickstorm_client::Mode::Second,
            ahead: false,
            lead: Duration::ZERO,
            credentials,
            heartbeat: HEARTBEAT,
            cpus: placement.clients.clone(),
        }
    }
}

/// From one heartbeat of a client to its next: two thirds of the edge's default interval, as an SDK sends them.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(10);

/// A duration on the command line, at least a second.
pub(crate) fn duration(text: &str) -> Result<Duration, NotADuration> {
    let parsed = duration::parse(text).ok();
    parsed
        .filter(|duration| *duration >= Duration::from_secs(1))
        .ok_or(NotADuration)
}
