//! `burst`: very many ticks a second to all clients: whether all of them come, how late, and what they cost.

use std::time::Duration;

use serde_json::json;
use tickstorm_command::Failure;

use crate::figure::{Figure, millis, number};
use crate::generator::Harvest;
use crate::options::{CommonOptions, duration};
use crate::orders::{BurstPlan, ChildAnswer, ChildOrder};
use crate::report::{Distribution, Report};
use crate::run::{ScenarioRun, cores_note};

/// Many ticks a second to all clients, far more than the grid has: whether all come, how late, and what they cost.
#[derive(Debug, clap::Args)]
pub(crate) struct BurstScenario {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    #[command(flatten)]
    pub(crate) shape: BurstShape,
    /// How many bursts.
    #[arg(
        long,
        value_name = "R",
        default_value_t = 5,
        value_parser = clap::value_parser!(u64).range(1..=1_000)
    )]
    rounds: u64,
    /// How long each is.
    #[arg(long = "for", value_name = "DURATION", default_value = "2s", value_parser = duration)]
    over: Duration,
}

/// What a burst is like.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct BurstShape {
    /// Ticks a second; times the clients, what is delivered a second.
    #[arg(
        long,
        value_name = "TICKS",
        default_value_t = 10_000,
        value_parser = clap::value_parser!(u64).range(100..=1_000_000)
    )]
    pub(crate) rate: u64,
}

/// Whatever is still under way when a burst has come.
const REST: Duration = Duration::from_millis(400);
/// From one look to the next.
const WATCH_EACH: Duration = Duration::from_millis(50);
/// How long before a burst CPU time is read.
const BEFORE: Duration = Duration::from_millis(20);

/// What bursts were like, by round.
#[derive(Default)]
struct BurstOutcome {
    cpu_ms: Vec<f64>,
    bare_cpu_ms: Vec<f64>,
    delivered: Vec<f64>,
    last_ms: Vec<f64>,
    bare_last_ms: Vec<f64>,
    wall_ms: f64,
}

/// One burst as it came.
pub(super) struct BurstResult {
    pub(super) harvest: Harvest,
    /// Ticks, over all clients.
    pub(super) delivered: u64,
    /// The last arrival after the last tick was due.
    pub(super) last_ms: f64,
    pub(super) wall_ms: f64,
    pub(super) cpu_us: u64,
}

impl BurstScenario {
    /// Measures, and gives the report.
    pub(crate) fn run(&self) -> Result<Report, Failure> {
        self.common.needs_child("burst")?;
        let clients = self.common.clients;
        let mut run = ScenarioRun::start("burst", &self.common, clients, |_, _| {})?;
        run.connect(clients, false)?;
        std::thread::sleep(Duration::from_secs(1));
        run.count_connecting()?;
        run.progress.begin("bursts", self.rounds);
        let (mut measured, mut all, mut last_ms) =
            (BurstOutcome::default(), Harvest::default(), None);
        for round in 1..=self.rounds {
            let burst = run.plan(self.shape.rate, self.over, last_ms)?;
            last_ms = Some(burst.last_ms());
            let came = send(&mut run, burst, round == self.rounds, |_| Ok(()))?;
            measured.cpu_ms.push(number(came.cpu_us) / 1e3);
            measured
                .delivered
                .push(number(came.delivered) / self.over.as_secs_f64());
            measured.last_ms.push(came.last_ms);
            measured.wall_ms += came.wall_ms;
            all.add(Harvest {
                seen: Vec::new(),
                ..came.harvest
            });
            if self.common.with_limit {
                self.send_bare(&mut run, &mut measured, &mut all)?;
            }
            run.progress.at(round);
        }
        Ok(self.report(run, measured, &all))
    }

