//! The report for people: tables and sentences that fit into a terminal of 80 columns.

use std::fmt;

use jiff::Timestamp;

use super::answer::{Answer, Asked, Clock, Edge, LinkState, NatsLink, SeenClock};
use super::findings::{Apart, Findings, RaisedAlarm, Verdict};
use super::table::{Cell, Column, Paint, Table, Tone};
use super::text::{bound, clean, counted, offset, span, uptime, wrap};

/// The columns of the terminal that the report needs.
const WIDTH: usize = 80;

/// The meaning of the symbols in front of clocks.
const LEGEND: &str = "  \
  * followed  + accepted  x falseticker, not trusted  ~ disagrees, not accepted
  ? heard, not judged yet  - silent, no answer for 10 s
";

/// The report about all ports.
pub(super) struct Report<'a> {
    asked: &'a [Asked],
    findings: &'a Findings,
    paint: Paint,
}

impl<'a> Report<'a> {
    pub(super) const fn new(asked: &'a [Asked], findings: &'a Findings, paint: Paint) -> Self {
        Self {
            asked,
            findings,
            paint,
        }
    }

    fn answers(&self) -> impl Iterator<Item = &'a Answer> {
        self.asked.iter().filter_map(Asked::answer)
    }

    fn heading(&self, f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
        writeln!(f, "\n{}", self.paint.paint(Tone::Heading, text))
    }

    /// Writes the time of the first edge that knows it, by which the report can be told from an
    /// older one.
    fn write_time(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let edges = self.answers().filter_map(|answer| answer.edge.as_ref());
        let known = edges.filter_map(|edge| Some((edge, edge.authority.as_ref()?)));
        let mut times = known.filter_map(|(edge, authority)| {
            let second = Timestamp::from_second(authority.unix_us.div_euclid(1_000_000)).ok()?;
            Some((clean(&edge.id), second))
        });
        match times.next() {
            Some((edge, time)) => writeln!(f, "Time {time}, by {edge}"),
            None => writeln!(f, "Time unknown"),
        }
    }

    fn write_seen_clocks(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = [
            Column::words("", 1),
            Column::words("Edge", 20),
            Column::words("Clock", 20),
            Column::numbers("Rank", 4),
            Column::numbers("Offset", 11),
            Column::numbers("Bound", 10),
        ];
        let mut table = Table::new(columns, self.paint);
        for edge in self.answers().filter_map(|answer| answer.edge.as_ref()) {
            for clock in &edge.clocks {
                table.push(seen_clock(edge, clock));
            }
        }
        if table.is_empty() {
            return Ok(());
        }
        self.heading(f, "CLOCKS, AS EDGES SEE THEM")?;
        write!(f, "{table}{LEGEND}")
    }

    fn write_edges(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = [
            Column::words("Edge", 12),
            Column::words("State", 9),
            Column::numbers("Connections", 15),
            Column::numbers("Time", 8),
            Column::words("Follows", 11),
            Column::words("NATS", 7),
            Column::numbers("Up", 6),
        ];
        let mut table = Table::new(columns, self.paint);
        for answer in self.answers() {
            if let Some(edge) = &answer.edge {
                table.push(edge_row(answer, edge));
            }
        }
        if table.is_empty() {
            return Ok(());
        }
        self.heading(f, "EDGES")?;
        write!(f, "{table}")
    }

    fn write_clocks(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = [
            Column::words("Clock", 16),
            Column::words("State", 9),
            Column::words("Disciplined", 11),
            Column::numbers("Error", 10),
            Column::words("NATS", 7),
            Column::words("Announced", 9),
            Column::numbers("Up", 6),
        ];
        let mut table = Table::new(columns, self.paint);
        for answer in self.answers() {
            if let Some(clock) = &answer.clock {
                table.push(clock_row(answer, clock));
            }
        }
        if table.is_empty() {
            return Ok(());
        }
        self.heading(f, "CLOCKS, AS THEY SEE THEMSELVES")?;
        write!(f, "{table}")
    }

    fn write_times_apart(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = [
            Column::words("By clock", 16),
            Column::words("Ahead", 18),
            Column::words("Behind", 18),
            Column::numbers("Apart", 9),
            Column::numbers("Bounds", 10),
        ];
        let mut table = Table::new(columns, self.paint);
        for apart in &self.findings.apart {
            let Apart {
                clock,
                ahead,
                behind,
                apart_us,
                bounds_us,
                ..
            } = apart;
            let tone = if apart.is_beyond_bounds() {
                Tone::Bad
            } else {
                Tone::Normal
            };
            table.push([
                clock.into(),
                ahead.into(),
                behind.into(),
                Cell::new(span(*apart_us), tone),
                bound(*bounds_us).into(),
            ]);
        }
        if table.is_empty() {
            return Ok(());
        }
        self.heading(f, "TIMES OF THE EDGES THAT ARE THE FURTHEST APART")?;
        write!(f, "{table}")
    }

    fn write_alarms(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let alarms = &self.findings.alarms;
        if alarms.is_empty() {
            return Ok(());
        }
        self.heading(f, "ALARMS")?;
        for raised in alarms {
            let reason = self.paint.paint(Tone::Bad, &clean(&raised.alarm.reason));
            writeln!(f, "{reason}")?;
            for sentence in sentences(raised) {
                write_wrapped(f, &sentence, "  ", "  ")?;
            }
        }
        Ok(())
    }

    fn write_list(
        &self,
        f: &mut fmt::Formatter<'_>,
        heading: &str,
        tone: Tone,
        items: &[&String],
    ) -> fmt::Result {
        if items.is_empty() {
            return Ok(());
        }
        self.heading(f, heading)?;
        for item in items {
            let mark = self.paint.paint(tone, "-");
            write_wrapped(f, item, &format!("{mark} "), "  ")?;
        }
        Ok(())
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let findings = self.findings;
        self.write_time(f)?;
        self.write_seen_clocks(f)?;
        self.write_edges(f)?;
        self.write_clocks(f)?;
        self.write_times_apart(f)?;
        self.write_alarms(f)?;
        let problems = findings.unreachable.iter().chain(&findings.problems);
        self.write_list(f, "PROBLEMS", Tone::Bad, &problems.collect::<Vec<_>>())?;
        let remarks = findings.remarks.iter().collect::<Vec<_>>();
        self.write_list(f, "REMARKS", Tone::Remark, &remarks)?;
        if findings.verdict() == Verdict::Well {
            let verdict = format!("{}.", capitalized(&findings.summary()));
            writeln!(f, "\n{}", self.paint.paint(Tone::Good, &verdict))?;
        }
        Ok(())
    }
}

