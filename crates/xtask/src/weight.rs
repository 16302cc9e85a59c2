//! `cargo xtask weight`: counts the instructions and allocations of the hot path's pieces and
//! compares them with a baseline. Unlike times, these counts are the same on a busy machine as on
//! an idle one.
//!
//! Each piece runs twice under callgrind, the second time with twice as many rounds. The difference
//! between the two runs is the weight of the additional rounds, without the program's start and
//! exit.

use std::{
    collections::BTreeMap,
    env::consts::ARCH,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    command::{program, release_build, rustc},
    preflight::Missing,
};

/// The pieces by the names that the crate `weight` gives them, each with its number of rounds,
/// which is high enough to make everything else negligible.
const PIECES: [(&str, u64); 4] = [
    ("encode", 10_000),
    ("decode", 10_000),
    ("session", 10_000),
    ("fan_out", 100),
];
/// The difference in instructions that is tolerated, in percent of the baseline. Another patch
/// version of the compiler, or the `memcpy` for another processor, causes differences up to this
/// for the same code.
const TOLERANCE_PERCENT: u64 = 3;
const RENEW: &str = "cargo xtask weight --renew";

/// The baselines by processor architecture.
type Baselines = BTreeMap<String, Baseline>;

#[derive(Serialize, Deserialize)]
struct Baseline {
    /// The version of the compiler, since a different compiler may explain a different weight.
    rustc: String,
    pieces: BTreeMap<String, Weight>,
}

/// The counts for all rounds of a piece together.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Weight {
    rounds: u64,
    instructions: u64,
    allocations: u64,
}

/// The result of comparing a weight with the baseline.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Equal within the tolerance.
    Same,
    /// Lighter. The baseline should be renewed; otherwise the gain could be lost again unnoticed.
    Lighter,
    Heavier,
}

/// Weighs all pieces. Fails if a piece is heavier than its baseline or, if `renew` is set, writes a
/// new baseline instead.
pub(crate) fn run(renew: bool) -> Result<()> {
    if let Some(missing) = missing_valgrind() {
        bail!("this machine is missing {missing}");
    }
    let program = release_build("tickstorm-weight", &[])?;
    let mut weights = BTreeMap::new();
    for (piece, rounds) in PIECES {
        weights.insert(piece.to_owned(), weigh(&program, piece, rounds)?);
    }
    let rustc = String::from_utf8(rustc("--version").output()?)?
        .trim()
        .to_owned();
    let mut baselines = read()?;
    if renew {
        let pieces = weights;
        baselines.insert(ARCH.to_owned(), Baseline { rustc, pieces });
        return write(&baselines);
    }
    let Some(baseline) = baselines.get(ARCH) else {
        bail!("there is no baseline for {ARCH} yet; to write one, run `{RENEW}`");
    };
    if rustc != baseline.rustc {
        eprintln!(
            "    the baseline was compiled by {}, this run by {rustc}",
            baseline.rustc
        );
    }
    compare(&weights, baseline)
}

/// Returns what this machine is missing for a comparison: valgrind, or a baseline for its
/// architecture.
pub(crate) fn missing() -> Option<Missing> {
    let has_baseline = read().map_or(true, |baselines| baselines.contains_key(ARCH));
    missing_valgrind().or_else(|| {
        (!has_baseline).then(|| {
            Missing::new(
                format!("a baseline for {ARCH}"),
                format!("to write one, run `{RENEW}`"),
            )
        })
    })
}

fn missing_valgrind() -> Option<Missing> {
    let is_here = program("valgrind", &["--version"]).probe().is_some();
    (!is_here).then(|| {
        Missing::new(
            "valgrind",
            "install your distribution's package, on Debian with `apt-get install valgrind`",
        )
    })
}

fn compare(weights: &BTreeMap<String, Weight>, baseline: &Baseline) -> Result<()> {
    let mut heavier = Vec::new();
    for (piece, weight) in weights {
        let Some(was) = baseline.pieces.get(piece) else {
            bail!("the baseline does not contain {piece}; to renew it, run `{RENEW}`");
        };
        ensure!(
            was.rounds == weight.rounds,
            "the baseline of {piece} is for {} rounds instead of {}; to renew it, run `{RENEW}`",
            was.rounds,
            weight.rounds
        );
        let line = format!("{piece}: {}; baseline {}", weight.shown(), was.shown());
        match weight.judge(was) {
            Verdict::Same => eprintln!("    {line}"),
            Verdict::Lighter => {
                eprintln!("    {line}: lighter; to make this the new baseline, run `{RENEW}`");
            }
            Verdict::Heavier => heavier.push(line),
        }
    }
    ensure!(
        heavier.is_empty(),
        "heavier by more than {TOLERANCE_PERCENT} % of instructions, or by an allocation\n  \
         - {}\nif this is intended, run `{RENEW}`",
        heavier.join("\n  - ")
    );
    Ok(())
}

