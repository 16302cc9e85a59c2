//! [`Named`]: where an edge names the clock whose login is stolen, so that an operator finds it. No
//! I/O.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// The metric that counts rounds.
const ROUNDS: &str = "tickstorm_time_rounds_total";

/// The places in which the clock is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Named {
    /// In /status, where it must be distinguished from the other clocks.
    pub(crate) status: bool,
    /// In a metric that has its id as a label.
    pub(crate) metric: bool,
    /// In a warning.
    pub(crate) log: bool,
}

/// What an edge says about itself and the clocks.
pub(super) struct Evidence {
    pub(super) status: Value,
    pub(super) metrics: String,
    pub(super) log: String,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = [
            (self.status, "status"),
            (self.metric, "metric"),
            (self.log, "log"),
        ];
        let named = places.into_iter().filter(|(is_named, _)| *is_named);
        let places: Vec<_> = named.map(|(_, place)| place).collect();
        match places[..] {
            [] => f.write_str("nothing"),
            _ => f.write_str(&places.join(", ")),
        }
    }
}

impl Named {
    pub(crate) const fn everywhere(self) -> bool {
        self.status && self.metric && self.log
    }

    /// Returns where both are true.
    pub(super) const fn and(self, other: Self) -> Self {
        Self {
            status: self.status && other.status,
            metric: self.metric && other.metric,
            log: self.log && other.log,
        }
    }
}

impl Evidence {
    /// Returns where the clock `id` is named. In /status and in metrics, what is said of the other
    /// clocks does not count, which would be innocent.
    pub(super) fn named(&self, id: &str, others: &[&str]) -> Named {
        Named {
            status: self.status_accuses(id) && !others.iter().any(|id| self.status_accuses(id)),
            metric: self.metric_accuses(id, others),
            log: self.warnings().any(|line| mentions(line, id)),
        }
    }

    /// Returns the number of warnings.
    pub(super) fn warnings_total(&self) -> u64 {
        self.warnings().count() as u64
    }

    /// Returns the number of rounds so far in which a clock has answered; `None` if the edge does
    /// not count them.
    pub(super) fn rounds_answered(&self) -> Option<u64> {
        self.rounds("answered")
    }

    /// Returns the number of rounds so far without an answer; `None` if the edge does not count
    /// them.
    pub(super) fn rounds_lost(&self) -> Option<u64> {
        self.rounds("unanswered")
    }

    fn rounds(&self, result: &str) -> Option<u64> {
        let start = format!("{ROUNDS}{{result=\"{result}\"}} ");
        let mut lines = self.metrics.lines();
        let value = lines.find_map(|line| line.strip_prefix(&start))?;
        value.trim().parse().ok()
    }

    /// Returns whether /status says of a clock that it is false, or names it in an alarm.
    fn status_accuses(&self, id: &str) -> bool {
        let items = |name: &str| self.status[name].as_array().into_iter().flatten();
        let is_false = items("clocks").any(|clock| clock["id"] == id && clock["state"] == "false");
        let is_named = items("alarms").any(|alarm| {
            let clocks = alarm["clocks"].as_array();
            clocks.is_some_and(|clocks| clocks.iter().any(|clock| clock == id))
        });
        is_false || is_named
    }

    /// Returns whether a series with the clock's id is above 0 while the same series of the others
    /// are 0 or do not exist.
    fn metric_accuses(&self, id: &str, others: &[&str]) -> bool {
        let series: BTreeMap<_, _> = self.metrics.lines().filter_map(sample).collect();
        let label = |id: &str| format!("=\"{id}\"");
        series.iter().any(|(name, value)| {
            let is_others = |other: &&str| {
                let name = name.replace(&label(id), &label(other));
                series.get(name.as_str()).is_some_and(|value| *value > 0.0)
            };
            name.contains(&label(id)) && *value > 0.0 && !others.iter().any(is_others)
        })
    }

