//! [`WithTraceIds`]: adds the ids of the trace and the span to each line that is written in a span
//! that is recorded, so that the lines of a trace can be found. Lines outside of spans are the same
//! as without traces.

use std::fmt;

use opentelemetry::{
    Context,
    trace::{SpanContext, TraceContextExt as _},
};
use tracing::{Event, Subscriber};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// The format of lines, with ids.
pub(super) struct WithTraceIds<F> {
    inner: F,
    form: Form,
}

#[derive(Clone, Copy)]
enum Form {
    Json,
    Text,
}

impl<F> WithTraceIds<F> {
    /// Adds ids to a format whose lines are JSON objects.
    pub(super) const fn json(inner: F) -> Self {
        let form = Form::Json;
        Self { inner, form }
    }

    /// Adds ids to a format whose lines end with the event's fields.
    pub(super) const fn text(inner: F) -> Self {
        let form = Form::Text;
        Self { inner, form }
    }
}

impl<S, N, F> FormatEvent<S, N> for WithTraceIds<F>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(span) = recorded_span() else {
            return self.inner.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.inner
            .format_event(context, Writer::new(&mut line), event)?;
        let (trace_id, span_id) = (span.trace_id(), span.span_id());
        let line = line.trim_end_matches('\n');
        match (self.form, line.strip_suffix('}')) {
            (Form::Json, Some(object)) => writeln!(
                writer,
                r#"{object},"trace_id":"{trace_id}","span_id":"{span_id}"}}"#
            ),
            (Form::Json | Form::Text, _) => {
                writeln!(writer, "{line} trace_id={trace_id} span_id={span_id}")
            }
        }
    }
}

/// Returns the span that this thread is in, if it is recorded.
fn recorded_span() -> Option<SpanContext> {
    Context::map_current(|context| {
        let span = context.has_active_span().then(|| context.span());
        let span = span.map(|span| span.span_context().clone());
        span.filter(|span| span.is_valid() && span.is_sampled())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
    use serde_json::Value;
    use tracing::{dispatcher::with_default, info, info_span};

    use crate::{
        logging::{Level, LineCounters, LogFormat, counted_dispatch},
        traces,
    };

    /// Returns the lines that are written inside a span of traces, and outside of it, and whether
    /// the span is enabled.
    fn lines(level: Level, format: LogFormat, sampler: Option<Sampler>) -> (Vec<String>, bool) {
        let written: Arc<Mutex<Vec<u8>>> = Arc::default();
        let tracer = sampler.map(|sampler| {
            let provider = SdkTracerProvider::builder().with_sampler(sampler).build();
            provider.tracer("test")
        });
        let writer = Written(Arc::clone(&written));
        let make_writer = move || writer.clone();
        let counters = LineCounters::new();
        let (dispatch, _) = counted_dispatch(level, format, make_writer, counters, tracer);
        let is_enabled = with_default(&dispatch, || {
            info!("before");
            let span = info_span!(target: traces::TARGET, "span", answer = 42);
            span.in_scope(|| info!(field = "}", "inside"));
            info!("after");
            !span.is_disabled()
        });
        let written = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        (written.lines().map(Into::into).collect(), is_enabled)
    }

    #[derive(Clone)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_json_line_in_a_recorded_span_has_the_ids_of_the_span() {
        let (lines, _) = lines(Level::Info, LogFormat::Json, Some(Sampler::AlwaysOn));
        let lines: Vec<Value> = lines
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let [before, inside, after] = &lines[..] else {
            panic!("{lines:?}");
        };
        assert_eq!(inside["message"], "inside");
        assert_eq!(inside["field"], "}");
        assert_eq!(inside["trace_id"].as_str().unwrap().len(), 32);
        assert_eq!(inside["span_id"].as_str().unwrap().len(), 16);
        for outside in [before, after] {
            assert_eq!(outside.get("trace_id"), None, "{outside}");
        }
    }

    #[test]
    fn a_line_of_text_ends_with_the_ids() {
        let (lines, _) = lines(Level::Info, LogFormat::Text, Some(Sampler::AlwaysOn));
        let (_, ids) = lines[1].split_once(" trace_id=").unwrap();
        let (trace_id, span_id) = ids.split_once(" span_id=").unwrap();
        assert_eq!((trace_id.len(), span_id.len()), (32, 16), "{lines:?}");
        assert!(lines[2].ends_with("after"), "{lines:?}");
    }

    #[test]
    fn lines_in_a_span_that_is_not_recorded_have_no_ids() {
        for sampler in [Some(Sampler::AlwaysOff), None] {
            let (lines, _) = lines(Level::Info, LogFormat::Json, sampler);
            assert_eq!(lines.len(), 3, "{lines:?}");
            assert!(!lines[1].contains(r#""trace_id""#), "{lines:?}");
        }
    }

    #[test]
    fn spans_are_made_at_any_level_but_only_if_they_are_sent() {
        for level in [Level::Error, Level::Trace] {
            let (_, is_enabled) = lines(level, LogFormat::Json, Some(Sampler::AlwaysOn));
            assert!(is_enabled, "{level:?}");
            let (_, is_enabled) = lines(level, LogFormat::Json, None);
            assert!(!is_enabled, "{level:?}");
        }
    }
}
