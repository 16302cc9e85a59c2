//! `cargo xtask dashboards`: draws the panels that docs/dashboards.md shows, from what a Prometheus
//! has recorded. It asks Prometheus with promtool, by the same queries as Grafana, and lets the
//! chart code of `tickstorm bench` draw the answers.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{
    Query, queries,
    source::{Dashboard, Panel, Step},
};
use crate::{
    command::{cargo, in_workspace},
    monitoring::tools::{self, PROMTOOL},
};

/// The directory of the charts.
const CHARTS: &str = "docs/charts/dashboards";

/// The file that passes the curves to the program that draws them.
const CURVES: &str = "target/dashboard-charts.json";

/// What a Prometheus has recorded.
#[derive(clap::Args)]
pub(crate) struct Recording {
    /// Prometheus to ask
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9090")]
    prometheus: String,
    /// Start of the recording, as Unix time in seconds
    #[arg(long, value_name = "TIME")]
    from: u32,
    /// End of the recording
    #[arg(long, value_name = "TIME")]
    to: u32,
    /// Distance between two points, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    step: u32,
}

/// A picture of a panel.
#[derive(Serialize)]
struct Chart {
    name: String,
    y_label: &'static str,
    lines: Vec<Line>,
}

/// A curve. There is no number where the series has none.
#[derive(Serialize)]
struct Line {
    label: String,
    points: Vec<(f64, Option<f64>)>,
}

/// A series in the answer of Prometheus, with pairs of a time and a number as text.
#[derive(Deserialize)]
struct Series {
    metric: BTreeMap<String, String>,
    values: Vec<(f64, String)>,
}

/// Draws all panels that have a chart.
pub(crate) fn draw(recording: &Recording) -> Result<()> {
    tools::provide()?;
    let queries = queries()?;
    let mut charts = Vec::new();
    for dashboard in Dashboard::all()?.values() {
        for panel in dashboard.panels() {
            let Some(name) = &panel.chart else { continue };
            let is_its =
                |query: &&Query| query.dashboard == dashboard.title && query.panel == panel.title;
            let lines = lines(recording, queries.iter().filter(is_its))?;
            ensure!(!lines.is_empty(), "there is no data for {:?}", panel.title);
            charts.push(chart(name, panel, lines));
        }
    }
    fs::write(in_workspace(CURVES), serde_json::to_string(&charts)?)?;
    fs::create_dir_all(in_workspace(CHARTS))?;
    cargo("run --quiet --locked --package tickstorm-bench --example dashboards --")
        .args(&[CURVES, CHARTS])
        .run()
}

/// Asks for the curves of a panel.
fn lines<'a>(recording: &Recording, queries: impl Iterator<Item = &'a Query>) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for query in queries {
        let arguments = [
            format!("--start={}", recording.from),
            format!("--end={}", recording.to),
            format!("--step={}s", recording.step),
            recording.prometheus.clone(),
            query.expr.clone(),
        ];
        let arguments = arguments.each_ref().map(String::as_str);
        let call = PROMTOOL.call(&["query", "range", "--format=json"])?;
        let answer = call.args(&arguments).output()?;
        let series: Vec<Series> = serde_json::from_slice(&answer)
            .with_context(|| format!("could not parse the answer to {}", query.expr))?;
        for one in series {
            lines.push(Line {
                label: named(&query.legend, &one.metric),
                points: points(recording, &one)?,
            });
        }
    }
    Ok(lines)
}

/// Returns a point for each step, so that gaps stay gaps.
fn points(recording: &Recording, series: &Series) -> Result<Vec<(f64, Option<f64>)>> {
    let mut values = BTreeMap::new();
    for (time, value) in &series.values {
        // Prometheus writes NaN and +Inf as Rust reads them.
        let value: f64 = value.parse()?;
        values.insert(time.to_bits(), value);
    }
    let steps = (recording.from..=recording.to).step_by(usize::try_from(recording.step.max(1))?);
    let point = |time: u32| {
        let value = values.get(&f64::from(time).to_bits()).copied();
        let value = value.filter(|value| value.is_finite());
        (f64::from(time - recording.from), value)
    };
    Ok(steps.map(point).collect())
}

/// Fills labels into Grafana's template of a legend: `{{instance}} 99 %`.
fn named(template: &str, labels: &BTreeMap<String, String>) -> String {
    let mut name = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (label, after) = after.split_once("}}").unwrap_or((after, ""));
        name.push_str(before);
        name.push_str(labels.get(label.trim()).map_or("", String::as_str));
        rest = after;
    }
    name.push_str(rest);
    name.trim().to_owned()
}

