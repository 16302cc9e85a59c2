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
