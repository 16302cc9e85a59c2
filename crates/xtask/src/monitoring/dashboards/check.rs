//! Checks the JSON of a dashboard for what Grafana's types do not require: that each panel has its
//! own number and place, says what it shows, and queries only with variables that exist.

use std::{collections::BTreeSet, sync::LazyLock};

use regex::Regex;
use serde_json::Value;

use super::{json::COLUMNS, list, panels};

/// The fields without which Grafana shows no dashboard, or not this one.
const REQUIRED: [&str; 9] = [
    "uid",
    "title",
    "description",
    "schemaVersion",
    "time",
    "templating",
    "annotations",
    "links",
    "panels",
];

/// Variables of Grafana itself begin so.
const BUILT_IN: &str = "__";

static VARIABLE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\$\{?(\w+)").expect("the expression is valid"));

/// Returns what is wrong with a dashboard.
pub(super) fn findings(dashboard: &Value) -> Vec<String> {
    let missing = REQUIRED.iter().filter(|name| dashboard[**name].is_null());
    let mut found: Vec<_> = missing.map(|name| format!("it has no {name}")).collect();
    found.extend(of_numbers_and_titles(dashboard));
    found.extend(of_places(dashboard));
    for panel in panels(dashboard) {
        let title = panel["title"].as_str().unwrap_or_default();
        let about_it = of_panel(dashboard, panel).into_iter();
        found.extend(about_it.map(|finding| format!("the panel {title:?} {finding}")));
    }
    found
}

fn of_numbers_and_titles(dashboard: &Value) -> Vec<String> {
    let headings = list(&dashboard["panels"]).filter(|panel| panel["type"] == "row");
    let mut numbers = BTreeSet::new();
    let mut found = Vec::new();
    for panel in panels(dashboard).chain(headings) {
        if panel["id"].as_u64().is_none_or(|id| !numbers.insert(id)) {
            let (id, title) = (&panel["id"], &panel["title"]);
            found.push(format!(
                "the number {id} of {title} is none, or not its own"
            ));
        }
    }
    let mut titles = BTreeSet::new();
    let titled = panels(dashboard).filter_map(|panel| panel["title"].as_str());
    let twice = titled.filter(|title| !titles.insert(*title));
    found.extend(twice.map(|title| format!("two panels have the title {title:?}")));
    found
}

/// Returns the panels that reach out of the page, or lie upon another. Panels below a collapsed
/// heading are shown once it is opened, which moves everything below it.
fn of_places(dashboard: &Value) -> Vec<String> {
    let rows = list(&dashboard["panels"]);
    let collapsed = rows.map(|row| list(&row["panels"]).collect::<Vec<_>>());
    let mut groups: Vec<_> = collapsed.collect();
    groups.push(list(&dashboard["panels"]).collect());
    groups.iter().flat_map(|group| of_group(group)).collect()
}

fn of_group(panels: &[&Value]) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let mut found = Vec::new();
    for panel in panels {
        let title = &panel["title"];
        let at = |name: &str| panel["gridPos"][name].as_u64();
        let (Some(x), Some(y), Some(w), Some(h)) = (at("x"), at("y"), at("w"), at("h")) else {
            found.push(format!("{title} has no place"));
            continue;
        };
        if w == 0 || h == 0 || x + w > u64::from(COLUMNS) {
            found.push(format!("{title} reaches out of the page"));
        }
        let cells = (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y)));
        // Not `any`, which would stop at the first one.
        if cells.filter(|cell| !taken.insert(*cell)).count() > 0 {
            found.push(format!("{title} lies upon another panel"));
        }
    }
    found
}

fn of_panel(dashboard: &Value, panel: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for pointer in ["/title", "/description", "/fieldConfig/defaults/unit"] {
        let text = panel.pointer(pointer).and_then(Value::as_str);
        if text.is_none_or(str::is_empty) {
            found.push(format!("has no {pointer}"));
        }
    }
    let source = panel["datasource"]["uid"].as_str();
    if source != Some("${datasource}") {
        found.push(format!("has the source of data {source:?}"));
    }
    if list(&panel["targets"]).next().is_none() {
        found.push("has no query".to_owned());
    }
    let mut ids = BTreeSet::new();
    for target in list(&panel["targets"]) {
        if !target["refId"].as_str().is_some_and(|id| ids.insert(id)) {
            found.push("has a query without a refId of its own".to_owned());
        }
        let expr = target["expr"].as_str().unwrap_or_default();
        if expr.is_empty() {
            found.push("has a query without an expression".to_owned());
        }
        // A name of matchers that is not in the source.
        if expr.contains('@') {
            found.push(format!("has an unknown name of matchers in {expr}"));
        }
    }
    let unknown = unknown_variables(dashboard, &panel.to_string());
    found.extend(
        unknown
            .iter()
            .map(|name| format!("uses ${name}, which is not a variable")),
    );
    found
}

