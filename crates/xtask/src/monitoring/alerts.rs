//! Checks that each alert is complete: its severity and annotations, a test in which it is raised
//! and one in which it is not, and a runbook. Nothing may refer to an alert that does not exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::LazyLock,
};

use anyhow::Result;
use regex::Regex;

use super::{
    ALERTMANAGER, SEVERITIES, dashboards,
    rules::{Rule, RuleFile, TestFile},
};
use crate::command::in_workspace;

/// The directory of the runbooks.
pub(super) const RUNBOOKS: &str = "docs/runbooks";

/// The name of the runbooks' overview, without `.md`.
const OVERVIEW: &str = "README";

/// Other files that name alerts.
const MENTIONS: [&str; 3] = [ALERTMANAGER, "docs/operations.md", "k8s/README.md"];

/// The headings of a runbook, in their order.
const SECTIONS: [&str; 5] = [
    "What it means",
    "First minutes",
    "Diagnosis",
    "Repair",
    "Prevention",
];

static NAME: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\bTickstorm[A-Z][A-Za-z]*\b").expect("the expression is valid"));

/// Returns what is wrong with alerts, their tests, and their runbooks.
pub(super) fn findings(rules: &[RuleFile], tests: &[TestFile]) -> Result<Vec<String>> {
    let pages = pages()?;
    let alerts: BTreeMap<_, _> = rules.iter().flat_map(RuleFile::alerts).collect();
    let mut found = Vec::new();
    for (name, rule) in &alerts {
        found.extend(of_rule(name, rule));
        found.extend(of_tests(name, tests));
        found.extend(of_page(name, rule, &pages));
    }
    let known: BTreeSet<_> = alerts.into_keys().collect();
    let mut texts = pages.clone();
    texts.extend(dashboards::texts()?);
    for path in MENTIONS {
        texts.insert(path.to_owned(), fs::read_to_string(in_workspace(path))?);
    }
    for (origin, text) in &texts {
        let named: BTreeSet<_> = NAME.find_iter(text).map(|name| name.as_str()).collect();
        let unknown = named.difference(&known);
        found.extend(unknown.map(|name| format!("{origin} names {name}, which is no alert")));
    }
    let pages = pages.keys().filter(|page| *page != OVERVIEW);
    let orphans = pages.filter(|page| !known.contains(page.as_str()));
    found.extend(orphans.map(|page| format!("{RUNBOOKS}/{page}.md belongs to no alert")));
    Ok(found)
}

/// Returns the runbooks by their names without `.md`.
fn pages() -> Result<BTreeMap<String, String>> {
    let mut pages = BTreeMap::new();
    for entry in fs::read_dir(in_workspace(RUNBOOKS))? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        pages.insert(name.into_owned(), fs::read_to_string(&path)?);
    }
    Ok(pages)
}

fn of_rule(name: &str, rule: &Rule) -> Vec<String> {
    let mut found = Vec::new();
    let severity = severity(rule);
    if !SEVERITIES.contains(&severity) {
        found.push(format!("{name} has the severity {severity:?}"));
    }
    let url = format!("{{{{ $externalLabels.runbooks }}}}/{name}.md");
    if rule.annotations.get("runbook_url") != Some(&url) {
        found.push(format!("the runbook_url of {name} must be {url}"));
    }
    let annotations: Vec<_> = rule.annotations.keys().map(String::as_str).collect();
    if annotations != ["description", "runbook_url", "summary"] {
        found.push(format!("{name} has the annotations {annotations:?}"));
    }
    found
}

fn of_tests(name: &str, tests: &[TestFile]) -> Vec<String> {
    let cases = tests.iter().flat_map(|file| &file.cases);
    let cases: Vec<_> = cases.filter(|case| case.alertname == name).collect();
    let kinds = [(true, "raised"), (false, "silent")];
    let untested = kinds
        .iter()
        .filter(|(is_raised, _)| cases.iter().all(|case| case.is_raised() != *is_raised));
    untested
        .map(|(_, kind)| format!("no test has {name} {kind}"))
        .collect()
}

