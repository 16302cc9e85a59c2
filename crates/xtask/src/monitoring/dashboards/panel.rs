//! How a panel of each kind looks in Grafana.

use serde_json::{Value, json};

use super::{
    json::{datasource, link, runbook},
    source::{Column, Dashboard, Kind, Legend, Mapping, Panel, Step},
};

/// The label of tables whose values lead to runbooks.
const ALERT_NAME: &str = "alertname";

/// The dashboard of the edge to which a curve belongs, at the same time.
const EDGE: &str = "/d/tickstorm-edge?var-edge=${__field.labels.instance}\
                    &${datasource:queryparam}&${namespace:queryparam}&${__url_time_range}";

/// The column of a table that has the value and not a label.
const VALUE: &str = "Value";

/// Returns a panel, without its number and its place.
pub(super) fn json(dashboard: &Dashboard, panel: &Panel) -> Value {
    let mut shown = json!({
        "type": kind(panel.kind),
        "title": panel.title,
        "description": panel.description,
        "datasource": datasource(),
        "fieldConfig": { "defaults": defaults(panel), "overrides": overrides(panel) },
        "options": options(panel),
        "targets": targets(dashboard, panel),
        "links": runbooks(panel),
    });
    if panel.kind == Kind::Table {
        shown["transformations"] = json!([organized(&panel.columns)]);
    }
    shown
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Stat => "stat",
        Kind::Timeseries => "timeseries",
        Kind::StateTimeline => "state-timeline",
        Kind::Table => "table",
    }
}

fn defaults(panel: &Panel) -> Value {
    let by_thresholds = panel.kind != Kind::Timeseries;
    let color = if by_thresholds {
        "thresholds"
    } else {
        "palette-classic"
    };
    let mut defaults = json!({
        "unit": panel.unit,
        "color": { "mode": color },
        "thresholds": { "mode": "absolute", "steps": steps(&panel.thresholds) },
        "mappings": mappings(&panel.mappings),
        "custom": custom(panel),
    });
    if panel.opens_edge {
        defaults["links"] = json!([link("Open the edge", EDGE, false)]);
    }
    if let Some(decimals) = panel.decimals {
        defaults["decimals"] = decimals.into();
    }
    for (name, bound) in [("min", panel.min), ("max", panel.max)] {
        if let Some(bound) = bound {
            defaults[name] = bound.into();
        }
    }
    defaults
}

fn steps(thresholds: &[Step]) -> Value {
    let step = |step: &Step| json!({ "color": step.color, "value": step.from });
    if thresholds.is_empty() {
        return json!([{ "color": "green", "value": null }]);
    }
    thresholds.iter().map(step).collect()
}

fn mappings(mappings: &[Mapping]) -> Value {
    let numbered = mappings.iter().enumerate();
    let (special, plain): (Vec<_>, Vec<_>) = numbered.partition(|(_, one)| one.value == "NaN");
    let result = |index: usize, mapping: &Mapping| {
        let Mapping { color, text, .. } = mapping;
        json!({ "color": color, "index": index, "text": text })
    };
    let values: serde_json::Map<_, _> = plain
        .into_iter()
        .map(|(index, mapping)| (mapping.value.clone(), result(index, mapping)))
        .collect();
    let mut all = Vec::new();
    if !values.is_empty() {
        all.push(json!({ "type": "value", "options": values }));
    }
    all.extend(special.into_iter().map(|(index, mapping)| {
        let options = json!({ "match": "nan", "result": result(index, mapping) });
        json!({ "type": "special", "options": options })
    }));
    all.into()
}

/// Returns the settings that only panels of this kind have.
fn custom(panel: &Panel) -> Value {
    match panel.kind {
        Kind::Stat => json!({}),
        Kind::Timeseries => json!({
            "drawStyle": "line",
            "lineInterpolation": "linear",
            "lineWidth": 1,
            "fillOpacity": if panel.stacked { 30 } else { 8 },
            "gradientMode": "none",
            "showPoints": "never",
            "spanNulls": false,
            "insertNulls": false,
            "stacking": { "mode": if panel.stacked { "normal" } else { "none" }, "group": "A" },
            "thresholdsStyle": { "mode": thresholds_style(&panel.thresholds) },
        }),
        Kind::StateTimeline => {
            json!({ "fillOpacity": 70, "lineWidth": 0, "spanNulls": false, "insertNulls": false })
        }
        Kind::Table => {
            json!({ "align": "auto", "cellOptions": { "type": "auto" }, "inspect": false })
        }
    }
}

/// A line is drawn in the colour above it. If it is the values below that are bad, their area is
/// coloured.
fn thresholds_style(thresholds: &[Step]) -> &'static str {
    match thresholds.first() {
        None => "off",
        Some(first) if first.color == "transparent" => "line",
        Some(_) => "area",
    }
}

fn options(panel: &Panel) -> Value {
    let tooltip = json!({ "mode": "multi", "sort": "desc" });
    match panel.kind {
        Kind::Stat => json!({
            "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
            "colorMode": "value",
            "graphMode": if panel.sparkline { "area" } else { "none" },
            "justifyMode": "auto",
            "orientation": "auto",
            "textMode": "auto",
            "wideLayout": true,
            "showPercentChange": false,
            "percentChangeColorMode": "standard",
        }),
        Kind::Timeseries => json!({ "legend": legend(panel.legend), "tooltip": tooltip }),
        Kind::StateTimeline => json!({
            "mergeValues": true,
            "showValue": "auto",
            "alignValue": "left",
            "rowHeight": 0.9,
            "legend": {
                "showLegend": false,
                "displayMode": "list",
                "placement": "bottom",
                "calcs": [],
            },
            "tooltip": { "mode": "single", "sort": "none" },
        }),
        Kind::Table => json!({ "frameIndex": 0, "showHeader": true, "cellHeight": "sm" }),
    }
}

