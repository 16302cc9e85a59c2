//! Logs: one event per line on standard error, so that standard output is free for the output of
//! `dev` and `tail`. The format is JSON for machines or text for people, and the level can be
//! changed while the process runs. Logging never blocks the caller; `queue` ensures that.

mod levels;
mod lines;
mod loss;
mod queue;
mod trace_ids;

use std::{
    future::poll_fn,
    io,
    task::{Context, Poll},
    time::Duration,
};

use opentelemetry_sdk::trace::SdkTracer;
use prometheus::Registry as Metrics;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tracing::{Dispatch, Subscriber, subscriber::SetGlobalDefaultError};
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::{
    Registry,
    filter::{LevelFilter, Targets},
    fmt,
    fmt::MakeWriter,
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
};

pub use self::levels::Levels;
use self::levels::TraceSpans;
use self::lines::LineCounters;
use self::queue::Queue;
use self::trace_ids::WithTraceIds;
use crate::metrics::{self, RegisterError};

/// The time for which SIGUSR1 turns on debug events: long enough to see what a connection does, too
/// short to fill a disk.
const DEBUG_TIME: Duration = Duration::from_secs(60);

/// The time limit for writing queued lines if the process must end at once.
const QUICK_END_TIME_MAX: Duration = Duration::from_millis(500);

/// The level of the logs: events at this level and at more severe ones are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// A bug, or a failure that ends the process.
    Error,
    /// Events that an operator should look at.
    Warn,
    /// Changes in the state of the process.
    Info,
    /// Also the end of each connection.
    Debug,
    /// Also each frame.
    Trace,
}

/// The format of log events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// One line of text per event, for people.
    Text,
}

crate::choices!(Level:
    "error" => Self::Error,
    "warn" => Self::Warn,
    "info" => Self::Info,
    "debug" => Self::Debug,
    "trace" => Self::Trace,
);
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

/// A handle that changes the levels while the process runs.
#[derive(Clone, Debug)]
pub struct LevelHandle {
    filter: reload::Handle<Targets, Registry>,
    traces: TraceSpans,
}

impl LevelHandle {
    /// Sets the levels.
    pub fn set(&self, levels: &Levels) {
        // This fails only if the subscriber is gone, and then there is nothing left to log to.
        let _ = self.filter.reload(levels.filter(self.traces));
    }
}

/// Starts catching SIGUSR1: each one turns on debug events for a minute, after which the levels are
/// `levels` again. Must be called inside a runtime, which must then run the returned future.
///
/// # Errors
/// Returns an error if the system does not let a handler be installed.
pub fn debug_on_signal(
    handle: LevelHandle,
    levels: Levels,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut requests = signal(SignalKind::user_defined1())?;
    Ok(debug_on_request(
        move |cx| requests.poll_recv(cx),
        handle,
        levels,
    ))
}

async fn debug_on_request(
    mut poll_request: impl FnMut(&mut Context<'_>) -> Poll<Option<()>>,
    handle: LevelHandle,
    levels: Levels,
) {
    while poll_fn(&mut poll_request).await.is_some() {
        handle.set(&levels.at_least(Level::Debug));
        tracing::info!(for_s = DEBUG_TIME.as_secs(), "debug logging is on");
        // Another request restarts the time.
        while let Ok(Some(())) = timeout(DEBUG_TIME, poll_fn(&mut poll_request)).await {}
        tracing::info!("debug logging is off");
        handle.set(&levels);
    }
}

/// The logs of this process. Dropping it writes the lines that are still queued, as far as standard
/// error accepts them within a second or two.
#[derive(Debug)]
#[must_use = "lines that are still queued when the process exits are lost"]
pub struct Logs {
    levels: LevelHandle,
    queue: Queue,
    lines: LineCounters,
}

impl Logs {
    /// Returns a handle that changes the levels.
    #[must_use]
    pub fn levels(&self) -> LevelHandle {
        self.levels.clone()
    }

    /// Returns a function that writes the lines that are still queued, within half a second.
    pub fn end_quickly(&self) -> impl FnOnce() + Send + use<> {
        self.queue.end_within(QUICK_END_TIME_MAX)
    }

    /// Registers the counters of lines by level and of lost lines. The returned future keeps the
    /// latter up to date and must run for the life of the process. It also logs that lines were
    /// lost, once there is room again.
    ///
    /// # Errors
    /// Returns an error if the name of a metric is taken.
    pub fn count_dropped(
        &self,
        registry: &Metrics,
    ) -> Result<impl Future<Output = ()> + Send + use<>, RegisterError> {
        self.lines.register(registry)?;
        let counter = metrics::counter(
            registry,
            "tickstorm_log_lines_dropped_total",
            "Log lines dropped because standard error was not read fast enough, or could not be \
             written to.",
        )?;
        Ok(queue::count(self.queue.losses(), counter))
    }
}

/// Starts the logs of this process on standard error. A panic in any thread or task is printed
/// there and ends the process. A stalled reader of standard error blocks nothing: lines beyond a
/// bound are dropped and counted, as are those that can't be written.
///
/// # Errors
/// Returns an error if logs have already been started.
pub fn init(levels: impl Into<Levels>, format: LogFormat) -> Result<Logs, SetGlobalDefaultError> {
    init_with(levels, format, None)
}

/// Does the same. With a tracer, spans of [`traces::TARGET`](crate::traces::TARGET) are recorded,
/// and lines that are written in a span have its ids.
pub(crate) fn init_with(
    levels: impl Into<Levels>,
    format: LogFormat,
    tracer: Option<SdkTracer>,
) -> Result<Logs, SetGlobalDefaultError> {
    let (writer, queue) = queue::start(io::stderr());
    let lines = LineCounters::new();
    let (dispatch, levels) = counted_dispatch(levels, format, writer, lines.clone(), tracer);
    tracing::dispatcher::set_global_default(dispatch)?;
    queue.end_on_panic();
    Ok(Logs {
        levels,
        queue,
        lines,
    })
}

/// Creates the same dispatcher as [`init`], with another writer and without installing it.
pub fn dispatch<W>(
    levels: impl Into<Levels>,
    format: LogFormat,
    writer: W,
) -> (Dispatch, LevelHandle)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    counted_dispatch(levels, format, writer, LineCounters::new(), None)
}