impl Weight {
    fn judge(&self, was: &Self) -> Verdict {
        let (more, less) = (100 + TOLERANCE_PERCENT, 100 - TOLERANCE_PERCENT);
        let instructions = self.instructions * 100;
        if instructions > was.instructions * more || self.allocations > was.allocations {
            Verdict::Heavier
        } else if instructions < was.instructions * less || self.allocations < was.allocations {
            Verdict::Lighter
        } else {
            Verdict::Same
        }
    }

    /// Returns the counts per round as text.
    fn shown(&self) -> String {
        let allocations = self.allocations * 100 / self.rounds;
        format!(
            "{} instructions and {}.{:02} allocations",
            self.instructions / self.rounds,
            allocations / 100,
            allocations % 100
        )
    }
}

fn weigh(pieces: &Path, piece: &str, rounds: u64) -> Result<Weight> {
    let once = count(pieces, piece, rounds)?;
    let twice = count(pieces, piece, 2 * rounds)?;
    let difference = |once: u64, twice: u64| {
        twice
            .checked_sub(once)
            .with_context(|| format!("{piece}: twice as many rounds weighed less"))
    };
    Ok(Weight {
        rounds,
        instructions: difference(once.instructions, twice.instructions)?,
        allocations: difference(once.allocations, twice.allocations)?,
    })
}

/// Runs the program once and returns its total weight.
fn count(pieces: &Path, piece: &str, rounds: u64) -> Result<Weight> {
    let profile = pieces.with_extension("callgrind");
    let out = format!("--callgrind-out-file={}", profile.display());
    let rounds_shown = rounds.to_string();
    let pieces_path = pieces
        .to_str()
        .context("the target path is not valid UTF-8")?;
    let arguments = [
        "--quiet",
        "--tool=callgrind",
        &out,
        pieces_path,
        piece,
        &rounds_shown,
    ];
    let printed = String::from_utf8(program("valgrind", &arguments).output()?)?;
    let profile = fs::read_to_string(&profile).context("could not read callgrind's output")?;
    Ok(Weight {
        rounds,
        instructions: value(&profile, "summary: ").or_else(|_| value(&profile, "totals: "))?,
        allocations: value(&printed, "allocations ")?,
    })
}

/// Returns the number after `label` in the first line that begins with `label`.
fn value(text: &str, label: &str) -> Result<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(label));
    let value = value.with_context(|| format!("no line begins with {label:?}"))?;
    value
        .trim()
        .parse()
        .with_context(|| format!("no number follows {label:?}, but {value:?}"))
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("weight.json")
}

fn read() -> Result<Baselines> {
    let text = fs::read(file()).with_context(|| format!("could not read {}", file().display()))?;
    serde_json::from_slice(&text).with_context(|| format!("could not parse {}", file().display()))
}

fn write(baselines: &Baselines) -> Result<()> {
    let text = serde_json::to_string_pretty(baselines)? + "\n";
    fs::write(file(), text)?;
    eprintln!("    wrote {}", file().display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAS: Weight = Weight {
        rounds: 100,
        instructions: 10_000,
        allocations: 50,
    };

    fn judge(instructions: u64, allocations: u64) -> Verdict {
        let weight = Weight {
            instructions,
            allocations,
            ..WAS
        };
        weight.judge(&WAS)
    }

    #[test]
    fn three_percent_more_instructions_are_tolerated_but_not_one_more_allocation() {
        assert_eq!(judge(10_300, 50), Verdict::Same);
        assert_eq!(judge(9_700, 50), Verdict::Same);
        assert_eq!(judge(10_301, 50), Verdict::Heavier);
        assert_eq!(judge(9_000, 51), Verdict::Heavier);
        assert_eq!(judge(9_699, 50), Verdict::Lighter);
        assert_eq!(judge(10_000, 49), Verdict::Lighter);
    }

    #[test]
    fn a_heavier_piece_fails_and_is_reported_with_both_weights() {
        let weights = |instructions| {
            let heavy = Weight {
                instructions,
                ..WAS
            };
            BTreeMap::from([("encode".to_owned(), heavy)])
        };
        let baseline = Baseline {
            rustc: String::new(),
            pieces: weights(10_000),
        };
        assert!(compare(&weights(10_000), &baseline).is_ok());
        let error = compare(&weights(20_000), &baseline)
            .unwrap_err()
            .to_string();
        for part in [
            "encode: 200 instructions",
            "baseline 100 instructions",
            RENEW,
        ] {
            assert!(error.contains(part), "no {part} in {error}");
        }
        let other = BTreeMap::from([("decode".to_owned(), WAS)]);
        assert!(compare(&other, &baseline).is_err());
    }

    #[test]
    fn the_committed_baseline_contains_all_pieces() {
        for (arch, baseline) in read().unwrap() {
            for (piece, rounds) in PIECES {
                let known = baseline.pieces.get(piece).map(|weight| weight.rounds);
                assert_eq!(known, Some(rounds), "{piece} on {arch}");
            }
        }
    }
}
