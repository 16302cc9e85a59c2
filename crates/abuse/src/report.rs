//! The results of all runs: the table at the end, and the JSON file.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use tickstorm_bench::machine;
use tickstorm_command::{Failure, OUTPUT};
use tickstorm_service::exit;

use crate::attacks::Kind;
use crate::bus::BusFigures;
use crate::options::Options;
use crate::run::{Run, RunOutcome};
use crate::surroundings::Surroundings;
use crate::swarm::SwarmCounts;
use crate::table;
use crate::verdict::{Figures, Judged, Lateness, Memory};

/// The results.
#[derive(Serialize)]
pub(crate) struct Report {
    machine: String,
    clients: u32,
    hostile: u32,
    /// The ticks of each baseline and of each attack.
    seconds: u32,
    short: bool,
    notes: Vec<String>,
    rows: Vec<Row>,
}

/// The result of one run.
#[derive(Serialize)]
pub(crate) struct Row {
    attack: &'static str,
    from: &'static str,
    transport: &'static str,
    #[serde(flatten)]
    figures: Figures,
    hostile: SwarmCounts,
    /// Whether new clients must be served; otherwise they must be refused promptly.
    serves_new_clients: bool,
    broken: Vec<String>,
    notes: Vec<String>,
    #[serde(skip)]
    is_on_bus: bool,
    /// Whether late ticks are the only broken promise.
    #[serde(skip)]
    is_only_late: bool,
}

impl Row {
    /// Judges the figures of a run.
    pub(crate) fn measured(run: &Run, outcome: RunOutcome, judged: Judged) -> Self {
        Self {
            broken: outcome.figures.broken(judged),
            is_only_late: outcome.figures.is_only_late(judged),
            figures: outcome.figures,
            hostile: outcome.hostile,
            notes: outcome.notes,
            serves_new_clients: judged.new_clients_are_served,
            ..Self::empty(run)
        }
    }

    /// Returns the row of a run that failed.
    pub(crate) fn failed(run: &Run, failure: &Failure) -> Self {
        Self {
            broken: vec![format!("could not be run: {:#}", failure.error)],
            ..Self::empty(run)
        }
    }

    fn empty(run: &Run) -> Self {
        Self {
            attack: run.attack.name,
            from: if run.many { "many" } else { "one" },
            transport: if run.tls { "TLS" } else { "plain" },
            figures: Figures::default(),
            hostile: SwarmCounts::default(),
            serves_new_clients: true,
            broken: Vec::new(),
            notes: Vec::new(),
            is_on_bus: matches!(run.attack.kind, Kind::Bus(_)),
            is_only_late: false,
        }
    }

    /// Returns the row with the median ratio of an attack that was run again, or one that broke
    /// more than the promise about latency.
    pub(crate) fn median(mut rows: [Self; 3]) -> Self {
        let ratios = rows.each_ref().map(|row| row.figures.ratio());
        rows.sort_by(|a, b| {
            let is_worse = |row: &Self| !row.held() && !row.is_only_late;
            let worst_last = is_worse(a).cmp(&is_worse(b));
            worst_last.then(a.figures.ratio().total_cmp(&b.figures.ratio()))
        });
        let [_, median, last] = rows;
        let mut row = if last.held() || last.is_only_late {
            median
        } else {
            last
        };
        let [a, b, c] = ratios;
        let note = format!("run three times, with ratios of {a:.2}, {b:.2} and {c:.2}");
        row.notes.push(note);
        row
    }

    /// Returns whether late ticks are the only broken promise, which the noise of the machine can
    /// decide.
    pub(crate) fn is_only_late(&self) -> bool {
        self.is_only_late
    }

    /// Returns whether no promise was broken.
    pub(crate) fn held(&self) -> bool {
        self.broken.is_empty()
    }

    pub(crate) fn verdict(&self) -> String {
        if self.held() {
            "held".into()
        } else {
            format!("BROKEN: {}", self.broken.join("; "))
        }
    }