fn unknown_variables(dashboard: &Value, text: &str) -> BTreeSet<String> {
    let variables = list(&dashboard["templating"]["list"]);
    let known: BTreeSet<_> = variables.filter_map(|one| one["name"].as_str()).collect();
    VARIABLE
        .captures_iter(text)
        .map(|found| found[1].to_owned())
        .filter(|name| !name.starts_with(BUILT_IN) && !known.contains(name.as_str()))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn panel(id: u32, x: u32, y: u32) -> Value {
        json!({
            "id": id,
            "type": "stat",
            "title": format!("panel {id}"),
            "description": "What it shows.",
            "datasource": { "uid": "${datasource}" },
            "fieldConfig": { "defaults": { "unit": "s" } },
            "gridPos": { "x": x, "y": y, "w": 12, "h": 4 },
            "targets": [{ "refId": "A", "expr": "up{job=~\"$job\"}" }],
        })
    }

    fn dashboard(panels: &[Value]) -> Value {
        json!({
            "uid": "a", "title": "A", "description": "A.", "schemaVersion": 39,
            "time": {}, "annotations": {}, "links": [], "panels": panels,
            "templating": { "list": [{ "name": "job" }, { "name": "datasource" }] },
        })
    }

    /// Returns the findings about two panels, of which the second was changed.
    fn after(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut second = panel(2, 12, 0);
        change(&mut second);
        findings(&dashboard(&[panel(1, 0, 0), second]))
    }

    #[test]
    fn a_panel_needs_a_number_a_title_and_a_place_of_its_own() {
        assert_eq!(after(|_| {}), [""; 0]);
        assert_eq!(after(|panel| panel["id"] = 1.into()).len(), 1);
        assert_eq!(after(|panel| panel["title"] = "panel 1".into()).len(), 1);
        let overlap = after(|panel| panel["gridPos"]["x"] = 11.into());
        assert_eq!(overlap, ["\"panel 2\" lies upon another panel"]);
        let outside = after(|panel| panel["gridPos"]["x"] = 13.into());
        assert_eq!(outside, ["\"panel 2\" reaches out of the page"]);
        assert_eq!(after(|panel| panel["gridPos"] = json!({})).len(), 1);
    }

    #[test]
    fn a_panel_says_what_it_shows_and_in_which_unit() {
        assert_eq!(after(|panel| panel["description"] = "".into()).len(), 1);
        let of_unit = after(|panel| panel["fieldConfig"]["defaults"] = json!({}));
        assert_eq!(of_unit.len(), 1);
        assert_eq!(after(|panel| panel["datasource"] = json!({})).len(), 1);
    }

    #[test]
    fn a_query_needs_an_expression_and_variables_that_exist() {
        assert_eq!(after(|panel| panel["targets"] = json!([])).len(), 1);
        let without = |name: &str| after(|panel| panel["targets"][0][name] = Value::Null).len();
        assert_eq!((without("expr"), without("refId")), (1, 1));
        let set = |expr: &str| after(|panel| panel["targets"][0]["expr"] = expr.into());
        assert_eq!(set("rate(a[$__rate_interval])"), [""; 0]);
        let unknown = set("up{job=~\"$jop\"}");
        assert_eq!(
            unknown,
            ["the panel \"panel 2\" uses $jop, which is not a variable"]
        );
        assert_eq!(set("up{@clients}").len(), 1);
    }

    #[test]
    fn a_dashboard_needs_its_fields_and_panels_below_headings_are_checked_too() {
        let mut without = dashboard(&[panel(1, 0, 0)]);
        without["uid"] = Value::Null;
        assert_eq!(findings(&without), ["it has no uid"]);
        let heading = json!({
            "id": 1, "type": "row", "title": "h", "panels": [panel(2, 0, 5), panel(2, 0, 5)],
            "gridPos": { "x": 0, "y": 4, "w": 24, "h": 1 },
        });
        let found = findings(&dashboard(&[heading]));
        // The number, the title and the place.
        assert_eq!(found.len(), 3, "{found:?}");
    }
}
