//! The dashboards of Grafana. People write short sources, from which `cargo xtask monitoring` makes
//! the JSON that Grafana reads. The JSON is committed, and what is checked and tested is the JSON:
//! it is what an operator gets.

mod charts;
mod check;
mod json;
mod panel;
mod source;

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};

pub(crate) use self::charts::{Recording, draw};
use self::source::Dashboard;
use super::tools::PROMTOOL;
use crate::{
    command::{in_workspace, program},
    python_tool::GRAFANA,
};

/// The directory of the dashboards, and the file that lists them for Kubernetes.
pub(super) const DASHBOARDS: &str = "deploy/grafana/dashboards";
const LIST: &str = "deploy/grafana/dashboards/kustomization.yaml";

/// The size of all dashboards in a ConfigMap. `kubectl apply` keeps a copy of the object, as JSON,
/// in an annotation, and all annotations together may have 256 KiB.
const CONFIG_MAP_BYTES_MAX: usize = 240 << 10;

/// The script that validates them by Grafana's own types.
const VALIDATOR: &str = "crates/xtask/src/dashboards.py";

/// A file of rules with all expressions, which makes promtool parse them.
const EXPRESSIONS: &str = "target/dashboard-queries.yml";

/// Grafana's window of rates: four times the scrape interval of deploy/prometheus.
const RATE_INTERVAL: (&str, &str) = ("$__rate_interval", "1m");

/// A query of a panel, with a value for each variable.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Query {
    pub(crate) dashboard: String,
    pub(crate) panel: String,
    pub(crate) expr: String,
    /// Whether the panel shows the past, and not only the latest value.
    pub(crate) range: bool,
    /// Grafana's template of the names of curves.
    pub(crate) legend: String,
}

/// Writes the JSON of all dashboards.
pub(super) fn write() -> Result<()> {
    for (name, dashboard) in Dashboard::all()? {
        let path = path(&name);
        fs::write(in_workspace(&path), json::text(&dashboard)?)?;
        eprintln!("xtask: wrote {path}");
    }
    Ok(())
}

/// Returns the paths and the texts of all dashboards, in the order of their names.
pub(super) fn texts() -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(in_workspace(DASHBOARDS))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".json") {
            let path = format!("{DASHBOARDS}/{name}");
            let text = fs::read_to_string(in_workspace(&path))?;
            found.push((path, text));
        }
    }
    ensure!(!found.is_empty(), "there are no dashboards");
    found.sort();
    Ok(found)
}

/// Returns what is wrong with the dashboards.
pub(super) fn findings() -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut current: BTreeMap<_, _> = texts()?.into_iter().collect();
    let bytes = serde_json::to_string(&current)?.len();
    if bytes > CONFIG_MAP_BYTES_MAX {
        found.push(format!(
            "the dashboards have {bytes} bytes in a ConfigMap; {CONFIG_MAP_BYTES_MAX} are allowed"
        ));
    }
    let list = fs::read_to_string(in_workspace(LIST))?;
    for (path, text) in &current {
        let dashboard = parse(path, text)?;
        let about_it = check::findings(&dashboard).into_iter();
        found.extend(about_it.map(|finding| format!("{path}: {finding}")));
        let name = path.rsplit('/').next().unwrap_or_default();
        if !list.contains(&format!("- {name}\n")) {
            found.push(format!("{LIST} does not list {name}"));
        }
    }
    for (name, dashboard) in Dashboard::all()? {
        let path = path(&name);
        if current.remove(&path) != Some(json::text(&dashboard)?) {
            found.push(format!(
                "{path} is outdated: run `cargo xtask monitoring`, and commit it"
            ));
        }
    }
    let orphans = current.into_keys();
    found.extend(orphans.map(|path| format!("{path} has no source in {}", source::SOURCES)));
    Ok(found)
}

