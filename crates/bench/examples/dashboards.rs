//! Draws the charts of docs/dashboards.md with the chart code of `tickstorm bench`. `cargo xtask
//! dashboards` calls it, with a file of curves and a directory for the charts.

use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use tickstorm_bench::{ChartLine, XAxis, draw_chart};

#[derive(Deserialize)]
struct Chart {
    name: String,
    y_label: String,
    lines: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    label: String,
    points: Vec<(f64, Option<f64>)>,
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [curves, directory] = &arguments[..] else {
        anyhow::bail!("the arguments are a file of curves and a directory");
    };
    let text = std::fs::read_to_string(curves).with_context(|| curves.clone())?;
    let charts: Vec<Chart> = serde_json::from_str(&text).with_context(|| curves.clone())?;
    for chart in charts {
        let lines: Vec<_> = chart.lines.into_iter().map(chart_line).collect();
        let svg = draw_chart(&lines, XAxis::Plain("seconds"), &chart.y_label)?;
        ensure!(!svg.is_empty(), "{} has no points", chart.name);
        let path = Path::new(directory).join(format!("{}.svg", chart.name));
        std::fs::write(&path, svg).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn chart_line(line: Line) -> ChartLine {
    let points = line.points.into_iter();
    ChartLine {
        label: line.label,
        points: points.map(|(x, y)| (x, y.unwrap_or(f64::NAN))).collect(),
    }
}
