//! Traces for OpenTelemetry: spans that are sent to a collector by OTLP. What is traced is the
//! business of clocks and edges.
//!
//! Code that traces something puts finished spans into a bounded queue and never waits. A thread of
//! its own sends them (`exporter`); a collector that is slow, silent or gone costs spans, which
//! are counted, and nothing else. Without a collector nothing of this exists: spans of the target
//! [`TARGET`] are then disabled, and there is no [`Tracer`].

mod client;
mod counters;
mod exporter;
mod files;
mod queue;
pub mod settings;
mod tracer;
mod values;

pub use opentelemetry::KeyValue;
pub use opentelemetry::trace::{SpanContext, SpanKind};
pub use tracer::{FinishedSpan, Tracer, current, enter, span_context};
pub use values::{Endpoint, HeaderPairs, Pairs, Ratio};

use std::{io, sync::mpsc::Receiver, thread, time::Duration};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracer, SdkTracerProvider},
};
use tokio::sync::watch;

use self::{
    client::Client,
    exporter::Exporter,
    files::{Secrets, TraceFilesError},
    queue::SpanQueue,
    settings::{
        OTEL_BSP_EXPORT_TIMEOUT, OTEL_BSP_MAX_EXPORT_BATCH_SIZE, OTEL_BSP_MAX_QUEUE_SIZE,
        OTEL_BSP_SCHEDULE_DELAY, OTEL_EXPORTER_OTLP_TIMEOUT, OTEL_EXPORTER_OTLP_TRACES_TIMEOUT,
        OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG,
        TracesSampler,
    },
};
use crate::{VERSION, env::Settings, exit, low_priority};
pub(crate) use counters::TraceCounters;
pub(crate) use files::TraceFiles;

/// The target of spans that are sent to the collector. LOG_LEVEL has no effect on it.
pub const TARGET: &str = "tickstorm_trace";

/// The time limit for sending the spans that wait when the process ends.
const END_TIME_MAX: Duration = Duration::from_secs(2);

/// Who traces, as collectors show it.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// The program's name.
    pub(crate) service: &'static str,
    /// The id of the clock or the edge.
    pub(crate) instance: String,
}

/// The configuration of traces that are sent.
#[derive(Clone, Debug)]
struct TraceConfig {
    client: Client,
    sampler: Sampler,
    resource: Resource,
    schedule_delay: Duration,
    queue_max: usize,
    batch_max: usize,
    export_timeout: Duration,
}

impl TraceConfig {
    fn new(
        settings: &Settings,
        source: &Source,
        endpoint: Endpoint,
        secrets: watch::Receiver<Secrets>,
    ) -> Self {
        let timeout = settings
            .get(&OTEL_EXPORTER_OTLP_TRACES_TIMEOUT)
            .unwrap_or_else(|| settings.get(&OTEL_EXPORTER_OTLP_TIMEOUT));
        Self {
            client: Client::new(endpoint, secrets),
            sampler: sampler(settings),
            resource: resource(settings, source),
            schedule_delay: settings.get(&OTEL_BSP_SCHEDULE_DELAY),
            queue_max: settings.get(&OTEL_BSP_MAX_QUEUE_SIZE),
            batch_max: settings.get(&OTEL_BSP_MAX_EXPORT_BATCH_SIZE),
            export_timeout: timeout.min(settings.get(&OTEL_BSP_EXPORT_TIMEOUT)),
        }
    }
}

fn sampler(settings: &Settings) -> Sampler {
    let ratio = settings.get(&OTEL_TRACES_SAMPLER_ARG);
    let ratio = ratio.map_or(1.0, |Ratio(ratio)| ratio);
    let or_as_the_parent = |sampler| Sampler::ParentBased(Box::new(sampler));
    match settings.get(&OTEL_TRACES_SAMPLER) {
        TracesSampler::AlwaysOn => Sampler::AlwaysOn,
        TracesSampler::AlwaysOff => Sampler::AlwaysOff,
        TracesSampler::Ratio => Sampler::TraceIdRatioBased(ratio),
        TracesSampler::ParentOrOn => or_as_the_parent(Sampler::AlwaysOn),
        TracesSampler::ParentOrOff => or_as_the_parent(Sampler::AlwaysOff),
        TracesSampler::ParentOrRatio => or_as_the_parent(Sampler::TraceIdRatioBased(ratio)),
    }
}

