//! What `check` found: a line for each case as it ends, and the sentences that are covered.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::cases::Case;
use super::sentences::{SENTENCES, Sentence};
use super::stop::{Outcome, Stop};

/// The column at which continued lines begin.
const INDENT: usize = 12;
/// The width of the column with the outcomes of cases.
const VERDICT_WIDTH: usize = 14;
/// The width of the lines with sentences.
const WIDTH: usize = 96;

/// A case that has ended.
pub(super) struct Ended {
    pub(super) case: Case,
    pub(super) outcome: Outcome,
    pub(super) took: Duration,
}

impl Ended {
    fn verdict(&self) -> &'static str {
        match &self.outcome {
            Ok(_) => "passed",
            Err(Stop::Failed(_)) => "failed",
            Err(Stop::Skipped(_)) => "skipped",
            Err(Stop::Inconclusive(_)) => "inconclusive",
        }
    }

    /// Returns the note, what was seen, or the reason.
    fn detail(&self) -> &str {
        match &self.outcome {
            Ok(text) | Err(Stop::Failed(text) | Stop::Skipped(text) | Stop::Inconclusive(text)) => {
                text
            }
        }
    }

    fn has_failed(&self) -> bool {
        matches!(self.outcome, Err(Stop::Failed(_)))
    }

    fn json(&self) -> Value {
        json!({
            "id": self.case.id(),
            "title": self.case.title,
            "outcome": self.verdict(),
            "detail": self.detail(),
            "took_ms": u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
            "sentences": self.case.sentences,
        })
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verdict, name, title) = (self.verdict(), self.case.name, self.case.title);
        write!(f, "{verdict:<VERDICT_WIDTH$}{name:<24}{title}")?;
        if !self.detail().is_empty() {
            write!(f, "\n{:VERDICT_WIDTH$}{}", "", self.detail())?;
        }
        Ok(())
    }
}

/// Whether a sentence was shown to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coverage {
    Covered,
    /// A case that shows it has failed.
    Broken,
    /// No case that shows it was run to its end.
    NotCovered,
}

/// All cases that have ended.
pub(super) struct Report {
    pub(super) address: String,
    /// The IP address and the port that all connections were made to.
    pub(super) connected_to: SocketAddr,
    /// Whether only chosen cases run. Sentences that were not checked are left out then.
    pub(super) is_partial: bool,
    pub(super) cases: Vec<Ended>,
}

/// The number of cases with each outcome.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) skipped: usize,
    pub(super) inconclusive: usize,
}

impl Report {
    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for ended in &self.cases {
            match &ended.outcome {
                Ok(_) => counts.passed += 1,
                Err(Stop::Failed(_)) => counts.failed += 1,
                Err(Stop::Skipped(_)) => counts.skipped += 1,
                Err(Stop::Inconclusive(_)) => counts.inconclusive += 1,
            }
        }
        counts
    }

    /// Returns the cases that show a sentence.
    fn cases_of(&self, sentence: &Sentence) -> impl Iterator<Item = &Ended> {
        let id = sentence.id;
        self.cases
            .iter()
            .filter(move |ended| ended.case.sentences.contains(&id))
    }

    fn coverage(&self, sentence: &Sentence) -> Coverage {
        if self.cases_of(sentence).any(Ended::has_failed) {
            Coverage::Broken
        } else if self.cases_of(sentence).any(|ended| ended.outcome.is_ok()) {
            Coverage::Covered
        } else {
            Coverage::NotCovered
        }
    }

    fn with(&self, coverage: Coverage) -> impl Iterator<Item = &'static Sentence> {
        let is_listed = !self.is_partial || coverage != Coverage::NotCovered;
        SENTENCES
            .iter()
            .filter(move |sentence| is_listed && self.coverage(sentence) == coverage)
    }

    /// Returns the report as one JSON object.
    pub(super) fn json(&self) -> Value {
        let counts = self.counts();
        let sentences = |coverage| -> Vec<Value> {
            let with = self.with(coverage).map(|sentence| {
                let cases: Vec<_> = self
                    .cases_of(sentence)
                    .map(|ended| ended.case.id())
                    .collect();
                json!({
                    "id": sentence.id,
                    "section": sentence.section,
                    "sentence": sentence.text,
                    "cases": cases,
                })
            });
            with.collect()
        };
        json!({
            "address": self.address,
            "connected_to": self.connected_to.to_string(),
            "passed": counts.passed,
            "failed": counts.failed,
            "skipped": counts.skipped,
            "inconclusive": counts.inconclusive,
            "cases": self.cases.iter().map(Ended::json).collect::<Vec<_>>(),
            "sentences": {
                "covered": sentences(Coverage::Covered),
                "broken": sentences(Coverage::Broken),
                "not_covered": sentences(Coverage::NotCovered),
            },
        })
    }
}

impl fmt::Display for Report {
    /// Writes the sentences and the sum. The cases have been printed before.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (coverage, heading) in [
            (
                Coverage::Covered,
                "Sentences of docs/protocol.md that were checked and hold",
            ),
            (
                Coverage::NotCovered,
                "Sentences that were not checked this time",
            ),
            (Coverage::Broken, "Sentences whose case failed"),
        ] {
            let mut sentences = self.with(coverage).peekable();
            if sentences.peek().is_some() {
                writeln!(f, "{heading}:")?;
            }
            for sentence in sentences {
                write_wrapped(f, sentence)?;
            }
        }
        let counts = self.counts();
        let count = |coverage| self.with(coverage).count();
        write!(
            f,
            "{} passed, {} failed, {} skipped, {} inconclusive; {} of {} sentences covered",
            counts.passed,
            counts.failed,
            counts.skipped,
            counts.inconclusive,
            count(Coverage::Covered),
            SENTENCES.len()
        )
    }
}

/// Writes a sentence in lines that begin at the same column.
fn write_wrapped(f: &mut fmt::Formatter<'_>, sentence: &Sentence) -> fmt::Result {
    write!(f, "  {:<width$}", sentence.id, width = INDENT + 4)?;
    let mut column = INDENT + 6;
    let mut is_first = true;
    for word in sentence.text.split(' ') {
        let len = word.chars().count();
        if !is_first && column + 1 + len > WIDTH {
            write!(f, "\n{:indent$}", "", indent = INDENT + 6)?;
            column = INDENT + 6;
        } else if !is_first {
            f.write_str(" ")?;
            column += 1;
        }
        f.write_str(word)?;
        column += len;
        is_first = false;
    }
    writeln!(f)
}