    /// The same batches by the bare loop.
    fn send_bare(
        &self,
        run: &mut ScenarioRun,
        measured: &mut BurstOutcome,
        all: &mut Harvest,
    ) -> anyhow::Result<()> {
        let burst = run.plan(self.shape.rate, self.over, None)?;
        run.generator.shared.may_beat(false);
        let bare = run.bare(burst)?;
        std::thread::sleep(REST);
        run.generator.shared.may_beat(true);
        let harvest = run.generator.harvest(None)?;
        let seen = harvest.seen.iter().filter(|seen| seen.ticks.bare);
        let last_ns = seen
            .clone()
            .map(|seen| seen.last_ns)
            .max()
            .unwrap_or_default();
        let delivered: u64 = seen.map(|seen| seen.count * seen.ticks.count).sum();
        let expected = burst.ticks * u64::from(self.common.clients);
        if delivered != expected {
            run.report.void.push(format!(
                "the bare loop delivered {delivered} of {expected} ticks"
            ));
        }
        if bare.stalls > 0 {
            run.report
                .note_once("the bare loop met full sockets and waited for them");
        }
        measured.bare_cpu_ms.push(number(bare.cpu_us) / 1e3);
        measured
            .bare_last_ms
            .push(millis(last_ns.saturating_sub(burst.end_ns())));
        measured.wall_ms += millis(last_ns.saturating_sub(burst.at_ns));
        all.add(Harvest {
            seen: Vec::new(),
            ..harvest
        });
        Ok(())
    }

    fn report(&self, run: ScenarioRun, measured: BurstOutcome, all: &Harvest) -> Report {
        let placement = run.placement.clone();
        let mut report = run.finish();
        let limit = self.common.with_limit;
        report.options = json!({
            "rate": self.shape.rate, "rounds": self.rounds, "for_s": self.over.as_secs_f64(), "with_limit": limit,
        });
        report.figures.extend([
            Figure::of(
                "delivered_per_second",
                "ticks delivered",
                "1/s",
                measured.delivered,
            ),
            Figure::of("cpu_ms", "edge CPU of a burst", "ms", measured.cpu_ms)
                .against(measured.bare_cpu_ms.clone()),
            Figure::of(
                "last_arrival_ms",
                "last arrival after the last tick was due",
                "ms",
                measured.last_ms,
            )
            .against(measured.bare_last_ms.clone()),
        ]);
        let latencies = &all.latencies;
        report.distributions.extend(
            [
                Distribution::of(
                    "after_due",
                    "arrival after a frame's first tick was due",
                    &latencies.edge,
                ),
                Distribution::of("bare_after_due", "bare loop: the same", &latencies.bare),
            ]
            .into_iter()
            .flatten(),
        );
        report.notes.extend(cores_note(&placement));
        report.count(all, measured.wall_ms);
        report.judge(true);
        report
    }
}

/// Feeds a burst, and waits until it has come; meanwhile `watch` looks now and then. At the `last` one, what lacks is lost.
pub(super) fn send(
    run: &mut ScenarioRun,
    burst: BurstPlan,
    last: bool,
    mut watch: impl FnMut(&mut ScenarioRun) -> anyhow::Result<()>,
) -> anyhow::Result<BurstResult> {
    run.generator.shared.plan(burst, false);
    run.child()?.order(ChildOrder::Burst(burst))?;
    let at = tickstorm_timebase::Mono::from_nanos(burst.at_ns).saturating_sub(BEFORE);
    // Heartbeats go on until then: bursts that follow each other closely would else cost their clients their connections.
    std::thread::sleep(at.since(now()));
    run.generator.shared.may_beat(false);
    let before = run.child()?.sample(false)?;
    while now().as_nanos() < burst.end_ns() {
        watch(run)?;
        std::thread::sleep(WATCH_EACH);
    }
    let feeding_us = run.child()?.answer(Duration::ZERO, ChildAnswer::burst)?;
    run.await_ticks(burst.last_ms());
    std::thread::sleep(REST);
    let after = run.child()?.sample(false)?;
    run.generator.shared.may_beat(true);
    let harvest = run.generator.harvest(last.then(|| burst.last_ms()))?;
    let of_burst = harvest
        .seen
        .iter()
        .filter(|seen| !seen.ticks.bare && burst.number(seen.ticks.first_ms).is_some());
    let last_ns = of_burst
        .clone()
        .map(|seen| seen.last_ns)
        .max()
        .unwrap_or_default();
    Ok(BurstResult {
        delivered: of_burst.map(|seen| seen.count * seen.ticks.count).sum(),
        last_ms: millis(last_ns.saturating_sub(burst.end_ns())),
        wall_ms: millis(last_ns.saturating_sub(burst.at_ns)),
        cpu_us: after.used_us_since(&before).saturating_sub(feeding_us),
        harvest,
    })
}

fn now() -> tickstorm_timebase::Mono {
    use tickstorm_timebase::Clock;
    tickstorm_timebase::SystemClock.now()
}
