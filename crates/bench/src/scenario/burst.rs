//! `burst`: far more ticks per second than the grid has. Measures the delivery, latency and cost of
//! all of them.

use std::time::Duration;

use serde_json::json;
use tickstorm_command::Failure;

use crate::figure::{Figure, millis, number};
use crate::generator::Harvest;
use crate::options::{CommonOptions, duration};
use crate::orders::{BurstPlan, ChildAnswer, ChildOrder};
use crate::report::{Distribution, Report};
use crate::run::{ScenarioRun, cores_note};

/// Measure throughput, latency and CPU time in bursts of many ticks per second
///
/// The rate is far beyond that of the grid. Verifies that all ticks reach all clients.
#[derive(Debug, clap::Args)]
pub(crate) struct BurstScenario {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    #[command(flatten)]
    pub(crate) shape: BurstShape,
    /// Number of bursts
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5,
        value_parser = clap::value_parser!(u64).range(1..=1_000)
    )]
    rounds: u64,
    /// Length of each burst
    #[arg(long = "for", value_name = "DURATION", default_value = "2s", value_parser = duration)]
    over: Duration,
}

/// The options that describe a burst.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct BurstShape {
    /// Ticks per second; each is delivered to every client
    #[arg(
        long,
        value_name = "TICKS",
        default_value_t = 10_000,
        value_parser = clap::value_parser!(u64).range(100..=1_000_000)
    )]
    pub(crate) rate: u64,
}

/// A pause for the work that is left when a burst has arrived.
const SETTLE_TIME: Duration = Duration::from_millis(400);
/// The interval at which `watch` is called.
const WATCH_INTERVAL: Duration = Duration::from_millis(50);
/// The time from the first reading of CPU time to the burst.
const CPU_READ_LEAD: Duration = Duration::from_millis(20);

/// The measurements, by round.
#[derive(Default)]
struct BurstOutcome {
    cpu_ms: Vec<f64>,
    bare_cpu_ms: Vec<f64>,
    delivered: Vec<f64>,
    last_ms: Vec<f64>,
    bare_last_ms: Vec<f64>,
    wall_ms: f64,
}

/// The result of one burst.
pub(super) struct BurstResult {
    pub(super) harvest: Harvest,
    /// The number of ticks delivered, over all clients.
    pub(super) delivered: u64,
    /// The time from when the last tick was due to the last arrival.
    pub(super) last_ms: f64,
    pub(super) wall_ms: f64,
    pub(super) cpu_us: u64,
}

impl BurstScenario {
    /// Runs the scenario and returns its report.
    pub(crate) fn run(&self) -> Result<Report, Failure> {
        self.common.needs_child("burst")?;
        let clients = self.common.clients;
        let mut run = ScenarioRun::start("burst", &self.common, clients, |_, _| {})?;
        run.connect(clients, false)?;
        std::thread::sleep(Duration::from_secs(1));
        run.count_connecting()?;
        run.progress.start_phase("measuring bursts", self.rounds);
        let (mut measured, mut all, mut last_ms) =
            (BurstOutcome::default(), Harvest::default(), None);
        for round in 1..=self.rounds {
            let burst = run.plan(self.shape.rate, self.over, last_ms)?;
            last_ms = Some(burst.last_ms());
            let result = send(&mut run, burst, round == self.rounds, |_| Ok(()))?;
            measured.cpu_ms.push(number(result.cpu_us) / 1e3);
            measured
                .delivered
                .push(number(result.delivered) / self.over.as_secs_f64());
            measured.last_ms.push(result.last_ms);
            measured.wall_ms += result.wall_ms;
            all.add(Harvest {
                seen: Vec::new(),
                ..result.harvest
            });
            if self.common.with_limit {
                self.send_bare(&mut run, &mut measured, &mut all)?;
            }
            run.progress.advance_to(round);
        }
        Ok(self.report(run, measured, &all))
    }

    /// Sends the same batches with the bare loop.
    fn send_bare(
        &self,
        run: &mut ScenarioRun,
        measured: &mut BurstOutcome,
        all: &mut Harvest,
    ) -> anyhow::Result<()> {
        let burst = run.plan(self.shape.rate, self.over, None)?;
        run.generator.shared.allow_heartbeats(false);
        let bare = run.bare(burst)?;
        std::thread::sleep(SETTLE_TIME);
        run.generator.shared.allow_heartbeats(true);
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
                .note_once("the bare loop had to wait for full sockets");
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
            "rate": self.shape.rate,
            "rounds": self.rounds,
            "for_s": self.over.as_secs_f64(),
            "with_limit": limit,
        });
        report.figures.extend([
            Figure::of(
                "delivered_per_second",
                "ticks delivered",
                "1/s",
                measured.delivered,
            ),
            Figure::of("cpu_ms", "edge CPU per burst", "ms", measured.cpu_ms)
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
                Distribution::of(
                    "bare_after_due",
                    "bare loop: arrival after first tick was due",
                    &latencies.bare,
                ),
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

/// Feeds a burst and waits until it has arrived. `watch` is called at intervals meanwhile. If this
/// is the `last` burst, missing ticks count as lost.
pub(super) fn send(
    run: &mut ScenarioRun,
    burst: BurstPlan,
    last: bool,
    mut watch: impl FnMut(&mut ScenarioRun) -> anyhow::Result<()>,
) -> anyhow::Result<BurstResult> {
    run.generator.shared.plan(burst, false);
    run.child()?.order(ChildOrder::Burst(burst))?;
    let at = tickstorm_timebase::Mono::from_nanos(burst.at_ns).saturating_sub(CPU_READ_LEAD);
    // Heartbeats continue until then: otherwise bursts in close succession would cost clients their
    // connections.
    std::thread::sleep(at.since(now()));
    run.generator.shared.allow_heartbeats(false);
    let before = run.child()?.sample(false)?;
    while now().as_nanos() < burst.end_ns() {
        watch(run)?;
        std::thread::sleep(WATCH_INTERVAL);
    }
    let feeding_us = run.child()?.answer(Duration::ZERO, ChildAnswer::burst)?;
    run.await_ticks(burst.last_ms());
    std::thread::sleep(SETTLE_TIME);
    let after = run.child()?.sample(false)?;
    run.generator.shared.allow_heartbeats(true);
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
