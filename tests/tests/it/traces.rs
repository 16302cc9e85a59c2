//! Traces: from a clock's announcement over NATS to the fan-outs of edges, and of handshakes, as a
//! real collector receives them. A collector that is bad costs spans and nothing else.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::Value;
use tickstorm_testkit::{Nats, Peer, ReservedAddr, frame};
use tickstorm_timebase::{Clock as _, SystemClock};
use tokio::time::sleep;

use crate::support::cluster::Cluster;
use crate::support::collector::{Collector, Span};
use crate::support::daemon::{Daemon, PASSWORD, USER};
use crate::support::eventually;
use crate::support::observer::{Observer, SPAN};
use crate::tickstorm::PATIENCE;

/// The difference between the lateness of ticks with a bad collector and without any that is
/// tolerated. A defect would add the time that requests to the collector may take, which is longer.
const DIFFERENCE_MAX_US: i64 = 250_000;

/// Makes a daemon send traces to `endpoint`, soon after they are there.
fn trace_to(daemon: &mut Daemon, endpoint: &str) {
    daemon.set("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
    daemon.set("OTEL_BSP_SCHEDULE_DELAY", "200");
}

/// Returns a cluster of one clock and two edges that send traces to `collector`, once it runs.
async fn traced_cluster(collector: &Collector) -> Cluster {
    let mut cluster = Cluster::new(vec![Nats::run(&[])], 1, 2, &[]);
    for daemon in cluster.clocks.iter_mut().chain(&mut cluster.edges) {
        trace_to(daemon, &collector.endpoint());
        daemon.set("LOG_LEVEL", "debug");
    }
    cluster.start().await;
    cluster
}

/// The spans of a tick on one edge, from its arrival on.
struct OnEdge<'a> {
    release: &'a Span,
    fan_out: &'a Span,
}

fn children<'a>(spans: &'a [Span], of: &Span, name: &str) -> Vec<&'a Span> {
    let spans = spans.iter();
    let children = spans.filter(|span| span.trace_id == of.trace_id && span.parent_id == of.id);
    children.filter(|span| span.name == name).collect()
}

fn on_edge<'a>(spans: &'a [Span], announced: &Span, edge: &str) -> Option<OnEdge<'a>> {
    let received = children(spans, announced, "tick receive");
    let received = received.into_iter().find(|span| span.instance == edge)?;
    let releases = children(spans, received, "tick release");
    releases.into_iter().find_map(|release| {
        let fan_out = *children(spans, release, "tick fan-out").first()?;
        Some(OnEdge { release, fan_out })
    })
}

/// Returns the lines of a log with these ids.
fn lines_of(log: &str, trace_id: &str, message: &str) -> Vec<Value> {
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    lines
        .filter(|line: &Value| line["trace_id"] == trace_id && line["message"] == message)
        .collect()
}

#[tokio::test]
async fn one_trace_leads_from_an_announcement_to_the_fan_outs_of_two_edges() {
    let collector = Collector::start().await;
    let cluster = traced_cluster(&collector).await;
    let observers: Vec<_> = cluster
        .edges
        .iter()
        .map(|edge| Observer::start("traced", edge.client()))
        .collect();
    let complete = |spans: &[Span]| {
        let announced = spans.iter().filter(|span| span.name == "tick announce");
        let mut complete = announced.filter(|announced| {
            ["edge-0", "edge-1"]
                .iter()
                .all(|edge| on_edge(spans, announced, edge).is_some())
        });
        complete.next_back().cloned()
    };
    eventually("a trace with both edges is there", PATIENCE, async || {
        complete(&collector.spans()).is_some()
    })
    .await;
    let spans = collector.spans();
    let announced = complete(&spans).unwrap();
    assert_eq!(announced.service, "tickstorm-clock");
    assert_eq!(announced.instance, "clock-0");
    assert!(
        announced.parent_id.trim_matches('0').is_empty(),
        "{announced:?}"
    );
    assert_eq!(announced.kind, "SPAN_KIND_PRODUCER");
    let epoch_ms: i64 = announced.attribute("tickstorm.epoch_ms").parse().unwrap();
    assert!(announced.start_ns < epoch_ms * 1_000_000, "{announced:?}");
    let message = "announced";
    let lines = lines_of(&cluster.clocks[0].log(), &announced.trace_id, message);
    assert_eq!(lines[0]["span_id"], announced.id, "{lines:?}");
    for edge in &cluster.edges {
        let id = if edge.admin() == cluster.edges[0].admin() {
            "edge-0"
        } else {
            "edge-1"
        };
        let OnEdge { release, fan_out } = on_edge(&spans, &announced, id).unwrap();
        assert_eq!(
            (&*release.service, &*fan_out.instance),
            ("tickstorm-edge", id)
        );
        for span in [release, fan_out] {
            assert_eq!(span.attribute("tickstorm.mode"), "second");
            assert_eq!(span.attribute("tickstorm.delivery"), "at_time");
            assert_eq!(span.attribute("tickstorm.epoch_ms"), epoch_ms.to_string());
            assert!(span.end_ns >= span.start_ns, "{span:?}");
        }
        assert_eq!(release.attribute("tickstorm.quality"), "normal");
        assert_eq!(fan_out.attribute("tickstorm.frames"), "1");
        // The tick was due at its time.
        let apart_ns = release.start_ns.abs_diff(epoch_ms * 1_000_000);
        assert!(apart_ns < 50_000_000, "{release:?}");
        let lines = lines_of(&edge.log(), &announced.trace_id, "tick sent");
        assert!(
            lines.iter().any(|line| line["span_id"] == release.id),
            "{lines:?}"
        );
    }
    for observer in observers {
        observer.finish(1);
    }
    for edge in &cluster.edges {
        assert!(edge.metric("tickstorm_trace_spans_exported_total").await > 0.0);
    }
}

