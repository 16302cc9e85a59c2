//! [`BusStage`]: a NATS server, three clocks, and two edges with honest clients.

use std::time::Duration;

use hdrhistogram::Histogram;
use tickstorm_command::private_dir::PrivateDir;
use tickstorm_service::fd_limit;
use tickstorm_testkit::ReservedAddr;
use tickstorm_timebase::{Clock as _, HostClock as _, SystemClock, SystemHost};

use super::daemon::Daemon;
use super::evidence::Evidence;
use super::server::NatsServer;
use crate::arrivals::Arrivals;
use crate::crowd::{Crowd, Harm, LATE_MAX};
use crate::equipment;
use crate::probes::{HealthProbes, ProbeCounts};
use crate::run::Run;
use crate::surroundings::Surroundings;
use crate::swarm::Login;
use crate::verdict::Lateness;

/// The clocks.
const CLOCKS: [&str; 3] = ["clock-0", "clock-1", "clock-2"];
/// The clock whose login is stolen.
pub(super) const STOLEN: &str = CLOCKS[2];
/// The others.
pub(super) const HONEST: [&str; 2] = [CLOCKS[0], CLOCKS[1]];
const EDGES: u32 = 2;
/// How early a tick may arrive, in nanoseconds, by the host's clock, which the clocks announce: as
/// much as accepted clocks may be apart by default (CLOCK_TOLERANCE_MS).
const EARLY_MAX_NS: u64 = 20_000_000;
/// The time that daemons may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The moment of a second at which phases begin and end, in nanoseconds after its tick.
const BOUNDARY_NS: i64 = 600_000_000;
const SECOND_NS: i64 = 1_000_000_000;

/// An edge and its clients.
struct BusEdge {
    // Clients are dropped before the daemon, so that they do not report its end.
    crowd: Crowd,
    probes: HealthProbes,
    daemon: Daemon,
}

/// Everything that an attack on the bus needs.
pub(super) struct BusStage {
    edges: Vec<BusEdge>,
    /// The clock whose login is stolen, unless it has been stopped.
    stolen: Option<Daemon>,
    honest: Vec<Daemon>,
    pub(super) nats: NatsServer,
    _dir: PrivateDir,
}

/// The figures of a number of seconds.
pub(super) struct BusPhase {
    pub(super) lateness: Lateness,
    /// Ticks that arrived more than the bound after their time.
    pub(super) late: u64,
    pub(super) probes: ProbeCounts,
    /// CPU time of all edges, in percent of a CPU.
    pub(super) cpu_percent: f64,
}

impl BusStage {
    /// Starts everything, and waits until each edge accepts all clocks and serves its clients.
    pub(super) fn start(run: &Run, surroundings: &Surroundings) -> anyhow::Result<Self> {
        let dir = PrivateDir::new("tickstorm-abuse-")?;
        let nats = NatsServer::start(&dir, &CLOCKS)?;
        let clock = |index: usize| {
            let id = CLOCKS[index];
            let settings = [("CLOCK_ID", id.to_owned())];
            let nats = (nats.addr(), &nats.clocks[index]);
            Daemon::start("tickstorm-clock", id, &dir, nats, &settings, &[])
        };
        let mut clocks = (0..CLOCKS.len())
            .map(clock)
            .collect::<anyhow::Result<Vec<_>>>()?;
        let stolen = clocks.pop();
        let login = equipment::login();
        let started: Vec<_> = (0..EDGES)
            .map(|index| start_edge(index, &dir, &nats, &login, surroundings))
            .collect::<anyhow::Result<_>>()?;
        let until = SystemClock.now() + READY_WITHIN;
        for (daemon, _) in &started {
            while !is_settled(daemon) {
                if SystemClock.now() > until {
                    return Err(daemon.complaint());
                }
                std::thread::sleep(POLL_INTERVAL);
            }
        }
        let files = fd_limit::raise()?;
        let each = (run.clients / EDGES).max(1);
        let edges = started.into_iter().map(|(daemon, clients)| {
            let cpus = surroundings.honest_cpus.clone();
            let addr = clients.addr();
            let crowd = Crowd::start(each, addr, None, &login, cpus.clone(), files.after)?;
            Ok(BusEdge {
                crowd,
                probes: HealthProbes::start(daemon.admin(), cpus)?,
                daemon,
            })
        });
        Ok(Self {
            edges: edges.collect::<anyhow::Result<_>>()?,
            stolen,
            honest: clocks,
            nats,
            _dir: dir,
        })
    }

    /// Stops the clock whose login is stolen.
    pub(super) fn stop_stolen(&mut self) {
        self.stolen = None;
    }