    /// Returns the cells under [`HEADINGS`].
    fn cells(&self) -> [String; HEADINGS.len()] {
        let figures = &self.figures;
        let both = figures.baseline.zip(figures.attacked);
        let of_both = |cell: fn(&Lateness, &Lateness) -> String| {
            both.map_or_else(String::new, |(before, during)| cell(&before, &during))
        };
        let new_clients = match (figures.new_clients, self.serves_new_clients) {
            (None, _) => String::new(),
            (Some(new), true) => format!("{} of {}", new.served, new.all),
            (Some(new), false) => format!("{} of {}, {} refused", new.served, new.all, new.refused),
        };
        let memory = figures.memory.as_ref();
        [
            self.attack.into(),
            self.from.into(),
            self.transport.into(),
            self.hostile.connected.to_string(),
            of_both(|before, during| format!("{:.2} → {:.2}", before.p99_ms, during.p99_ms)),
            of_both(|before, during| {
                format!("{:.2} → {:.2}", before.tick_p99_ms, during.tick_p99_ms)
            }),
            of_both(|before, during| format!("{:.2}", during.ratio(before))),
            (figures.missing + figures.wrong).to_string(),
            match figures.returned {
                Some(back) => format!("{} of {} in {:.1} s", back.back, back.clients, back.seconds),
                None => new_clients,
            },
            self.worst_probe(),
            format!("{:.0}", figures.cpu_percent),
            memory.map_or_else(String::new, memory_cell),
            self.verdict(),
        ]
    }

    /// Returns the cells under [`BUS_HEADINGS`].
    fn bus_cells(&self) -> [String; BUS_HEADINGS.len()] {
        let figures = &self.figures;
        let of_bus = |cell: fn(&BusFigures) -> String| {
            let bus = figures.bus.as_ref();
            bus.map_or_else(String::new, cell)
        };
        let latest = figures.baseline.zip(figures.attacked);
        [
            self.attack.into(),
            of_bus(|bus| bus.login.name().into()),
            of_bus(|bus| bus.messages_per_second().to_string()),
            of_bus(|bus| (bus.counts.refused + bus.counts.excess_refused).to_string()),
            latest.map_or_else(String::new, |(before, during)| {
                format!("{:.1} → {:.1}", before.max_ms, during.max_ms)
            }),
            (figures.missing + figures.wrong).to_string(),
            of_bus(|bus| match bus.rounds {
                Some(rounds) => format!("{} of {}", rounds.lost, rounds.all()),
                None => "unknown".into(),
            }),
            of_bus(|bus| match bus.named {
                Some(named) => named.to_string(),
                None => String::new(),
            }),
            self.worst_probe(),
            self.verdict(),
        ]
    }

    fn worst_probe(&self) -> String {
        let probes = self.figures.probes;
        probes.map_or_else(String::new, |probes| format!("{:.0}", probes.worst_ms))
    }
}

fn memory_cell(memory: &Memory) -> String {
    let mib = |bytes: u64| bytes >> 20;
    let Memory {
        before,
        height,
        after,
        kernel_rise,
    } = *memory;
    let user = format!("{} → {} → {}", mib(before), mib(height), mib(after));
    format!("{user} (+{})", mib(kernel_rise))
}

const HEADINGS: [&str; 13] = [
    "attack",
    "from",
    "transport",
    "connections",
    "p99 before → during (ms)",
    "a tick's p99 before → during (ms)",
    "ratio",
    "missing",
    "new clients in 2 s",
    "worst probe (ms)",
    "CPU (%)",
    "memory before → height → after (+TCP) (MiB)",
    "verdict",
];

const BUS_HEADINGS: [&str; 10] = [
    "attack",
    "stolen login",
    "messages/s",
    "refused by NATS",
    "latest tick before → during (ms)",
    "missing",
    "rounds lost",
    "login named in",
    "worst probe (ms)",
    "verdict",
];

