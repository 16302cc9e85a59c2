//! The settings of traces: the variables of OpenTelemetry's specification that this program obeys,
//! with the specification's defaults. If traces are sent, every other variable of the specification
//! is refused.

use std::{path::PathBuf, time::Duration};

use super::values::{Endpoint, HeaderPairs, Pairs, Ratio};
use crate::env::{Findings, Section, Setting, Settings, Span, Text, on_one_line};

/// The protocol by which spans are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP over HTTP, in the binary encoding.
    HttpProtobuf,
}

/// The compression of what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// None.
    None,
}

/// The receiver of spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TracesExporter {
    /// An OTLP endpoint.
    Otlp,
    /// Nobody.
    None,
}

/// The receiver of a signal of OpenTelemetry that this program does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherExporter {
    /// Nobody.
    None,
}

/// The form in which a trace continues in other programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagator {
    /// W3C's Trace Context.
    TraceContext,
}

/// The way in which traces are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TracesSampler {
    /// All of them.
    AlwaysOn,
    /// None of them.
    AlwaysOff,
    /// A share of them.
    Ratio,
    /// As the clock has chosen; if it has not, all of them.
    ParentOrOn,
    /// As the clock has chosen; if it has not, none of them.
    ParentOrOff,
    /// As the clock has chosen; if it has not, a share of them.
    ParentOrRatio,
}

crate::choices!(Protocol: "http/protobuf" => Self::HttpProtobuf);
crate::choices!(Compression: "none" => Self::None);
crate::choices!(TracesExporter: "otlp" => Self::Otlp, "none" => Self::None);
crate::choices!(OtherExporter: "none" => Self::None);
crate::choices!(Propagator: "tracecontext" => Self::TraceContext);
crate::choices!(TracesSampler:
    "always_on" => Self::AlwaysOn,
    "always_off" => Self::AlwaysOff,
    "traceidratio" => Self::Ratio,
    "parentbased_always_on" => Self::ParentOrOn,
    "parentbased_always_off" => Self::ParentOrOff,
    "parentbased_traceidratio" => Self::ParentOrRatio,
);

impl TracesSampler {
    const fn has_ratio(self) -> bool {
        match self {
            Self::Ratio | Self::ParentOrRatio => true,
            Self::AlwaysOn | Self::AlwaysOff | Self::ParentOrOn | Self::ParentOrOff => false,
        }
    }
}

const NO_COLLECTOR: &str = "Traces need a collector";
const AS_GENERAL: &str = "The variable without TRACES applies";
const STANDARD: &str = "The default of OpenTelemetry's specification";
const NO_SUCH_SIGNAL: &str = "Metrics are for Prometheus, and logs go to standard error";

