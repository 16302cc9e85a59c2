//! Logs: one event a line on standard error, which leaves standard output to what `dev` and `tail` print. JSON for machines,
//! text for people; the level can be changed while the process runs. Who logs never waits: that is `queue`'s affair.

mod queue;

use std::{
    future::poll_fn,
    io,
    task::{Context, Poll},
    time::Duration,
};

use prometheus::Registry as Metrics;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tracing::{Dispatch, subscriber::SetGlobalDefaultError};
use tracing_subscriber::{
    Registry, filter::LevelFilter, fmt, fmt::MakeWriter, layer::SubscriberExt, reload,
};

use self::queue::Queue;
use crate::metrics::{self, RegisterError};

/// How long SIGUSR1 makes debug events be written: time to see what a connection does, too short to fill a disk.
const DEBUG_TIME: Duration = Duration::from_secs(60);

/// Which log events are written: those at this level and the graver ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// A defect, or something that ends the process.
    Error,
    /// What someone should look at.
    Warn,
    /// States of the process.
    Info,
    /// Also each connection's end.
    Debug,
    /// Also each frame.
    Trace,
}

/// How log events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// One text a line, for people.
    Text,
}

crate::choices!(Level:
    "error" => Self::Error, "warn" => Self::Warn, "info" => Self::Info, "debug" => Self::Debug, "trace" => Self::Trace);
crate::choices!(LogFormat: "json" => Self::Json, "text" => Self::Text);

impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
            Level::Trace => Self::TRACE,
        }
    }
}

/// Changes the level while the process runs.
#[derive(Clone, Debug)]
pub struct LevelHandle(reload::Handle<LevelFilter, Registry>);

impl LevelHandle {
    /// Writes events at `level` and the graver ones from now on.
    pub fn set(&self, level: Level) {
        // It fails only where the subscriber is gone, and then nobody is left to log to.
        let _ = self.0.reload(level);
    }
}

/// Catches SIGUSR1 from now on: each one makes debug events be written for a minute, whatever `level` is otherwise. Inside a
/// runtime; what it gives is to be run there.
///
/// # Errors
/// Where the system lets no handler be installed.
pub fn debug_on_signal(
    handle: LevelHandle,
    level: Level,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut asked = signal(SignalKind::user_defined1())?;
    Ok(debug_while_asked(
        move |cx| asked.poll_recv(cx),
        handle,
        level,
    ))
}

