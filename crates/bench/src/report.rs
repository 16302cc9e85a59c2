//! The results of a run: one structure that is printed as a table, written as JSON, and drawn as a
//! page with charts.

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
use super::tls::TlsFacts;

pub use self::chart::{ChartLine, XAxis, draw as draw_chart};
pub(crate) use self::lateness::{LatenessColumn, LatenessTable};

/// The largest share of the time in which ticks arrive that the generator may spend in user space.
/// Beyond it, the generator has measured itself.
const USER_SHARE_MAX: f64 = 0.03;

/// The exit code of a void run, whose figures mean nothing although another run may succeed.
/// EX_TEMPFAIL of sysexits.h.
const VOID: u8 = 75;

/// The number of points of a distribution's curve per tenfold of 1 / (1 - quantile).
const POINTS_PER_DECADE: u32 = 20;

/// Everything known after a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    version: &'static str,
    scenario: &'static str,
    command: Vec<String>,
    machine: String,
    edge_cpus: Vec<usize>,
    client_cpus: Vec<usize>,
    clients: u32,
    /// The facts that the edge in the child process reported; `None` for an edge at `--addr`.
    edge: Option<EdgeFacts>,
    /// `None` if clients connect without TLS.
    pub(crate) tls: Option<TlsFacts>,
    /// The scenario's own options.
    pub(crate) options: Value,
    pub(crate) figures: Vec<Figure>,
    pub(crate) distributions: Vec<Distribution>,
    pub(crate) series: Vec<Series>,
    /// The lateness of releases, for scenarios that measure it.
    pub(crate) lateness: Option<LatenessTable>,
    faults: BTreeMap<&'static str, u64>,
    /// The reasons why connections ended unexpectedly, and how often each occurred.
    ends: BTreeMap<String, u64>,
    pub(crate) generator: GeneratorCosts,
    /// Remarks on how to read the figures.
    pub(crate) notes: Vec<String>,
    /// The faults of the edge. If there are any, the exit code is 1.
    pub(crate) violations: Vec<String>,
    /// The reasons why the figures mean nothing. If there are any, the exit code is 75.
    pub(crate) void: Vec<String>,
}

/// The CPU time that the generator itself spent.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct GeneratorCosts {
    /// CPU time in user space while ticks arrived, by the generator's own clock, in milliseconds.
    /// Opening TLS records is not part of it: any client must do that.
    pub(crate) own_ms: f64,
    /// CPU time for opening TLS records.
    pub(crate) opening_ms: f64,
    /// The same according to the kernel, which samples it.
    pub(crate) user_ms: f64,
    /// CPU time in kernel and user space.
    pub(crate) cpu_ms: f64,
    /// The wall time in which ticks arrived: the sum, over ticks, of the time from due to the last
    /// arrival.
    pub(crate) wall_ms: f64,
    /// `own_ms` as a share of `wall_ms`.
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
    /// Pairs of quantile and latency.
    pub(crate) curve: Vec<(f64, f64)>,
}

/// A value over the time of the run, in seconds since its start.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Series {
    pub(crate) id: &'static str,
    pub(crate) label: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
}

impl GeneratorCosts {
    fn add(&mut self, other: &Self) {
        self.own_ms += other.own_ms;
        self.opening_ms += other.opening_ms;
        self.user_ms += other.user_ms;
        self.cpu_ms += other.cpu_ms;
        self.wall_ms += other.wall_ms;
        self.heartbeats += other.heartbeats;
        self.pongs += other.pongs;
    }
}