crate::settings! {
    /// The variables of traces; [`TRACES`] is the section that programs take.
    VARIABLES, checked by check;
    /// Turns traces off, whatever the other variables say.
    OTEL_SDK_DISABLED: bool = Setting::new((), "false", STANDARD);
    /// The collector that traces are sent to, at the path /v1/traces below this URL. Without it,
    /// no traces are sent.
    OTEL_EXPORTER_OTLP_ENDPOINT: Option<Endpoint> = Setting::unset((), NO_COLLECTOR).url();
    /// The same with the complete URL. It takes precedence.
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: Option<Endpoint> = Setting::unset((), AS_GENERAL).url();
    /// The protocol by which traces are sent.
    OTEL_EXPORTER_OTLP_PROTOCOL: Protocol = Setting::new((), "http/protobuf", STANDARD);
    /// The same for traces only. It takes precedence.
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: Option<Protocol> = Setting::unset((), AS_GENERAL);
    /// The headers that are sent to the collector, such as a key.
    OTEL_EXPORTER_OTLP_HEADERS: Option<HeaderPairs> =
        Setting::unset((), "A collector in the same network needs none").secret().or_file();
    /// The same for traces only. It takes precedence.
    OTEL_EXPORTER_OTLP_TRACES_HEADERS: Option<HeaderPairs> =
        Setting::unset((), AS_GENERAL).secret().or_file();
    /// The milliseconds that one request to the collector may take.
    OTEL_EXPORTER_OTLP_TIMEOUT: Duration =
        Setting::new(Span::millis(1, 600_000), "10000", STANDARD);
    /// The same for traces only. It takes precedence.
    OTEL_EXPORTER_OTLP_TRACES_TIMEOUT: Option<Duration> =
        Setting::unset(Span::millis(1, 600_000), AS_GENERAL);
    /// The file with the certificate authorities that sign the collector's certificate.
    OTEL_EXPORTER_OTLP_CERTIFICATE: Option<PathBuf> = Setting::unset(
        (),
        "The system's certificate authorities apply if it is not set",
    );
    /// The same for traces only. It takes precedence.
    OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE: Option<PathBuf> = Setting::unset((), AS_GENERAL);
    /// The compression of what is sent.
    OTEL_EXPORTER_OTLP_COMPRESSION: Compression = Setting::new((), "none", STANDARD);
    /// The same for traces only. It takes precedence.
    OTEL_EXPORTER_OTLP_TRACES_COMPRESSION: Option<Compression> = Setting::unset((), AS_GENERAL);
    /// Who gets traces: the collector, or nobody.
    OTEL_TRACES_EXPORTER: TracesExporter = Setting::new((), "otlp", STANDARD);
    /// Who gets metrics by OTLP: nobody.
    OTEL_METRICS_EXPORTER: OtherExporter = Setting::new((), "none", NO_SUCH_SIGNAL);
    /// Who gets logs by OTLP: nobody.
    OTEL_LOGS_EXPORTER: OtherExporter = Setting::new((), "none", NO_SUCH_SIGNAL);
    /// The form in which clocks tell edges the trace of an announcement.
    OTEL_PROPAGATORS: Propagator = Setting::new((), "tracecontext", "The bus carries no baggage");
    /// The name of this service in traces. It takes precedence over service.name in
    /// OTEL_RESOURCE_ATTRIBUTES. Without either, it is the program's name.
    OTEL_SERVICE_NAME: Option<String> =
        Setting::unset(Text::CREDENTIAL, "The program's name tells clocks and edges apart");
    /// What collectors are told about this process.
    OTEL_RESOURCE_ATTRIBUTES: Option<Pairs> =
        Setting::unset((), "Every process tells its name, its version and its id");
    /// How traces are chosen. The choice of a clock is the parent of an edge's.
    OTEL_TRACES_SAMPLER: TracesSampler = Setting::new(
        (),
        "parentbased_always_on",
        "One tick per second is little, and handshakes have a limit of their own",
    );
    /// The share of the traces that is chosen, for the samplers with a ratio.
    OTEL_TRACES_SAMPLER_ARG: Option<Ratio> = Setting::unset((), "The samplers with a ratio take 1");
    /// The milliseconds for which spans wait for others to be sent with.
    OTEL_BSP_SCHEDULE_DELAY: Duration = Setting::new(Span::millis(1, 60_000), "5000", STANDARD);
    /// The most spans that wait to be sent. Further ones are dropped and counted.
    OTEL_BSP_MAX_QUEUE_SIZE: usize = Setting::new(1..=65_536, "2048", STANDARD);
    /// The most spans in one request.
    OTEL_BSP_MAX_EXPORT_BATCH_SIZE: usize = Setting::new(1..=65_536, "512", STANDARD);
    /// The milliseconds that the sending of one batch may take. A lower timeout of requests applies
    /// instead.
    OTEL_BSP_EXPORT_TIMEOUT: Duration = Setting::new(Span::millis(1, 600_000), "30000", STANDARD);
}

