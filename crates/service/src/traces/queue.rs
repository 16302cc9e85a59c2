//! [`SpanQueue`]: the bounded queue between code that traces and the thread that sends. Adding a
//! span never waits; a span that does not fit is dropped and counted.

use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanProcessor},
};
use tokio::sync::mpsc;

use super::counters::TraceCounters;

/// The adding end of the queue. Clones add to the same one.
#[derive(Clone, Debug)]
pub(super) struct SpanQueue {
    sender: mpsc::Sender<SpanData>,
    counters: TraceCounters,
}

impl SpanQueue {
    /// Creates a queue of at most `spans_max` spans. Returns both ends.
    pub(super) fn new(
        spans_max: usize,
        counters: TraceCounters,
    ) -> (Self, mpsc::Receiver<SpanData>) {
        let (sender, receiver) = mpsc::channel(spans_max);
        (Self { sender, counters }, receiver)
    }

    /// Adds a span, or counts it as dropped.
    pub(super) fn push(&self, span: SpanData) {
        if self.sender.try_send(span).is_err() {
            self.counters.queue_full.inc();
        }
    }

    pub(super) const fn counters(&self) -> &TraceCounters {
        &self.counters
    }
}

impl SpanProcessor for SpanQueue {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            self.push(span);
        }
    }

    /// Does nothing: the sending thread is ended by `Traces`.
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    /// Does nothing: the sending thread is ended by `Traces`.
    fn shutdown_with_timeout(&self, _limit: Duration) -> OTelSdkResult {
        Ok(())
    }
}
