//! `slow`: some clients stop reading while a burst goes to all: what the others notice, and when the edge closes the slow ones.

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

/// Some clients stop reading during a burst: what the others notice, in rounds with and without, and when the slow ones are closed.
#[derive(Debug, clap::Args)]
pub(crate) struct SlowScenario {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    #[command(flatten)]
    shape: BurstShape,
    /// How many of a hundred clients are slow.
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=90)
    )]
    share: u32,
    /// How slow: they read nothing any more, or a byte a second.
    #[arg(long, value_enum, default_value_t = Slowness::Never)]
    how: Slowness,
    /// How many pairs of rounds: all read, then some do not.
    #[arg(
        long,
        value_name = "R",
        default_value_t = 3,
        value_parser = clap::value_parser!(u64).range(1..=1_000)
    )]
    rounds: u64,
    /// How long each burst is: longer than it takes to fill a slow client's buffers, and then WRITE_DEADLINE_MS.
    #[arg(long = "for", value_name = "DURATION", default_value = "10s", value_parser = duration)]
    over: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Slowness {
    Never,
    Trickle,
}

/// How long after the burst and the write deadline slow ones may still be there.
const CLOSED_WITHIN: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);

/// What rounds of one kind were like.
struct LatencyRounds {
    p99_ms: Vec<f64>,
    late: Histogram<u64>,
}

#[derive(Default)]
struct Closed {
    after_s: Vec<f64>,
    rss_mib: Vec<f64>,
}

/// The edge, on its way to close all slow ones.
struct Closing {
    /// How many it will have closed then, over the whole run.
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

    fn look(&mut self, run: &mut ScenarioRun) -> anyhow::Result<()> {
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
    /// Measures, and gives the report.
    pub(crate) fn run(&self) -> Result<Report, Failure> {
        self.common.needs_child("slow")?;
        let clients = self.common.clients;
        let slow = (clients * self.share).div_ceil(100);
        let others = clients.saturating_sub(slow).max(1);
        let mut run = ScenarioRun::start("slow", &self.common, others + slow, |_, _| {})?;
        run.connect(others, false)?;
        let shared = Arc::clone(&run.generator.shared);
        let mut crowd = Generator::start(run.setup.clone(), shared, slow, run.files_limit, false)?;
        let [mut with, mut without] = [(); 2].map(|()| LatencyRounds {
            p99_ms: Vec::new(),
            late: histogram(),
        });
        let (mut closed, mut all) = (Closed::default(), Harvest::default());
        let (mut last_ms, mut wall_ms) = (None, 0.0);
        for round in 1..=self.rounds {
            for stops in [false, true] {
                let what = if stops {
                    "some do not read"
                } else {
                    "all read"
                };
                run.progress.begin(&format!("round {round}: {what}"), 1);
                if !stops {
                    // Those who stopped reading have not noticed yet that they were closed.
                    self.bring(&mut run, &mut crowd, slow)?;
                }
                // What came of connecting is no part of the round.
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
                    crowd.read(self.pace(), slow);
                }
                let last = stops && round == self.rounds;
                let came = burst::send(&mut run, burst, last, |run| {
                    if stops { closing.look(run) } else { Ok(()) }
                })?;
                wall_ms += came.wall_ms;
                let rounds = if stops { &mut with } else { &mut without };
                let late = &came.harvest.latencies.edge;
                rounds.p99_ms.push(millis(late.value_at_quantile(0.99)));
                rounds.late.add(late).map_err(anyhow::Error::from)?;
                all.add(Harvest {
                    seen: Vec::new(),
                    ..came.harvest
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

    /// Lets the slow ones come (again).
    fn bring(&self, run: &mut ScenarioRun, crowd: &mut Generator, slow: u32) -> anyhow::Result<()> {
        crowd.leave(u32::MAX, true);
        crowd.harvest(None)?;
        let before = crowd.done();
        crowd.connect_with(slow, Greeting::Pipelined, IN_FLIGHT, true);
        run.await_served(before, slow)?;
        crowd.harvest(None)?;
        Ok(())
    }

    /// Waits until the edge has closed all slow ones.
    fn await_closed(&self, run: &mut ScenarioRun, closing: &mut Closing) -> anyhow::Result<()> {
        let deadline_ms = run.child()?.ready.write_deadline_ms;
        let within = Duration::from_millis(deadline_ms) + CLOSED_WITHIN;
        let begun = SystemClock.now();
        while closing.after_s.is_none() {
            if SystemClock.now().since(begun) > within {
                let left = closing.left;
                let text =
                    format!("{left} slow clients were still there {within:?} after the burst");
                match self.how {
                    Slowness::Never => run.report.violations.push(text),
                    Slowness::Trickle => run.report.note_once(&text),
                }
                return Ok(());
            }
            closing.look(run)?;
            std::thread::sleep(LOOK);
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
            "rate": self.shape.rate, "rounds": self.rounds, "for_s": self.over.as_secs_f64(), "share": self.share,
            "slow": slow, "how": if self.how == Slowness::Never { "never" } else { "trickle" },
        });
        let p99 = Figure::of(
            "others_p99_ms",
            "p99 of the others, against rounds in which all read",
            "ms",
            with.p99_ms,
        );
        report.figures.extend([
            p99.against(without.p99_ms),
            Figure::of(
                "closed_after_s",
                "last slow client closed, after the burst began",
                "s",
                closed.after_s,
            ),
            Figure::of("rss_mib", "resident memory then", "MiB", closed.rss_mib),
        ]);
        report.distributions.extend(
            [
                Distribution::of("with_slow", "arrival while some do not read", &with.late),
                Distribution::of("without_slow", "arrival while all read", &without.late),
            ]
            .into_iter()
            .flatten(),
        );
        report
            .notes
            .push("here the column \"bare loop\" holds the rounds in which all read".into());
        report.notes.extend(cores_note(&placement));
        report.count(all, wall_ms);
        report.judge(true);
        report
    }
}
