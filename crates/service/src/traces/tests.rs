use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, BufRead as _, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use opentelemetry::trace::{SpanContext, SpanKind};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message as _;
use rustls::{
    ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tickstorm_testkit::{CertificateAuthority, TempDir, poll_until};
use tickstorm_timebase::{Clock as _, SystemClock, UnixTime};

use super::{settings::TRACES, *};

/// Long enough that only a defect exceeds it.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a collector does with a request.
#[derive(Clone, Debug)]
enum Reaction {
    /// It accepts the spans.
    Accept,
    /// It accepts them, and closes the connection without saying so.
    AcceptAndClose,
    /// It accepts all spans but this many.
    Reject(i64),
    /// It answers with this status.
    Status(u16),
}

/// A request as the collector has received it.
#[derive(Clone, Debug)]
struct Seen {
    /// The request line and the headers, in lower case.
    head: String,
    request: ExportTraceServiceRequest,
}

impl Seen {
    fn names(&self) -> Vec<String> {
        let resources = self.request.resource_spans.iter();
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        let spans = scopes.flat_map(|scope| &scope.spans);
        spans.map(|span| span.name.clone()).collect()
    }

    fn resource(&self, name: &str) -> String {
        let resource = self.request.resource_spans[0].resource.as_ref().unwrap();
        let attribute = resource.attributes.iter().find(|has| has.key == name);
        format!("{:?}", attribute.unwrap().value)
    }
}

/// A collector that reacts as it is told, and then accepts everything.
struct Fake {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<Mutex<usize>>,
}

impl Fake {
    fn start(reactions: impl IntoIterator<Item = Reaction>) -> Self {
        Self::start_on(reactions, |stream| Ok(Box::new(stream) as Box<dyn Stream>))
    }

    fn start_on(
        reactions: impl IntoIterator<Item = Reaction>,
        secure: impl Fn(TcpStream) -> io::Result<Box<dyn Stream>> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fake = Self {
            addr: listener.local_addr().unwrap(),
            seen: Arc::default(),
            connections: Arc::default(),
        };
        let mut reactions: VecDeque<_> = reactions.into_iter().collect();
        let (seen, connections) = (Arc::clone(&fake.seen), Arc::clone(&fake.connections));
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                *connections.lock().unwrap() += 1;
                // A client that does not trust this collector ends the connection.
                let _ = secure(stream).and_then(|stream| serve(stream, &mut reactions, &seen));
            }
        });
        fake
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

fn serve(
    stream: Box<dyn Stream>,
    reactions: &mut VecDeque<Reaction>,
    seen: &Mutex<Vec<Seen>>,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line == "\r\n" {
                break;
            }
            head.push_str(&line.to_lowercase());
            if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        let request = ExportTraceServiceRequest::decode(&body[..]).unwrap();
        seen.lock().unwrap().push(Seen { head, request });
        let reaction = reactions.pop_front().unwrap_or(Reaction::Accept);
        let (status, answer) = match reaction {
            Reaction::Accept | Reaction::AcceptAndClose => (200, Vec::new()),
            Reaction::Status(status) => (status, b"overloaded".to_vec()),
            Reaction::Reject(rejected_spans) => {
                let partial_success = Some(ExportTracePartialSuccess {
                    rejected_spans,
                    error_message: "too old".into(),
                });
                let answer = ExportTraceServiceResponse { partial_success };
                (200, answer.encode_to_vec())
            }
        };
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        stream.get_mut().write_all(head.as_bytes())?;
        stream.get_mut().write_all(&answer)?;
        stream.get_mut().flush()?;
        if matches!(reaction, Reaction::AcceptAndClose) {
            return Ok(());
        }
    }
}

/// Starts traces that are sent to `endpoint`, with these further settings.
fn start(endpoint: &str, vars: &[(&str, &str)]) -> (Traces, TraceCounters) {
    let own = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_BSP_SCHEDULE_DELAY", "1"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4"),
    ];
    // The last value of a variable counts.
    let vars: BTreeMap<_, _> = own.iter().chain(vars).copied().collect();
    let settings = Settings::from_vars(vars, &[TRACES], &[]).unwrap();
    let counters = TraceCounters::new();
    let source = Source {
        service: "tickstorm-test",
        instance: "test-0".into(),
    };
    let started = Traces::start(&settings, &source, &counters).unwrap();
    let (traces, _files) = started.expect("there is an endpoint");
    (traces, counters)
}