#[tokio::test]
async fn the_span_of_a_handshake_has_the_id_that_the_client_and_the_operator_see() {
    let collector = Collector::start().await;
    let mut edge = Daemon::new("tickstorm-edge").with("LOG_LEVEL", "debug");
    trace_to(&mut edge, &collector.endpoint());
    edge.set("OTEL_EXPORTER_OTLP_HEADERS", "api-key=secret");
    edge.set("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=named");
    edge.start().await;
    let mut client = Peer::connect(edge.clients()).await;
    client.auth(USER, PASSWORD).await;
    let id = client.expect_ack(frame::AUTH).await.connection_id;
    let (_, listed) = edge.get("/connections").await.unwrap();
    assert!(listed.contains(&id), "{listed}");
    let mut refused = Peer::connect(edge.clients()).await;
    refused.auth(USER, "wrong").await;
    let error = refused.expect_error("AUTH_FAILED").await;

    let with_id = |id: &str| {
        let spans = collector.spans().into_iter();
        let mut spans = spans.filter(|span| span.name == "handshake");
        spans.find(|span| span.attribute("tickstorm.connection_id") == id)
    };
    eventually("both handshakes are there", PATIENCE, async || {
        with_id(&id).is_some() && with_id(&error.connection_id).is_some()
    })
    .await;
    let span = with_id(&id).unwrap();
    assert_eq!(
        (&*span.service, &*span.instance),
        ("tickstorm-edge", "named")
    );
    assert_eq!(span.kind, "SPAN_KIND_SERVER");
    assert_eq!(span.attribute("tickstorm.identity"), "user");
    assert_eq!(span.attribute("client.address"), "127.0.0.1");
    assert!(span.end_ns >= span.start_ns, "{span:?}");
    let lines = lines_of(&edge.log(), &span.trace_id, "authenticated");
    assert_eq!(lines[0]["connection"], id, "{lines:?}");
    assert_eq!(lines[0]["span_id"], span.id, "{lines:?}");
    let failed = with_id(&error.connection_id).unwrap();
    assert_eq!(failed.attribute("tickstorm.reason"), "auth_failed");
    let lines = lines_of(&edge.log(), &failed.trace_id, "connection closed");
    assert_eq!(lines[0]["connection"], error.connection_id, "{lines:?}");
    assert!(!edge.log().contains("secret"), "{}", edge.log());
    assert_eq!(edge.terminate().await, Some(0));
}

