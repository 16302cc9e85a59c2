//! [`Tracer`]: makes spans of what has already happened, with times that the caller gives. An edge
//! knows the time by its clocks and not by its host, and reports a fan-out when it is over, so that
//! nothing about traces is done while ticks are being sent.

use std::time::{Duration, SystemTime};

use opentelemetry::{
    Context, ContextGuard, InstrumentationScope, KeyValue,
    trace::{
        Link, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
        TraceState,
    },
};
use opentelemetry_sdk::trace::{
    Sampler, SamplingDecision, ShouldSample as _, SpanData, SpanEvents, SpanLinks,
};
use tickstorm_bus::TraceParent;
use tickstorm_timebase::UnixTime;
use tokio::sync::mpsc;

use super::{counters::TraceCounters, queue::SpanQueue};
use crate::VERSION;

/// The name of the code that makes the spans.
pub(super) const SCOPE: &str = "tickstorm";

/// Makes spans. Clones make spans for the same collector.
#[derive(Clone, Debug)]
pub struct Tracer {
    sampler: Sampler,
    queue: SpanQueue,
}

/// A span that has ended.
#[derive(Clone, Debug)]
pub struct FinishedSpan {
    /// Its place, from [`Tracer::sample`].
    pub context: SpanContext,
    /// The place of the span that it is a part of, if there is one.
    pub parent: Option<SpanContext>,
    /// The places of other spans that concern the same.
    pub links: Vec<SpanContext>,
    /// Its name.
    pub name: &'static str,
    /// Its role between programs.
    pub kind: SpanKind,
    /// When it began.
    pub start: UnixTime,
    /// When it ended.
    pub end: UnixTime,
    /// What else is known about it.
    pub attributes: Vec<KeyValue>,
    /// Why it failed, if it did.
    pub error: Option<&'static str>,
}

impl Tracer {
    pub(super) const fn new(sampler: Sampler, queue: SpanQueue) -> Self {
        Self { sampler, queue }
    }

    /// Creates a tracer that follows the parent or else records everything, and the queue of its
    /// spans, which nobody sends; for tests.
    #[must_use]
    pub fn unsent(spans_max: usize) -> (Self, mpsc::Receiver<SpanData>) {
        let (queue, spans) = SpanQueue::new(spans_max, TraceCounters::new());
        let sampler = Sampler::ParentBased(Box::new(Sampler::AlwaysOn));
        (Self::new(sampler, queue), spans)
    }

    /// Returns the place of a new span, or `None` if it is not recorded. It is a part of `parent`,
    /// if there is one.
    #[must_use]
    pub fn sample(
        &self,
        parent: Option<&SpanContext>,
        name: &str,
        kind: &SpanKind,
    ) -> Option<SpanContext> {
        let trace_id = match parent {
            Some(parent) => parent.trace_id(),
            None => TraceId::from_bytes(rand::random()),
        };
        let context = parent.map(|parent| Context::new().with_remote_span_context(parent.clone()));
        let result = self
            .sampler
            .should_sample(context.as_ref(), trace_id, name, kind, &[], &[]);
        (result.decision == SamplingDecision::RecordAndSample).then(|| {
            SpanContext::new(
                trace_id,
                SpanId::from_bytes(rand::random()),
                TraceFlags::SAMPLED,
                false,
                result.trace_state,
            )
        })
    }

    /// Records a span. This never waits: a span that does not fit into the queue is dropped and
    /// counted.
    pub fn record(&self, span: FinishedSpan) {
        let mut links = SpanLinks::default();
        links.links = span
            .links
            .into_iter()
            .map(|context| Link::new(context, Vec::new(), 0))
            .collect();
        let parent = span.parent.as_ref();
        self.queue.push(SpanData {
            parent_span_id: parent.map_or(SpanId::INVALID, SpanContext::span_id),
            parent_span_is_remote: parent.is_some_and(SpanContext::is_remote),
            span_context: span.context,
            span_kind: span.kind,
            name: span.name.into(),
            start_time: system_time(span.start),
            end_time: system_time(span.end.max(span.start)),
            attributes: span.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links,
            status: span.error.map_or(Status::Unset, Status::error),
            instrumentation_scope: InstrumentationScope::builder(SCOPE)
                .with_version(VERSION)
                .build(),
        });
    }

    /// Counts a span that was not made because there are too many of its kind.
    pub fn count_rate_limited(&self) {
        self.queue.counters().rate_limited.inc();
    }

    /// Counts a span that was not made because its parts did not fit into a queue.
    pub fn count_queue_full(&self) {
        self.queue.counters().queue_full.inc();
    }
}

/// Makes log lines carry the ids of the span with this place, until the guard is dropped.
#[must_use]
pub fn enter(context: &SpanContext) -> ContextGuard {
    Context::new()
        .with_remote_span_context(context.clone())
        .attach()
}

/// Returns the place of the span that this thread is in, as the bus carries it; `None` if it is in
/// none.
#[must_use]
pub fn current() -> Option<TraceParent> {
    Context::map_current(|context| {
        context
            .has_active_span()
            .then(|| parent_of(context.span().span_context()))
            .flatten()
    })
}

/// Returns a span's place as the bus carries it; `None` if it is not valid.
fn parent_of(context: &SpanContext) -> Option<TraceParent> {
    let (trace_id, span_id) = (context.trace_id().to_bytes(), context.span_id().to_bytes());
    TraceParent::new(trace_id, span_id, context.is_sampled()).ok()
}

/// Returns the place of a span of another process.
#[must_use]
pub fn span_context(parent: &TraceParent) -> SpanContext {
    let flags = if parent.is_sampled() {
        TraceFlags::SAMPLED
    } else {
        TraceFlags::default()
    };
    SpanContext::new(
        TraceId::from_bytes(parent.trace_id()),
        SpanId::from_bytes(parent.span_id()),
        flags,
        true,
        TraceState::default(),
    )
}

/// Returns a moment as the SDK wants it. Moments before 1970 count as its start.
fn system_time(time: UnixTime) -> SystemTime {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)
}
