//! The process with the clients of a swarm: hostile ones, or those of a crowd that comes back after
//! a restart.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use serde::{Deserialize, Serialize};
use tickstorm_bench::{ClientTls, machine};
use tickstorm_command::Failure;
use tickstorm_service::{exit, fd_limit};
use tickstorm_tls::ClientHandshake;

use crate::attacks::{Attack, Ingredients};
use crate::crowd;
use crate::ordered_process::{self, Reports};
use crate::swarm::{Login, Reopen, Sources, Swarm, SwarmPlan};

/// The hidden command that turns this program into such a process.
pub(crate) const COMMAND: &str = "swarm";

/// The clients of a swarm.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Those of the attack with this name.
    Attack(String),
    /// Clients that subscribe, keep their device cookies, and come back when they are disconnected.
    Returning,
}

/// What the process must do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SwarmOrder {
    pub(crate) role: Role,
    pub(crate) addr: SocketAddr,
    /// The certificate of the edge's authority; `None` without TLS.
    pub(crate) authority_file: Option<PathBuf>,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) sources: Sources,
    pub(crate) connections: u32,
    pub(crate) opens_per_second: u32,
    /// Authority time in milliseconds.
    pub(crate) now_ms: i64,
    /// The ids under which the admin port lists connections of honest clients.
    pub(crate) connection_ids: Vec<String>,
    /// The CPUs to run on; all if empty.
    pub(crate) cpus: Vec<usize>,
}

/// Runs until standard input ends.
pub(crate) fn run() -> Result<(), Failure> {
    let (order, reports) = ordered_process::receive::<SwarmOrder>()?;
    fd_limit::raise().map_err(|error| Failure::new(exit::UNAVAILABLE, error))?;
    if !order.cpus.is_empty() {
        machine::pin(&order.cpus).context("can't use the CPUs of the order")?;
    }
    let swarm = Swarm::new(plan(order)?).context("can't start")?;
    run_swarm(swarm, reports)?;
    Ok(())
}

fn run_swarm(mut swarm: Swarm, mut reports: Reports) -> anyhow::Result<()> {
    while !reports.are_over() {
        swarm.turn(true)?;
        // Nothing here asks how the attempts ended.
        swarm.take_attempts();
        reports.report_in_time(&swarm.counts())?;
    }
    Reports::report(&swarm.counts())
}

fn plan(order: SwarmOrder) -> Result<SwarmPlan, Failure> {
    let tls = match &order.authority_file {
        Some(file) => Some(ClientTls::trusting(file)?),
        None => None,
    };
    let login = Login {
        user: order.user,
        password: order.password,
    };
    let (scripts, reopen) = match &order.role {
        Role::Returning => (vec![crowd::returning_script()], Reopen::WithBackoff),
        Role::Attack(name) => {
            let attack = Attack::named(name).ok_or_else(|| anyhow!("no attack {name}"))?;
            let ingredients = Ingredients {
                login: login.clone(),
                tls: tls.is_some(),
                now_ms: order.now_ms,
                connection_ids: order.connection_ids,
                hello: tls.as_ref().map_or(Ok(Vec::new()), hello)?,
            };
            ((attack.scripts)(&ingredients), Reopen::AtOnce)
        }
    };
    Ok(SwarmPlan {
        addr: order.addr,
        tls,
        login,
        scripts,
        sources: order.sources,
        connections: order.connections,
        opens_per_second: order.opens_per_second,
        reopen,
    })
}

fn hello(tls: &ClientTls) -> anyhow::Result<Vec<u8>> {
    let mut hello = Vec::new();
    ClientHandshake::start(Arc::clone(&tls.config), tls.name.clone(), &mut hello)?;
    Ok(hello)
}
