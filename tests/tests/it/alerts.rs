//! The alerts' expressions against the metrics of the real daemons: every label of TickStorm's that
//! an expression names exists, with every value that it asks for. An expression with a misspelt
//! value would never be true, and its alert would never be raised.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;
use tickstorm_testkit::{CertificateAuthority, TempDir};
use tickstorm_tests::manifests::repository;

use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::tickstorm::PATIENCE;

/// The labels that Prometheus adds to what it scrapes.
const OF_PROMETHEUS: [&str; 3] = ["job", "instance", "namespace"];

/// What a matcher of a bucket's bound ends with, so that it fits the forms of Prometheus 2 and 3.
const EITHER_FORM: &str = "(\\\\.0)?";

/// A series or a selector of series: a name, and labels.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Selector {
    pub(crate) name: String,
    /// A selector's values may have alternatives.
    pub(crate) labels: BTreeMap<String, Vec<String>>,
}

impl Selector {
    /// Returns what is in `text` from a name on: the selector, and the text after it. The text
    /// starts with the name.
    fn parse(text: &str) -> (Self, &str) {
        let is_part = |letter: char| letter.is_ascii_alphanumeric() || "_:".contains(letter);
        let end = text.find(|letter| !is_part(letter)).unwrap_or(text.len());
        let (name, mut rest) = text.split_at(end);
        let mut labels = BTreeMap::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            while let Some((label, after)) = rest.split_once(['=', '!', '}']) {
                let Some((_, quoted)) = after.split_once('"').filter(|_| !label.is_empty()) else {
                    break;
                };
                let (value, after) = quoted.split_once('"').expect("a closing quote");
                let value = value.strip_suffix(EITHER_FORM).unwrap_or(value);
                let values = value.split('|').map(str::to_owned).collect();
                let label = label.trim_matches([',', ' ', '\n']).to_owned();
                labels.insert(label, values);
                rest = after;
                if let Some(after) = rest.strip_prefix('}') {
                    rest = after;
                    break;
                }
            }
        }
        let name = name.to_owned();
        (Self { name, labels }, rest)
    }

    /// Returns all selectors of TickStorm's own metrics in an expression.
    fn all(expression: &str) -> Vec<Self> {
        let mut found = Vec::new();
        let mut rest = expression;
        while let Some(start) = rest.find("tickstorm_") {
            let is_recorded = rest[..start].ends_with(':');
            let (selector, after) = Self::parse(&rest[start..]);
            if !is_recorded && !selector.name.contains(':') {
                found.push(selector);
            }
            rest = after;
        }
        found
    }

    /// Returns the values of labels that no series has.
    fn missing_in(&self, series: &[Self]) -> Vec<String> {
        let of_name: Vec<_> = series.iter().filter(|one| one.name == self.name).collect();
        let own = self.labels.iter();
        let own = own.filter(|(label, _)| !OF_PROMETHEUS.contains(&label.as_str()));
        let each = own.flat_map(|(label, values)| values.iter().map(move |value| (label, value)));
        let missing = each.filter(|(label, value)| {
            let has = |one: &Self| one.labels.get(*label).is_some_and(|of| of[0] == **value);
            !of_name.iter().any(|one| has(one))
        });
        missing
            .map(|(label, value)| format!("{}{{{label}={value:?}}}", self.name))
            .collect()
    }
}

/// Returns the expressions of all rules.
fn expressions() -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(repository().join("deploy/prometheus/rules")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        let file: Value = serde_saphyr::from_str(&text).unwrap();
        for group in file["groups"].as_array().unwrap() {
            let rules = group["rules"].as_array().unwrap();
            found.extend(
                rules
                    .iter()
                    .map(|rule| rule["expr"].as_str().unwrap().to_owned()),
            );
        }
    }
    assert!(found.len() > 40, "{found:?}");
    found
}

/// Returns the series that both daemons export.
pub(crate) async fn exported() -> Vec<Selector> {
    let mut series = Vec::new();
    let (dir, authority) = (TempDir::new("alerts"), CertificateAuthority::new());
    let issued = authority.issue("edge.test");
    let written = |name, content: &str| dir.write(name, content).display().to_string();
    let certificate = written("edge.crt", &issued.certificate);
    let key = written("edge.key", &issued.key);
    let authority = written("ca.pem", authority.certificate());
    for program in ["tickstorm-clock", "tickstorm-edge"] {
        // Some metrics exist only for the clocks that an edge knows, and some only for files of
        // TLS. A clock ignores the settings that only edges have.
        let mut daemon = Daemon::new(program)
            .with("CLOCKS", "clock-0")
            .with("TLS_ENABLED", "true")
            .with("TLS_CERT_FILE", &certificate)
            .with("TLS_KEY_FILE", &key)
            .with("NATS_CA_FILE", &authority);
        daemon.start().await;
        // The last metrics to appear, with the first report on the clocks.
        let is_edge = program == "tickstorm-edge";
        let last = if is_edge {
            "tickstorm_time_clock_alarm"
        } else {
            "tickstorm_clock_alarm"
        };
        eventually("all metrics", PATIENCE, async || {
            let answer = daemon.get("/metrics").await;
            answer.is_ok_and(|(_, metrics)| metrics.contains(last))
        })
        .await;
        let (_, metrics) = daemon.get("/metrics").await.unwrap();
        let lines = metrics
            .lines()
            .filter(|line| line.starts_with("tickstorm_"));
        series.extend(lines.map(|line| Selector::parse(line).0));
        assert_eq!(daemon.terminate().await, Some(0));
    }
    series
}

#[tokio::test]
async fn every_label_value_that_an_alert_asks_for_is_exported_by_a_daemon() {
    let series = exported().await;
    let selectors: Vec<_> = expressions()
        .iter()
        .flat_map(|expression| Selector::all(expression))
        .collect();
    assert!(selectors.len() > 50, "{selectors:#?}");
    let unknown: Vec<_> = selectors
        .iter()
        .filter(|one| !one.labels.is_empty())
        .flat_map(|one| one.missing_in(&series))
        .collect();
    assert!(unknown.is_empty(), "no daemon exports {unknown:#?}");
}

#[test]
fn selectors_are_found_with_their_labels_and_alternatives() {
    let expression = "sum without (le) (\n\
                        rate(tickstorm_a_bucket{job=\"x\", le=~\"0(\\\\.0)?\"}[1m])\n\
                      ) / namespace:tickstorm_b:sum\n\
                      and tickstorm_c{reason!~\"d|e\"} == 1 or tickstorm_f";
    let found = Selector::all(expression);
    let names: Vec<_> = found.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["tickstorm_a_bucket", "tickstorm_c", "tickstorm_f"]);
    assert_eq!(found[0].labels["le"], ["0"]);
    assert_eq!(found[1].labels["reason"], ["d", "e"]);
    assert!(found[2].labels.is_empty());
    let series = [
        Selector::parse("tickstorm_c{reason=\"d\",clock=\"x\"} 1").0,
        Selector::parse("tickstorm_a_bucket{le=\"0\"} 1").0,
    ];
    assert!(found[0].missing_in(&series).is_empty());
    assert_eq!(found[1].missing_in(&series), ["tickstorm_c{reason=\"e\"}"]);
}
