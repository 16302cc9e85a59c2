//! Checks that every metric of TickStorm that rules, their tests, runbooks, and dashboards use is
//! one that the product has: it must be in the table of metrics in docs/operations.md, which a test
//! compares with the daemons. Names with colons are those of recording rules.

use std::{collections::BTreeSet, fs, sync::LazyLock};

use anyhow::{Result, ensure};
use regex::Regex;

use super::{
    alerts::RUNBOOKS,
    dashboards,
    rules::{RuleFile, TestFile},
};
use crate::{command::in_workspace, prose::files};

const TABLE: &str = "docs/operations.md";

/// The metric that the autoscaler uses is in files that no other check reads.
const OTHER_FILES: [&str; 2] = [
    "k8s/prometheus-adapter.yaml",
    "k8s/base/edge-autoscaler.yaml",
];

/// The suffixes of a histogram's series.
const SUFFIXES: [&str; 3] = ["_bucket", "_count", "_sum"];

static METRIC: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"[a-z_:][a-z0-9_:]*").expect("the expression is valid"));

/// Returns the metrics that do not exist, each with the file that uses it.
pub(super) fn findings(rules: &[RuleFile]) -> Result<Vec<String>> {
    let recorded = rules.iter().flat_map(|file| &file.rules);
    let recorded = recorded.filter_map(|rule| rule.record.as_deref());
    let table = fs::read_to_string(in_workspace(TABLE))?;
    let known: BTreeSet<_> = documented(&table).chain(recorded).collect();
    ensure!(known.len() > 50, "{TABLE} has no table of metrics");
    let mut found = Vec::new();
    for (path, text) in texts(rules)? {
        let unknown = used(&text).into_iter().filter(|name| !is_in(&known, name));
        found.extend(unknown.map(|name| {
            format!("{path} uses {name}, which is neither in {TABLE} nor recorded by a rule")
        }));
    }
    Ok(found)
}

/// Returns the paths and texts of all files that use metrics.
fn texts(rules: &[RuleFile]) -> Result<Vec<(String, String)>> {
    let rules = rules
        .iter()
        .map(|file| (file.path.clone(), file.text.clone()));
    let tests = TestFile::all()?;
    let tests = tests.into_iter().map(|file| (file.path, file.text));
    let mut texts: Vec<_> = rules.chain(tests).chain(dashboards::texts()?).collect();
    let pages = files()?
        .into_iter()
        .filter(|path| path.starts_with(RUNBOOKS));
    for path in pages.chain(OTHER_FILES.map(str::to_owned)) {
        let text = fs::read_to_string(in_workspace(&path))?;
        texts.push((path, text));
    }
    Ok(texts)
}

/// Returns the names in the first column of the table of metrics.
fn documented(text: &str) -> impl Iterator<Item = &str> {
    let cells = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let names = cells.filter_map(|cells| Some(cells.split_once("` |")?.0));
    names.filter(|name| name.starts_with("tickstorm_"))
}

/// Returns the names of TickStorm's metrics, and of recording rules about them, in a text.
fn used(text: &str) -> BTreeSet<&str> {
    let words = METRIC.find_iter(text).map(|word| word.as_str());
    let is_name = |word: &&str| word.split(':').any(|part| part.starts_with("tickstorm_"));
    words.filter(is_name).collect()
}

fn is_in(known: &BTreeSet<&str>, name: &str) -> bool {
    let mut bases = SUFFIXES
        .iter()
        .filter_map(|suffix| name.strip_suffix(suffix));
    known.contains(name) || bases.any(|base| known.contains(base))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_and_recorded_names_are_found_and_other_words_are_not() {
        let text = "rate(tickstorm_a_seconds_bucket{le=\"0\"}[5m]) / namespace:tickstorm_b:sum\n\
                    by (tickstorm) tickstorm-edge `tickstorm_c_total` process_open_fds";
        let expected = [
            "namespace:tickstorm_b:sum",
            "tickstorm_a_seconds_bucket",
            "tickstorm_c_total",
        ];
        assert_eq!(used(text), expected.into());
    }

    #[test]
    fn the_series_of_a_histogram_and_a_documented_name_are_known() {
        let table = "| `tickstorm_a_seconds` | histogram | A. |\n| `OTHER` | x |\n";
        let known: BTreeSet<_> = documented(table).collect();
        assert_eq!(known, ["tickstorm_a_seconds"].into());
        for (name, expected) in [
            ("tickstorm_a_seconds", true),
            ("tickstorm_a_seconds_count", true),
            ("tickstorm_a_seconds_total", false),
            ("tickstorm_a", false),
        ] {
            assert_eq!(is_in(&known, name), expected, "{name}");
        }
    }
}