fn seen_clock(edge: &Edge, clock: &SeenClock) -> [Cell; 6] {
    let authority = edge.authority.as_ref();
    let is_followed = authority.is_some_and(|time| time.following.as_ref() == Some(&clock.id));
    let (symbol, tone) = match &*clock.state {
        _ if is_followed => ("*", Tone::Good),
        "accepted" => ("+", Tone::Normal),
        "false" => ("x", Tone::Bad),
        "disagrees" => ("~", Tone::Bad),
        "silent" => ("-", Tone::Bad),
        _ => ("?", Tone::Normal),
    };
    [
        Cell::new(symbol, tone),
        (&edge.id).into(),
        (&clock.id).into(),
        clock
            .rank
            .map(|rank| rank.to_string())
            .unwrap_or_default()
            .into(),
        clock.offset_us.map(offset).unwrap_or_default().into(),
        clock.bound_us.map(bound).unwrap_or_default().into(),
    ]
}

fn edge_row(answer: &Answer, edge: &Edge) -> [Cell; 7] {
    let authority = edge.authority.as_ref();
    let follows = match authority {
        None => Cell::new("-", Tone::Bad),
        Some(time) => match &time.following {
            Some(clock) => clock.into(),
            None => Cell::new("holdover", Tone::Bad),
        },
    };
    let time = match authority {
        None => Cell::new("unknown", Tone::Bad),
        Some(time) => bound(time.bound_us).into(),
    };
    [
        (&edge.id).into(),
        state(answer, edge.draining),
        format!("{}/{}", edge.connections, edge.max_connections).into(),
        time,
        follows,
        link(&edge.nats_link),
        up(answer),
    ]
}

fn clock_row(answer: &Answer, clock: &Clock) -> [Cell; 7] {
    let disciplined = if clock.synchronized {
        "yes".into()
    } else {
        Cell::new("no", Tone::Bad)
    };
    let announced = clock.last_announced_epoch_ms;
    let announced = announced.and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let announced = announced.map_or_else(
        || Cell::new("nothing", Tone::Bad),
        |time| time.strftime("%H:%M:%S").to_string().into(),
    );
    let nats = if clock.nats {
        link(&clock.nats_link)
    } else {
        Cell::new("no", Tone::Bad)
    };
    [
        (&clock.id).into(),
        state(answer, false),
        disciplined,
        clock.clock_error_us.map(bound).unwrap_or_default().into(),
        nats,
        announced,
        up(answer),
    ]
}

fn state(answer: &Answer, is_draining: bool) -> Cell {
    match (answer.process.ready, is_draining) {
        (true, _) => Cell::new("ready", Tone::Good),
        (false, true) => Cell::new("draining", Tone::Bad),
        (false, false) => Cell::new("not ready", Tone::Bad),
    }
}

fn link(link: &NatsLink) -> Cell {
    match link.state() {
        LinkState::Heard => "yes".into(),
        LinkState::Silent => Cell::new("silent", Tone::Bad),
        LinkState::Refused => Cell::new("refused", Tone::Bad),
        LinkState::Absent => Cell::new("no", Tone::Bad),
    }
}

fn up(answer: &Answer) -> Cell {
    let seconds = answer.process.uptime_s;
    seconds.map(uptime).unwrap_or_default().into()
}

/// Returns what an alarm means and what to do, one sentence or more for each line.
fn sentences(raised: &RaisedAlarm) -> Vec<String> {
    let mut at = format!("At {}", raised.at.join(", "));
    if !raised.clocks.is_empty() {
        let clocks = raised.clocks.iter().map(String::as_str);
        let names = clocks.collect::<Vec<_>>().join(", ");
        let noun = counted(raised.clocks.len(), "clock");
        let noun = noun.trim_start_matches(|char: char| char.is_ascii_digit());
        at = format!("{at}, about the{noun} {names}");
    }
    let alarm = &raised.alarm;
    let action = alarm.action.as_ref();
    let lines = [
        Some(format!("{at}.")),
        Some(clean(&alarm.message)),
        action.map(|action| format!("What to do: {}", clean(action))),
        raised.runbook().map(|page| format!("Runbook: {page}")),
    ];
    lines.into_iter().flatten().collect()
}

/// Writes `text` in lines, the first of which starts with `first` and the others with `rest`, which
/// is as wide.
fn write_wrapped(f: &mut fmt::Formatter<'_>, text: &str, first: &str, rest: &str) -> fmt::Result {
    for (index, line) in wrap(text, WIDTH - rest.len()).iter().enumerate() {
        let start = if index == 0 { first } else { rest };
        writeln!(f, "{start}{line}")?;
    }
    Ok(())
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}

#[cfg(test)]
mod tests;
