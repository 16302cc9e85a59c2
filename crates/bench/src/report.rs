//! The results of a run: one structure, that is printed as a table, written as JSON, or drawn on a page.

mod chart;
mod lateness;
mod page;
mod table;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::Value;
use tickstorm_command::{Failure, OUTPUT};
use tickstorm_service::exit;

use super::figure::{Figure, millis, number};
use super::generator::Harvest;
use super::generator::account::Faults;
use super::machine;
use super::options::{CommonOptions, Placement};
use super::orders::EdgeFacts;

pub(crate) use self::lateness::{LatenessColumn, LatenessTable};

/// The generator's user CPU as a share of the wall time in which ticks come, beyond which it has measured itself.
const USER_SHARE_MAX: f64 = 0.03;

/// The exit code of a run whose figures say nothing; another run may say something. EX_TEMPFAIL of
/// sysexits.h.
const VOID: u8 = 75;

/// Points of a distribution's curve for each tenfold of 1 / (1 - quantile).
const POINTS_A_DECADE: u32 = 20;

/// Everything that is known after a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    version: &'static str,
    scenario: &'static str,
    command: Vec<String>,
    machine: String,
    edge_cpus: Vec<usize>,
    client_cpus: Vec<usize>,
    clients: u32,
    /// What the edge under test said of itself; none of a stranger.
    edge: Option<EdgeFacts>,
    /// The scenario's own options.
    pub(crate) options: Value,
    pub(crate) figures: Vec<Figure>,
    pub(crate) distributions: Vec<Distribution>,
    pub(crate) series: Vec<Series>,
    /// How late ticks were released, of scenarios that look at that.
    pub(crate) lateness: Option<LatenessTable>,
    faults: BTreeMap<&'static str, u64>,
    /// What ended connections that nobody ended.
    ends: BTreeMap<String, u64>,
    pub(crate) generator: GeneratorCosts,
    /// What else is to be known of the figures.
    pub(crate) notes: Vec<String>,
    /// What went wrong with the edge: then the exit code is 1.
    pub(crate) violations: Vec<String>,
    /// Why the figures say nothing: then the exit code is 75.
    pub(crate) void: Vec<String>,
}

/// What the generator itself has spent.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct GeneratorCosts {
    /// CPU time in user space while ticks came, by its own clock, in milliseconds.
    pub(crate) own_ms: f64,
    /// The same as the kernel has it, by sampling.
    pub(crate) user_ms: f64,
    /// In kernel and user space.
    pub(crate) cpu_ms: f64,
    /// The wall time in which ticks came: from when they were due to their last arrival.
    pub(crate) wall_ms: f64,
    /// The first as a share of the last.
    pub(crate) user_share: f64,
    pub(crate) heartbeats: u64,
    pub(crate) pongs: u64,
}

/// A distribution of latencies, in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Distribution {
    pub(crate) id: &'static str,
    pub(crate) label: &'static str,
    pub(crate) count: u64,
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) p99_9: f64,
    pub(crate) max: f64,
    /// Quantile and latency.
    pub(crate) curve: Vec<(f64, f64)>,
}

/// Something over the time of the run, in seconds since its begin.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Series {
    pub(crate) id: &'static str,
    pub(crate) label: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
}

impl Distribution {
    /// Of latencies in nanoseconds; none where there are none.
    pub(crate) fn of(
        id: &'static str,
        label: &'static str,
        latencies: &Histogram<u64>,
    ) -> Option<Self> {
        if latencies.is_empty() {
            return None;
        }
        let at = |quantile| millis(latencies.value_at_quantile(quantile));
        let decades = number(latencies.len()).log10().max(1.0);
        let points = decades * f64::from(POINTS_A_DECADE);
        let curve = (0..=super::figure::whole(points.ceil())).map(|point| {
            let decade = number(point) / f64::from(POINTS_A_DECADE);
            let quantile = 1.0 - 10_f64.powf(-decade);
            (quantile, at(quantile))
        });
        Some(Self {
            id,
            label,
            count: latencies.len(),
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
            p99_9: at(0.999),
            max: millis(latencies.max()),
            curve: curve.collect(),
        })
    }
}

impl Report {
    /// An empty one.
    pub(crate) fn new(
        scenario: &'static str,
        common: &CommonOptions,
        placement: &Placement,
        edge: Option<EdgeFacts>,
    ) -> Self {
        Self {
            version: tickstorm_service::VERSION,
            scenario,
            command: std::env::args().collect(),
            machine: machine::description(),
            edge_cpus: placement.edge.clone(),
            client_cpus: placement.clients.clone(),
            clients: common.clients,
            edge,
            options: Value::Null,
            figures: Vec::new(),
            distributions: Vec::new(),
            series: Vec::new(),
            lateness: None,
            faults: BTreeMap::new(),
            ends: BTreeMap::new(),
            generator: GeneratorCosts::default(),
            notes: Vec::new(),
            violations: Vec::new(),
            void: Vec::new(),
        }
    }