/// Returns what collectors are told about this process. What the settings say comes last, and so
/// takes precedence.
fn resource(settings: &Settings, source: &Source) -> Resource {
    let own = [
        KeyValue::new("service.name", source.service),
        KeyValue::new("service.version", VERSION),
        KeyValue::new("service.instance.id", source.instance.clone()),
    ];
    let Pairs(pairs) = settings
        .get(&OTEL_RESOURCE_ATTRIBUTES)
        .unwrap_or(Pairs(Vec::new()));
    let pairs = pairs
        .into_iter()
        .map(|(name, value)| KeyValue::new(name, value));
    let name = settings.get(&OTEL_SERVICE_NAME);
    let name = name.map(|name| KeyValue::new("service.name", name));
    Resource::builder_empty()
        .with_attributes(own.into_iter().chain(pairs).chain(name))
        .build()
}

/// The reason that traces can't be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TracesError {
    /// A file can't be used.
    #[error(transparent)]
    Files(#[from] TraceFilesError),
    /// The system has no thread left.
    #[error("cannot start the thread of traces")]
    Thread(#[from] io::Error),
}

impl TracesError {
    /// Returns the exit code of a process that ends because of this error.
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::Files(_) => exit::CONFIG,
            Self::Thread(_) => exit::SOFTWARE,
        }
    }
}

/// The traces of this process. They end with [`Self::end`].
#[derive(Debug)]
pub(crate) struct Traces {
    tracer: Tracer,
    sdk: SdkTracer,
    running: watch::Sender<bool>,
    ended: Receiver<()>,
}

impl Traces {
    /// Starts to send traces if the settings say so, on a thread of its own. `counters` count them.
    /// The files have an effect only while they are watched.
    ///
    /// # Errors
    /// Returns an error if a file can't be used, or if the system has no thread left.
    pub(crate) fn start(
        settings: &Settings,
        source: &Source,
        counters: &TraceCounters,
    ) -> Result<Option<(Self, TraceFiles)>, TracesError> {
        let Some(endpoint) = settings::endpoint(settings) else {
            return Ok(None);
        };
        let files = TraceFiles::load(settings)?;
        let config = TraceConfig::new(settings, source, endpoint, files.secrets());
        Ok(Some((Self::start_with(config, counters)?, files)))
    }

    fn start_with(config: TraceConfig, counters: &TraceCounters) -> io::Result<Self> {
        let (queue, spans) = SpanQueue::new(config.queue_max, counters.clone());
        let tracer = Tracer::new(config.sampler.clone(), queue.clone());
        let provider = SdkTracerProvider::builder()
            .with_sampler(config.sampler.clone())
            .with_resource(Resource::builder_empty().build())
            .with_span_processor(queue)
            .build();
        let sdk = provider.tracer(tracer::SCOPE);
        let (running, watched) = watch::channel(true);
        let (done, ended) = std::sync::mpsc::channel();
        let exporter = Exporter::new(config, spans, counters.clone(), watched);
        thread::Builder::new()
            .name("traces".into())
            .spawn(move || {
                // Encoding must not delay an edge's shards.
                low_priority::lower();
                exporter.run();
                // This fails if the process did not wait for it.
                let _ = done.send(());
            })?;
        Ok(Self {
            tracer,
            sdk,
            running,
            ended,
        })
    }

    /// Returns the tracer for spans whose times are given.
    pub(crate) fn tracer(&self) -> Tracer {
        self.tracer.clone()
    }

    /// Returns the tracer for spans of the target [`TARGET`].
    pub(crate) fn sdk(&self) -> SdkTracer {
        self.sdk.clone()
    }

    /// Sends the spans that wait, at most for [`END_TIME_MAX`].
    pub(crate) fn end(self) {
        self.running.send_replace(false);
        let _ = self.ended.recv_timeout(END_TIME_MAX);
    }
}

#[cfg(test)]
mod tests;
