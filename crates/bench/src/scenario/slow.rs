//! `slow`: some clients stop reading while a burst goes to all. Measures what the other clients
//! notice, and when the edge closes the slow ones.

use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use hdrhistogram::Histogram;
use serde_json::json;
use tickstorm_command::Failure;
use tickstorm_timebase::{Clock, Mono, SystemClock};

use super::burst::{self, BurstShape};
use crate::figure::{Figure, millis, number};
use crate::generator::{Generator, Greeting, Harvest, Pace, histogram};
use crate::options::{CommonOptions, duration};
use crate::report::{Distribution, Report};
use crate::run::{IN_FLIGHT, ScenarioRun, cores_note};

/// Measure how clients that stop reading during a burst affect the others
///
/// Compares rounds in which some clients stop reading with rounds in which all read, and measures
/// when the edge closes the slow ones.
#[derive(Debug, clap::Args)]
pub(crate) struct SlowScenario {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    #[command(flatten)]
    shape: BurstShape,
    /// Percentage of clients that are slow
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=90)
    )]
    share: u32,
    /// Behaviour of slow clients: read nothing (`never`), or one byte per second (`trickle`)
    #[arg(long, value_enum, default_value_t = Slowness::Never)]
    how: Slowness,
    /// Number of pairs of rounds: in the first all clients read, in the second some do not
    #[arg(
        long,
        value_name = "N",
        default_value_t = 3,
        value_parser = clap::value_parser!(u64).range(1..=1_000)
    )]
    rounds: u64,
    /// Length of each burst; it must fill the buffers of a slow client and then exceed
    /// WRITE_DEADLINE_MS
    #[arg(long = "for", value_name = "DURATION", default_value = "10s", value_parser = duration)]
    over: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Slowness {
    Never,
    Trickle,
}

/// The time that slow clients may remain connected after the burst, beyond the write deadline.
const CLOSED_WITHIN: Duration = Duration::from_secs(2);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The latencies of the other clients in rounds of one kind.
struct LatencyRounds {
    p99_ms: Vec<f64>,
    late: Histogram<u64>,
}

#[derive(Default)]
struct Closed {
    after_s: Vec<f64>,
    rss_mib: Vec<f64>,
}

/// Tracks the edge until it has closed all slow clients.
struct Closing {
    /// The number of slow consumers that the edge has closed in the whole run once it has closed
    /// all slow clients of this round.
    until: u64,
    since: Mono,
    left: u64,
    after_s: Option<f64>,
    rss_mib: Option<f64>,
}

impl Closing {
    fn new(until: u64, since_ns: u64) -> Self {
        Self {
            until,
            since: Mono::from_nanos(since_ns),
            left: until,
            after_s: None,
            rss_mib: None,
        }
    }

    fn poll(&mut self, run: &mut ScenarioRun) -> anyhow::Result<()> {
        if self.after_s.is_some() {
            return Ok(());
        }
        let sample = run.child()?.sample(true)?;
        self.left = self
            .until
            .saturating_sub(sample.closed_slow.unwrap_or_default());
        if self.left == 0 {
            self.after_s = Some(SystemClock.now().since(self.since).as_secs_f64());
            self.rss_mib = Some(number(sample.rss_bytes) / 1_048_576.0);
        }
        Ok(())
    }
}

