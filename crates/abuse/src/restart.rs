//! The attack `restart`: an edge is restarted under a crowd of one address, while wrong passwords
//! arrive from that address. The crowd keeps its device cookies, as clients do.

use std::time::Duration;

use anyhow::Context as _;
use tickstorm_bench::EdgeProcess;
use tickstorm_command::Failure;
use tickstorm_timebase::{Clock as _, SystemClock};

use crate::addresses;
use crate::equipment::{Equipment, login};
use crate::hostile::{self, Role, SwarmOrder};
use crate::ordered_process::{OrderedProcess, Priority};
use crate::process::Watched;
use crate::run::{Run, RunOutcome};
use crate::surroundings::Surroundings;
use crate::swarm::SwarmCounts;
use crate::verdict::Return;

/// The crowd, as a multiple of the usual one.
const CROWD_FACTOR: u32 = 10;
/// The connections that the crowd opens per second: an edge that is restarted gets all of them
/// within the first wait of their backoff, one second.
const OPENS_PER_SECOND: u32 = 10_000;
/// The time that the crowd may take to be served at first, before anything is measured.
const SERVED_WITHIN: Duration = Duration::from_secs(60);
/// The time after which a crowd that is not back is given up.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(30);
/// The time for which the attack lasts before the restart, so that the edge has judged it.
const ATTACKED_BEFORE: Duration = Duration::from_secs(2);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

type SwarmProcess = OrderedProcess<SwarmCounts>;

/// Runs the attack, on an edge of its own.
pub(crate) fn run(
    run: &Run,
    equipment: &Equipment,
    surroundings: &Surroundings,
) -> Result<RunOutcome, Failure> {
    let mut edge = equipment.start_edge(surroundings, None, None)?;
    let addr = edge.ready.addr;
    let login = login();
    let clients = run.clients * CROWD_FACTOR;
    let order = SwarmOrder {
        role: Role::Returning,
        addr,
        authority_file: None,
        user: login.user,
        password: login.password,
        sources: addresses::hostile(run.number, false),
        connections: clients,
        opens_per_second: OPENS_PER_SECOND,
        now_ms: unix_ms(&mut edge)?,
        connection_ids: Vec::new(),
        cpus: surroundings.honest_cpus.clone(),
    };
    let crowd = SwarmProcess::start(hostile::COMMAND, &order, Priority::Usual)?;
    let served = await_served(&crowd, clients, SERVED_WITHIN);
    if served.back < served.clients {
        return Err(
            anyhow::anyhow!("only {} of {clients} clients were served", served.back).into(),
        );
    }
    let attackers = SwarmOrder {
        role: Role::Attack(run.attack.name.to_owned()),
        connections: run.connections(),
        opens_per_second: run.hostile,
        cpus: surroundings.hostile_cpus.clone(),
        ..order
    };
    let attackers = SwarmProcess::start(hostile::COMMAND, &attackers, Priority::Idle)?;
    std::thread::sleep(ATTACKED_BEFORE);
    drop(edge);
    await_gone(&crowd);
    let mut edge = equipment.start_edge(surroundings, None, Some(addr))?;
    let (watched, started) = (Watched::new(edge.pid()), SystemClock.now());
    let returned = await_served(&crowd, clients, GIVEN_UP_AFTER);
    let mut outcome = RunOutcome::default();
    let figures = &mut outcome.figures;
    let took = SystemClock.now().since(started);
    figures.cpu_percent = 100.0 * watched.cpu_time()?.as_secs_f64() / took.as_secs_f64();
    figures.returned = Some(returned);
    figures.edge_ended = edge
        .exited()
        .context("can't wait for the edge")?
        .map(|end| end.to_string());
    outcome.hostile = attackers.stop()?;
    crowd.stop()?;
    Ok(outcome)
}

/// Waits until all clients of the crowd are served, for at most `within`.
fn await_served(crowd: &SwarmProcess, clients: u32, within: Duration) -> Return {
    let started = SystemClock.now();
    loop {
        let (back, took) = (crowd.counts().served_now, SystemClock.now().since(started));
        if back >= clients.into() || took > within {
            return Return {
                clients: clients.into(),
                back,
                seconds: took.as_secs_f64(),
            };
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Waits until the whole crowd has noticed the end of the edge.
fn await_gone(crowd: &SwarmProcess) {
    let started = SystemClock.now();
    while crowd.counts().served_now > 0 && SystemClock.now().since(started) < SERVED_WITHIN {
        std::thread::sleep(POLL_INTERVAL);
    }
}

fn unix_ms(edge: &mut EdgeProcess) -> anyhow::Result<i64> {
    let sample = edge.sample(false)?;
    let offset_ns = sample
        .offset_ns
        .context("the edge does not know the time")?;
    let unix_ns = offset_ns.saturating_add_unsigned(SystemClock.now().as_nanos());
    Ok(unix_ns / 1_000_000)
}
