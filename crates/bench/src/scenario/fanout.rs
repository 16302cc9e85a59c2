//! `fanout`: sends every tick of the grid to all clients. Measures the latency of ticks, and their
//! cost.

mod beside_plain;
mod outcome;
mod schedule;

use std::ffi::OsString;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::json;
use tickstorm_client::Mode;
use tickstorm_command::{Failure, ModeName};

use self::outcome::{FanoutOutcome, RoundReading};
use self::schedule::RoundSchedule;
use crate::figure::{Figure, number};
use crate::generator::Harvest;
use crate::memory::Memory;
use crate::options::{CommonOptions, duration};
use crate::orders::{BareSends, BurstPlan, ProcessSample};
use crate::releasing::ReleasingClients;
use crate::report::{Distribution, Report};
use crate::run::{ScenarioRun, cores_note};
use crate::tick_arrivals::ArrivalsByTick;

/// Measure the latency of each tick at each client, and its cost for the edge
///
/// Sends the ticks of the grid to all clients, and verifies that each client receives each tick
/// once and in order.
#[derive(Debug, clap::Args)]
pub(crate) struct FanoutScenario {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    /// Ticks to subscribe to
    #[arg(long, value_enum, default_value_t = ModeName::Second)]
    mode: ModeName,
    /// Number of ticks to measure; with --with-limit in mode second, only every other tick is
    /// measured
    #[arg(
        long,
        value_name = "N",
        default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    ticks: u64,
    /// Measure for this long, such as 10m or 8h, instead of a number of ticks
    #[arg(long = "for", value_name = "DURATION", conflicts_with = "ticks", value_parser = duration)]
    over: Option<Duration>,
    /// Subscribe to ticks ahead of their time; latencies then count from when a tick is due to be
    /// sent
    #[arg(long)]
    ahead: bool,
    /// Add N clients that use the Rust client and release ahead ticks at their time
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        requires = "ahead",
        value_parser = clap::value_parser!(u32).range(0..=1_000)
    )]
    released: u32,
}

/// When CPU time is first read, in milliseconds after the tick is due (negative: before).
const WINDOW_STARTS_MS: i64 = -5;
/// The time by which the bare loop's order precedes its sends, in milliseconds.
const BARE_ORDER_LEAD_MS: i64 = 20;
/// The time needed to prepare for a tick. If less is left, the next tick is measured.
const PREPARE_TIME: Duration = Duration::from_millis(40);
/// Open files are counted once in this many rounds, since that takes a while.
const ROUNDS_PER_FILE_COUNT: u64 = 10;
/// The number of ticks whose arrivals are kept until they are counted.
const TICKS_KEPT: usize = 64;

/// The measurements of one edge.
struct FanoutResult {
    outcome: FanoutOutcome,
    harvest: Harvest,
    wall_ms: f64,
}

impl FanoutScenario {
    /// Runs the scenario and returns its report.
    pub(crate) fn run(&self) -> Result<Report, Failure> {
        if self.common.tls.is_on() && self.common.with_limit {
            return self.run_beside_plain();
        }
        let mut run = self.start(&self.common, self.common.clients, &[])?;
        let released = ReleasingClients::start(self.released, &run.setup)?;
        let memory = self.connect(&mut run)?;
        released.start_measuring();
        let mut schedule = RoundSchedule::of(run.setup.mode, self.common.with_limit);
        if self.released > 0 {
            schedule.keep_quiet_before(run.setup.lead);
        }
        let FanoutResult {
            outcome,
            harvest,
            wall_ms,
        } = self.measure(&mut run, &schedule)?;
        let mut report = self.report(run, outcome, &harvest, memory, released.finish().as_ref());
        report.count(&harvest, wall_ms);
        report.judge(true);
        Ok(report)
    }

    /// Starts an edge for its share of `total_clients` clients.
    fn start(
        &self,
        common: &CommonOptions,
        total_clients: u32,
        settings: &[(&str, OsString)],
    ) -> Result<ScenarioRun, Failure> {
        let clients = [common.clients, total_clients];
        ScenarioRun::start_sized("fanout", common, clients, settings, |setup, child| {
            setup.mode = self.mode.into();
            setup.ahead = self.ahead;
            let lead_ms = child.map_or(800, |child| child.ready.ahead_ms);
            setup.lead = Duration::from_millis(if self.ahead { lead_ms } else { 0 });
        })
    }

