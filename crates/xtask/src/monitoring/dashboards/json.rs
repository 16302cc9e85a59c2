//! Makes Grafana's JSON of the source of a dashboard: the layout, and everything that the
//! dashboards and their panels have in common. How panels of each kind look is in `panel`.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{
    panel,
    source::{Dashboard, Row, Variable},
};

/// Grafana 10.4 and 11 write this version of the schema. Later versions of Grafana convert it when
/// they load it.
const SCHEMA_VERSION: u32 = 39;

/// The width of a page.
pub(super) const COLUMNS: u32 = 24;

/// The variable with the address of the runbooks, and its value with compose/monitoring.yml.
const RUNBOOKS: &str = "runbooks";
const RUNBOOKS_OF_COMPOSE: &str = "http://127.0.0.1:9090/user";

/// The tag by which the dashboards find each other.
const TAG: &str = "tickstorm";

/// What a variable stands for while all its values are chosen. It matches series without the label:
/// outside of Kubernetes, there is no `namespace`.
const ALL: &str = ".*";

/// Returns the text of a file for Grafana. Each panel has a line of its own, so that a change of a
/// panel is a change of a line.
pub(super) fn text(dashboard: &Dashboard) -> Result<String> {
    let panels = panels(dashboard)?;
    let panels: Vec<_> = panels.iter().map(Value::to_string).collect();
    let mut fields: Vec<_> = page(dashboard)
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{}: {value}", json!(name)))
        .collect();
    fields.push(format!("\"panels\": [\n{}\n]", panels.join(",\n")));
    Ok(format!("{{\n{}\n}}\n", fields.join(",\n")))
}

/// Returns the reference to the source of data that the reader has chosen.
pub(super) fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

/// Returns all fields but the panels.
fn page(dashboard: &Dashboard) -> Value {
    let mut variables = vec![json!({
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "refresh": 1,
        "regex": "",
        "hide": 0,
        "multi": false,
        "includeAll": false,
        "skipUrlSync": false,
        "options": [],
        "current": chosen("default"),
    })];
    variables.extend(dashboard.variables.iter().map(variable));
    variables.push(json!({
        "name": RUNBOOKS,
        "label": "Runbooks",
        "type": "textbox",
        "query": RUNBOOKS_OF_COMPOSE,
        "hide": 0,
        "skipUrlSync": false,
        "options": [chosen(RUNBOOKS_OF_COMPOSE)],
        "current": chosen(RUNBOOKS_OF_COMPOSE),
    }));
    json!({
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": true,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": { "from": "now-1h", "to": "now" },
        "timepicker": {},
        "timezone": "browser",
        "weekStart": "",
        "fiscalYearStartMonth": 0,
        "liveNow": false,
        "links": links(),
        "templating": { "list": variables },
        "annotations": { "list": annotations() },
    })
}

fn variable(variable: &Variable) -> Value {
    json!({
        "name": variable.name,
        "label": variable.label,
        "type": "query",
        "datasource": datasource(),
        "definition": variable.query,
        "query": variable.query,
        "refresh": 2,
        "regex": "",
        "sort": 1,
        "hide": 0,
        "multi": true,
        "includeAll": true,
        "allValue": ALL,
        "skipUrlSync": false,
        "options": [],
        "current": { "selected": true, "text": ["All"], "value": ["$__all"] },
    })
}

fn chosen(text: &str) -> Value {
    json!({ "selected": true, "text": text, "value": text })
}

/// Returns the address of a page of the runbooks.
pub(super) fn runbook(name: &str) -> String {
    format!("${{{RUNBOOKS}}}/{name}.md")
}

/// Returns a link of a panel, a curve, or a page, with all fields that the schema requires.
pub(super) fn link(title: &str, url: &str, opens_tab: bool) -> Value {
    json!({
        "asDropdown": false,
        "icon": "external link",
        "includeVars": false,
        "keepTime": false,
        "tags": [],
        "targetBlank": opens_tab,
        "title": title,
        "tooltip": "",
        "type": "link",
        "url": url,
    })
}

/// Links to the other dashboards, with the same time and values, and to the runbooks.
fn links() -> Value {
    let mut dashboards = link("Dashboards", "", false);
    dashboards["type"] = "dashboards".into();
    dashboards["tags"] = json!([TAG]);
    dashboards["includeVars"] = true.into();
    dashboards["keepTime"] = true.into();
    json!([dashboards, link("Runbooks", &runbook("README"), true)])
}

