//! Honest clients: the crowd whose ticks are measured, new clients that log in meanwhile, and
//! clients that come back after a restart.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tickstorm_bench::{
    ClientSetup, ClientSources, ClientTls, Faults, Generator, GeneratorShared, Greeting, Harvest,
    machine,
};
use tickstorm_command::credentials::ClientCredentials;
use tickstorm_timebase::{Clock as _, Mode, Mono, SystemClock};

use crate::addresses;
use crate::script::{Script, Step};
use crate::swarm::{Attempt, AttemptOutcome, Login, Reopen, Swarm, SwarmPlan};
use crate::wire;

/// The time within which a new client must get its first ACK.
pub(crate) const SERVED_WITHIN: Duration = Duration::from_secs(2);
/// The interval between two heartbeats of a client, as docs/protocol.md recommends for an edge with
/// default settings.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The time that the whole crowd may take to be served before an attack.
const CROWD_WITHIN: Duration = Duration::from_secs(60);
/// The number of clients of the crowd that connect at the same time.
const IN_FLIGHT: u32 = 256;
/// A tick that has not arrived this long after an attack is missing.
pub(crate) const LATE_MAX: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The crowd of one edge, and what it has suffered.
pub(crate) struct Crowd {
    generator: Generator,
    /// Faults that have not been reported yet.
    faults: Faults,
    /// Ticks that were missing before the present run.
    missing_before: u64,
}

/// What honest clients have suffered.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Harm {
    pub(crate) missing: u64,
    pub(crate) wrong: u64,
    pub(crate) disconnected: u64,
}

impl Harm {
    /// Returns the harm that a crowd's faults are, if so many ticks have not arrived.
    const fn of(faults: &Faults, missing: u64) -> Self {
        Self {
            missing: missing + faults.lost,
            wrong: faults.duplicate
                + faults.out_of_order
                + faults.early
                + faults.strange
                + faults.broken,
            disconnected: faults.disconnected,
        }
    }

    /// Adds the harm of another crowd.
    pub(crate) fn add(&mut self, other: Self) {
        self.missing += other.missing;
        self.wrong += other.wrong;
        self.disconnected += other.disconnected;
    }
}

impl Crowd {
    /// Starts the crowd and waits until all of its clients are subscribed. Its thread does nothing
    /// but read ticks, and send heartbeats between them.
    pub(crate) fn start(
        clients: u32,
        addr: SocketAddr,
        tls: Option<ClientTls>,
        login: &Login,
        cpus: Vec<usize>,
        files_limit: u64,
    ) -> anyhow::Result<Self> {
        let setup = ClientSetup {
            addr,
            sources: ClientSources {
                first: addresses::CROWD,
                clients_each: 1,
            },
            mode: Mode::Second,
            ahead: false,
            lead: Duration::ZERO,
            credentials: ClientCredentials::Password(
                login.user.clone(),
                login.password.clone().into(),
            ),
            tls,
            heartbeat: HEARTBEAT,
            yields: false,
            cpus,
        };
        let shared = Arc::<GeneratorShared>::default();
        let mut generator = Generator::start(setup, shared, clients, files_limit, false)?;
        generator.connect(clients, Greeting::Pipelined, IN_FLIGHT);
        let until = SystemClock.now() + CROWD_WITHIN;
        while generator.done() < clients.into() && SystemClock.now() < until {
            std::thread::sleep(POLL_INTERVAL);
        }
        let served = generator.served();
        if served < clients.into() {
            let ends = generator.harvest(None)?.ends;
            let why = ends
                .into_keys()
                .next()
                .map(|end| end.text)
                .unwrap_or_default();
            anyhow::bail!("only {served} of {clients} honest clients were served: {why}");
        }
        Ok(Self {
            generator,
            faults: Faults::default(),
            missing_before: 0,
        })
    }

    /// Returns what the crowd's thread and its owner share.
    pub(crate) fn shared(&self) -> &GeneratorShared {
        &self.generator.shared
    }

    /// Returns what has arrived since the last call.
    pub(crate) fn harvest(&mut self) -> anyhow::Result<Harvest> {
        let harvest = self.generator.harvest(None)?;
        self.faults.add(&harvest.faults);
        Ok(harvest)
    }

    /// Returns what the crowd has suffered since the last call, up to the tick that was due at
    /// `due_ms`. A tick that is late is waited for until `until`.
    pub(crate) fn take_harm(&mut self, due_ms: i64, until: Mono) -> anyhow::Result<Harm> {
        while self.generator.missing_ticks(due_ms) > self.missing_before
            && SystemClock.now() < until
        {
            std::thread::sleep(POLL_INTERVAL);
        }
        let missing = self.generator.missing_ticks(due_ms);
        self.harvest()?;
        let faults = std::mem::take(&mut self.faults);
        let harm = Harm::of(&faults, missing.saturating_sub(self.missing_before));
        self.missing_before = missing;
        Ok(harm)
    }
}