impl Report {
    pub(crate) fn new(options: &Options, surroundings: &Surroundings) -> Self {
        Self {
            machine: machine::description(),
            clients: options.clients(),
            hostile: options.hostile(),
            seconds: options.seconds(),
            short: options.short,
            notes: surroundings.notes.clone(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Prints the table and writes the JSON file. Fails if a promise was broken.
    pub(crate) fn publish(&self, json: Option<&Path>) -> Result<(), Failure> {
        if let Some(path) = json {
            let what = || format!("can't write {}", path.display());
            let text = serde_json::to_string_pretty(self)
                .map_err(|error| Failure::new(exit::SOFTWARE, error))?;
            fs::write(path, text)
                .map_err(|error| Failure::new(OUTPUT, anyhow::Error::new(error).context(what())))?;
        }
        self.write(&mut io::stdout().lock())
            .map_err(|error| Failure::new(OUTPUT, error))?;
        let broken = self.rows.iter().filter(|row| !row.held()).count();
        if broken > 0 {
            let text = format!(
                "promises were broken in {broken} of {} runs",
                self.rows.len()
            );
            return Err(Failure::message(exit::FAILED, text));
        }
        Ok(())
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "{} honest clients, {} hostile ones, {} ticks each; {}",
            self.clients, self.hostile, self.seconds, self.machine
        )?;
        let (on_bus, others): (Vec<&Row>, Vec<&Row>) =
            self.rows.iter().partition(|row| row.is_on_bus);
        if !others.is_empty() {
            let rows: Vec<_> = others.iter().map(|row| row.cells()).collect();
            table::write(out, HEADINGS, &rows)?;
        }
        if !on_bus.is_empty() {
            writeln!(out, "\nOn the bus, with 3 clocks and 2 edges:")?;
            let rows: Vec<_> = on_bus.iter().map(|row| row.bus_cells()).collect();
            table::write(out, BUS_HEADINGS, &rows)?;
        }
        let of_rows = self.rows.iter().flat_map(|row| {
            let title = format!("{} from {} over {}", row.attack, row.from, row.transport);
            row.notes.iter().map(move |note| format!("{title}: {note}"))
        });
        for note in self.notes.iter().cloned().chain(of_rows) {
            writeln!(out, "note: {note}")?;
        }
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JUDGED: Judged = Judged {
        p99: true,
        is_short: false,
        new_clients_are_served: true,
        probes: false,
    };

    fn row(ratio: f64, missing: u64) -> Row {
        let attack = &crate::attacks::ALL[0];
        let run = Run {
            attack,
            number: 0,
            many: false,
            tls: false,
            short: false,
            clients: 1,
            hostile: 1,
            seconds: 1,
            files_max: 1_000,
        };
        let lateness = |tick_p99_ms| {
            Some(Lateness {
                tick_p99_ms,
                ..Lateness::default()
            })
        };
        let figures = Figures {
            baseline: lateness(10.0),
            attacked: lateness(10.0 * ratio),
            missing,
            ..Figures::default()
        };
        let outcome = RunOutcome {
            figures,
            ..RunOutcome::default()
        };
        Row::measured(&run, outcome, JUDGED)
    }

    #[test]
    fn of_repeated_runs_the_one_with_the_median_ratio_counts() {
        for (ratios, held) in [
            ([1.5, 0.9, 1.1], true),
            ([1.5, 1.6, 0.9], false),
            ([1.3, 1.4, 1.25], false),
        ] {
            let median = Row::median(ratios.map(|ratio| row(ratio, 0)));
            assert_eq!(median.held(), held, "{ratios:?}");
            assert_eq!(median.notes.len(), 1);
        }
    }

    #[test]
    fn a_repeated_run_that_breaks_another_promise_counts() {
        let rows = [row(1.5, 0), row(0.9, 1), row(1.0, 0)];
        let broken = Row::median(rows).broken;
        assert_eq!(broken, ["1 missing ticks"]);
        assert!(row(1.5, 0).is_only_late());
        assert!(!row(1.5, 1).is_only_late());
        assert!(!row(1.0, 0).is_only_late());
    }
}
