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
pub enum Format {
    /// One JSON object a line.
    Json,
    /// One text a line, for people.
    Text,
}

crate::env::choices!(Level:
    "error" => Self::Error, "warn" => Self::Warn, "info" => Self::Info, "debug" => Self::Debug, "trace" => Self::Trace);
crate::env::choices!(Format: "json" => Self::Json, "text" => Self::Text);

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
pub fn init(level: Level, format: Format) -> Result<Logs, SetGlobalDefaultError> {
    let (writer, queue) = queue::before(io::stderr());
    let (dispatch, levels) = dispatch(level, format, writer);
    tracing::dispatcher::set_global_default(dispatch)?;
    queue.end_on_panic();
    Ok(Logs { levels, queue })
}

/// Makes what [`init`] installs, with another writer.
pub fn dispatch<W>(level: Level, format: Format, writer: W) -> (Dispatch, LevelHandle)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(LevelFilter::from(level));
    let registry = Registry::default().with(filter);
    let layer = fmt::layer().with_writer(writer);
    let dispatch = match format {
        Format::Json => {
            Dispatch::new(registry.with(layer.json().flatten_event(true).with_current_span(false)))
        }
        Format::Text => Dispatch::new(registry.with(layer.with_ansi(false))),
    };
    (dispatch, LevelHandle(handle))
}

/// Bounds what strangers can make a program log: so many events a minute, and then a count of those kept back.
#[derive(Debug)]
pub struct LogLimit {
    per_minute: u32,
    minute_ends: Duration,
    admitted: u32,
    kept_back: u64,
}

impl LogLimit {
    const MINUTE: Duration = Duration::from_secs(60);

    /// Admits `per_minute` events a minute; a minute begins with the first event after the last one's end.
    #[must_use]
    pub const fn new(per_minute: u32) -> Self {
        Self {
            per_minute,
            minute_ends: Duration::ZERO,
            admitted: 0,
            kept_back: 0,
        }
    }

    /// Decides about one event at `now`, a monotonic time from any one beginning. Where the event is to be logged: how many
    /// were kept back since the last that was, for that event to say.
    pub fn admit(&mut self, now: Duration) -> Option<u64> {
        if now >= self.minute_ends {
            self.minute_ends = now.saturating_add(Self::MINUTE);
            self.admitted = 0;
        }
        if self.admitted >= self.per_minute {
            self.kept_back = self.kept_back.saturating_add(1);
            return None;
        }
        self.admitted += 1;
        Some(std::mem::take(&mut self.kept_back))
    }
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
        fn log(&self, level: Level, format: Format, log: impl FnOnce(&LevelHandle)) -> Vec<String> {
            let writer = self.clone();
            let (dispatch, handle) = dispatch(level, format, move || writer.clone());
            with_default(&dispatch, || log(&handle));
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            text.lines().map(Into::into).collect()
        }
    }

    #[test]
    fn a_json_event_is_one_object_a_line_with_its_fields_and_its_spans() {
        let lines = Lines::default().log(Level::Info, Format::Json, |_| {
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
        let lines = Lines::default().log(Level::Info, Format::Text, |_| {
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
        let lines = Lines::default().log(Level::Info, Format::Text, |handle| {
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
        let (dispatch, handle) = dispatch(Level::Warn, Format::Text, move || writer.clone());
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

    #[test]
    fn a_limit_admits_so_many_a_minute_and_tells_how_many_it_kept_back() {
        let mut limit = LogLimit::new(2);
        let at = Duration::from_millis;
        assert_eq!(limit.admit(at(5_000)), Some(0));
        assert_eq!(limit.admit(at(5_001)), Some(0));
        assert_eq!(limit.admit(at(5_002)), None);
        assert_eq!(limit.admit(at(64_999)), None);
        assert_eq!(limit.admit(at(65_000)), Some(2));
        assert_eq!(limit.admit(at(65_000)), Some(0));
        assert_eq!(limit.admit(at(65_000)), None);
        assert_eq!(limit.admit(at(500_000)), Some(1));
    }
}
