//! The files of rules and of their tests, as far as the checks need them.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, de::DeserializeOwned};

use crate::command::in_workspace;

const RULES: &str = "deploy/prometheus/rules";
const TESTS: &str = "deploy/prometheus/tests";

/// A file of rules.
pub(super) struct RuleFile {
    /// The path from the workspace's root.
    pub(super) path: String,
    pub(super) text: String,
    pub(super) rules: Vec<Rule>,
}

/// A file of tests.
pub(super) struct TestFile {
    /// The path from the workspace's root.
    pub(super) path: String,
    pub(super) text: String,
    pub(super) cases: Vec<Case>,
}

/// A recording rule or an alert.
#[derive(Deserialize)]
pub(super) struct Rule {
    pub(super) record: Option<String>,
    pub(super) alert: Option<String>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
}

/// A moment of a test at which an alert is raised or not.
#[derive(Deserialize)]
pub(super) struct Case {
    pub(super) alertname: String,
    #[serde(default)]
    exp_alerts: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Tests {
    tests: Vec<Test>,
}

#[derive(Deserialize)]
struct Test {
    #[serde(default)]
    alert_rule_test: Vec<Case>,
}

impl RuleFile {
    /// Reads all files of rules, in the order of their names.
    pub(super) fn all() -> Result<Vec<Self>> {
        let read = |(path, text): (String, String)| {
            let parsed: Groups = parse(&path, &text)?;
            let rules = parsed.groups.into_iter().flat_map(|group| group.rules);
            let rules = rules.collect();
            Ok(Self { path, text, rules })
        };
        files(RULES)?.into_iter().map(read).collect()
    }

    /// Returns the alerts of the file, with their names.
    pub(super) fn alerts(&self) -> impl Iterator<Item = (&str, &Rule)> {
        let rules = self.rules.iter();
        rules.filter_map(|rule| Some((rule.alert.as_deref()?, rule)))
    }
}

impl TestFile {
    /// Reads all files of tests, in the order of their names.
    pub(super) fn all() -> Result<Vec<Self>> {
        let read = |(path, text): (String, String)| {
            let parsed: Tests = parse(&path, &text)?;
            let cases = parsed
                .tests
                .into_iter()
                .flat_map(|test| test.alert_rule_test);
            let cases = cases.collect();
            Ok(Self { path, text, cases })
        };
        files(TESTS)?.into_iter().map(read).collect()
    }
}

impl Case {
    pub(super) fn is_raised(&self) -> bool {
        !self.exp_alerts.is_empty()
    }
}

/// Returns the paths and the texts of the YAML files in a directory, in the order of their names.
fn files(directory: &str) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(in_workspace(directory))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".yml") {
            let path = format!("{directory}/{name}");
            let text = fs::read_to_string(in_workspace(&path))?;
            found.push((path, text));
        }
    }
    ensure!(!found.is_empty(), "there are no files in {directory}");
    found.sort();
    Ok(found)
}

fn parse<T: DeserializeOwned>(path: &str, text: &str) -> Result<T> {
    serde_saphyr::from_str(text).with_context(|| format!("could not parse {path}"))
}