/// Returns a chart in a unit that suits its values.
fn chart(name: &str, panel: &Panel, lines: Vec<Line>) -> Chart {
    let most = lines.iter().map(greatest).fold(0.0, f64::max);
    let mut lines = without_zeros(lines);
    lines.extend(threshold(&panel.thresholds, most, &lines));
    let (factor, y_label) = unit(&panel.unit, most);
    for line in &mut lines {
        for (_, value) in &mut line.points {
            *value = value.map(|value| value * factor);
        }
    }
    Chart {
        name: name.to_owned(),
        y_label,
        lines,
    }
}

/// Leaves out the curves that are 0 throughout, unless all are: there is one for each reason of
/// each counter.
fn without_zeros(lines: Vec<Line>) -> Vec<Line> {
    let (zero, other): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| greatest(line) == 0.0);
    if other.is_empty() { zero } else { other }
}

fn greatest(line: &Line) -> f64 {
    let values = line.points.iter().filter_map(|(_, value)| *value);
    values.map(f64::abs).fold(0.0, f64::max)
}

/// Returns the line above which a panel turns red, unless all values are so far below that it would
/// press them flat.
fn threshold(steps: &[Step], most: f64, lines: &[Line]) -> Option<Line> {
    let is_line = steps.first()?.color == "transparent";
    let from = steps.last()?.from?;
    let points = &lines.first()?.points;
    (is_line && most > from / 3.0).then(|| Line {
        label: "threshold".to_owned(),
        points: points.iter().map(|(time, _)| (*time, Some(from))).collect(),
    })
}

/// Returns the factor and the name of the unit in which values up to `most` read best.
fn unit(unit: &str, most: f64) -> (f64, &'static str) {
    match unit {
        "s" if most < 1e-3 => (1e6, "microseconds"),
        "s" if most < 1.0 => (1e3, "milliseconds"),
        "s" => (1.0, "seconds"),
        "percentunit" => (100.0, "per cent"),
        "bytes" => (1.0 / f64::from(1 << 20), "MiB"),
        _ => (1.0, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(values: &[Option<f64>]) -> Line {
        let points = values.iter().enumerate();
        let points =
            points.map(|(second, value)| (f64::from(u8::try_from(second).unwrap()), *value));
        Line {
            label: "a".to_owned(),
            points: points.collect(),
        }
    }

    #[test]
    fn labels_fill_a_legend_and_missing_ones_leave_nothing() {
        let labels = [("instance", "edge-0"), ("shard", "1")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let named = |template: &str| named(template, &labels.clone().into());
        assert_eq!(
            named("{{pod}} {{instance}} shard {{shard}}"),
            "edge-0 shard 1"
        );
        assert_eq!(named("all"), "all");
        assert_eq!(named("{{instance"), "edge-0");
    }

    #[test]
    fn a_step_without_a_number_is_a_gap() {
        let recording = Recording {
            prometheus: String::new(),
            from: 100,
            to: 120,
            step: 5,
        };
        let values = [(100.0, "1"), (105.0, "NaN"), (115.0, "+Inf"), (120.0, "-2")];
        let series = Series {
            metric: BTreeMap::new(),
            values: values.map(|(time, value)| (time, value.to_owned())).into(),
        };
        let expected = [
            (0.0, Some(1.0)),
            (5.0, None),
            (10.0, None),
            (15.0, None),
            (20.0, Some(-2.0)),
        ];
        assert_eq!(points(&recording, &series).unwrap(), expected);
    }

    #[test]
    fn curves_of_zeros_are_left_out_unless_there_are_no_others() {
        let lines = || vec![line(&[Some(0.0)]), line(&[Some(-1.0)])];
        assert_eq!(without_zeros(lines()).len(), 1);
        let zeros = vec![line(&[Some(0.0)]), line(&[None])];
        assert_eq!(without_zeros(zeros).len(), 2);
    }

    #[test]
    fn a_threshold_far_above_all_values_is_not_drawn() {
        let steps =
            ["transparent", "0.01 red"].map(|step| Step::try_from(step.to_owned()).unwrap());
        let lines = [line(&[Some(0.0), Some(0.005)])];
        let drawn = threshold(&steps, 0.005, &lines).unwrap();
        assert_eq!(drawn.points, [(0.0, Some(0.01)), (1.0, Some(0.01))]);
        assert!(threshold(&steps, 0.001, &lines).is_none());
        let colored = [Step::try_from("green".to_owned()).unwrap()];
        assert!(threshold(&colored, 0.005, &lines).is_none());
    }
}
