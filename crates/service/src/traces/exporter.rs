//! [`Exporter`]: the thread that sends spans to the collector. It collects a batch, sends it, and
//! forgets it, whatever came of it: spans that could not be sent are counted, and the log says so
//! now and then. Nothing waits for this thread but the end of the process, for a short time.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::transform::{
    common::tonic::ResourceAttributesWithSchema, trace::tonic::group_spans_by_resource_and_scope,
};
use opentelemetry_sdk::trace::SpanData;
use prost::Message as _;
use tokio::{
    runtime,
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    END_TIME_MAX, TraceConfig,
    client::{Client, SendError},
    counters::TraceCounters,
};
use crate::error_chain::ErrorChain;

/// The time between two log lines about a collector that does not accept spans.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// How much earlier than the process the thread gives up at its end.
const END_MARGIN: Duration = Duration::from_millis(200);

/// The state of the thread that sends spans.
pub(super) struct Exporter {
    client: Client,
    resource: ResourceAttributesWithSchema,
    schedule_delay: Duration,
    batch_max: usize,
    timeout: Duration,
    spans: mpsc::Receiver<SpanData>,
    counters: TraceCounters,
    running: watch::Receiver<bool>,
    log: ExportLog,
}

/// The reason that a batch, or a part of it, was not accepted.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error(transparent)]
    Send(#[from] SendError),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("the process ends")]
    Ended,
    #[error("the collector has rejected spans: {0}")]
    Rejected(String),
}

impl Exporter {
    pub(super) fn new(
        config: TraceConfig,
        spans: mpsc::Receiver<SpanData>,
        counters: TraceCounters,
        running: watch::Receiver<bool>,
    ) -> Self {
        let TraceConfig {
            client,
            resource,
            schedule_delay,
            batch_max,
            export_timeout,
            ..
        } = config;
        Self {
            client,
            resource: (&resource).into(),
            schedule_delay,
            batch_max,
            timeout: export_timeout,
            spans,
            counters,
            running,
            log: ExportLog::default(),
        }
    }

    /// Sends spans until the process ends.
    pub(super) fn run(self) {
        match runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                runtime.block_on(self.serve());
                // A name that is still looked up must not delay the end.
                runtime.shutdown_background();
            }
            Err(error) => tracing::warn!(%error, "traces can't be sent"),
        }
    }

    async fn serve(mut self) {
        let mut batch = Vec::new();
        while self.collect(&mut batch).await {
            let until = Instant::now() + self.timeout;
            self.send(&mut batch, until).await;
        }
        let until = Instant::now() + END_TIME_MAX.saturating_sub(END_MARGIN);
        self.spans.close();
        while !batch.is_empty() || self.spans.recv_many(&mut batch, self.batch_max).await > 0 {
            self.send(&mut batch, until).await;
        }
    }

    /// Waits until there is a batch to send: as many spans as fit into one, or fewer that have
    /// waited for long enough. Returns false if the process ends.
    async fn collect(&mut self, batch: &mut Vec<SpanData>) -> bool {
        let mut due = None;
        while batch.len() < self.batch_max {
            let room = self.batch_max - batch.len();
            let is_due = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = self.running.wait_for(|running| !running) => return false,
                () = is_due => return true,
                added = self.spans.recv_many(batch, room) => {
                    if added == 0 {
                        return false;
                    }
                    due = due.or(Some(Instant::now() + self.schedule_delay));
                }
            }
        }
        true
    }

    /// Sends a batch, at the latest until `until`, or until the process ends and its time is over.
    async fn send(&mut self, batch: &mut Vec<SpanData>, until: Instant) {
        let spans = std::mem::take(batch);
        let count = spans.len() as u64;
        let request = ExportTraceServiceRequest {
            resource_spans: group_spans_by_resource_and_scope(spans, &self.resource),
        };
        let allowed = until.saturating_duration_since(Instant::now());
        let mut running = self.running.clone();
        let process_ends = async {
            let _ = running.wait_for(|running| !running).await;
            tokio::time::sleep(END_TIME_MAX.saturating_sub(END_MARGIN)).await;
        };
        let sent = tokio::select! {
            biased;
            sent = timeout_at(until, self.client.send(request.encode_to_vec())) => match sent {
                Ok(sent) => sent.map_err(ExportError::from),
                Err(_) => Err(ExportError::TimedOut(allowed)),
            },
            () = process_ends => Err(ExportError::Ended),
        };
        let (rejected, error) = match sent {
            Ok(answer) => rejection(&answer),
            Err(error) => (count, Some(error)),
        };
        let rejected = rejected.min(count);
        self.counters.exported.inc_by(count - rejected);
        self.counters.export_failed.inc_by(rejected);
        let endpoint = self.client.endpoint();
        match error {
            Some(error) => self
                .log
                .note_failure(&error, rejected, endpoint, Instant::now()),
            None => self.log.note_success(endpoint),
        }
    }
}

/// Returns how many spans a collector has rejected, and its reason, from its answer. An answer that
/// can't be read counts as an empty one: the status has said that the spans are accepted.
fn rejection(answer: &[u8]) -> (u64, Option<ExportError>) {
    let answer = ExportTraceServiceResponse::decode(answer).unwrap_or_default();
    let Some(partial) = answer.partial_success else {
        return (0, None);
    };
    match u64::try_from(partial.rejected_spans) {
        Ok(rejected @ 1..) => (rejected, Some(ExportError::Rejected(partial.error_message))),
        Ok(0) | Err(_) => (0, None),
    }
}

/// Limits how often the log says that spans are not accepted.
#[derive(Debug, Default)]
struct ExportLog {
    /// When it last said so; `None` since spans are accepted again.
    warned: Option<Instant>,
    /// The spans that were lost since then.
    lost: u64,
}

impl ExportLog {
    fn note_failure(
        &mut self,
        error: &ExportError,
        lost: u64,
        endpoint: &impl std::fmt::Display,
        now: Instant,
    ) {
        self.lost += lost;
        if self
            .warned
            .is_some_and(|warned| now.duration_since(warned) < LOG_INTERVAL)
        {
            return;
        }
        self.warned = Some(now);
        tracing::warn!(
            %endpoint,
            error = %ErrorChain(error),
            spans = std::mem::take(&mut self.lost),
            "traces could not be sent; these spans are lost"
        );
    }

    fn note_success(&mut self, endpoint: &impl std::fmt::Display) {
        if self.warned.take().is_some() {
            tracing::info!(
                %endpoint,
                spans = std::mem::take(&mut self.lost),
                "traces are sent again; these spans were lost since the last report"
            );
        }
    }
}