impl Distribution {
    /// Summarises latencies in nanoseconds. Returns `None` if there are none.
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
        let points = decades * f64::from(POINTS_PER_DECADE);
        let curve = (0..=super::figure::whole(points.ceil())).map(|point| {
            let decade = number(point) / f64::from(POINTS_PER_DECADE);
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
    /// Creates an empty report.
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
            tls: None,
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

    /// Adds the faults of `harvest`, and the CPU time that the generator spent on it. Ticks arrived
    /// for `wall_ms`.
    pub(crate) fn count(&mut self, harvest: &Harvest, wall_ms: f64) {
        self.count_faults(&harvest.faults);
        for (end, count) in &harvest.ends {
            *self.ends.entry(end.text.clone()).or_default() += count;
        }
        self.generator.own_ms += number(harvest.spent.own_us) / 1e3;
        self.generator.opening_ms += number(harvest.spent.opening_us) / 1e3;
        self.generator.user_ms += number(harvest.spent.user_us) / 1e3;
        self.generator.cpu_ms += number(harvest.spent.total_us) / 1e3;
        self.generator.wall_ms += wall_ms;
        self.generator.heartbeats += harvest.heartbeats;
        self.generator.pongs += harvest.pongs;
    }

    /// Adds the faults, remarks and costs of another part of the run, which the report does not
    /// describe otherwise.
    pub(crate) fn absorb(&mut self, other: Self) {
        for (name, count) in other.faults {
            self.count_fault(name, count);
        }
        for (end, count) in other.ends {
            *self.ends.entry(end).or_default() += count;
        }
        other.notes.iter().for_each(|note| self.note_once(note));
        self.violations.extend(other.violations);
        self.void.extend(other.void);
        self.generator.add(&other.generator);
    }

    fn count_faults(&mut self, faults: &Faults) {
        for (name, count) in faults.named() {
            self.count_fault(name, count);
        }
    }

    /// Adds to one kind of fault, which is listed even if its count is 0.
    pub(crate) fn count_fault(&mut self, name: &'static str, count: u64) {
        *self.faults.entry(name).or_default() += count;
    }

    /// Counts the reason why a connection ended.
    pub(crate) fn count_end(&mut self, end: String) {
        *self.ends.entry(end).or_default() += 1;
    }

    /// Adds a note, unless the report already has it.
    pub(crate) fn note_once(&mut self, note: &str) {
        if self.notes.iter().all(|known| known != note) {
            self.notes.push(note.to_owned());
        }
    }

    /// Turns what was counted into violations. If `judges_user_cpu` is set, a generator that used
    /// too much CPU time in user space voids the run.
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
                "the load generator was the bottleneck: its own user CPU time was {:.1} % of the \
                 time in which ticks arrived; at most {:.0} % is allowed",
                own.user_share * 100.0,
                USER_SHARE_MAX * 100.0
            ));
        }
    }

    /// Prints the report, and writes it to the files that were asked for. Fails if the edge
    /// misbehaved or the run is void.
    pub(crate) fn publish(&self, common: &CommonOptions) -> Result<(), Failure> {
        let output_failed = |error: anyhow::Error| Failure::new(OUTPUT, error);
        table::print(self).map_err(|error| output_failed(error.into()))?;
        if let Some(path) = &common.json {
            let text =
                serde_json::to_string_pretty(self).map_err(|error| output_failed(error.into()))?;
            write(path, &(text + "\n")).map_err(output_failed)?;
        }
        if let Some(path) = &common.html {
            let page = page::of(self).map_err(output_failed)?;
            write(path, &page).map_err(output_failed)?;
        }
        if !self.violations.is_empty() {
            let text = format!("the edge misbehaved: {}", self.violations.join("; "));
            return Err(Failure::message(exit::FAILED, text));
        }
        if !self.void.is_empty() {
            return Err(Failure::message(
                VOID,
                format!("the run is void: {}", self.void.join("; ")),
            ));
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("can't write {}", path.display()))
}

fn fault_label(name: &str) -> &str {
    match name {
        "lost" => "lost ticks",
        "duplicate" => "duplicate ticks",
        "out_of_order" => "ticks out of order",
        "early" => "early ticks",
        "strange" => "ticks off the grid or before the subscription",
        "broken" => "broken frames",
        "disconnected" => "connections closed or refused",
        "auth_unanswered" => "unanswered AUTHs",
        "auth_answered_wrongly" => "wrongly answered AUTHs",
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
    fn any_fault_is_a_violation() {
        let mut report = report();
        report.count(&Harvest::default(), 100.0);
        report.judge(true);
        assert!(report.violations.is_empty() && report.void.is_empty());
        let mut harvest = Harvest::default();
        harvest.faults.lost = 1;
        report.count(&harvest, 100.0);
        report.judge(true);
        assert_eq!(report.violations, ["lost ticks: 1"]);
    }

    #[test]
    fn a_generator_that_uses_too_much_user_cpu_voids_the_run() {
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
    fn a_distribution_covers_every_recorded_latency() {
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
