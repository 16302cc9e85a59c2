//! All runs of a command: which attacks, from which addresses, over which transports, in which
//! order, and on which edges.

use tickstorm_command::{Failure, private_dir};
use tickstorm_service::{exit, fd_limit};

use crate::attacks::{Attack, Kind, Transports};
use crate::bus;
use crate::equipment::Equipment;
use crate::options::{From, Options, Transport};
use crate::report::{Report, Row};
use crate::restart;
use crate::run::{self, Run, RunOutcome};
use crate::stage::{Phase, Stage};
use crate::surroundings::Surroundings;
use crate::verdict::Judged;

/// New clients per second. A short run has more of them, since 2 % must be more than one.
const NEW_PER_SECOND: u32 = 20;
const NEW_PER_SECOND_SHORT: u32 = 40;
/// The ticks of the baseline in a short run, in which latencies are not judged.
const BASELINE_TICKS_SHORT: u32 = 3;

/// The crowd of [`Kind::Crowded`], as a multiple of the usual one.
const CROWD_FACTOR: u32 = 10;

/// A stage, and the baseline that was measured on it.
struct OpenStage {
    equipment: Equipment,
    stage: Stage,
    baseline: Phase,
}

/// Runs everything, prints the table, and fails if a promise was broken.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let surroundings = Surroundings::request();
    private_dir::remove_at_signals().map_err(|error| Failure::new(exit::SOFTWARE, error))?;
    let files = fd_limit::raise().map_err(|error| Failure::new(exit::UNAVAILABLE, error))?;
    for note in &surroundings.notes {
        eprintln!("abuse: note: {note}");
    }
    let runs = runs(options, files.after);
    let mut report = Report::new(options, &surroundings);
    let mut open = None;
    for (index, run) in runs.iter().enumerate() {
        eprint!("abuse: {} of {}: {} … ", index + 1, runs.len(), run.title());
        let row = run_until_clear(run, &mut open, &surroundings);
        eprintln!("{}", row.verdict());
        if !row.held() {
            // The next attack starts on an edge that this one has left no trace on.
            open = None;
        }
        report.add(row);
    }
    drop(open);
    report.publish(options.json.as_deref())
}

/// Runs an attack. If it breaks the promise about latency and no other, it is run twice more on
/// other edges, and the median of the ratios is judged: the two halves of a run are some seconds
/// apart, and the machine may have had other work in one of them.
fn run_until_clear(run: &Run, open: &mut Option<OpenStage>, surroundings: &Surroundings) -> Row {
    let mut row = || {
        if !run.short {
            *open = None;
        }
        // A run that can't start must not lose the results of the others.
        run_one(run, open, surroundings).unwrap_or_else(|failure| Row::failed(run, &failure))
    };
    let first = row();
    if !first.is_only_late() {
        return first;
    }
    eprint!("{}, again … ", first.verdict());
    Row::median([first, row(), row()])
}

fn run_one(
    run: &Run,
    open: &mut Option<OpenStage>,
    surroundings: &Surroundings,
) -> Result<Row, Failure> {
    let equipment = equipment(run);
    let judged = Judged {
        // All attacks together need not leave the CPU alone, but must not end the edge. On the bus,
        // each tick has a bound of its own.
        p99: !run.short && !matches!(run.attack.kind, Kind::Confined | Kind::Bus(_)),
        is_short: run.short,
        new_clients_are_served: run.attack.serves_new_clients(),
        probes: run.attack.kind != Kind::Confined,
    };
    if run.attack.kind == Kind::Restart {
        *open = None;
        let outcome = restart::run(run, &equipment, surroundings)?;
        return Ok(Row::measured(run, outcome, judged));
    }
    if let Kind::Bus(attack) = run.attack.kind {
        *open = None;
        let outcome = bus::run(run, attack, surroundings)?;
        return Ok(Row::measured(run, outcome, judged));
    }
    let mut notes = Vec::new();
    if open.as_ref().is_none_or(|open| open.equipment != equipment) {
        // The previous edge must not share the CPU with the next one.
        *open = None;
        let (mut stage, note) = Stage::start(&equipment, surroundings)?;
        notes.extend(note);
        let ticks = if run.short {
            BASELINE_TICKS_SHORT
        } else {
            run.seconds
        };
        let baseline = run::baseline(&mut stage, ticks)?;
        *open = Some(OpenStage {
            equipment,
            stage,
            baseline,
        });
    }
    let Some(OpenStage {
        stage, baseline, ..
    }) = open
    else {
        return Err(Failure::message(exit::SOFTWARE, "there is no stage".into()));
    };
    let mut outcome: RunOutcome = run::run(run, stage, surroundings, baseline)?;
    outcome.notes.extend(notes);
    Ok(Row::measured(run, outcome, judged))
}

