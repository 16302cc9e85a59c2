//! One attack on a stage: the baseline, the attack, and the time in which the edge recovers.

use std::time::Duration;

use anyhow::anyhow;
use tickstorm_bench::machine::KernelMemory;
use tickstorm_timebase::{Clock as _, SystemClock};

use crate::addresses;
use crate::attacks::{Attack, Connections, Ingredients, Kind, Target};
use crate::crowd::SERVED_WITHIN;
use crate::file_limit::FileLimit;
use crate::hostile::{self, Role, SwarmOrder};
use crate::ordered_process::{OrderedProcess, Priority};
use crate::script::Step;
use crate::stage::{Phase, Stage};
use crate::surroundings::{DroppedPackets, Surroundings};
use crate::swarm::SwarmCounts;
use crate::verdict::{Figures, Memory};

/// The most connections that hostile clients open per second if each needs a TLS handshake, which
/// costs the clients about as much CPU time as the edge.
const HANDSHAKES_PER_SECOND: u32 = 1_000;
/// The descriptors of the process with hostile clients that are not connections.
const FILES_RESERVED: u64 = 200;
/// The connections of a confined edge, honest clients included.
const CONFINED_CONNECTIONS: u32 = 19_000;
/// The time after an attack before memory is first judged, and the time that it may then still
/// take.
const SETTLES_WITHIN: Duration = Duration::from_secs(3);
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(30);
/// The same time before memory is judged in a short run.
const SETTLES_WITHIN_SHORT: Duration = Duration::from_secs(1);
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// One run of an attack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) attack: &'static Attack,
    /// The number of the run, from which hostile addresses are derived.
    pub(crate) number: u32,
    pub(crate) many: bool,
    pub(crate) tls: bool,
    pub(crate) short: bool,
    pub(crate) clients: u32,
    pub(crate) hostile: u32,
    pub(crate) seconds: u32,
    /// The limit of open files.
    pub(crate) files_max: u64,
}

/// What a run has measured, and what it could not do.
#[derive(Default)]
pub(crate) struct RunOutcome {
    pub(crate) figures: Figures,
    pub(crate) hostile: SwarmCounts,
    pub(crate) notes: Vec<String>,
}

impl Run {
    /// Returns the number of hostile connections at a time.
    pub(crate) fn connections(&self) -> u32 {
        let wanted = match (self.attack.kind, self.attack.connections) {
            (Kind::Confined, _) if !self.short => CONFINED_CONNECTIONS.saturating_sub(self.clients),
            (_, Connections::Percent(percent)) => self.hostile * percent / 100,
            (_, Connections::Exactly(number)) => number,
        };
        let files = self.files_max.saturating_sub(FILES_RESERVED);
        wanted.min(u32::try_from(files).unwrap_or(u32::MAX)).max(1)
    }

    /// Returns the order to the process with the hostile clients.
    pub(crate) fn order(
        &self,
        stage: &Stage,
        surroundings: &Surroundings,
    ) -> anyhow::Result<SwarmOrder> {
        let shakes_hands = self.tls && self.needs(|step| matches!(step, Step::ShakeHands));
        let rate_max = if shakes_hands {
            HANDSHAKES_PER_SECOND
        } else {
            u32::MAX
        };
        let (addr, connection_ids) = match self.attack.target {
            Target::Clients => (stage.edge.ready.addr, Vec::new()),
            Target::Admin => (stage.admin()?, Vec::new()),
            Target::Operators => (stage.admin()?, stage.connection_ids()?),
        };
        Ok(SwarmOrder {
            role: Role::Attack(self.attack.name.to_owned()),
            addr,
            authority_file: stage.authority_file(),
            connection_ids,
            user: stage.login.user.clone(),
            password: stage.login.password.clone(),
            sources: addresses::hostile(self.number, self.many),
            connections: self.connections(),
            opens_per_second: self.hostile.min(rate_max),
            now_ms: stage.now_ms()?,
            cpus: surroundings.hostile_cpus.clone(),
        })
    }

    /// Returns a description for the progress and for errors.
    pub(crate) fn title(&self) -> String {
        let from = if self.many { "many" } else { "one" };
        let transport = if self.tls { "tls" } else { "plain" };
        format!("{} from {from} over {transport}", self.attack.name)
    }

    fn needs(&self, wanted: fn(&Step) -> bool) -> bool {
        let scripts = (self.attack.scripts)(&self.ingredients());
        let mut steps = scripts.iter().flat_map(|script| &script.steps);
        steps.any(wanted)
    }

    /// Returns why the attack did not take place, if it did not: half of the connections were never
    /// established, or the edge accepted few of the logins that it needs.
    fn void(&self, counts: SwarmCounts) -> Option<String> {
        let wanted = u64::from(self.connections());
        if counts.connected < wanted / 2 {
            return Some(format!("{} of {wanted} connections", counts.connected));
        }
        let scripts = (self.attack.scripts)(&self.ingredients());
        let expects_answers = scripts.iter().any(|script| script.is_http);
        if expects_answers && counts.granted + counts.refused == 0 {
            return Some("no request was answered".into());
        }
        let logging_in = scripts.iter().filter(|script| script.logs_in()).count() as u64;
        let logins = wanted * logging_in / scripts.len().max(1) as u64;
        // On a full edge, half of them are refused.
        (counts.acks < logins / 4).then(|| format!("{} ACKs for {logins} logins", counts.acks))
    }