    /// Measures for this many ticks. Those that arrive more than `late_after` after their time are
    /// counted.
    pub(super) fn phase(&mut self, ticks: u32, late_after: Duration) -> anyhow::Result<BusPhase> {
        self.set_time(offset_ns());
        let seconds = (unix_ns() - BOUNDARY_NS).div_euclid(SECOND_NS) + 1;
        let boundary_ns = seconds * SECOND_NS + BOUNDARY_NS;
        wait_until(boundary_ns);
        self.harvest()?;
        let (from, cpu) = (SystemClock.now(), self.cpu_time()?);
        let mut arrivals = Arrivals::default();
        for second in 1..=i64::from(ticks) {
            wait_until(boundary_ns + second * SECOND_NS);
            self.set_time(offset_ns());
            arrivals.add_tick(&self.harvest()?)?;
        }
        let (until, cpu_after) = (SystemClock.now(), self.cpu_time()?);
        let of_edges = self
            .edges
            .iter()
            .map(|edge| edge.probes.counts(from, until));
        let probes = of_edges.fold(ProbeCounts::default(), ProbeCounts::with);
        let cpu = cpu_after.saturating_sub(cpu).as_secs_f64();
        Ok(BusPhase {
            late: arrivals.later_than(late_after),
            lateness: arrivals.lateness(),
            probes,
            cpu_percent: 100.0 * cpu / until.since(from).as_secs_f64(),
        })
    }

    /// Returns what has arrived at the clients of all edges since the last call.
    fn harvest(&mut self) -> anyhow::Result<Histogram<u64>> {
        let mut all = Histogram::new(3)?;
        for edge in &mut self.edges {
            all.add(edge.crowd.harvest()?.arrivals())?;
        }
        Ok(all)
    }

    /// Returns what each edge says.
    pub(super) fn evidence(&self) -> anyhow::Result<Vec<Evidence>> {
        let edges = self.edges.iter();
        edges
            .map(|edge| {
                Ok(Evidence {
                    status: edge.daemon.status()?,
                    metrics: edge.daemon.get("/metrics")?,
                    log: edge.daemon.log(),
                })
            })
            .collect()
    }

    /// Returns what the clients of all edges have suffered since the last call. A tick that is late
    /// is waited for.
    pub(super) fn take_harm(&mut self) -> anyhow::Result<Harm> {
        let due_ms = unix_ns().div_euclid(SECOND_NS) * 1_000;
        let mut harm = Harm::default();
        let until = SystemClock.now() + LATE_MAX;
        for edge in &mut self.edges {
            harm.add(edge.crowd.take_harm(due_ms, until)?);
        }
        Ok(harm)
    }

    /// Returns which daemon has ended; `None` if all run.
    pub(super) fn end(&mut self) -> Option<String> {
        let edges = self.edges.iter_mut().map(|edge| &mut edge.daemon);
        let clocks = self.honest.iter_mut().chain(&mut self.stolen);
        edges.chain(clocks).find_map(Daemon::end)
    }

    fn set_time(&self, offset_ns: i64) {
        for edge in &self.edges {
            edge.crowd.shared().set_offset(offset_ns, EARLY_MAX_NS);
        }
    }

    fn cpu_time(&self) -> anyhow::Result<Duration> {
        let edges = self.edges.iter();
        edges
            .map(|edge| edge.daemon.watched().cpu_time())
            .sum::<anyhow::Result<Duration>>()
    }
}

fn start_edge(
    index: u32,
    dir: &PrivateDir,
    nats: &NatsServer,
    login: &Login,
    surroundings: &Surroundings,
) -> anyhow::Result<(Daemon, ReservedAddr)> {
    let clients = ReservedAddr::reserve();
    let name = format!("edge-{index}");
    let settings = [
        ("EDGE_ID", name.clone()),
        ("LISTEN_ADDR", clients.addr().to_string()),
        ("CLOCKS", CLOCKS.join(",")),
        ("STREAM_USER", login.user.clone()),
        ("STREAM_PASS", login.password.clone()),
        ("SHARDS", "1".to_owned()),
    ];
    let cpus = &surroundings.edge_cpus;
    let nats = (nats.addr(), &nats.edge);
    let daemon = Daemon::start("tickstorm-edge", &name, dir, nats, &settings, cpus)?;
    Ok((daemon, clients))
}

/// Returns whether an edge is ready and accepts all clocks.
fn is_settled(edge: &Daemon) -> bool {
    let Ok(status) = edge.status() else {
        return false;
    };
    let clocks = status["clocks"].as_array();
    let accepted = clocks
        .into_iter()
        .flatten()
        .filter(|clock| clock["state"] == "accepted");
    accepted.count() == CLOCKS.len() && edge.is_ready()
}

fn unix_ns() -> i64 {
    SystemHost::new(0).read().unix.as_nanos()
}

/// Returns authority time minus the machine's own clock: the clocks announce the host's time.
fn offset_ns() -> i64 {
    let unix_ns = unix_ns();
    unix_ns.saturating_sub_unsigned(SystemClock.now().as_nanos())
}

fn wait_until(at_ns: i64) {
    let wait_ns = u64::try_from(at_ns - unix_ns()).unwrap_or(0);
    std::thread::sleep(Duration::from_nanos(wait_ns));
}
