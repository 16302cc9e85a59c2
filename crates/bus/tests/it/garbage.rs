use tickstorm_bus::message::{
    MESSAGE_BYTES_MAX, encode_announcement, encode_reply, encode_request,
};
use tickstorm_bus::{Bus, ClockEvent, DropReason, EdgeEvent};
use tickstorm_timebase::Mode;

use crate::{Heard, announcement, clock_and_edge, heard, reply, soon};

#[tokio::test(start_paused = true)]
async fn garbage_is_dropped_counted_by_reason_and_does_no_harm() {
    let (bus, clock, edge, mut events) = clock_and_edge().await;
    let subjects = edge.subjects();
    let oversized = vec![0; MESSAGE_BYTES_MAX + 1];
    for payload in [b"\xFF\xFF".as_slice(), b"", b"\x08\x07"] {
        bus.inject(subjects.tick(Mode::Second), None, payload.to_vec());
    }
    bus.inject(edge.inbox(), None, b"\xFF".to_vec());
    bus.inject(edge.inbox(), None, oversized.clone());
    bus.inject(subjects.tick(Mode::Minute), None, oversized);
    bus.inject(
        subjects.tick(Mode::Minute),
        None,
        encode_announcement(&announcement(60_000)),
    );
    clock.announce(&announcement(1_000)).unwrap();

    let dropped = |reason, count| Some(EdgeEvent::Dropped { reason, count });
    assert_eq!(soon(events.next()).await, dropped(DropReason::Malformed, 4));
    assert_eq!(soon(events.next()).await, dropped(DropReason::Oversized, 2));
    assert_eq!(
        soon(events.next()).await,
        dropped(DropReason::WrongSubject, 1)
    );
    assert_eq!(heard(&mut events).await, [Heard::Tick(1_000)]);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_subscriber_is_notified_of_garbage_immediately() {
    let (bus, _clock, edge, mut events) = clock_and_edge().await;
    let (event, ()) = tokio::join!(soon(events.next()), async {
        tokio::task::yield_now().await;
        bus.inject(edge.inbox(), None, b"\xFF".to_vec());
    });
    assert_eq!(
        event,
        Some(EdgeEvent::Dropped {
            reason: DropReason::Malformed,
            count: 1
        })
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_reply_subject_is_dropped() {
    let (bus, clock, _edge, _events) = clock_and_edge().await;
    let mut requests = clock.clock_events();
    assert_eq!(soon(requests.next()).await, Some(ClockEvent::Connected));
    bus.inject(clock.subjects().time(), None, encode_request(1));
    let dropped = ClockEvent::Dropped {
        reason: DropReason::Malformed,
        count: 1,
    };
    assert_eq!(soon(requests.next()).await, Some(dropped));
}

#[tokio::test(start_paused = true)]
async fn valid_injected_messages_are_received() {
    let (bus, clock, edge, mut events) = clock_and_edge().await;
    let mut requests = clock.clock_events();
    assert_eq!(soon(requests.next()).await, Some(ClockEvent::Connected));
    bus.inject(
        clock.subjects().time(),
        Some(edge.inbox()),
        encode_request(9),
    );
    let request = soon(requests.next()).await;
    assert!(
        matches!(request, Some(ClockEvent::Request { nonce: 9, .. })),
        "{request:?}"
    );
    bus.inject(edge.inbox(), None, encode_reply(&reply(9)));
    assert_eq!(heard(&mut events).await, [Heard::Reply(9)]);
}
