//! The results as a self-contained HTML page: no network, no scripts.

use anyhow::Result;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::chart::{ChartLine, XAxis, draw};
use super::table::value;
use super::{Distribution, LatenessTable, Report};
use crate::figure::{Figure, number};

const STYLE: &str = "\
    body{font:15px/1.45 system-ui,sans-serif;max-width:900px;margin:2em auto;\
    padding:0 1em;color:#222}\
    table{border-collapse:collapse;width:100%}\
    th,td{padding:.25em .6em;text-align:right;border-bottom:1px solid #ddd}\
    th:first-child,td:first-child{text-align:left}\
    code{background:#f3f3f3;padding:.1em .3em}\
    .bad{color:#b00020;font-weight:bold}";

/// Renders the page.
pub(super) fn of(report: &Report) -> Result<String> {
    let charts = charts(report)?;
    let title = format!(
        "tickstorm bench {}: {} clients",
        report.scenario, report.clients
    );
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head { meta charset="utf-8"; title { (title) } style { (PreEscaped(STYLE)) } }
            body {
                h1 { (title) }
                p { (report.machine) "; TickStorm " (report.version) }
                @if let Some(tls) = &report.tls { p { (tls) } }
                p { code { (report.command.join(" ")) } }
                @for bad in report.violations.iter().chain(&report.void) { p.bad { (bad) } }
                (figures(report))
                (distributions(&report.distributions))
                @if let Some(lateness) = &report.lateness { (released(lateness)) }
                @for (title, svg) in &charts { h2 { (title) } (PreEscaped(svg)) }
                (counts(report))
            }
        }
    };
    Ok(page.into_string())
}

fn figures(report: &Report) -> Markup {
    let known = report.figures.iter().filter(|figure| figure.edge.is_some());
    html! {
        h2 { "Figures" }
        table {
            tr {
                th { "median over rounds" } th { "edge" } th { "bare loop" }
                th { "ratio" } th { "rounds" }
            }
            @for figure in known {
                tr {
                    td { (figure.label) " (" (figure.unit) ")" }
                    td { (value(figure.edge)) } td { (value(figure.limit)) }
                    td { (figure.ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"))) }
                    td { (figure.edge_rounds.len()) }
                }
            }
        }
    }
}

fn distributions(distributions: &[Distribution]) -> Markup {
    html! {
        h2 { "Latencies (ms)" }
        table {
            tr {
                th { "" } th { "count" }
                th { "p50" } th { "p95" } th { "p99" } th { "p99.9" } th { "max" }
            }
            @for of in distributions {
                tr {
                    td { (of.label) } td { (of.count) }
                    @for quantile in [of.p50, of.p95, of.p99, of.p99_9, of.max] {
                        td { (format!("{quantile:.3}")) }
                    }
                }
            }
        }
    }
}

fn released(lateness: &LatenessTable) -> Markup {
    let mut rows = lateness.rows().into_iter();
    let head = rows.next().unwrap_or_default();
    html! {
        h2 { "Release lateness" }
        table {
            tr { @for cell in head { th { (cell) } } }
            // The second row is the rule that only Markdown needs.
            @for row in rows.skip(1) { tr { @for cell in row { td { (cell) } } } }
        }
    }
}

fn counts(report: &Report) -> Markup {
    let own = &report.generator;
    html! {
        h2 { "Faults" }
        p { @for (name, count) in &report.faults { (count) " " (name.replace('_', " ")) "; " } }
        @for (end, count) in &report.ends { p { (count) " × " (end) } }
        p {
            "Load generator: own user CPU time " (format!("{:.2}", own.user_share * 100.0))
            " % of the time in which ticks arrived."
            @if own.opening_ms > 0.0 {
                " Besides, " (format!("{:.1}", own.opening_ms)) " ms for opening TLS records."
            }
        }
        @for note in &report.notes { p { (note) } }
    }
}

/// Draws the charts and returns each with its title.
fn charts(report: &Report) -> Result<Vec<(String, String)>> {
    let mut charts = Vec::new();
    let quantiles: Vec<ChartLine> = report.distributions.iter().map(by_quantile).collect();
    if !quantiles.is_empty() {
        let svg = draw(&quantiles, XAxis::Quantiles, "milliseconds")?;
        charts.push(("Latency by percentile".to_owned(), svg));
    }
    for figure in report
        .figures
        .iter()
        .filter(|figure| figure.edge_rounds.len() > 1)
    {
        let mut lines = vec![line("edge", &figure.edge_rounds)];
        if !figure.limit_rounds.is_empty() {
            lines.push(line("bare loop", &figure.limit_rounds));
        }
        let svg = draw(&lines, XAxis::Plain("round"), figure.unit)?;
        let Figure { label, .. } = figure;
        charts.push((format!("{label}, by round"), svg));
    }
    for series in &report.series {
        let lines = [ChartLine {
            label: series.label.to_owned(),
            points: series.points.clone(),
        }];
        let svg = draw(&lines, XAxis::Plain("seconds"), series.label)?;
        charts.push((format!("{}, over time", series.label), svg));
    }
    Ok(charts)
}

fn by_quantile(of: &Distribution) -> ChartLine {
    let points = of.curve.iter();
    ChartLine {
        label: of.label.to_owned(),
        points: points
            .map(|(quantile, millis)| (-(1.0 - quantile).log10(), *millis))
            .collect(),
    }
}

fn line(label: &str, rounds: &[f64]) -> ChartLine {
    let points = rounds.iter().enumerate();
    ChartLine {
        label: label.to_owned(),
        points: points
            .map(|(round, value)| (number(round as u64 + 1), *value))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::histogram;
    use crate::report::Series;

    #[test]
    fn the_page_has_every_figure_and_chart_and_loads_nothing_from_elsewhere() {
        let mut report = crate::report::tests::report();
        let figure = Figure::of("id", "A < B", "µs", vec![1.0, 2.0, 3.0]);
        report.figures.push(figure.against(vec![1.0, 2.0, 2.0]));
        let mut latencies = histogram();
        (1..=100).for_each(|micros| latencies.record(micros * 1_000).unwrap());
        report
            .distributions
            .extend(Distribution::of("id", "after", &latencies));
        report.series.push(Series {
            id: "rss",
            label: "resident memory",
            points: vec![(0.0, 1.0), (1.0, 2.0)],
        });
        let page = of(&report).unwrap();
        assert!(page.contains("A &lt; B (µs)"), "{page}");
        assert_eq!(page.matches("<svg").count(), 3, "{page}");
        for foreign in ["src=", "href=", "<script", "@import", "url("] {
            assert!(!page.contains(foreign), "{foreign} in {page}");
        }
    }
}