fn of_page(name: &str, rule: &Rule, pages: &BTreeMap<String, String>) -> Vec<String> {
    let Some(page) = pages.get(name) else {
        return vec![format!("{name} has no page {RUNBOOKS}/{name}.md")];
    };
    let mut found = Vec::new();
    let severity = severity(rule);
    let start = format!("# {name}\n{}. Labels: ", capitalized(severity));
    if !page.starts_with(&start) {
        found.push(format!("{RUNBOOKS}/{name}.md must start with {start:?}"));
    }
    let headings = page.lines().filter_map(|line| line.strip_prefix("## "));
    let headings: Vec<_> = headings.collect();
    if headings != SECTIONS {
        found.push(format!(
            "{RUNBOOKS}/{name}.md has the headings {headings:?}"
        ));
    }
    let row = format!("\n| [{name}]({name}.md) | {severity} | ");
    if !pages.get(OVERVIEW).is_some_and(|text| text.contains(&row)) {
        found.push(format!("{RUNBOOKS}/{OVERVIEW}.md has no row {row:?}"));
    }
    found
}

fn severity(rule: &Rule) -> &str {
    rule.labels.get("severity").map_or("", String::as_str)
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitoring::rules::Case;

    fn rule(severity: &str, runbook: &str) -> Rule {
        let rule = serde_json::json!({
            "alert": "TickstormA",
            "labels": { "severity": severity },
            "annotations": {
                "summary": "s",
                "description": "d",
                "runbook_url": format!("{{{{ $externalLabels.runbooks }}}}/{runbook}.md"),
            },
        });
        serde_json::from_value(rule).unwrap()
    }

    fn test_file(cases: &[(&str, usize)]) -> TestFile {
        let case = |(name, alerts): &(&str, usize)| -> Case {
            let alerts = vec![serde_json::json!({}); *alerts];
            let case = serde_json::json!({ "alertname": name, "exp_alerts": alerts });
            serde_json::from_value(case).unwrap()
        };
        TestFile {
            path: String::new(),
            text: String::new(),
            cases: cases.iter().map(case).collect(),
        }
    }

    #[test]
    fn an_alert_needs_a_severity_and_the_link_to_its_own_page() {
        assert!(of_rule("TickstormA", &rule("warning", "TickstormA")).is_empty());
        assert_eq!(of_rule("TickstormA", &rule("page", "TickstormA")).len(), 1);
        assert_eq!(
            of_rule("TickstormA", &rule("warning", "TickstormB")).len(),
            1
        );
    }

    #[test]
    fn an_alert_needs_a_test_in_which_it_is_raised_and_one_in_which_it_is_silent() {
        let both = test_file(&[("TickstormA", 2), ("TickstormA", 0)]);
        assert!(of_tests("TickstormA", &[both]).is_empty());
        let raised = test_file(&[("TickstormA", 1), ("TickstormB", 0)]);
        assert_eq!(
            of_tests("TickstormA", &[raised]),
            ["no test has TickstormA silent"]
        );
        assert_eq!(of_tests("TickstormA", &[]).len(), 2);
    }

    #[test]
    fn a_page_has_the_severity_all_headings_and_a_row_in_the_overview() {
        let sections = SECTIONS.map(|heading| format!("## {heading}\n")).join("");
        let page = format!("# TickstormA\nWarning. Labels: none.\n{sections}");
        let row = "\n| [TickstormA](TickstormA.md) | warning | it |\n".to_owned();
        let rule = rule("warning", "TickstormA");
        let of = |pages: [(&str, &str); 2]| {
            let pages = pages.map(|(name, text)| (name.to_owned(), text.to_owned()));
            of_page("TickstormA", &rule, &pages.into()).len()
        };
        assert_eq!(of([("TickstormA", &page), (OVERVIEW, &row)]), 0);
        assert_eq!(of([("TickstormA", &page), (OVERVIEW, "")]), 1);
        let critical = page.replace("Warning", "Critical");
        assert_eq!(of([("TickstormA", &critical), (OVERVIEW, &row)]), 1);
        let shorter = page.replace("## Repair\n", "");
        assert_eq!(of([("TickstormA", &shorter), (OVERVIEW, &row)]), 1);
        assert_eq!(of([("TickstormB", &page), (OVERVIEW, &row)]), 1);
    }

    #[test]
    fn names_of_alerts_are_found_in_links_and_lists() {
        let text = "See [a](TickstormHoldover.md), TickstormA|TickstormB, and TickStorm.";
        let names: Vec<_> = NAME.find_iter(text).map(|name| name.as_str()).collect();
        assert_eq!(names, ["TickstormHoldover", "TickstormA", "TickstormB"]);
    }
}