    /// Connects all clients, and returns the memory that they take.
    fn connect(&self, run: &mut ScenarioRun) -> Result<Option<[Figure; 3]>, Failure> {
        let clients = self.common.clients;
        let before = run.learn_time()?;
        let before = before.map(|sample| Memory::of(&sample));
        run.connect(clients, false)?;
        // Leaves a second for the work that connecting has left behind.
        std::thread::sleep(Duration::from_secs(1));
        let memory = before
            .zip(run.learn_time()?)
            .map(|(before, after)| Memory::of(&after).figures_since(&before, clients.into()));
        run.count_connecting()?;
        Ok(memory)
    }

    fn measure(
        &self,
        run: &mut ScenarioRun,
        schedule: &RoundSchedule,
    ) -> Result<FanoutResult, Failure> {
        let period = Duration::from_millis(schedule.period_ms.unsigned_abs());
        let ticks = self.over.map_or(self.ticks, |over| {
            (over.as_secs() / period.as_secs()).max(1)
        });
        run.progress.start_phase("measuring ticks", ticks);
        let mut measured = FanoutOutcome::new(schedule.window_ends);
        let (mut all, mut rounds) = (Harvest::default(), ArrivalsByTick::default());
        let mut wall_ms = 0.0;
        let (mut sampled, mut bare_us) = (None, 0);
        let mut last: Option<RoundReading> = None;
        for tick in 0..ticks {
            let counts_files = tick.is_multiple_of(ROUNDS_PER_FILE_COUNT);
            let second = self.round(
                run,
                schedule,
                counts_files,
                &mut measured,
                &mut sampled,
                &mut bare_us,
            )?;
            // The last tick due in the round, which need not be the measured one.
            let period_ms = run.setup.mode.period_ms();
            let last_ms = second.epoch_ms + schedule.period_ms - period_ms;
            let last_due = (tick + 1 == ticks).then_some(last_ms);
            last_due
                .into_iter()
                .for_each(|last_ms| run.await_ticks(last_ms));
            let harvest = run.generator.harvest(last_due)?;
            rounds.add(&harvest.seen);
            all.add(Harvest {
                seen: Vec::new(),
                ..harvest
            });
            // A round is counted one round later, once stragglers have arrived.
            let previous = last.replace(second);
            let ended = last_due.and_then(|_| last.take());
            for second in previous.into_iter().chain(ended) {
                let moments = second.epoch_ms..second.epoch_ms + schedule.period_ms;
                wall_ms += rounds.wall_ms(moments);
                let clients = self.common.clients.into();
                measured.count(&second, &rounds, clients, &mut run.report);
            }
            rounds.trim(TICKS_KEPT);
            run.progress.advance_to(tick + 1);
        }
        Ok(FanoutResult {
            outcome: measured,
            harvest: all,
            wall_ms,
        })
    }

