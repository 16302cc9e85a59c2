//! What is wrong, and what is worth knowing, in the answers of several ports. The verdict follows
//! from it.

mod apart;
mod runbooks;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use self::apart::TimesApart;
use super::answer::{Alarm, Answer, Asked, Edge};
use super::text::{clean, counted};

pub(super) use self::apart::Apart;

/// The verdict about everything that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All is well.
    Well,
    /// Something is wrong.
    Wrong,
    /// A port does not answer.
    Unreachable,
}

/// What the answers say, taken together.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// The ports that do not answer, each with the reason.
    pub(super) unreachable: Vec<String>,
    /// What is wrong, apart from alarms.
    pub(super) problems: Vec<String>,
    pub(super) alarms: Vec<RaisedAlarm>,
    /// What is worth knowing, and no reason to act.
    pub(super) remarks: Vec<String>,
    /// How far the times of edges are apart, by each clock that several edges have measured.
    pub(super) apart: Vec<Apart>,
    edges: usize,
    clocks: usize,
}

/// An alarm, which several daemons may have raised.
#[derive(Debug)]
pub(super) struct RaisedAlarm {
    pub(super) alarm: Alarm,
    /// The daemons that raise it.
    pub(super) at: Vec<String>,
    /// The clocks that it concerns.
    pub(super) clocks: BTreeSet<String>,
}

impl RaisedAlarm {
    /// Returns the page about this alarm, as a path in the repository of this version.
    pub(super) fn runbook(&self) -> Option<&'static str> {
        runbooks::about(&self.alarm.reason, !self.clocks.is_empty())
    }
}

impl Findings {
    /// Judges the answers.
    pub(super) fn of(asked: &[Asked]) -> Self {
        let mut findings = Self::default();
        for one in asked {
            match &one.outcome {
                Ok(answer) => findings.add(answer, &one.url),
                Err(no_answer) if no_answer.is_excused => findings.remarks.push(format!(
                    "nothing listens on {}, which is asked by default; --admin names other ports",
                    one.url
                )),
                Err(no_answer) => {
                    let reason = clean(&no_answer.reason);
                    findings
                        .unreachable
                        .push(format!("{} does not answer: {reason}", one.url));
                }
            }
        }
        findings.compare_versions(asked);
        findings.compare_times(asked);
        findings
    }

    /// Returns the verdict.
    pub(super) fn verdict(&self) -> Verdict {
        if !self.unreachable.is_empty() {
            Verdict::Unreachable
        } else if self.problems.is_empty() && self.alarms.is_empty() {
            Verdict::Well
        } else {
            Verdict::Wrong
        }
    }

    /// Returns the verdict as a sentence without a full stop.
    pub(super) fn summary(&self) -> String {
        let edges = counted(self.edges, "edge");
        let clocks = counted(self.clocks, "clock");
        if self.verdict() == Verdict::Well {
            return format!("all is well: {edges}, {clocks}");
        }
        let counts = [
            (
                self.unreachable.len(),
                "port without an answer",
                "ports without an answer",
            ),
            (self.alarms.len(), "alarm", "alarms"),
            (self.problems.len(), "problem", "problems"),
        ];
        let counts = counts.iter().filter(|(count, ..)| *count > 0);
        let counts: Vec<_> = counts
            .map(|(count, one, many)| format!("{count} {}", if *count == 1 { one } else { many }))
            .collect();
        format!("something is wrong: {}", counts.join(", "))
    }

    /// Returns the findings and the answers for programs.
    pub(super) fn json(&self, asked: &[Asked]) -> Value {
        let alarms = self.alarms.iter().map(|raised| {
            json!({
                "reason": raised.alarm.reason,
                "message": raised.alarm.message,
                "action": raised.alarm.action,
                "runbook": raised.runbook(),
                "clocks": raised.clocks,
                "at": raised.at,
            })
        });
        let ports = asked.iter().map(|one| {
            json!({
                "admin": one.url,
                "error": one.outcome.as_ref().err().map(|no_answer| &no_answer.reason),
                "status": one.answer().map(|answer| &answer.raw),
            })
        });
        json!({
            "verdict": match self.verdict() {
                Verdict::Well => "well",
                Verdict::Wrong => "wrong",
                Verdict::Unreachable => "unreachable",
            },
            "problems": self.unreachable.iter().chain(&self.problems).collect::<Vec<_>>(),
            "alarms": alarms.collect::<Vec<_>>(),
            "remarks": self.remarks,
            "ports": ports.collect::<Vec<_>>(),
        })
    }

