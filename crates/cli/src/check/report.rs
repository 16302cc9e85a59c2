//! What `check` found: a line for each case as it ends, and the sentences that are covered.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::cases::{ACK_OF_AUTH, CASES, Case};
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
    /// All its cases have passed, and they show all of it.
    Covered,
    /// Some of its cases have passed, or they show a part of it only.
    InPart,
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
        } else if !self.cases_of(sentence).any(|ended| ended.outcome.is_ok()) {
            Coverage::NotCovered
        } else if sentence.not_seen.is_some() || !self.not_tried(sentence).is_empty() {
            Coverage::InPart
        } else {
            Coverage::Covered
        }
    }

    /// Returns the cases of a sentence that have not come to their end, or were not chosen.
    fn not_tried(&self, sentence: &Sentence) -> Vec<Case> {
        let has_ended = |case: &Case| {
            let mut ended = self
                .cases
                .iter()
                .filter(|ended| ended.case.name == case.name);
            ended.any(|ended| ended.outcome.is_ok() || ended.has_failed())
        };
        let all = [&ACK_OF_AUTH].into_iter().chain(CASES);
        let shows = all.filter(|case| case.sentences.contains(&sentence.id));
        shows.filter(|case| !has_ended(case)).copied().collect()
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
            let with = self.with(coverage);
            with.map(|sentence| self.sentence_json(sentence)).collect()
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
                "covered_in_part": sentences(Coverage::InPart),
                "broken": sentences(Coverage::Broken),
                "not_covered": sentences(Coverage::NotCovered),
            },
        })
    }

    fn sentence_json(&self, sentence: &Sentence) -> Value {
        let cases = self.cases_of(sentence).map(|ended| ended.case.id());
        let not_tried = self.not_tried(sentence);
        json!({
            "id": sentence.id,
            "section": sentence.section,
            "sentence": sentence.text,
            "cases": cases.collect::<Vec<_>>(),
            "not_seen": sentence.not_seen,
            "not_tried": not_tried.iter().map(Case::id).collect::<Vec<_>>(),
        })
    }

    /// Says why a sentence is checked in part only, in one line for each reason.
    fn gaps(&self, sentence: &Sentence) -> Vec<String> {
        let mut gaps = Vec::new();
        if let Some(not_seen) = sentence.not_seen {
            gaps.push(format!("not seen: {not_seen}"));
        }
        let names: Vec<_> = self
            .not_tried(sentence)
            .iter()
            .map(|case| case.name)
            .collect();
        if !names.is_empty() {
            gaps.push(format!("not tried: {}", names.join(", ")));
        }
        gaps
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
            (Coverage::InPart, "Sentences that were checked in part"),
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
                write_wrapped(f, sentence.id, sentence.text)?;
                if coverage == Coverage::InPart {
                    for gap in self.gaps(sentence) {
                        write_wrapped(f, "", &gap)?;
                    }
                }
            }
        }
        let counts = self.counts();
        let count = |coverage| self.with(coverage).count();
        write!(
            f,
            "{} passed, {} failed, {} skipped, {} inconclusive; of {} sentences, {} were checked \
             and hold, and {} in part",
            counts.passed,
            counts.failed,
            counts.skipped,
            counts.inconclusive,
            SENTENCES.len(),
            count(Coverage::Covered),
            count(Coverage::InPart)
        )
    }
}

/// Writes a text after an id, in lines that begin at the same column.
fn write_wrapped(f: &mut fmt::Formatter<'_>, id: &str, text: &str) -> fmt::Result {
    write!(f, "  {id:<width$}", width = INDENT + 4)?;
    let mut column = INDENT + 6;
    let mut is_first = true;
    for word in text.split(' ') {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcome: impl Fn(&Case) -> Option<Outcome>) -> Report {
        let all = [&ACK_OF_AUTH].into_iter().chain(CASES);
        let ended = all.filter_map(|case| {
            Some(Ended {
                case: *case,
                outcome: outcome(case)?,
                took: Duration::ZERO,
            })
        });
        Report {
            address: "edge.example:8443".into(),
            connected_to: "127.0.0.1:8443".parse().unwrap(),
            is_partial: false,
            cases: ended.collect(),
        }
    }

    fn coverage(report: &Report, id: &str) -> Coverage {
        let mut all = SENTENCES.iter();
        report.coverage(all.find(|sentence| sentence.id == id).unwrap())
    }

    #[test]
    fn a_sentence_holds_only_if_all_its_cases_passed_and_show_all_of_it() {
        let all_passed = report(|_| Some(Ok(String::new())));
        assert_eq!(coverage(&all_passed, "intro-05"), Coverage::Covered);
        assert_eq!(coverage(&all_passed, "frames-24"), Coverage::InPart);
        let without_minute = |outcome: Option<Stop>| {
            report(move |case| match (case.name, &outcome) {
                ("minute-tick", Some(stop)) => Some(Err(stop.clone())),
                ("minute-tick", None) => None,
                _ => Some(Ok(String::new())),
            })
        };
        let of_minute = |outcome| coverage(&without_minute(outcome), "intro-05");
        let skipped = Stop::Skipped(String::new());
        assert_eq!(of_minute(Some(skipped)), Coverage::InPart);
        let inconclusive = Stop::Inconclusive(String::new());
        assert_eq!(of_minute(Some(inconclusive)), Coverage::InPart);
        assert_eq!(of_minute(None), Coverage::InPart);
        let failed = Stop::Failed(String::new());
        assert_eq!(of_minute(Some(failed)), Coverage::Broken);
        let nothing = report(|_| None);
        assert_eq!(coverage(&nothing, "intro-05"), Coverage::NotCovered);
    }

    #[test]
    fn the_text_says_what_was_not_seen_and_not_tried() {
        let skipped = report(|case| {
            Some(match case.name {
                "minute-tick" => Err(Stop::Skipped(String::new())),
                _ => Ok(String::new()),
            })
        });
        let text = skipped.to_string();
        for line in [
            "Sentences that were checked in part:",
            "                  not tried: minute-tick",
            "                  not seen: what a client does",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}