    /// Counts what went wrong, and what the generator spent while ticks came for `wall_ms`.
    pub(crate) fn count(&mut self, harvest: &Harvest, wall_ms: f64) {
        self.count_faults(&harvest.faults);
        for (end, count) in &harvest.ends {
            *self.ends.entry(end.text.clone()).or_default() += count;
        }
        self.generator.own_ms += number(harvest.spent.own_us) / 1e3;
        self.generator.user_ms += number(harvest.spent.user_us) / 1e3;
        self.generator.cpu_ms += number(harvest.spent.total_us) / 1e3;
        self.generator.wall_ms += wall_ms;
        self.generator.heartbeats += harvest.heartbeats;
        self.generator.pongs += harvest.pongs;
    }

    fn count_faults(&mut self, faults: &Faults) {
        for (name, count) in faults.named() {
            self.count_fault(name, count);
        }
    }

    /// Counts a kind of fault, which is listed even if there is none.
    pub(crate) fn count_fault(&mut self, name: &'static str, count: u64) {
        *self.faults.entry(name).or_default() += count;
    }

    /// Counts what ended a connection.
    pub(crate) fn count_end(&mut self, end: String) {
        *self.ends.entry(end).or_default() += 1;
    }

    /// Adds a note unless it is there.
    pub(crate) fn note_once(&mut self, note: &str) {
        if self.notes.iter().all(|known| known != note) {
            self.notes.push(note.to_owned());
        }
    }

    /// Judges what was counted. Where `judges_user_cpu`, a generator that was busy itself voids the run.
    pub(crate) fn judge(&mut self, judges_user_cpu: bool) {
        let faults = self.faults.iter().filter(|(_, count)| **count > 0);
        let violations = faults.map(|(name, count)| format!("{}: {count}", fault_label(name)));
        self.violations.extend(violations);
        let own = &mut self.generator;
        if own.wall_ms > 0.0 {
            own.user_share = own.own_ms / own.wall_ms;
        }
        if judges_user_cpu && own.user_share > USER_SHARE_MAX {
            self.void.push(format!(
                "the load generator was the bottleneck: its own user CPU was {:.1} % of the time in which ticks came, over {:.0} %",
                own.user_share * 100.0,
                USER_SHARE_MAX * 100.0
            ));
        }
    }

    /// Prints it, and writes it to the files that were asked for.
    pub(crate) fn give(&self, common: &CommonOptions) -> Result<(), Failure> {
        let cannot = |error: anyhow::Error| Failure::new(OUTPUT, error);
        table::print(self).map_err(|error| cannot(error.into()))?;
        if let Some(path) = &common.json {
            let text = serde_json::to_string_pretty(self).map_err(|error| cannot(error.into()))?;
            write(path, &(text + "\n")).map_err(cannot)?;
        }
        if let Some(path) = &common.html {
            let page = page::of(self).map_err(cannot)?;
            write(path, &page).map_err(cannot)?;
        }
        if !self.violations.is_empty() {
            let text = format!("not as promised: {}", self.violations.join("; "));
            return Err(Failure::said(exit::FAILED, text));
        }
        if !self.void.is_empty() {
            return Err(Failure::said(
                VOID,
                format!("void: {}", self.void.join("; ")),
            ));
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("{} can't be written", path.display()))
}

fn fault_label(name: &str) -> &str {
    match name {
        "lost" => "ticks lost",
        "duplicate" => "ticks twice",
        "out_of_order" => "ticks out of order",
        "early" => "ticks early",
        "strange" => "ticks that can't be",
        "broken" => "frames broken",
        "disconnected" => "connections ended or refused",
        "auth_unanswered" => "AUTHs without an answer",
        "auth_answered_wrongly" => "AUTHs with a wrong answer",
        other => other,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;

    use super::*;
    use crate::generator::histogram;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        common: CommonOptions,
    }

    pub(crate) fn report() -> Report {
        let common = Cli::try_parse_from(["bench"]).unwrap().common;
        Report::new("fanout", &common, &Placement::default(), None)
    }

    #[test]
    fn a_fault_is_a_violation_and_none_is_not() {
        let mut report = report();
        report.count(&Harvest::default(), 100.0);
        report.judge(true);
        assert!(report.violations.is_empty() && report.void.is_empty());
        let mut harvest = Harvest::default();
        harvest.faults.lost = 1;
        report.count(&harvest, 100.0);
        report.judge(true);
        assert_eq!(report.violations, ["ticks lost: 1"]);
    }

    #[test]
    fn a_generator_that_is_busy_itself_voids_the_run() {
        let mut harvest = Harvest::default();
        harvest.spent.own_us = 3_100;
        for (wall_ms, void) in [(100.0, true), (104.0, false)] {
            let mut report = report();
            report.count(&harvest, wall_ms);
            report.judge(true);
            assert_eq!(!report.void.is_empty(), void, "{wall_ms} ms");
            assert!(report.violations.is_empty());
        }
    }

    #[test]
    fn a_distribution_is_of_all_that_was_recorded() {
        let mut latencies = histogram();
        assert!(Distribution::of("id", "label", &latencies).is_none());
        for millis in 1..=1_000_u64 {
            latencies.record(millis * 1_000_000).unwrap();
        }
        let of = Distribution::of("id", "label", &latencies).unwrap();
        assert_eq!(of.count, 1_000);
        let near = |value: f64, expected: f64| (value / expected - 1.0).abs() < 0.01;
        assert!(near(of.p50, 500.0) && near(of.p99, 990.0) && near(of.max, 1_000.0));
        assert!(of.curve.windows(2).all(|pair| pair[0].1 <= pair[1].1));
    }
}