/// In one cluster, an edge without traces is compared with one whose collector accepts connections
/// but never answers, and with one whose collector is down. Requests may take a minute.
#[tokio::test]
async fn a_bad_collector_delays_no_tick_and_no_end_and_its_spans_are_counted() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let down = ReservedAddr::reserve();
    let mut cluster = Cluster::new(vec![Nats::run(&[])], 1, 3, &[]);
    let endpoints = [silent.local_addr().unwrap(), down.addr()];
    for (edge, endpoint) in cluster.edges.iter_mut().skip(1).zip(endpoints) {
        trace_to(edge, &format!("http://{endpoint}"));
        edge.set("OTEL_EXPORTER_OTLP_TIMEOUT", "60000");
        edge.set("OTEL_BSP_MAX_QUEUE_SIZE", "4");
        edge.set("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2");
    }
    trace_to(&mut cluster.clocks[0], &format!("http://{}", endpoints[0]));
    cluster.clocks[0].set("OTEL_EXPORTER_OTLP_TIMEOUT", "60000");
    cluster.start().await;
    let observers: Vec<_> = cluster
        .edges
        .iter()
        .map(|edge| Observer::start("of a bad collector", edge.client()))
        .collect();
    for observer in &observers {
        observer.await_ticks(SPAN).await;
    }
    let dropped = async |edge: &Daemon, reason| {
        let name = format!("tickstorm_trace_spans_dropped_total{{reason=\"{reason}\"}}");
        edge.metric(&name).await
    };
    assert!(dropped(&cluster.edges[1], "queue_full").await > 0.0);
    assert!(dropped(&cluster.edges[2], "export_failed").await > 0.0);
    assert_eq!(dropped(&cluster.edges[0], "queue_full").await, 0.0);
    let medians: Vec<_> = observers
        .iter()
        .map(|observer| observer.median_lateness_us(0))
        .collect();
    assert!(
        medians
            .iter()
            .all(|median| median - medians[0] < DIFFERENCE_MAX_US),
        "{medians:?}"
    );
    for observer in observers {
        observer.finish(SPAN);
    }
    assert!(cluster.edges[2].log().contains("traces could not be sent"));
    // Requests to the silent collector may take a minute, but the end does not wait for them.
    let began = SystemClock.now();
    assert_eq!(cluster.edges[1].terminate().await, Some(0));
    assert_eq!(cluster.clocks[0].terminate().await, Some(0));
    let lasted = SystemClock.now().since(began);
    assert!(lasted < Duration::from_secs(40), "{lasted:?}");
}

#[tokio::test]
async fn without_traces_no_connection_is_made() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    for (name, value, expected) in [
        ("OTEL_SDK_DISABLED", "true", false),
        ("OTEL_TRACES_EXPORTER", "none", false),
        ("OTEL_TRACES_SAMPLER", "always_off", false),
        ("OTEL_TRACES_SAMPLER", "always_on", true),
    ] {
        let mut edge = Daemon::new("tickstorm-edge").with(name, value);
        trace_to(&mut edge, &endpoint);
        edge.set("OTEL_BSP_SCHEDULE_DELAY", "1");
        edge.start().await;
        let mut client = Peer::connect(edge.clients()).await;
        client.auth(USER, PASSWORD).await;
        client.expect_ack(frame::AUTH).await;
        let is_connected = || listener.accept().is_ok();
        if expected {
            eventually("the edge connects", PATIENCE, async || is_connected()).await;
        } else {
            // There is nothing to wait for. A connection would be made within milliseconds.
            sleep(Duration::from_secs(1)).await;
            assert!(!is_connected(), "{name}={value}");
        }
        edge.kill().await;
    }
}

#[tokio::test]
async fn variables_that_have_no_effect_are_refused_if_traces_are_sent() {
    let edge = Daemon::new("tickstorm-edge")
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
        .with("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        .with("OTEL_SPAN_EVENT_COUNT_LIMIT", "7")
        .with("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "api-key=secret");
    let output = edge.command(&["--check-config"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8(output.stderr).unwrap();
    let expected = "OTEL_EXPORTER_OTLP_PROTOCOL=grpc is invalid: expected http/protobuf";
    assert!(text.contains(expected), "{text}");
    let edge = edge.without("OTEL_EXPORTER_OTLP_PROTOCOL");
    let output = edge.command(&["--check-config"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8(output.stderr).unwrap();
    for expected in [
        "OTEL_SPAN_EVENT_COUNT_LIMIT=7 is not supported: unset it, or use one of OTEL_SDK_DISABLED",
        "OTEL_EXPORTER_OTLP_LOGS_HEADERS=*** is not supported",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    let edge = edge.without("OTEL_EXPORTER_OTLP_ENDPOINT");
    let output = edge.command(&["--check-config"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}