fn record(tracer: &Tracer, name: &'static str) -> SpanContext {
    let context = tracer.sample(None, name, &SpanKind::Internal).unwrap();
    tracer.record(FinishedSpan {
        context: context.clone(),
        parent: None,
        links: Vec::new(),
        name,
        kind: SpanKind::Internal,
        start: UnixTime::from_nanos(1_700_000_000_000_000_000),
        end: UnixTime::from_nanos(1_700_000_000_000_001_000),
        attributes: Vec::new(),
        error: None,
    });
    context
}

#[test]
fn spans_are_sent_with_the_source_and_the_headers_over_one_connection() {
    let fake = Fake::start([]);
    let vars = [
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=unused"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "api-key=open%20sesame"),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "service.name=a,deployment.environment=test",
        ),
        ("OTEL_SERVICE_NAME", "b"),
    ];
    let (traces, counters) = start(&format!("http://{}/collect", fake.addr), &vars);
    let tracer = traces.tracer();
    for (count, name) in [(1, "first"), (2, "second")] {
        record(&tracer, name);
        poll_until("the span is counted", PATIENCE, || {
            counters.exported.get() == count
        });
    }
    traces.end();
    let seen = fake.seen();
    let names: Vec<_> = seen.iter().flat_map(Seen::names).collect();
    assert_eq!(names, ["first", "second"]);
    for line in [
        "post /collect/v1/traces http/1.1",
        "content-type: application/x-protobuf",
        "api-key: open sesame",
        &format!("host: {}", fake.addr),
    ] {
        assert!(
            seen[0].head.lines().any(|has| has == line),
            "{line}: {seen:?}"
        );
    }
    for (name, value) in [
        ("service.name", "\"b\""),
        ("service.instance.id", "test-0"),
        ("service.version", VERSION),
        ("deployment.environment", "test"),
    ] {
        assert!(seen[0].resource(name).contains(value), "{name}: {seen:?}");
    }
    assert_eq!(*fake.connections.lock().unwrap(), 1);
}

#[test]
fn spans_that_the_collector_does_not_accept_are_counted_and_not_repeated() {
    let fake = Fake::start([
        Reaction::Status(503),
        Reaction::Reject(1),
        Reaction::Reject(9),
    ]);
    let (traces, counters) = start(&format!("http://{}", fake.addr), &[]);
    let tracer = traces.tracer();
    for failed in 1..=3 {
        record(&tracer, "span");
        poll_until("the span is counted", PATIENCE, || {
            counters.export_failed.get() == failed
        });
    }
    record(&tracer, "span");
    poll_until("the span is counted", PATIENCE, || {
        counters.exported.get() == 1
    });
    traces.end();
    assert_eq!(counters.export_failed.get(), 3, "no more than there were");
    assert_eq!(fake.seen().len(), 4);
}

#[test]
fn a_connection_that_was_closed_meanwhile_costs_no_span() {
    let fake = Fake::start([Reaction::AcceptAndClose, Reaction::AcceptAndClose]);
    let (traces, counters) = start(&format!("http://{}", fake.addr), &[]);
    let tracer = traces.tracer();
    for count in 1..=3 {
        record(&tracer, "span");
        poll_until("the span is counted", PATIENCE, || {
            counters.exported.get() == count
        });
    }
    traces.end();
    assert_eq!(counters.export_failed.get(), 0);
    assert_eq!(*fake.connections.lock().unwrap(), 3);
}

#[test]
fn what_waits_at_the_end_is_sent() {
    let fake = Fake::start([]);
    let endpoint = format!("http://{}", fake.addr);
    let (traces, counters) = start(&endpoint, &[("OTEL_BSP_SCHEDULE_DELAY", "60000")]);
    for _ in 0..11 {
        record(&traces.tracer(), "span");
    }
    traces.end();
    assert_eq!(counters.exported.get(), 11);
    let sizes: Vec<_> = fake.seen().iter().map(|seen| seen.names().len()).collect();
    assert!(sizes.iter().all(|size| *size <= 4), "{sizes:?}");
}

#[test]
fn a_silent_collector_costs_spans_beyond_the_queue_and_a_short_time_at_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let vars = [
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "600000"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "600000"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "8"),
    ];
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (traces, counters) = start(&endpoint, &vars);
    let tracer = traces.tracer();
    for _ in 0..100 {
        record(&tracer, "span");
    }
    // Eight spans wait, and one batch of up to four is being sent.
    assert!(counters.queue_full.get() >= 100 - 8 - 4, "{counters:?}");
    let began = SystemClock.now();
    traces.end();
    assert!(SystemClock.now().since(began) < Duration::from_secs(30));
    assert_eq!(counters.exported.get(), 0);
}