/// Marks on all curves: while alerts fire, and when daemons have started.
fn annotations() -> Value {
    json!([
        {
            "name": "Alerts",
            "enable": true,
            "hide": false,
            "iconColor": "red",
            "datasource": datasource(),
            "expr": "ALERTS{alertname=~\"Tickstorm.+\", alertstate=\"firing\", \
                     namespace=~\"$namespace\"}",
            "titleFormat": "{{alertname}}",
            "textFormat": "{{severity}} {{pod}} {{instance}} {{clock}}",
            "tagKeys": "severity",
        },
        {
            "name": "Starts",
            "enable": true,
            "hide": false,
            "iconColor": "blue",
            "datasource": datasource(),
            "expr": "process_start_time_seconds{job=~\"tickstorm-(edge|clock)\", \
                     namespace=~\"$namespace\"} * 1000",
            "titleFormat": "Start of {{pod}} {{instance}}",
            "textFormat": "{{job}}",
            "useValueForTime": "on",
        },
    ])
}

/// Returns the panels and headings, from left to right and from top to bottom.
fn panels(dashboard: &Dashboard) -> Result<Vec<Value>> {
    let mut layout = Layout::default();
    let mut all = Vec::new();
    for row in &dashboard.rows {
        if let Some(title) = &row.title {
            all.push(layout.heading(title, row.collapsed));
        }
        let panels = layout.row(dashboard, row)?;
        match all.last_mut() {
            Some(heading) if row.collapsed => heading["panels"] = panels.into(),
            Some(_) | None => all.extend(panels),
        }
    }
    Ok(all)
}

/// The next panel's number and place.
#[derive(Default)]
struct Layout {
    id: u32,
    y: u32,
}

impl Layout {
    fn heading(&mut self, title: &str, collapsed: bool) -> Value {
        let heading = json!({
            "id": self.next_id(),
            "type": "row",
            "title": title,
            "collapsed": collapsed,
            "gridPos": { "x": 0, "y": self.y, "w": COLUMNS, "h": 1 },
            "panels": [],
        });
        self.y += 1;
        heading
    }

    fn row(&mut self, dashboard: &Dashboard, row: &Row) -> Result<Vec<Value>> {
        let mut x = 0;
        let mut panels = Vec::new();
        for panel in &row.panels {
            ensure!(
                (1..=COLUMNS).contains(&panel.width),
                "the panel {:?} has a width of {}; 1 to {COLUMNS} are allowed",
                panel.title,
                panel.width
            );
            if x + panel.width > COLUMNS {
                x = 0;
                self.y += row.height;
            }
            let mut shown = panel::json(dashboard, panel);
            shown["id"] = self.next_id().into();
            shown["gridPos"] = json!({ "x": x, "y": self.y, "w": panel.width, "h": row.height });
            panels.push(shown);
            x += panel.width;
        }
        self.y += row.height;
        Ok(panels)
    }

    fn next_id(&mut self) -> u32 {
        self.id += 1;
        self.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitoring::dashboards::{check, parse};

    const SOURCE: &str = r#"
uid: a
title: A
description: A.
variables: [{ name: edge, label: Edge, query: "label_values(up, instance)" }]
selectors: { edge: 'instance=~"$edge"' }
rows:
  - title: open
    height: 4
    panels:
      - &panel
        title: one
        kind: stat
        width: 16
        unit: s
        description: D.
        queries: [expr: "up{@edge}"]
      - { <<: *panel, title: two, width: 8 }
      - { <<: *panel, title: three, width: 1 }
  - title: collapsed
    collapsed: true
    height: 5
    panels: [{ <<: *panel, title: four }]
"#;

    fn dashboard() -> Value {
        let source = Dashboard::parse(SOURCE).unwrap();
        parse("a", &text(&source).unwrap()).unwrap()
    }

    #[test]
    fn panels_are_placed_from_left_to_right_and_below_each_other() {
        let dashboard = dashboard();
        assert_eq!(check::findings(&dashboard), [""; 0]);
        let place =
            |panel: &Value| ["x", "y", "w", "h"].map(|name| panel["gridPos"][name].as_u64());
        let places: Vec<_> = super::super::panels(&dashboard).map(place).collect();
        let expected = [[0, 1, 16, 4], [16, 1, 8, 4], [0, 5, 1, 4], [0, 10, 16, 5]];
        assert_eq!(places, expected.map(|place| place.map(Some)));
        let headings = super::super::list(&dashboard["panels"]);
        let headings: Vec<_> = headings.filter(|panel| panel["type"] == "row").collect();
        let below = headings[1]["panels"].as_array().unwrap();
        assert_eq!(below[0]["title"], "four");
    }

    #[test]
    fn names_of_matchers_are_replaced_in_what_grafana_reads() {
        let dashboard = dashboard();
        let panel = super::super::panels(&dashboard).next().unwrap();
        assert_eq!(panel["targets"][0]["expr"], "up{instance=~\"$edge\"}");
    }

    #[test]
    fn a_panel_wider_than_the_page_is_an_error() {
        let source = SOURCE.replace("width: 8", "width: 25");
        assert!(text(&Dashboard::parse(&source).unwrap()).is_err());
    }
}
