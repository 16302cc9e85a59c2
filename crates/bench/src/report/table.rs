//! The results as text on the terminal.

use std::io::{self, Write};

use super::Report;
use crate::figure::Figure;

/// Prints the report to standard output.
pub(super) fn print(report: &Report) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match write(report, &mut out).and_then(|()| out.flush()) {
        // The reader has closed the pipe and wants no more.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

fn write(report: &Report, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{}: {} clients; {}",
        report.scenario, report.clients, report.machine
    )?;
    if let Some(tls) = &report.tls {
        writeln!(out, "{tls}")?;
    }
    write_figures(report, out)?;
    if !report.distributions.is_empty() {
        writeln!(
            out,
            "\n{:<44} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "latency (ms)", "count", "p50", "p95", "p99", "p99.9", "max"
        )?;
    }
    for of in &report.distributions {
        writeln!(
            out,
            "{:<44} {:>10} {:>9.3} {:>9.3} {:>9.3} {:>9.3} {:>9.3}",
            of.label, of.count, of.p50, of.p95, of.p99, of.p99_9, of.max
        )?;
    }
    if let Some(lateness) = &report.lateness {
        writeln!(out)?;
        for row in lateness.rows() {
            writeln!(out, "| {} |", row.join(" | "))?;
        }
    }
    let faults: Vec<String> = report
        .faults
        .iter()
        .map(|(name, count)| format!("{count} {}", name.replace('_', " ")))
        .collect();
    writeln!(out, "\nfaults: {}", faults.join(", "))?;
    for (end, count) in &report.ends {
        writeln!(out, "  {count} × {end}")?;
    }
    let own = &report.generator;
    if own.wall_ms > 0.0 {
        writeln!(
            out,
            "load generator: own user CPU time {:.1} % of the time in which ticks arrived \
             ({:.1} of {:.1} ms; {:.1} ms as sampled by the kernel)",
            own.user_share * 100.0,
            own.own_ms,
            own.wall_ms,
            own.user_ms
        )?;
    }
    if own.opening_ms > 0.0 {
        writeln!(
            out,
            "load generator: {:.1} ms of CPU time for opening TLS records, which is not part of \
             the above",
            own.opening_ms
        )?;
    }
    for note in &report.notes {
        writeln!(out, "note: {note}")?;
    }
    for void in &report.void {
        writeln!(out, "void: {void}")?;
    }
    Ok(())
}

fn write_figures(report: &Report, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "\n{:<56} {:>12} {:>12} {:>7}  rounds",
        "median over rounds", "edge", "bare loop", "ratio"
    )?;
    for figure in report.figures.iter().filter(|figure| figure.edge.is_some()) {
        let Figure { label, unit, .. } = figure;
        writeln!(
            out,
            "{:<56} {:>12} {:>12} {:>7}  {}",
            format!("{label} ({unit})"),
            value(figure.edge),
            value(figure.limit),
            figure
                .ratio
                .map_or(String::new(), |ratio| format!("{ratio:.2}")),
            figure.edge_rounds.len()
        )?;
    }
    Ok(())
}

/// Formats a value with as many digits as are significant.
pub(super) fn value(value: Option<f64>) -> String {
    match value {
        None => String::new(),
        Some(value) if value.fract() == 0.0 || value.abs() >= 1_000.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.3}"),
    }
}
