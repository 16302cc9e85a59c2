//! `cargo xtask test monitoring`: checks the rules, the alerts and their tests, the runbooks, the
//! dashboards, and the configuration of Prometheus and Alertmanager. `cargo xtask monitoring`
//! writes the rules in the form that Kubernetes needs, and the dashboards in the form that Grafana
//! needs. `cargo xtask dashboards` draws panels for docs/dashboards.md.

mod alerts;
pub(crate) mod dashboards;
mod generated;
mod names;
mod operator;
mod rules;
mod tools;

use anyhow::{Result, ensure};

pub(crate) use self::tools::missing;
use self::{
    generated::GENERATED,
    rules::{RuleFile, TestFile},
    tools::{AMTOOL, PROMTOOL},
};
use crate::{
    command::{in_workspace, program},
    python_tool::PROMETHEUS_OPERATOR,
};

/// The severities, each of which is also the name of the receiver of its notifications.
const SEVERITIES: [&str; 2] = ["critical", "warning"];

const PROMETHEUS: &str = "deploy/prometheus/prometheus.yml";
const ALERTMANAGER: &str = "deploy/alertmanager/alertmanager.yml";

/// The objects of the Prometheus Operator.
const CUSTOM_RESOURCES: [&str; 2] = [GENERATED, "k8s/components/monitoring/pod-monitors.yaml"];

/// The file of the dashboards' queries, to try them in a running cluster.
const QUERIES: &str = "target/dashboard-queries.jsonl";

/// The script that validates them.
const VALIDATOR: &str = "crates/xtask/src/custom-resources.py";

/// Writes all files that are made of others.
pub(crate) fn write() -> Result<()> {
    generated::write()?;
    dashboards::write()?;
    dashboards::write_queries(&in_workspace(QUERIES))
}

/// Runs all checks. Prints every finding of our own before it returns an error.
pub(crate) fn check() -> Result<()> {
    tools::provide()?;
    let rules = RuleFile::all()?;
    let tests = TestFile::all()?;
    let mut findings = alerts::findings(&rules, &tests)?;
    findings.extend(names::findings(&rules)?);
    findings.extend(generated::findings()?);
    findings.extend(dashboards::findings()?);
    for finding in &findings {
        eprintln!("{finding}");
    }
    ensure!(
        findings.is_empty(),
        "{} findings, listed above",
        findings.len()
    );
    let files: Vec<_> = rules.iter().map(|file| file.path.as_str()).collect();
    PROMTOOL.call(&["check", "rules"])?.args(&files).run()?;
    PROMTOOL.call(&["check", "config", PROMETHEUS])?.run()?;
    let files: Vec<_> = tests.iter().map(|file| file.path.as_str()).collect();
    PROMTOOL.call(&["test", "rules"])?.args(&files).run()?;
    let files = operator::write(&tests)?;
    let files: Vec<_> = files.iter().map(String::as_str).collect();
    PROMTOOL.call(&["test", "rules"])?.args(&files).run()?;
    dashboards::check_with_programs()?;
    AMTOOL.call(&["check-config", ALERTMANAGER])?.run()?;
    let python = PROMETHEUS_OPERATOR.installed()?;
    program(&python.display().to_string(), &[VALIDATOR])
        .args(&CUSTOM_RESOURCES)
        .run()?;
    SEVERITIES.iter().try_for_each(|severity| {
        AMTOOL
            .call(&["config", "routes", "test", "--config.file", ALERTMANAGER])?
            .args(&[
                &format!("--verify.receivers={severity}"),
                &format!("severity={severity}"),
            ])
            .run()
    })
}
