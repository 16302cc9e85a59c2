//! `drain`: drains the edge while ticks flow. Measures whether ticks are later than before, and
//! when the last client is gone.

use std::time::Duration;

use serde_json::json;
use tickstorm_command::Failure;
use tickstorm_timebase::{Clock, SystemClock};

use crate::figure::{Figure, millis, number};
use crate::generator::Harvest;
use crate::options::CommonOptions;
use crate::orders::{ChildAnswer, ChildOrder, Drained};
use crate::report::{Distribution, Report};
use crate::run::ScenarioRun;

/// Measure how late ticks are while the edge drains, and how long that takes
///
/// The clients ignore GOING_AWAY, so the edge closes all of them: the most work that a drain can
/// be. DRAIN_TIMEOUT sets its time, and DRAIN_DELAY is 0. Verifies that no client is left, and that
/// each gets every tick until it is closed.
#[derive(Debug, clap::Args)]
pub(crate) struct DrainScenario {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    /// Number of ticks to measure before the drain
    #[arg(
        long,
        value_name = "N",
        default_value_t = 20,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    ticks: u64,
}

/// The moment of each second at which arrivals are collected, in milliseconds after its start.
const HARVEST_AT_MS: i64 = 900;
/// The time needed to prepare for a second.
const PREPARE_TIME: Duration = Duration::from_millis(20);
/// The longest drain that a setting allows, and some time more.
const DRAINED_WITHIN: Duration = Duration::from_secs(630);

/// The way in which a drain ends a connection.
const DRAINING: &str = "ERROR SERVER_DRAINING";

impl DrainScenario {
    /// Runs the scenario and returns its report.
    pub(crate) fn run(&self) -> Result<Report, Failure> {
        self.common.needs_child("drain")?;
        self.common.has_no_limit("drain")?;
        let clients = self.common.clients;
        let settings = [("DRAIN_DELAY", "0s".into())];
        let mut run =
            ScenarioRun::start_with("drain", &self.common, clients, &settings, |_, _| {})?;
        run.connect(clients, false)?;
        // Leaves a second for the work that connecting has left behind.
        std::thread::sleep(Duration::from_secs(1));
        run.learn_time()?;
        run.count_connecting()?;

        run.progress.start_phase("before the drain", self.ticks);
        let mut before = Harvest::default();
        for tick in 1..=self.ticks {
            before.add(second(&mut run)?);
            run.progress.advance_to(tick);
        }
        let what = format!("draining {clients} clients");
        run.progress.start_phase(&what, clients.into());
        let served = run.generator.done();
        run.child()?.order(ChildOrder::Drain)?;
        let started = SystemClock.now();
        let mut during = Harvest::default();
        let drained = loop {
            during.add(second(&mut run)?);
            run.progress.advance_to(run.generator.done() - served);
            if let Some(drained) = run.child()?.claim(ChildAnswer::drained) {
                break drained;
            }
            if SystemClock.now().since(started) > DRAINED_WITHIN {
                let text = format!("the drain did not end within {DRAINED_WITHIN:?}");
                return Err(anyhow::anyhow!(text).into());
            }
        };
        Ok(self.report(run, &before, during, drained))
    }

    fn report(
        &self,
        run: ScenarioRun,
        before: &Harvest,
        mut during: Harvest,
        drained: Drained,
    ) -> Report {
        let mut report = run.finish();
        report.options = json!({ "ticks": self.ticks });
        let latest = |harvest: &Harvest| {
            let late = harvest.arrivals();
            (!late.is_empty()).then(|| millis(late.max()))
        };
        report.figures.extend([
            Figure::single(
                "drain_s",
                "time until the edge had drained",
                "s",
                Some(number(drained.took_ms) / 1e3),
            ),
            Figure::single(
                "left",
                "connections left at the end",
                "connections",
                Some(number(drained.left)),
            ),
            Figure::single(
                "latest_before_ms",
                "latest arrival before the drain",
                "ms",
                latest(before),
            ),
            Figure::single(
                "latest_during_ms",
                "latest arrival during the drain",
                "ms",
                latest(&during),
            ),
        ]);
        report.distributions.extend(
            [
                Distribution::of(
                    "before",
                    "arrival after the tick was due, before the drain",
                    before.arrivals(),
                ),
                Distribution::of(
                    "during",
                    "arrival after the tick was due, during the drain",
                    during.arrivals(),
                ),
            ]
            .into_iter()
            .flatten(),
        );
        let ended = during.ends.iter();
        let by_drain = ended.filter(|(end, _)| end.text.starts_with(DRAINING));
        let by_drain: u64 = by_drain.map(|(_, count)| count).sum();
        // These ends are what is measured.
        during.faults.disconnected = during.faults.disconnected.saturating_sub(by_drain);
        if drained.left > 0 {
            let text = format!("connections left after the drain: {}", drained.left);
            report.violations.push(text);
        }
        if by_drain != u64::from(self.common.clients) {
            let text = format!("connections closed with SERVER_DRAINING: {by_drain}");
            report.violations.push(text);
        }
        report.count(before, 0.0);
        report.count(&during, 0.0);
        report.judge(false);
        report
    }
}

/// Waits for the next second of authority time, and returns what has arrived by its end.
fn second(run: &mut ScenarioRun) -> anyhow::Result<Harvest> {
    let epoch_ms = run.next_second_ms(PREPARE_TIME)?;
    run.wait_until(epoch_ms, HARVEST_AT_MS)?;
    run.learn_time()?;
    Ok(Harvest {
        seen: Vec::new(),
        ..run.generator.harvest(None)?
    })
}