fn legend(legend: Legend) -> Value {
    let (mode, placement, calculations): (_, _, &[&str]) = match legend {
        Legend::List => ("list", "bottom", &[]),
        Legend::Table => ("table", "right", &["lastNotNull", "max"]),
    };
    let calculations = json!(calculations);
    json!({
        "showLegend": true,
        "displayMode": mode,
        "placement": placement,
        "calcs": calculations,
    })
}

fn targets(dashboard: &Dashboard, panel: &Panel) -> Value {
    let is_table = panel.kind == Kind::Table;
    // A number without a curve needs the latest value only.
    let is_instant = is_table || panel.kind == Kind::Stat && !panel.sparkline;
    let format = if is_table { "table" } else { "time_series" };
    let queries = ('A'..='Z').zip(&panel.queries);
    let target = |(id, query): (char, &super::source::Query)| {
        json!({
            "refId": id.to_string(),
            "datasource": datasource(),
            "editorMode": "code",
            "expr": dashboard.expand(&query.expr),
            "legendFormat": query.legend.as_deref().unwrap_or("__auto"),
            "format": format,
            "instant": is_instant,
            "range": !is_instant,
        })
    };
    queries.map(target).collect()
}

fn runbooks(panel: &Panel) -> Value {
    let to_page = |alert: &String| link(&format!("Runbook of {alert}"), &runbook(alert), true);
    panel.runbooks.iter().map(to_page).collect()
}

/// Returns the transformation of a table: the headings and the order of its columns.
fn organized(columns: &[Column]) -> Value {
    let is_shown = |label: &str| columns.iter().any(|column| column.label == label);
    let hidden = ["Time", VALUE].into_iter().filter(|label| !is_shown(label));
    let hidden: serde_json::Map<_, _> = hidden.map(|one| (one.to_owned(), true.into())).collect();
    let of = |value: fn((usize, &Column)) -> Value| -> serde_json::Map<_, _> {
        let columns = columns.iter().enumerate();
        let named = columns.map(|(index, column)| (column.label.clone(), value((index, column))));
        named.collect()
    };
    json!({
        "id": "organize",
        "options": {
            "excludeByName": hidden,
            "indexByName": of(|(index, _)| index.into()),
            "renameByName": of(|(_, column)| column.heading.clone().into()),
        },
    })
}

/// Returns what is particular to single columns of a table: names of alerts lead to their runbooks,
/// and values have the colours of the thresholds.
fn overrides(panel: &Panel) -> Value {
    let of = |heading: &str, property: Value| {
        let matcher = json!({ "id": "byName", "options": heading });
        json!({ "matcher": matcher, "properties": [property] })
    };
    let column = |column: &Column| {
        if column.label == ALERT_NAME {
            let to_page = link("Runbook", &runbook("${__value.text}"), true);
            return Some(of(
                &column.heading,
                json!({ "id": "links", "value": [to_page] }),
            ));
        }
        (column.label == VALUE && !panel.thresholds.is_empty()).then(|| {
            let cell = json!({ "type": "color-text" });
            of(
                &column.heading,
                json!({ "id": "custom.cellOptions", "value": cell }),
            )
        })
    };
    panel.columns.iter().filter_map(column).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(text: &str) -> Step {
        Step::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn thresholds_are_lines_above_what_is_good_and_areas_otherwise() {
        assert_eq!(thresholds_style(&[]), "off");
        let above = ["transparent", "0.01 red"].map(step);
        assert_eq!(thresholds_style(&above), "line");
        let below = ["red", "0.1 transparent"].map(step);
        assert_eq!(thresholds_style(&below), "area");
        let expected = json!([
            { "color": "red", "value": null },
            { "color": "transparent", "value": 0.1 },
        ]);
        assert_eq!(steps(&below), expected);
    }

    #[test]
    fn words_stand_for_values_and_for_what_is_no_number() {
        let given = ["0 red not ready", "NaN text unknown"];
        let given = given.map(|text| Mapping::try_from(text.to_owned()).unwrap());
        let expected = json!([
            { "type": "value", "options": {
                "0": { "color": "red", "index": 0, "text": "not ready" },
            } },
            { "type": "special", "options": {
                "match": "nan", "result": { "color": "text", "index": 1, "text": "unknown" },
            } },
        ]);
        assert_eq!(mappings(&given), expected);
    }

    #[test]
    fn a_table_shows_its_columns_in_their_order_and_no_other_values() {
        let columns = ["job Program", "server Server"];
        let columns = columns.map(|text| Column::try_from(text.to_owned()).unwrap());
        let options = &organized(&columns)["options"];
        assert_eq!(options["indexByName"], json!({ "job": 0, "server": 1 }));
        assert_eq!(options["renameByName"]["job"], "Program");
        assert_eq!(
            options["excludeByName"],
            json!({ "Time": true, "Value": true })
        );
    }
}
