use async_nats::HeaderMap;
use tickstorm_bus::message::encode_announcement;
use tickstorm_bus::{Bus, ClockEvent, EdgeEvent, Events, NatsBus, NatsOptions, TraceParent};
use tickstorm_testkit::Nats;

use crate::{announcement, clock, edge, id, options, soon};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn parent() -> TraceParent {
    PARENT.parse().expect("the recommendation's example")
}

fn traced_bus(nats: &Nats) -> NatsBus {
    NatsBus::start(NatsOptions {
        headers: true,
        ..options(nats)
    })
    .expect("valid options")
}

async fn traced_clock(nats: &Nats) -> (NatsBus, Events<ClockEvent>) {
    let bus = traced_bus(nats);
    let mut events = bus.clock_events(&id("clock-0"));
    assert_eq!(soon(events.next()).await, ClockEvent::Connected);
    (bus, events)
}

async fn traced_edge(nats: &Nats) -> (NatsBus, Events<EdgeEvent>) {
    let bus = traced_bus(nats);
    let mut events = bus.edge_events(&[]);
    assert_eq!(soon(events.next()).await, EdgeEvent::Connected);
    (bus, events)
}

/// Announces until the edge hears it, and returns the trace that it hears.
async fn heard_trace(
    clock: &NatsBus,
    edge: &mut Events<EdgeEvent>,
    trace: Option<&TraceParent>,
) -> Option<TraceParent> {
    let wanted = announcement(1_000);
    for _ in 0..600 {
        clock.announce_traced(&wanted, trace).expect("a connection");
        let next = tokio::time::timeout(std::time::Duration::from_millis(50), edge.next());
        if let Ok(event) = next.await {
            let Some(EdgeEvent::Announcement(heard, trace)) = event else {
                panic!("{event:?}");
            };
            assert_eq!(heard, wanted);
            return trace;
        }
    }
    panic!("no announcement was heard");
}

#[tokio::test]
async fn a_trace_reaches_the_edges_that_read_headers_and_no_other() {
    let nats = Nats::run(&[]);
    let ((traced, _), (plain, _)) = (traced_clock(&nats).await, clock(&nats).await);
    let (_one, mut reading) = traced_edge(&nats).await;
    let (_other, mut ignoring) = edge(&nats).await;
    let trace = parent();
    for (clock, edge, sent, expected) in [
        (&traced, &mut reading, Some(&trace), Some(trace)),
        (&traced, &mut ignoring, Some(&trace), None),
    ] {
        assert_eq!(heard_trace(clock, edge, sent).await, expected);
    }
    // Each edge hears both clocks.
    let (_third, mut reading) = traced_edge(&nats).await;
    assert_eq!(heard_trace(&plain, &mut reading, Some(&trace)).await, None);
    let (_fourth, mut reading) = traced_edge(&nats).await;
    assert_eq!(heard_trace(&traced, &mut reading, None).await, None);
}

#[tokio::test]
async fn a_clock_that_traces_hears_its_own_announcements_and_requests() {
    let nats = Nats::run(&[]);
    let (clock, mut requests) = traced_clock(&nats).await;
    let (edge, _events) = traced_edge(&nats).await;
    clock
        .announce_traced(&announcement(1_000), Some(&parent()))
        .unwrap();
    tickstorm_testkit::poll_until_async("its announcement is heard", crate::PATIENCE, || {
        !clock.take_echo_times().is_empty()
    })
    .await;
    edge.ask(7).unwrap();
    let request = soon(requests.next()).await;
    assert!(
        matches!(request, ClockEvent::Request { nonce: 7, .. }),
        "{request:?}"
    );
}

#[tokio::test]
async fn headers_that_cannot_be_read_cost_no_announcement() {
    let nats = Nats::run(&[]);
    let (_edge, mut events) = traced_edge(&nats).await;
    let raw = Box::pin(async_nats::connect(nats.url())).await.unwrap();
    let subject = "tickstorm.v1.tick.second.clock-0";
    let values = ["", "00", &PARENT.to_uppercase(), &"x".repeat(500), PARENT];
    for value in values {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", value);
        let payload = encode_announcement(&announcement(1_000));
        raw.publish_with_headers(subject, headers, payload.into())
            .await
            .unwrap();
        raw.flush().await.unwrap();
        let expected = value.parse().ok();
        let heard = EdgeEvent::Announcement(announcement(1_000), expected);
        assert_eq!(soon(events.next()).await, heard, "{value}");
    }
}