    /// Performs one round.
    fn round(
        &self,
        run: &mut ScenarioRun,
        schedule: &RoundSchedule,
        counts_files: bool,
        measured: &mut FanoutOutcome,
        sampled: &mut Option<ProcessSample>,
        bare_us: &mut u64,
    ) -> anyhow::Result<RoundReading> {
        let lead_ms = i64::try_from(run.setup.lead.as_millis()).unwrap_or(0);
        // All times count from when the tick is due to be sent, which for ahead feeds is before its
        // epoch.
        let next_ms = run.next_tick_ms(PREPARE_TIME + run.setup.lead)?;
        // Runs that are measured at the same time measure the same ticks.
        let epoch_ms = next_ms + (-next_ms).rem_euclid(schedule.period_ms);
        let at_ms = epoch_ms - lead_ms;
        // The first tick may be a minute away.
        run.wait_until(at_ms, -schedule.silence_ms())?;
        run.generator.shared.allow_heartbeats(false);
        run.wait_until(at_ms, WINDOW_STARTS_MS)?;
        let started = run.learn_time()?;
        if let (Some(started), Some(last)) = (started, std::mem::replace(sampled, started)) {
            let elapsed_us = number(started.at_ns.saturating_sub(last.at_ns)) / 1e3;
            let used_us = started
                .cpu_us
                .saturating_sub(last.cpu_us)
                .saturating_sub(*bare_us);
            measured.cores.push(number(used_us) / elapsed_us.max(1.0));
            measured
                .rss
                .push((run.seconds(), number(started.rss_bytes) / 1_048_576.0));
        }
        *bare_us = 0;
        let window_ends = measured.window_ends();
        run.wait_until(at_ms, window_ends)?;
        let ended = run.learn_time()?;
        let cpu_us = started
            .zip(ended)
            .map(|(started, ended)| ended.used_us_since(&started));
        if counts_files && run.under_test.is_some() {
            let files = run.child()?.sample(true)?.files;
            measured
                .files
                .push((run.seconds(), number(files.unwrap_or_default())));
        }
        let [before, after] = &schedule.heartbeats;
        run.heartbeats_during(at_ms, &measured.after_last(before))?;
        let bare = match schedule.bare_at {
            Some(bare_at) => {
                let bare_ms = at_ms + bare_at;
                let bare = send_bare(run, bare_ms)?;
                *bare_us = bare.cpu_us;
                Some((bare_ms, bare))
            }
            None => None,
        };
        run.heartbeats_during(at_ms, after)?;
        if let Some(repeat_at) = schedule.repeat_at {
            *bare_us += send_bare(run, at_ms + repeat_at)?.cpu_us;
        }
        run.wait_until(at_ms, schedule.ends)?;
        Ok(RoundReading {
            epoch_ms,
            window_ends,
            cpu_us,
            bare,
        })
    }

    fn report(
        &self,
        run: ScenarioRun,
        measured: FanoutOutcome,
        harvest: &Harvest,
        memory: Option<[Figure; 3]>,
        released: Option<&Histogram<u64>>,
    ) -> Report {
        let placement = run.placement.clone();
        let mut report = run.finish();
        report.options = json!({
            "mode": Mode::from(self.mode).name(),
            "ticks": self.ticks,
            "for_s": self.over.map(|over| over.as_secs()),
            "ahead": self.ahead,
            "released": self.released,
            "with_limit": self.common.with_limit,
        });
        report.figures.extend(memory.into_iter().flatten());
        measured.add_to(&mut report);
        let latencies = &harvest.latencies;
        for (id, label, of) in [
            (
                "after_due",
                "arrival after the tick was due",
                Some(&latencies.edge),
            ),
            (
                "after_sent",
                "arrival after sent_unix_us",
                Some(&latencies.after_sent),
            ),
            (
                "bare_after_due",
                "bare loop: arrival after the frame was due",
                Some(&latencies.bare),
            ),
            (
                "released",
                "Rust client: deviation from release time",
                released,
            ),
            ("pong", "PONG after HEARTBEAT", Some(&harvest.pong)),
        ] {
            let distribution = of.and_then(|of| Distribution::of(id, label, of));
            report.distributions.extend(distribution);
        }
        report.notes.extend(cores_note(&placement));
        report
    }
}

/// Makes the bare loop send one frame at this authority time.
fn send_bare(run: &mut ScenarioRun, bare_ms: i64) -> anyhow::Result<BareSends> {
    // Shards wait for the bare loop's time and do nothing else meanwhile, so the order must not
    // come early.
    run.wait_until(bare_ms, -BARE_ORDER_LEAD_MS)?;
    run.bare(BurstPlan::single(run.mono_ns(bare_ms)?, bare_ms))
}

impl ScenarioRun {
    /// Lets clients send heartbeats during `moments`, in milliseconds after `at_ms`, and waits
    /// until they are over.
    fn heartbeats_during(&self, at_ms: i64, moments: &std::ops::Range<i64>) -> anyhow::Result<()> {
        if moments.is_empty() {
            return Ok(());
        }
        self.wait_until(at_ms, moments.start)?;
        self.generator.shared.allow_heartbeats(true);
        self.wait_until(at_ms, moments.end)?;
        self.generator.shared.allow_heartbeats(false);
        Ok(())
    }
}