/// New clients: each connects, logs in, subscribes, and leaves.
pub(crate) struct NewClients {
    attempts: Arc<Mutex<Vec<Attempt>>>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// How new clients fared that connected within a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct NewClientCounts {
    pub(crate) all: u64,
    /// Those that got their first ACK within [`SERVED_WITHIN`].
    pub(crate) served: u64,
    /// Those that were refused within that time.
    pub(crate) refused: u64,
}

impl NewClients {
    /// Starts `per_second` new clients per second, until this is dropped.
    pub(crate) fn start(
        per_second: u32,
        addr: SocketAddr,
        tls: Option<ClientTls>,
        login: Login,
        cpus: Vec<usize>,
    ) -> anyhow::Result<Self> {
        let patience = u32::try_from(SERVED_WITHIN.as_secs()).unwrap_or(u32::MAX);
        let plan = SwarmPlan {
            addr,
            tls,
            login,
            scripts: vec![new_client_script()],
            sources: addresses::NEW_CLIENTS,
            // Room for all, even if none is answered, and for delays of this process.
            connections: per_second * (patience + 1),
            opens_per_second: per_second,
            reopen: Reopen::AtOnce,
        };
        let mut swarm = Swarm::new(plan).context("can't start new clients")?;
        let attempts = Arc::<Mutex<Vec<Attempt>>>::default();
        let stopped = Arc::new(AtomicBool::new(false));
        let (ended, stopping) = (Arc::clone(&attempts), Arc::clone(&stopped));
        let run = move || {
            if !cpus.is_empty() {
                machine::pin(&cpus)?;
            }
            while !stopping.load(Ordering::Relaxed) {
                swarm.turn(true)?;
                let new = swarm.take_attempts();
                if !new.is_empty() {
                    ended
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .extend(new);
                }
            }
            Ok(())
        };
        let thread = std::thread::Builder::new()
            .name("new-clients".into())
            .spawn(run)?;
        Ok(Self {
            attempts,
            stopped,
            thread: Some(thread),
        })
    }

    /// Returns how new clients fared that connected from `from` until `until`. All of them have
    /// been served or have given up if [`SERVED_WITHIN`] has passed since `until`.
    pub(crate) fn counts(&self, from: Mono, until: Mono) -> NewClientCounts {
        let mut counts = NewClientCounts::default();
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        for attempt in attempts.iter() {
            if (from..until).contains(&attempt.opened) {
                counts.add(attempt.outcome);
            }
        }
        // Earlier ones are not asked for again.
        attempts.retain(|attempt| attempt.opened >= until);
        counts
    }
}

impl NewClientCounts {
    fn add(&mut self, outcome: AttemptOutcome) {
        self.all += 1;
        match outcome {
            AttemptOutcome::Served(after) if after <= SERVED_WITHIN => self.served += 1,
            AttemptOutcome::Refused(after) if after <= SERVED_WITHIN => self.refused += 1,
            AttemptOutcome::Served(_) | AttemptOutcome::Refused(_) | AttemptOutcome::Unanswered => {
            }
        }
    }
}

impl Drop for NewClients {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => eprintln!("abuse: new clients have failed: {error}"),
            Some(Err(_)) => eprintln!("abuse: new clients have panicked"),
        }
    }
}

fn new_client_script() -> Script {
    Script {
        patience: Some(SERVED_WITHIN),
        ..Script::new([
            Step::ShakeHands,
            Step::Auth,
            Step::AwaitAck,
            Step::Served,
            Step::Send(wire::subscribe_second().into()),
            Step::AwaitAck,
            Step::Close,
        ])
    }
}

/// Returns the script of a client that stays, and comes back with its device cookie.
pub(crate) fn returning_script() -> Script {
    Script::new([
        Step::ShakeHands,
        Step::Auth,
        Step::AwaitAck,
        Step::Send(wire::subscribe_second().into()),
        Step::AwaitAck,
        Step::Served,
    ])
    .send_every(wire::heartbeat(), HEARTBEAT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_client_counts_as_served_only_within_the_bound() {
        let mut counts = NewClientCounts::default();
        let (soon, late) = (Duration::from_millis(1_999), Duration::from_millis(2_001));
        for outcome in [
            AttemptOutcome::Served(soon),
            AttemptOutcome::Served(late),
            AttemptOutcome::Refused(soon),
            AttemptOutcome::Refused(late),
            AttemptOutcome::Unanswered,
        ] {
            counts.add(outcome);
        }
        let expected = NewClientCounts {
            all: 5,
            served: 1,
            refused: 1,
        };
        assert_eq!(counts, expected);
    }
}