async fn debug_while_asked(
    mut asked: impl FnMut(&mut Context<'_>) -> Poll<Option<()>>,
    handle: LevelHandle,
    level: Level,
) {
    while poll_fn(&mut asked).await.is_some() {
        handle.set(level.max(Level::Debug));
        tracing::info!(for_s = DEBUG_TIME.as_secs(), "debug events are written");
        // Asking again begins the time anew.
        while let Ok(Some(())) = timeout(DEBUG_TIME, poll_fn(&mut asked)).await {}
        tracing::info!("debug events end");
        handle.set(level);
    }
}

/// The logs of this process. Dropping it writes what waits, as far as standard error takes it within a second or two.
#[derive(Debug)]
#[must_use = "lines that wait when the process ends are lost"]
pub struct Logs {
    levels: LevelHandle,
    queue: Queue,
}

impl Logs {
    /// What changes the level.
    #[must_use]
    pub fn levels(&self) -> LevelHandle {
        self.levels.clone()
    }

    /// Registers the count of lines that were dropped. What it gives keeps the count, and is to be run beside the process's
    /// parts; it logs when lines were dropped, once there is room again.
    ///
    /// # Errors
    /// Where the metric's name is taken.
    pub fn count_dropped(
        &self,
        registry: &Metrics,
    ) -> Result<impl Future<Output = ()> + Send + use<>, RegisterError> {
        let counter = metrics::counter(
            registry,
            "tickstorm_log_lines_dropped_total",
            "Log lines dropped because standard error was not read as fast as they came.",
        )?;
        Ok(queue::count(self.queue.dropped(), counter))
    }
}

/// Starts the logs of this process on standard error. A panic of any thread or task is shown there
/// and ends the process. A reader that stands still holds up nobody: lines beyond a bound are
/// dropped and counted.
///
/// # Errors
/// Where logs have been started before.
pub fn init(level: Level, format: LogFormat) -> Result<Logs, SetGlobalDefaultError> {
    let (writer, queue) = queue::before(io::stderr());
    let (dispatch, levels) = dispatch(level, format, writer);
    tracing::dispatcher::set_global_default(dispatch)?;
    queue.end_on_panic();
    Ok(Logs { levels, queue })
}

/// Makes what [`init`] installs, with another writer.
pub fn dispatch<W>(level: Level, format: LogFormat, writer: W) -> (Dispatch, LevelHandle)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(LevelFilter::from(level));
    let registry = Registry::default().with(filter);
    let layer = fmt::layer().with_writer(writer);
    let dispatch = match format {
        LogFormat::Json => {
            Dispatch::new(registry.with(layer.json().flatten_event(true).with_current_span(false)))
        }
        LogFormat::Text => Dispatch::new(registry.with(layer.with_ansi(false))),
    };
    (dispatch, LevelHandle(handle))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::Value;
    use tracing::{debug, dispatcher::with_default, info, info_span};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn log(
            &self,
            level: Level,
            format: LogFormat,
            log: impl FnOnce(&LevelHandle),
        ) -> Vec<String> {
            let writer = self.clone();
            let (dispatch, handle) = dispatch(level, format, move || writer.clone());
            with_default(&dispatch, || log(&handle));
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            text.lines().map(Into::into).collect()
        }
    }

    #[test]
    fn a_json_event_is_one_object_a_line_with_its_fields_and_its_spans() {
        let lines = Lines::default().log(Level::Info, LogFormat::Json, |_| {
            let _connection = info_span!("connection", id = 7).entered();
            info!(reason = "a\nb", "closed");
        });
        let [line] = &lines[..] else {
            panic!("{lines:?}")
        };
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(event["level"], "INFO");
        assert_eq!(event["message"], "closed");
        assert_eq!(event["reason"], "a\nb");
        assert_eq!(event["target"], module_path!());
        assert_eq!(event["spans"][0]["name"], "connection");
        assert_eq!(event["spans"][0]["id"], 7);
        assert!(event["timestamp"].is_string());
    }

    #[test]
    fn a_text_event_is_one_line_without_escape_sequences() {
        let lines = Lines::default().log(Level::Info, LogFormat::Text, |_| {
            info!(port = 8080, "listening");
        });
        let [line] = &lines[..] else {
            panic!("{lines:?}")
        };
        assert!(line.ends_with("listening port=8080"), "{line}");
        assert!(!line.contains('\u{1b}'), "{line}");
    }

    #[test]
    fn the_level_bounds_what_is_written_and_can_be_changed() {
        let lines = Lines::default().log(Level::Info, LogFormat::Text, |handle| {
            debug!("before");
            handle.set(Level::Debug);
            debug!("during");
            handle.set(Level::Error);
            info!("after");
        });
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].ends_with("during"), "{lines:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn being_asked_gives_debug_events_for_a_minute_after_the_last_time() {
        let lines = Lines::default();
        let writer = lines.clone();
        let (dispatch, handle) = dispatch(Level::Warn, LogFormat::Text, move || writer.clone());
        let _guard = tracing::dispatcher::set_default(&dispatch);
        let (ask, mut asked) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(debug_while_asked(
            move |cx| asked.poll_recv(cx),
            handle,
            Level::Warn,
        ));
        let after = async |s: u64| {
            tokio::time::sleep(Duration::from_secs(s)).await;
            debug!(s, "look");
        };
        after(1).await;
        ask.send(()).unwrap();
        after(59).await;
        ask.send(()).unwrap();
        after(58).await;
        after(3).await;
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let looks: Vec<_> = text
            .lines()
            .filter_map(|line| line.split_once("look s="))
            .map(|(_, s)| s)
            .collect();
        assert_eq!(looks, ["59", "58"], "{text}");
    }
}
