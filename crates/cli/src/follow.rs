//! Following an edge: each tick becomes a line of standard output. `tail` does nothing else, and `dev` shows its own edge so.

use std::io::{self, ErrorKind, Write as _};
use std::ops::ControlFlow;

use tickstorm_client::{Event, Options, Tick, Ticks};
use tickstorm_command::{Failure, OUTPUT};

use crate::line::{self, Line};

/// How ticks are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TickFormat {
    /// A line for people.
    Text,
    /// A JSON object.
    Json,
}

/// Prints each tick that `options` bring and then asks `judge` whether to go on. A closed pipe is a good end, too. What becomes of
/// connections, and gaps, go to standard error.
pub(crate) async fn follow(
    options: Options,
    format: TickFormat,
    mut judge: impl FnMut(&Tick) -> Result<ControlFlow<()>, Failure>,
) -> Result<(), Failure> {
    let mut ticks = tickstorm_client::connect(options).await?;
    while let Some(event) = ticks.next().await {
        let event = event?;
        let Event::Tick(tick) = event else {
            if let Some(notice) = notice(&event) {
                eprintln!("tickstorm: {notice}");
            }
            continue;
        };
        if print(&shown(&tick, &ticks, format))?.is_break() || judge(&tick)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// What people are told beside ticks.
fn notice(event: &Event) -> Option<String> {
    match event {
        Event::Reconnecting {
            why,
            after,
            resumes,
        } => {
            let seconds = after.as_secs_f64();
            let why = anyhow::Chain::new(why).map(ToString::to_string);
            let why = why.collect::<Vec<_>>().join(": ");
            let anew = if *resumes {
                ""
            } else {
                ", from the present on"
            };
            Some(format!("{why}; connecting again in {seconds:.1} s{anew}"))
        }
        Event::Reconnected { address, edge_id } => {
            let edge_id = edge_id.escape_debug();
            Some(format!("connected again: edge {edge_id} at {address}"))
        }
        Event::Gap { after, before } => {
            let (after, before) = (after.as_ms(), before.as_ms());
            Some(format!("gap: no ticks between {after} and {before}"))
        }
        // A tick has its own line, and of what else there may be one day nothing is known here.
        Event::Tick(_) | _ => None,
    }
}

/// Writes a line to standard output; nobody may be there to read it any more.
pub(crate) fn print(line: &str) -> Result<ControlFlow<()>, Failure> {
    match writeln!(io::stdout(), "{line}") {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(Failure::new(OUTPUT, error)),
    }
}

fn shown(tick: &Tick, ticks: &Ticks, format: TickFormat) -> String {
    match format {
        TickFormat::Text => Line(tick).to_string(),
        TickFormat::Json => line::json(tick, ticks.edge_id()),
    }
}