    fn warnings(&self) -> impl Iterator<Item = &str> {
        let lines = self.log.lines();
        lines.filter(|line| line.contains(r#""level":"WARN""#) || line.contains(" WARN "))
    }
}

/// Returns whether a line contains the id as a word of its own.
fn mentions(line: &str, id: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    line.match_indices(id).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + id.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

/// Returns the name, with labels, and the value of a sample.
fn sample(line: &str) -> Option<(&str, f64)> {
    if line.starts_with('#') {
        return None;
    }
    let (name, value) = line.rsplit_once(' ')?;
    Some((name, value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const OTHERS: [&str; 2] = ["clock-0", "clock-1"];

    fn evidence(state: &str, in_alarm: &[&str]) -> Evidence {
        let clock = |id: &str, state: &str| json!({ "id": id, "rank": 0, "state": state });
        let honest = OTHERS.map(|id| clock(id, "accepted"));
        let clocks = [&honest[..], &[clock("clock-2", state)]].concat();
        let alarms = json!([{ "reason": "misbehaving", "clocks": in_alarm }]);
        Evidence {
            status: json!({ "clocks": clocks, "alarms": alarms }),
            metrics: String::new(),
            log: String::new(),
        }
    }

    #[test]
    fn a_status_names_only_a_clock_that_differs() {
        let named = |evidence: &Evidence| evidence.named("clock-2", &OTHERS).status;
        assert!(!named(&evidence("accepted", &[])));
        assert!(!named(&evidence("silent", &[])));
        assert!(named(&evidence("false", &[])));
        assert!(named(&evidence("accepted", &["clock-2"])));
        let innocent = ["clock-0", "clock-2"];
        assert!(
            !named(&evidence("false", &innocent)),
            "another one is accused as well"
        );
    }

    #[test]
    fn a_metric_names_only_a_clock_that_differs() {
        let named = |metrics: &str| {
            let evidence = Evidence {
                metrics: metrics.into(),
                ..evidence("accepted", &[])
            };
            evidence.named("clock-2", &OTHERS).metric
        };
        assert!(named(
            "a_false{clock=\"clock-0\"} 0\na_false{clock=\"clock-2\"} 1\n"
        ));
        assert!(named("a_total{clock=\"clock-2\",reason=\"x\"} 17\n"));
        assert!(!named("a_false{clock=\"clock-2\"} 0\n"));
        assert!(!named(
            "a_rank{clock=\"clock-1\"} 2\na_rank{clock=\"clock-2\"} 2\n"
        ));
        assert!(!named("# HELP a clock=\"clock-2\" 1\n"));
        assert!(!named("a_total{clock=\"clock-20\"} 1\n"));
    }

    #[test]
    fn a_warning_names_a_clock_by_its_whole_id() {
        let named = |log: &str| {
            let evidence = Evidence {
                log: log.into(),
                ..evidence("accepted", &[])
            };
            evidence.named("clock-2", &OTHERS).log
        };
        assert!(named(r#"{"level":"WARN","fields":{"clock":"clock-2"}}"#));
        assert!(named(
            "2026-11-21T12:00:00Z  WARN falseticker clock=clock-2"
        ));
        assert!(!named(r#"{"level":"INFO","fields":{"clock":"clock-2"}}"#));
        assert!(!named(r#"{"level":"WARN","fields":{"clock":"clock-20"}}"#));
    }

    #[test]
    fn rounds_are_read_from_the_metrics() {
        let mut edge = evidence("accepted", &[]);
        assert_eq!(edge.rounds_lost(), None);
        edge.metrics = format!(
            "# TYPE {ROUNDS} counter\n{ROUNDS}{{result=\"answered\"}} 17\n\
             {ROUNDS}{{result=\"unanswered\"}} 3\n"
        );
        assert_eq!(edge.rounds_lost(), Some(3));
        assert_eq!(edge.rounds_answered(), Some(17));
    }
}