#[test]
fn a_collector_with_tls_is_trusted_if_its_authority_is() {
    let authority = CertificateAuthority::new();
    let certificate = authority.issue("localhost");
    let chain = CertificateDer::pem_slice_iter(certificate.certificate.as_bytes());
    let chain: Vec<_> = chain.collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap();
    let config = Arc::new(tickstorm_tls::server_config(chain, key, None).unwrap());
    let fake = Fake::start_on([], move |stream| {
        let connection = ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
        Ok(Box::new(StreamOwned::new(connection, stream)) as Box<dyn Stream>)
    });
    let dir = TempDir::new("collector");
    let endpoint = format!("https://localhost:{}", fake.addr.port());
    for (trusted, is_accepted) in [(&authority, true), (&CertificateAuthority::new(), false)] {
        let file = dir.write("authority.pem", trusted.certificate());
        let file = file.to_str().unwrap();
        let (traces, counters) = start(&endpoint, &[("OTEL_EXPORTER_OTLP_CERTIFICATE", file)]);
        record(&traces.tracer(), "span");
        poll_until("the span is counted", PATIENCE, || {
            counters.exported.get() + counters.export_failed.get() == 1
        });
        traces.end();
        assert_eq!(counters.exported.get() == 1, is_accepted);
    }
}

#[test]
fn the_parent_decides_unless_the_sampler_says_otherwise() {
    let sampled = |sampler: &str, arg: Option<&str>, parent: Option<bool>| {
        let vars = [("OTEL_TRACES_SAMPLER", sampler)].into_iter();
        let vars: Vec<_> = vars
            .chain(arg.map(|arg| ("OTEL_TRACES_SAMPLER_ARG", arg)))
            .collect();
        let (traces, _) = start("http://127.0.0.1:1", &vars);
        let parent = parent.map(|is_sampled| {
            let parent = tickstorm_bus::TraceParent::new([7; 16], [7; 8], is_sampled);
            span_context(&parent.unwrap())
        });
        let context = traces
            .tracer()
            .sample(parent.as_ref(), "span", &SpanKind::Internal);
        if let (Some(context), Some(parent)) = (&context, &parent) {
            assert_eq!(context.trace_id(), parent.trace_id());
            assert_ne!(context.span_id(), parent.span_id());
        }
        context.is_some()
    };
    for (sampler, arg, expected) in [
        ("always_on", None, [true, true, true]),
        ("always_off", None, [false, false, false]),
        ("traceidratio", Some("0"), [false, false, false]),
        ("traceidratio", None, [true, true, true]),
        ("parentbased_always_on", None, [true, false, true]),
        ("parentbased_always_off", None, [false, false, true]),
        ("parentbased_traceidratio", Some("0"), [false, false, true]),
        ("parentbased_traceidratio", Some("1"), [true, false, true]),
    ] {
        let found = [None, Some(false), Some(true)].map(|parent| sampled(sampler, arg, parent));
        assert_eq!(found, expected, "{sampler} {arg:?}");
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let errors = |vars: &[(&str, &str)]| {
        let loaded = Settings::from_vars(vars.iter().copied(), &[TRACES], &[]);
        loaded.map_or_else(|errors| errors.to_string(), |_| String::new())
    };
    for (vars, expected) in [
        (
            &[("OTEL_TRACES_SAMPLER_ARG", "0.5")][..],
            "OTEL_TRACES_SAMPLER=parentbased_always_on has none",
        ),
        (
            &[("OTEL_BSP_MAX_QUEUE_SIZE", "100")],
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=512 is above OTEL_BSP_MAX_QUEUE_SIZE=100",
        ),
        (
            &[("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/x")],
            "OTEL_EXPORTER_OTLP_CERTIFICATE=/nowhere/x",
        ),
        (
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:1"),
                ("OTEL_FOO", "b\nc"),
            ],
            r"OTEL_FOO=b\nc is not supported: unset it, or use one of OTEL_SDK_DISABLED",
        ),
        (&[("OTEL_FOO", "b")], ""),
        (
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:1"),
                ("OTEL_TRACES_EXPORTER", "none"),
                ("OTEL_FOO", "b"),
            ],
            "",
        ),
    ] {
        let found = errors(vars);
        assert!(found.contains(expected), "{vars:?}: {found}");
        assert_eq!(found.is_empty(), expected.is_empty(), "{vars:?}: {found}");
    }
}