impl SlowScenario {
    /// Runs the scenario and returns its report.
    pub(crate) fn run(&self) -> Result<Report, Failure> {
        self.common.needs_child("slow")?;
        self.common.has_no_limit("slow")?;
        let clients = self.common.clients;
        let slow = (clients * self.share).div_ceil(100);
        let others = clients.saturating_sub(slow).max(1);
        let mut run = ScenarioRun::start("slow", &self.common, others + slow, |_, _| {})?;
        run.connect(others, false)?;
        let shared = Arc::clone(&run.generator.shared);
        let mut slow_clients =
            Generator::start(run.setup.clone(), shared, slow, run.files_limit, false)?;
        let [mut with, mut without] = [(); 2].map(|()| LatencyRounds {
            p99_ms: Vec::new(),
            late: histogram(),
        });
        let (mut closed, mut all) = (Closed::default(), Harvest::default());
        let (mut last_ms, mut wall_ms) = (None, 0.0);
        for round in 1..=self.rounds {
            for stops in [false, true] {
                let what = if stops {
                    "some clients do not read"
                } else {
                    "all clients read"
                };
                run.progress
                    .start_phase(&format!("round {round}: {what}"), 1);
                if !stops {
                    // The clients that stopped reading have not noticed yet that they were closed.
                    self.reconnect_slow(&mut run, &mut slow_clients, slow)?;
                }
                // Frames that arrived while clients connected are not part of the round.
                all.add(Harvest {
                    seen: Vec::new(),
                    latencies: Default::default(),
                    ..run.generator.harvest(None)?
                });
                let burst = run.plan(self.shape.rate, self.over, last_ms)?;
                last_ms = Some(burst.last_ms());
                let before = run.child()?.sample(true)?.closed_slow.unwrap_or_default();
                let mut closing = Closing::new(before + u64::from(slow), burst.at_ns);
                if stops {
                    slow_clients.set_pace(self.pace(), slow);
                }
                let last = stops && round == self.rounds;
                let result = burst::send(&mut run, burst, last, |run| {
                    if stops { closing.poll(run) } else { Ok(()) }
                })?;
                wall_ms += result.wall_ms;
                let rounds = if stops { &mut with } else { &mut without };
                let late = &result.harvest.latencies.edge;
                rounds.p99_ms.push(millis(late.value_at_quantile(0.99)));
                rounds.late.add(late).map_err(anyhow::Error::from)?;
                all.add(Harvest {
                    seen: Vec::new(),
                    ..result.harvest
                });
                if stops {
                    self.await_closed(&mut run, &mut closing)?;
                    closed.after_s.extend(closing.after_s);
                    closed.rss_mib.extend(closing.rss_mib);
                }
            }
        }
        Ok(self.report(run, slow, [with, without], closed, &all, wall_ms))
    }

    fn pace(&self) -> Pace {
        match self.how {
            Slowness::Never => Pace::Never,
            Slowness::Trickle => Pace::Trickle,
        }
    }

    /// Connects the slow clients, after disconnecting those of the previous round.
    fn reconnect_slow(
        &self,
        run: &mut ScenarioRun,
        slow_clients: &mut Generator,
        slow: u32,
    ) -> anyhow::Result<()> {
        slow_clients.disconnect(u32::MAX, true);
        slow_clients.harvest(None)?;
        let before = slow_clients.done();
        slow_clients.connect_with(slow, Greeting::Pipelined, IN_FLIGHT, true);
        run.await_served(before, slow)?;
        slow_clients.harvest(None)?;
        Ok(())
    }

    /// Waits until the edge has closed all slow clients.
    fn await_closed(&self, run: &mut ScenarioRun, closing: &mut Closing) -> anyhow::Result<()> {
        let deadline_ms = run.child()?.ready.write_deadline_ms;
        let within = Duration::from_millis(deadline_ms) + CLOSED_WITHIN;
        let started = SystemClock.now();
        while closing.after_s.is_none() {
            if SystemClock.now().since(started) > within {
                let left = closing.left;
                let text =
                    format!("{left} slow clients were still connected {within:?} after the burst");
                match self.how {
                    Slowness::Never => run.report.violations.push(text),
                    Slowness::Trickle => run.report.note_once(&text),
                }
                return Ok(());
            }
            closing.poll(run)?;
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    fn report(
        &self,
        run: ScenarioRun,
        slow: u32,
        rounds: [LatencyRounds; 2],
        closed: Closed,
        all: &Harvest,
        wall_ms: f64,
    ) -> Report {
        let placement = run.placement.clone();
        let mut report = run.finish();
        let [with, without] = rounds;
        report.options = json!({
            "rate": self.shape.rate,
            "rounds": self.rounds,
            "for_s": self.over.as_secs_f64(),
            "share": self.share,
            "slow": slow,
            "how": if self.how == Slowness::Never { "never" } else { "trickle" },
        });
        let p99 = Figure::of(
            "others_p99_ms",
            "p99 of the other clients",
            "ms",
            with.p99_ms,
        );
        report.figures.extend([
            p99.against(without.p99_ms),
            Figure::of(
                "closed_after_s",
                "last slow client closed after start of burst",
                "s",
                closed.after_s,
            ),
            Figure::of(
                "rss_mib",
                "resident memory at that time",
                "MiB",
                closed.rss_mib,
            ),
        ]);
        report.distributions.extend(
            [
                Distribution::of(
                    "with_slow",
                    "arrival while some clients do not read",
                    &with.late,
                ),
                Distribution::of(
                    "without_slow",
                    "arrival while all clients read",
                    &without.late,
                ),
            ]
            .into_iter()
            .flatten(),
        );
        report
            .notes
            .push("the column \"bare loop\" shows the rounds in which all clients read".into());
        report.notes.extend(cores_note(&placement));
        report.count(all, wall_ms);
        report.judge(true);
        report
    }
}