    fn add(&mut self, answer: &Answer, url: &str) {
        let name = clean(answer.name());
        self.edges += usize::from(answer.edge.is_some());
        self.clocks += usize::from(answer.clock.is_some());
        let process = &answer.process;
        if !process.ready {
            let reasons = clean(&process.reasons.join("; "));
            self.problems
                .push(format!("{name} ({url}) is not ready: {reasons}"));
        }
        for refused in &process.refused_files {
            let files = clean(refused.files.as_str().unwrap_or_default());
            let error = clean(&refused.error);
            self.problems
                .push(format!("{name} can't use changed files ({files}): {error}"));
        }
        for warning in answer.warnings() {
            self.problems.push(format!("{name}: {}", clean(warning)));
        }
        if let Some(edge) = &answer.edge {
            self.add_edge(edge, &name);
        }
        for (daemon, alarm) in answer.alarms() {
            self.raise(daemon, alarm);
        }
    }

    fn add_edge(&mut self, edge: &Edge, name: &str) {
        if edge.holdover {
            self.problems.push(format!(
                "{name} is in holdover: it continues on its own time, without an accepted clock. \
                 Runbook: {}",
                runbooks::HOLDOVER
            ));
        }
        let mut found = Vec::new();
        if edge.max_connections > 0 && edge.connections >= edge.max_connections {
            found.push("is full");
        }
        if edge.accept_queue.overflowed_in_last_minute {
            found.push(
                "lost connections within the last minute: the kernel's accept queue was full",
            );
        }
        let problems = found.into_iter().map(|what| format!("{name} {what}"));
        self.problems.extend(problems);
        // A falseticker has an alarm, and no other state is a problem.
        for (state, what, runbook) in [
            ("silent", "hears nothing of", Some(runbooks::SILENT)),
            ("disagrees", "does not accept", None),
        ] {
            let clocks = edge.clocks.iter().filter(|clock| clock.state == state);
            let clocks: Vec<_> = clocks.map(|clock| clean(&clock.id)).collect();
            if !clocks.is_empty() {
                let clocks = clocks.join(", ");
                let page = runbook.map_or_else(String::new, |page| format!(". Runbook: {page}"));
                self.problems.push(format!("{name} {what} {clocks}{page}"));
            }
        }
    }

    fn raise(&mut self, daemon: &str, alarm: &Alarm) {
        let known = self.alarms.iter_mut().find(|raised| {
            raised.alarm.reason == alarm.reason && raised.alarm.message == alarm.message
        });
        let daemon = clean(daemon);
        let clocks = alarm.clocks.iter().map(|clock| clean(clock));
        if let Some(raised) = known {
            raised.at.push(daemon);
            raised.clocks.extend(clocks);
            return;
        }
        self.alarms.push(RaisedAlarm {
            alarm: alarm.clone(),
            at: vec![daemon],
            clocks: clocks.collect(),
        });
    }

    fn compare_versions(&mut self, asked: &[Asked]) {
        let answers = || asked.iter().filter_map(Asked::answer);
        let versions: BTreeSet<_> = answers().map(|answer| &*answer.process.version).collect();
        if versions.len() < 2 {
            return;
        }
        let each = versions.into_iter().map(|version| {
            let same = answers().filter(|answer| answer.process.version == version);
            let names: Vec<_> = same.map(|answer| clean(answer.name())).collect();
            format!("{} at {}", clean(version), names.join(", "))
        });
        let each = each.collect::<Vec<_>>().join("; ");
        self.remarks.push(format!("versions differ: {each}"));
    }

    fn compare_times(&mut self, asked: &[Asked]) {
        let edges = asked.iter().filter_map(Asked::answer);
        let edges: Vec<_> = edges.filter_map(|answer| answer.edge.as_ref()).collect();
        let TimesApart {
            by_clock,
            problems,
            remarks,
        } = TimesApart::of(&edges);
        self.apart = by_clock;
        self.problems.extend(problems);
        self.remarks.extend(remarks);
    }
}

#[cfg(test)]
mod tests;
