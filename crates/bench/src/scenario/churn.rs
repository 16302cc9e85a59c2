//! `churn`: clients connect and disconnect while ticks flow. Measures whether anything is left
//! behind.

use std::time::Duration;

use serde_json::json;
use tickstorm_command::Failure;

use crate::figure::{Figure, growth, number};
use crate::generator::{Greeting, Harvest};
use crate::options::{CommonOptions, duration};
use crate::report::{Distribution, Report, Series};
use crate::run::{IN_FLIGHT, ScenarioRun};

/// Detect leaks of memory and descriptors while clients connect and disconnect
///
/// Ticks keep flowing meanwhile. Verifies that every client receives its ticks.
#[derive(Debug, clap::Args)]
pub(crate) struct ChurnScenario {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    /// Number of clients to replace each second; they disconnect by a reset and by an ordinary
    /// close in alternating seconds
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=20_000)
    )]
    per_second: u32,
    /// Duration of the measurement
    #[arg(long = "for", value_name = "DURATION", default_value = "60s", value_parser = duration)]
    over: Duration,
}

/// The moments of each second at which clients are replaced and at which the edge is sampled, in
/// milliseconds after its start.
const REPLACE_AT_MS: i64 = 100;
const SAMPLE_AT_MS: i64 = 800;
/// The time needed to prepare for a second.
const PREPARE_TIME: Duration = Duration::from_millis(20);
/// The number of polls within which the edge should have closed the connections of clients that
/// left.
const SETTLE_POLLS: u32 = 100;
const POLL_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Default)]
struct ChurnOutcome {
    rss: Vec<(f64, f64)>,
    /// Open files other than connections.
    files: Vec<(f64, f64)>,
}

impl ChurnScenario {
    /// Runs the scenario and returns its report.
    pub(crate) fn run(&self) -> Result<Report, Failure> {
        self.common.has_no_limit("churn")?;
        let clients = self.common.clients;
        let room = clients.saturating_add(self.per_second);
        let mut run = ScenarioRun::start("churn", &self.common, room, |_, _| {})?;
        run.connect(clients, false)?;
        let (mut measured, mut all) = (ChurnOutcome::default(), Harvest::default());
        self.sample(&mut run, &mut measured)?;
        let seconds = self.over.as_secs();
        run.progress.start_phase("replacing clients", seconds);
        let mut until_ms = 0;
        for second in 1..=seconds {
            let epoch_ms = run.next_second_ms(PREPARE_TIME)?;
            run.wait_until(epoch_ms, REPLACE_AT_MS)?;
            let before = run.generator.done();
            let count = self.per_second.min(clients);
            run.generator.disconnect(count, second.is_multiple_of(2));
            run.generator.connect(count, Greeting::Pipelined, IN_FLIGHT);
            run.await_done(before + u64::from(count))?;
            run.wait_until(epoch_ms, SAMPLE_AT_MS)?;
            if second.is_multiple_of(10) || second == seconds {
                self.sample(&mut run, &mut measured)?;
            } else {
                run.learn_time()?;
            }
            until_ms = epoch_ms;
            all.add(Harvest {
                seen: Vec::new(),
                ..run.generator.harvest(None)?
            });
            run.progress.advance_to(second);
        }
        run.await_ticks(until_ms);
        all.add(run.generator.harvest(Some(until_ms))?);
        Ok(self.report(run, measured, &all))
    }

    /// Samples the edge once it has closed the connections of clients that left.
    fn sample(&self, run: &mut ScenarioRun, measured: &mut ChurnOutcome) -> anyhow::Result<()> {
        if run.under_test.is_none() {
            run.learn_time()?;
            return Ok(());
        }
        for _ in 0..SETTLE_POLLS {
            if run.child()?.sample(false)?.connections <= self.common.clients.into() {
                break;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        let sample = run.child()?.sample(true)?;
        run.take_time(&sample);
        let seconds = run.seconds();
        let others = sample
            .files
            .unwrap_or_default()
            .saturating_sub(sample.connections);
        measured
            .rss
            .push((seconds, number(sample.rss_bytes) / 1_048_576.0));
        measured.files.push((seconds, number(others)));
        Ok(())
    }

    fn report(&self, run: ScenarioRun, measured: ChurnOutcome, all: &Harvest) -> Report {
        let mut report = run.finish();
        report.options = json!({ "per_second": self.per_second, "for_s": self.over.as_secs() });
        let ends = |points: &[(f64, f64)]| Some((points.first()?.1, points.last()?.1));
        for (points, unit, ids, labels) in [
            (
                &measured.rss,
                "MiB",
                ["rss_begin_mib", "rss_end_mib", "rss_growth_mib"],
                [
                    "resident memory at the start",
                    "resident memory at the end",
                    "resident memory, growth since minute 5",
                ],
            ),
            (
                &measured.files,
                "files",
                ["files_begin", "files_end", "files_growth"],
                [
                    "files besides connections at the start",
                    "files besides connections at the end",
                    "files besides connections, growth since minute 5",
                ],
            ),
        ] {
            let figures = [
                ends(points).map(|ends| ends.0),
                ends(points).map(|ends| ends.1),
                growth(points),
            ];
            for ((id, label), figure) in ids.into_iter().zip(labels).zip(figures) {
                report.figures.push(Figure::single(id, label, unit, figure));
            }
        }
        let churned = self.over.as_secs() * u64::from(self.per_second.min(self.common.clients));
        report.figures.push(Figure::single(
            "churned",
            "clients replaced",
            "clients",
            Some(number(churned)),
        ));
        report.distributions.extend(
            [
                Distribution::of("served", "time to be served", &all.served),
                Distribution::of(
                    "after_due",
                    "arrival after the tick was due",
                    &all.latencies.edge,
                ),
            ]
            .into_iter()
            .flatten(),
        );
        report.series.extend([
            Series {
                id: "rss_mib",
                label: "resident memory (MiB)",
                points: measured.rss,
            },
            Series {
                id: "files",
                label: "open files besides connections",
                points: measured.files,
            },
        ]);
        report.count(all, 0.0);
        report.judge(false);
        report
    }
}