/// Returns what the edge of a run needs. Usual attacks all need the same.
fn equipment(run: &Run) -> Equipment {
    let kind = match run.attack.kind {
        Kind::Usual | Kind::Control | Kind::Vanishing | Kind::NoDescriptors => Kind::Usual,
        special @ (Kind::FullEdge
        | Kind::FewDescriptors
        | Kind::Confined
        | Kind::Restart
        | Kind::Crowded
        | Kind::Guarded
        | Kind::Bus(_)) => special,
    };
    Equipment {
        tls: run.tls,
        kind,
        settings: run.attack.settings,
        clients: match kind == Kind::Crowded {
            true => run.clients * CROWD_FACTOR,
            false => run.clients,
        },
        hostile: run.hostile,
        new_per_second: if run.short {
            NEW_PER_SECOND_SHORT
        } else {
            NEW_PER_SECOND
        },
    }
}

/// Returns all runs. In a short run, those on the same edge follow each other.
fn runs(options: &Options, files_max: u64) -> Vec<Run> {
    let mut runs = Vec::new();
    for (index, attack) in options.attacks().enumerate() {
        for many in address_kinds(options, attack, index) {
            for tls in transports(options, attack, index) {
                runs.push(Run {
                    attack,
                    number: 0,
                    many,
                    tls,
                    short: options.short,
                    clients: options.clients(),
                    hostile: options.hostile(),
                    seconds: options.seconds(),
                    files_max,
                });
            }
        }
    }
    if options.short {
        runs.sort_by_key(|run| (equipment(run).kind != Kind::Usual, run.tls));
    }
    for (number, run) in (0..).zip(&mut runs) {
        run.number = number;
    }
    runs
}

/// Returns whether hostile clients have many addresses, for each run of the attack.
fn address_kinds(options: &Options, attack: &Attack, index: usize) -> Vec<bool> {
    match (options.from, attack.kind) {
        (_, Kind::Control | Kind::Restart | Kind::Bus(_)) => vec![false],
        (Some(From::One), _) => vec![false],
        (Some(From::Many), _) => vec![true],
        (Some(From::Both), _) => vec![false, true],
        (None, _) if options.short => vec![index % 2 == 1],
        (None, _) => vec![false, true],
    }
}

/// Returns whether TLS is used, for each run of the attack.
fn transports(options: &Options, attack: &Attack, index: usize) -> Vec<bool> {
    let wanted = match options.transport {
        Some(Transport::Plain) => vec![false],
        Some(Transport::Tls) => vec![true],
        None if options.short && attack.transports == Transports::Any => {
            vec![index / 2 % 2 == 1]
        }
        Some(Transport::Both) | None => vec![false, true],
    };
    let possible = |tls: &bool| match attack.transports {
        Transports::Any => true,
        Transports::PlainOnly => !tls,
        Transports::TlsOnly => *tls,
    };
    wanted.into_iter().filter(possible).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::attacks::ALL;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn runs_of(line: &str) -> Vec<Run> {
        let line = Line::parse_from(line.split_whitespace());
        runs(&line.options, 20_000)
    }

    #[test]
    fn a_full_matrix_has_each_attack_from_both_kinds_of_addresses_and_over_both_transports() {
        let all = runs_of("run");
        let count = |name: &str| all.iter().filter(|run| run.attack.name == name).count();
        assert_eq!(count("silent"), 4);
        assert_eq!(count("hello"), 2, "TLS only");
        assert_eq!(
            count("none"),
            2,
            "without an attack, addresses make no difference"
        );
        assert_eq!(count("restart"), 1);
        assert_eq!(count("admin-slow"), 2, "plain only");
        assert_eq!(count("bus-names"), 1);
    }

    #[test]
    fn a_short_run_has_each_attack_once_with_all_combinations_among_them() {
        let all = runs_of("run --short");
        assert_eq!(all.len(), ALL.len());
        for many in [false, true] {
            for tls in [false, true] {
                assert!(all.iter().any(|run| run.many == many && run.tls == tls));
            }
        }
        let on_usual_stages = |run: &&Run| !matches!(run.attack.kind, Kind::Bus(_));
        let all: Vec<_> = all.iter().filter(on_usual_stages).collect();
        let edges = all
            .windows(2)
            .filter(|pair| equipment(pair[0]) != equipment(pair[1]));
        assert!(edges.count() < 10, "usual attacks share an edge");
    }

    #[test]
    fn runs_can_be_narrowed() {
        let all = runs_of("run --only churn,silent --from one --transport tls");
        let named: Vec<_> = all
            .iter()
            .map(|run| (run.attack.name, run.many, run.tls))
            .collect();
        assert_eq!(named, [("silent", false, true), ("churn", false, true)]);
    }
}