/// Checks the dashboards with other programs: Grafana's own types know all their fields, and
/// Prometheus parses all expressions.
pub(super) fn check_with_programs() -> Result<()> {
    let python = GRAFANA.installed()?;
    let texts = texts()?;
    let paths: Vec<_> = texts.iter().map(|(path, _)| path.as_str()).collect();
    program(&python.display().to_string(), &[VALIDATOR])
        .args(&paths)
        .run()?;
    // Annotations are not queries of panels, but must parse too.
    let mut expressions: Vec<_> = queries()?.into_iter().map(|query| query.expr).collect();
    for (path, text) in &texts {
        let dashboard = parse(path, text)?;
        let annotations = list(&dashboard["annotations"]["list"]);
        let of_annotations = annotations.filter_map(|one| one["expr"].as_str());
        expressions.extend(of_annotations.map(|expr| substituted(&dashboard, expr)));
    }
    let rules: Vec<_> = expressions
        .iter()
        .enumerate()
        .map(|(number, expr)| json!({ "record": format!("query:{number}"), "expr": expr }))
        .collect();
    let rules = json!({ "groups": [{ "name": "dashboards", "rules": rules }] });
    fs::write(in_workspace(EXPRESSIONS), rules.to_string())?;
    PROMTOOL.call(&["check", "rules", EXPRESSIONS])?.run()
}

/// Returns the queries of all panels, in their order on the pages.
pub(crate) fn queries() -> Result<Vec<Query>> {
    let mut all = Vec::new();
    for (path, text) in texts()? {
        let dashboard = parse(&path, &text)?;
        let title = |of: &Value| of["title"].as_str().unwrap_or_default().to_owned();
        for panel in panels(&dashboard) {
            for target in list(&panel["targets"]) {
                let expr = target["expr"].as_str().unwrap_or_default();
                all.push(Query {
                    dashboard: title(&dashboard),
                    panel: title(panel),
                    expr: substituted(&dashboard, expr),
                    range: target["range"] == true,
                    legend: target["legendFormat"]
                        .as_str()
                        .unwrap_or_default()
                        .to_owned(),
                });
            }
        }
    }
    Ok(all)
}

/// Writes the queries of all panels, one object of JSON on each line.
pub(crate) fn write_queries(path: &Path) -> Result<()> {
    let mut text = String::new();
    for query in queries()? {
        text.push_str(&serde_json::to_string(&query)?);
        text.push('\n');
    }
    fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}

/// Returns an expression with all values in place of each variable.
fn substituted(dashboard: &Value, expr: &str) -> String {
    let (variable, window) = RATE_INTERVAL;
    let expr = expr.replace(variable, window);
    list(&dashboard["templating"]["list"]).fold(expr, |expr, variable| {
        let all = variable["allValue"].as_str();
        let name = variable["name"].as_str();
        match name.zip(all) {
            Some((name, all)) => expr.replace(&format!("${name}"), all),
            None => expr,
        }
    })
}

/// Returns the panels of a dashboard, also those below collapsed headings, and no headings.
fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    let rows = list(&dashboard["panels"]);
    let all = rows.flat_map(|panel| std::iter::once(panel).chain(list(&panel["panels"])));
    all.filter(|panel| panel["type"] != "row")
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn path(name: &str) -> String {
    format!("{DASHBOARDS}/{name}.json")
}

fn parse(path: &str, text: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| format!("could not parse {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_query_is_on_a_line_and_has_no_variable() {
        let path = std::env::temp_dir().join(format!("queries-{}", std::process::id()));
        write_queries(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(text.lines().count() > 80, "{text}");
        for line in text.lines() {
            let query: Value = serde_json::from_str(line).unwrap();
            for name in ["dashboard", "panel", "expr"] {
                assert!(
                    query[name].as_str().is_some_and(|it| !it.is_empty()),
                    "{line}"
                );
            }
            assert!(!line.contains('$') && !line.contains('@'), "{line}");
        }
    }

    #[test]
    fn panels_below_a_collapsed_heading_have_queries_too() {
        let inner = json!({ "type": "stat", "title": "inner" });
        let dashboard = json!({ "panels": [
            { "type": "row", "title": "open", "panels": [] },
            { "type": "stat", "title": "outer" },
            { "type": "row", "title": "collapsed", "panels": [inner] },
        ] });
        let titles: Vec<_> = panels(&dashboard).map(|panel| &panel["title"]).collect();
        assert_eq!(titles, ["outer", "inner"]);
    }
}