    fn ingredients(&self) -> Ingredients {
        Ingredients {
            login: crate::equipment::login(),
            tls: self.tls,
            now_ms: 0,
            hello: vec![0; 2],
            connection_ids: vec![String::new()],
        }
    }
}

/// Attacks the edge of `stage`. An edge that ends is part of the figures.
pub(crate) fn run(
    run: &Run,
    stage: &mut Stage,
    surroundings: &Surroundings,
    baseline: &Phase,
) -> anyhow::Result<RunOutcome> {
    let mut outcome = RunOutcome::default();
    outcome.figures.baseline = Some(baseline.lateness);
    outcome.figures.baseline_cpu_percent = baseline.cpu_percent;
    let measured = measure(run, stage, surroundings, &mut outcome);
    let edge_end = stage.edge_end();
    match (measured, edge_end) {
        (Ok(()), None) => {}
        (_, Some(end)) => outcome.figures.edge_ended = Some(end),
        (Err(error), None) => {
            let answers = stage.sample().is_ok();
            anyhow::ensure!(!answers, error);
            outcome.figures.edge_ended = Some(format!("{error:#}"));
        }
    }
    Ok(outcome)
}

fn measure(
    run: &Run,
    stage: &mut Stage,
    surroundings: &Surroundings,
    outcome: &mut RunOutcome,
) -> anyhow::Result<()> {
    let vanishes = run.attack.kind == Kind::Vanishing && surroundings.may_drop_packets;
    let mut memory = Memory {
        before: stage.watched.resident()?,
        ..Memory::default()
    };
    stage.watched.forget_height()?;
    let kernel_before = KernelMemory::read().tcp_bytes;
    stage.take_kernel_height();
    let swarm = if run.attack.kind == Kind::Control {
        None
    } else {
        let order = run.order(stage, surroundings)?;
        let process =
            OrderedProcess::<SwarmCounts>::start(hostile::COMMAND, &order, Priority::Idle)?;
        Some(process)
    };
    let no_files = run.attack.kind == Kind::NoDescriptors;
    let few_files = no_files.then(|| FileLimit::lower(stage.edge.pid()));
    let few_files = few_files.transpose()?;
    let mut dropped = None;
    let phase = stage.phase(run.seconds, |second| {
        if vanishes && second == run.seconds / 3 {
            dropped = Some(DroppedPackets::start()?);
        }
        Ok(())
    })?;
    let figures = &mut outcome.figures;
    figures.attacked = Some(phase.lateness);
    figures.cpu_percent = phase.cpu_percent;
    figures.probes = Some(phase.probes);
    let until = phase.until.saturating_sub(SERVED_WITHIN);
    let new_clients = stage.new_clients.counts(phase.from, until);
    // Without descriptors, nobody can be told anything.
    figures.new_clients = (!no_files).then_some(new_clients);
    drop(few_files);
    if let Some(swarm) = swarm {
        outcome.hostile = swarm.stop()?;
        figures.void = run.void(outcome.hostile);
        if run.attack.target == Target::Operators {
            figures.wrongly_granted = outcome.hostile.granted;
        }
    }
    memory.kernel_rise = stage.take_kernel_height().saturating_sub(kernel_before);
    memory.height = stage.watched.height()?;
    if let Some(bytes) = stage.confined_height() {
        let text = format!("the cgroup of 1 GiB held up to {} MiB", bytes >> 20);
        outcome.notes.push(text);
    }
    memory.after = settle(run, stage, memory.before)?;
    // Vanished clients stay away until the edge has given back their memory.
    drop(dropped);
    let harm = stage.take_harm()?;
    outcome.figures.memory = Some(memory);
    outcome.figures.take_harm(harm);
    Ok(())
}

/// Waits until memory has been given back, for a limited time, and returns what is left.
fn settle(run: &Run, stage: &mut Stage, before: u64) -> anyhow::Result<u64> {
    let settles_within = if run.short {
        SETTLES_WITHIN_SHORT
    } else {
        SETTLES_WITHIN
    };
    let ended = SystemClock.now();
    loop {
        std::thread::sleep(POLL_INTERVAL);
        stage.sample()?;
        if let Some(end) = stage.edge_end() {
            return Err(anyhow!("the edge ended: {end}"));
        }
        let resident = stage.watched.resident()?;
        let took = SystemClock.now().since(ended);
        let is_given_back = resident <= Memory::bound(before);
        if took >= settles_within + GIVEN_BACK_WITHIN || (took >= settles_within && is_given_back) {
            return Ok(resident);
        }
    }
}

/// Measures the crowd before an attack.
pub(crate) fn baseline(stage: &mut Stage, ticks: u32) -> anyhow::Result<Phase> {
    stage.phase(ticks, |_| Ok(()))
}
