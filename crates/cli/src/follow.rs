//! Follows an edge: prints each tick as a line on standard output. `tail` does nothing else, and
//! `dev` shows its own edge this way.

use std::io::{self, ErrorKind, Write as _};
use std::ops::ControlFlow;

use tickstorm_client::{ConnectionId, Error, Event, Tick, Ticks};
use tickstorm_command::{Failure, OUTPUT};
use tickstorm_service::stderr;

use crate::line::{self, Line};

/// The format in which ticks are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TickFormat {
    /// A line of text, for people.
    Text,
    /// A JSON object.
    Json,
}

/// Prints each of `ticks`, and passes it to `judge`, which decides whether to continue. Returns
/// successfully if standard output is a closed pipe. Reconnects and gaps are reported on standard
/// error.
pub(crate) async fn follow(
    mut ticks: Ticks,
    format: TickFormat,
    mut judge: impl FnMut(&Tick) -> Result<ControlFlow<()>, Failure>,
) -> Result<(), Failure> {
    while let Some(event) = ticks.next().await {
        let event = event.map_err(|error| failure(error, ticks.connection_id()))?;
        let Event::Tick(tick) = event else {
            if let Some(notice) = notice(&event) {
                stderr::notice(format_args!("tickstorm: {notice}"));
            }
            continue;
        };
        if print(&format_tick(&tick, &ticks, format))?.is_break() || judge(&tick)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// Returns the message on standard error for an event other than a tick, if it needs one.
fn notice(event: &Event) -> Option<String> {
    match event {
        Event::Reconnecting {
            why,
            connection_id,
            after,
            resumes,
            ..
        } => {
            let seconds = after.as_secs_f64();
            let chain = anyhow::Chain::new(why).map(ToString::to_string);
            let chain = chain.collect::<Vec<_>>().join(": ");
            let why = format!("{chain}{}", name_of(why, connection_id.as_ref()));
            let without_resuming = if *resumes { "" } else { " without resuming" };
            Some(format!(
                "{why}; reconnecting in {seconds:.1} s{without_resuming}"
            ))
        }
        Event::Reconnected {
            address, edge_id, ..
        } => {
            let edge_id = edge_id.escape_debug();
            Some(format!("reconnected to edge {edge_id} at {address}"))
        }
        Event::Moved {
            address, edge_id, ..
        } => {
            let edge_id = edge_id.escape_debug();
            Some(format!(
                "moved to edge {edge_id} at {address}, since the other one is going away"
            ))
        }
        Event::Gap { after, before, .. } => {
            let (after, before) = (after.as_ms(), before.as_ms());
            Some(format!(
                "gap: no ticks between epoch_ms {after} and {before}"
            ))
        }
        // A tick is printed on standard output; events added in the future are ignored.
        Event::Tick(_) | _ => None,
    }
}

/// Returns the failure of a connection that was not replaced, with its id.
fn failure(error: Error, id: Option<&ConnectionId>) -> Failure {
    let name = name_of(&error, id);
    let Failure { code, error } = error.into();
    if name.is_empty() {
        return Failure { code, error };
    }
    Failure::message(code, format!("{error:#}{name}"))
}

/// Returns the id of the connection that ended with `error`, in the form in which it follows the
/// error's text: empty if the connection has no id, or if the text has it already.
fn name_of(error: &Error, id: Option<&ConnectionId>) -> String {
    match id {
        Some(id) if error.connection_id().is_none() => format!(" (connection {id})"),
        Some(_) | None => String::new(),
    }
}

/// Writes a line to standard output. Returns `Break` if standard output is a closed pipe.
pub(crate) fn print(line: &str) -> Result<ControlFlow<()>, Failure> {
    match writeln!(io::stdout(), "{line}") {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(Failure::new(OUTPUT, error)),
    }
}

fn format_tick(tick: &Tick, ticks: &Ticks, format: TickFormat) -> String {
    match format {
        TickFormat::Text => Line(tick).to_string(),
        TickFormat::Json => line::json(tick, ticks.edge_id()),
    }
}
