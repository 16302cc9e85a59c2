//! The tests of the rules as on Kubernetes. There the Prometheus Operator adds labels to every
//! series, which the series of the tests do not have. An expression that divides a sum over some
//! labels by a series with all of them has a result without these labels, and none with them.

use std::{fs, sync::LazyLock};

use anyhow::{Context, Result, ensure};
use regex::Regex;

use super::rules::TestFile;
use crate::command::in_workspace;

/// The directory for the tests with these labels.
const DIRECTORY: &str = "target/monitoring-tests";

/// The directory of the rules, as the files of tests name it, and from `DIRECTORY`.
const RULES: (&str, &str) = ("../rules/", "../../deploy/prometheus/rules/");

/// Before and after the value in a selector, `instance="a"`, and in a mapping on one line,
/// `{ instance: "a" }`.
static IN_LINE: LazyLock<Regex> = LazyLock::new(|| expression(r#"\binstance(=|: )"([^"]+)""#));
const IN_LINE_WITH: &str =
    r#"instance$1"$2", pod$1"pod-of-$2", container$1"program", endpoint$1"admin""#;

/// In a mapping with a line for each label.
static ON_LINE: LazyLock<Regex> = LazyLock::new(|| expression(r#"(?m)^( +)instance: ([^"\s]+)$"#));
const ON_LINE_WITH: &str =
    "${1}instance: $2\n${1}pod: pod-of-$2\n${1}container: program\n${1}endpoint: admin";

static ANY: LazyLock<Regex> = LazyLock::new(|| expression(r"\binstance[=:]"));

fn expression(text: &str) -> Regex {
    Regex::new(text).expect("the expression is valid")
}

/// Writes the tests with the operator's labels, and returns the paths of the files.
pub(super) fn write(tests: &[TestFile]) -> Result<Vec<String>> {
    fs::create_dir_all(in_workspace(DIRECTORY))?;
    let write = |file: &TestFile| {
        let (_, name) = file.path.rsplit_once('/').context("a path")?;
        let path = format!("{DIRECTORY}/{name}");
        let text = labelled(&file.text).with_context(|| file.path.clone())?;
        fs::write(in_workspace(&path), text)?;
        Ok(path)
    };
    tests.iter().map(write).collect()
}

/// Adds the labels of a pod to everything that has the label `instance`, and corrects the paths of
/// rules.
fn labelled(text: &str) -> Result<String> {
    let all = ANY.find_iter(text).count();
    let known = IN_LINE.find_iter(text).count() + ON_LINE.find_iter(text).count();
    ensure!(
        all == known,
        "of {all} labels `instance`, {} have another form than instance=\"a\", instance: \"a\", \
         or instance: a on a line of its own",
        all - known
    );
    let text = IN_LINE.replace_all(text, IN_LINE_WITH);
    let text = ON_LINE.replace_all(&text, ON_LINE_WITH);
    let (of_tests, from_here) = RULES;
    Ok(text.replace(of_tests, from_here))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_and_expected_labels_in_all_forms_get_the_labels_of_a_pod() {
        let text = "rule_files: [../rules/a.yml]\n\
                    tests:\n\
                    \x20 - series: up{instance=\"a:1\", job=\"x\"}\n\
                    \x20 - exp_labels: { instance: \"b:1\" }\n\
                    \x20 - exp_labels:\n\
                    \x20     instance: c:1\n\
                    \x20     job: x\n\
                    \x20 - series: sum{namespace=\"n\"}\n";
        let expected = "rule_files: [../../deploy/prometheus/rules/a.yml]\n\
            tests:\n\
            \x20 - series: up{instance=\"a:1\", pod=\"pod-of-a:1\", container=\"program\", \
            endpoint=\"admin\", job=\"x\"}\n\
            \x20 - exp_labels: { instance: \"b:1\", pod: \"pod-of-b:1\", container: \"program\", \
            endpoint: \"admin\" }\n\
            \x20 - exp_labels:\n\
            \x20     instance: c:1\n\
            \x20     pod: pod-of-c:1\n\
            \x20     container: program\n\
            \x20     endpoint: admin\n\
            \x20     job: x\n\
            \x20 - series: sum{namespace=\"n\"}\n";
        assert_eq!(labelled(text).unwrap(), expected);
    }

    #[test]
    fn a_label_in_another_form_is_an_error() {
        assert!(labelled("exp_labels: { instance: a }\n").is_err());
        assert!(labelled("series: up{instance='a'}\n").is_err());
    }
}
