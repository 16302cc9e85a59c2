//! A collector of traces as a process: rotel, which prints the spans that it receives.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::process::Stdio;

use tickstorm_testkit::{ReservedAddr, TempDir, tool};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::eventually;
use crate::tickstorm::PATIENCE;

/// A span as the collector has received it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Span {
    pub(crate) service: String,
    pub(crate) instance: String,
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) trace_id: String,
    pub(crate) id: String,
    pub(crate) parent_id: String,
    pub(crate) start_ns: i64,
    pub(crate) end_ns: i64,
    pub(crate) attributes: BTreeMap<String, String>,
}

impl Span {
    /// Returns the value of an attribute.
    pub(crate) fn attribute(&self, name: &str) -> &str {
        let value = self.attributes.get(name);
        value.unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }
}

/// A running collector, which is killed when this is dropped.
pub(crate) struct Collector {
    addr: ReservedAddr,
    _grpc: ReservedAddr,
    dir: TempDir,
    _child: Child,
}

impl Collector {
    /// Starts a collector and waits until it listens.
    pub(crate) async fn start() -> Self {
        let (addr, grpc) = (ReservedAddr::reserve(), ReservedAddr::reserve());
        let dir = TempDir::new("collector");
        let output = File::create(dir.path().join("output")).unwrap();
        let child = Command::new(tool("rotel-agent"))
            .args(["start", "--exporter", "blackhole"])
            .args(["--debug-log", "traces", "--debug-log-verbosity", "detailed"])
            .args(["--otlp-http-endpoint", &addr.addr().to_string()])
            .args(["--otlp-grpc-endpoint", &grpc.addr().to_string()])
            .env_clear()
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .expect("`cargo xtask test` has installed rotel");
        eventually("the collector listens", PATIENCE, async || {
            TcpStream::connect(addr.addr()).await.is_ok()
        })
        .await;
        Self {
            addr,
            _grpc: grpc,
            dir,
            _child: child,
        }
    }

    /// Returns the value of OTEL_EXPORTER_OTLP_ENDPOINT.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.addr.addr())
    }

    /// Returns the spans that were received so far.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let output = fs::read_to_string(self.dir.path().join("output")).unwrap();
        read_spans(&output)
    }
}

/// Reads the collector's output: the attributes of the sender, and then spans, each of which starts
/// with a line of its own.
fn read_spans(output: &str) -> Vec<Span> {
    let (mut spans, mut source, mut span) = (Vec::new(), Span::default(), None);
    for line in output.lines() {
        if line.starts_with("ResourceSpans #") {
            spans.extend(span.take());
            source = Span::default();
        } else if line.starts_with("Span #") {
            spans.extend(span.replace(source.clone()));
        } else if let Some(attribute) = line.trim().strip_prefix("-> ") {
            let Some((name, value)) = attribute.split_once(": ") else {
                continue;
            };
            let value = value.split_once('(').map_or(value, |(_, value)| value);
            let value = value.trim_end_matches(')').to_owned();
            match (&mut span, name) {
                (Some(span), _) => drop(span.attributes.insert(name.to_owned(), value)),
                (None, "service.name") => source.service = value,
                (None, "service.instance.id") => source.instance = value,
                (None, _) => {}
            }
        } else if let (Some(span), Some((name, value))) = (&mut span, line.split_once(':')) {
            let value = value.trim().to_owned();
            match name.trim() {
                "Trace ID" => span.trace_id = value,
                "Parent ID" => span.parent_id = value,
                "ID" => span.id = value,
                "Name" => span.name = value,
                "Kind" => span.kind = value,
                "Start time" => span.start_ns = value.parse().unwrap(),
                "End time" => span.end_ns = value.parse().unwrap_or_default(),
                _ => {}
            }
        }
    }
    // The last span may not be printed completely yet.
    spans.extend(span.filter(|_| output.ends_with('\n')));
    spans
}