/// Does the same, and counts the lines. With a tracer, spans are recorded as well.
fn counted_dispatch<W>(
    levels: impl Into<Levels>,
    format: LogFormat,
    writer: W,
    lines: LineCounters,
    tracer: Option<SdkTracer>,
) -> (Dispatch, LevelHandle)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let traces = if tracer.is_some() {
        TraceSpans::On
    } else {
        TraceSpans::Off
    };
    let (filter, handle) = reload::Layer::new(levels.into().filter(traces));
    let registry = Registry::default().with(filter).with(lines);
    // The layers are written out for each case, because their types depend on those below.
    let dispatch = match (format, tracer) {
        (LogFormat::Json, None) => {
            let layer = fmt::layer().with_writer(writer).json();
            Dispatch::new(registry.with(layer.flatten_event(true).with_current_span(false)))
        }
        (LogFormat::Text, None) => {
            let layer = fmt::layer().with_writer(writer);
            Dispatch::new(registry.with(layer.with_ansi(false)))
        }
        (LogFormat::Json, Some(tracer)) => {
            let layer = fmt::layer().with_writer(writer).json();
            let layer = layer.flatten_event(true).with_current_span(false);
            let layer = layer.map_event_format(WithTraceIds::json);
            Dispatch::new(registry.with(recorder(tracer)).with(layer))
        }
        (LogFormat::Text, Some(tracer)) => {
            let layer = fmt::layer().with_writer(writer).with_ansi(false);
            let layer = layer.map_event_format(WithTraceIds::text);
            Dispatch::new(registry.with(recorder(tracer)).with(layer))
        }
    };
    let handle = LevelHandle {
        filter: handle,
        traces,
    };
    (dispatch, handle)
}

/// Returns the layer that records spans. They have the attributes that the code gives them, and
/// nothing about the code itself.
fn recorder<S>(tracer: SdkTracer) -> OpenTelemetryLayer<S, SdkTracer>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
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
    fn a_json_event_is_one_line_with_its_fields_and_spans() {
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
    fn the_level_filters_events_and_can_be_changed() {
        let lines = Lines::default().log(Level::Info, LogFormat::Text, |handle| {
            debug!("before");
            handle.set(&Level::Debug.into());
            debug!("during");
            handle.set(&Level::Error.into());
            info!("after");
        });
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].ends_with("during"), "{lines:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn debug_events_are_written_for_a_minute_after_the_last_request() {
        let lines = Lines::default();
        let writer = lines.clone();
        let (dispatch, handle) = dispatch(Level::Warn, LogFormat::Text, move || writer.clone());
        let _guard = tracing::dispatcher::set_default(&dispatch);
        let (request, mut requests) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(debug_on_request(
            move |cx| requests.poll_recv(cx),
            handle,
            Level::Warn.into(),
        ));
        let debug_after = async |s: u64| {
            tokio::time::sleep(Duration::from_secs(s)).await;
            debug!(s, "waited");
        };
        debug_after(1).await;
        request.send(()).unwrap();
        debug_after(59).await;
        request.send(()).unwrap();
        debug_after(58).await;
        debug_after(3).await;
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let written: Vec<_> = text
            .lines()
            .filter_map(|line| line.split_once("waited s="))
            .map(|(_, s)| s)
            .collect();
        assert_eq!(written, ["59", "58"], "{text}");
    }
}