/// Settings of traces. If they are sent, other variables of OpenTelemetry are refused. The names of
/// its batches of log records are two letters away from those of its batches of spans.
pub const TRACES: Section = VARIABLES.owning("OTEL_", are_sent).beside(&["OTEL_BLRP_"]);

/// Returns the endpoint that traces are sent to; `None` if they are not sent.
pub(super) fn endpoint(settings: &Settings) -> Option<Endpoint> {
    let is_on = !settings.look_up(&OTEL_SDK_DISABLED)?
        && settings.look_up(&OTEL_TRACES_EXPORTER)? == TracesExporter::Otlp;
    let complete = settings.look_up(&OTEL_EXPORTER_OTLP_TRACES_ENDPOINT)?;
    let base = settings.look_up(&OTEL_EXPORTER_OTLP_ENDPOINT)?;
    complete
        .or_else(|| base.map(|base| base.below("v1/traces")))
        .filter(|_| is_on)
}

/// Returns whether traces are sent. If the settings of traces were not loaded or are not valid,
/// they are not.
#[must_use]
pub fn are_sent(settings: &Settings) -> bool {
    endpoint(settings).is_some()
}

/// Returns the value of a setting for traces, or else that of the general one.
pub(super) fn headers(settings: &Settings) -> Option<HeaderPairs> {
    settings
        .look_up(&OTEL_EXPORTER_OTLP_TRACES_HEADERS)
        .flatten()
        .or_else(|| settings.look_up(&OTEL_EXPORTER_OTLP_HEADERS).flatten())
}

/// Returns the file with the authorities of the collector's certificate, and its setting.
pub(super) fn authorities(settings: &Settings) -> Option<(&'static str, PathBuf)> {
    let file = |setting: &Setting<Option<PathBuf>>| {
        let path = settings.look_up(setting).flatten()?;
        Some((setting.name(), path))
    };
    file(&OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE).or_else(|| file(&OTEL_EXPORTER_OTLP_CERTIFICATE))
}

/// Settings of traces that contradict each other.
#[derive(Debug, thiserror::Error)]
enum Contradiction {
    #[error(
        "OTEL_TRACES_SAMPLER_ARG={0} is a ratio, and OTEL_TRACES_SAMPLER={1} has none: set the \
         sampler to traceidratio or parentbased_traceidratio, or leave the ratio unset"
    )]
    Ratio(Ratio, &'static str),
    #[error(
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE={batch} is above OTEL_BSP_MAX_QUEUE_SIZE={queue}: a batch \
         can't have more spans than may wait"
    )]
    Batch { batch: usize, queue: usize },
}

fn check(settings: &Settings, findings: &mut Findings) {
    for file in [
        &OTEL_EXPORTER_OTLP_CERTIFICATE,
        &OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE,
    ] {
        findings.refuse_unreadable(settings, file);
    }
    let sampler = settings.look_up(&OTEL_TRACES_SAMPLER);
    let ratio = settings.look_up(&OTEL_TRACES_SAMPLER_ARG).flatten();
    if let (Some(sampler), Some(ratio)) = (sampler, ratio)
        && !sampler.has_ratio()
    {
        findings.refuse(Contradiction::Ratio(ratio, sampler.name()));
    }
    let batch = settings.look_up(&OTEL_BSP_MAX_EXPORT_BATCH_SIZE);
    let queue = settings.look_up(&OTEL_BSP_MAX_QUEUE_SIZE);
    if let (Some(batch), Some(queue)) = (batch, queue)
        && batch > queue
    {
        findings.refuse(Contradiction::Batch { batch, queue });
    }
    if let (Some(endpoint), Some(_)) = (endpoint(settings), headers(settings))
        && endpoint.is_plain_text_beyond_loopback()
    {
        findings.warn(format!(
            "the headers for traces are sent to {} without TLS, so others on the network can read \
             them: use an https:// URL",
            on_one_line(endpoint.host())
        ));
    }
}
