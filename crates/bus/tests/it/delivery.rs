use std::time::Duration;

use tickstorm_bus::{Bus, ClockEvent, DropReason, EdgeEvent, MemoryBus, Unavailable};

use crate::{Heard, announcement, clock_and_edge, heard, id, reply, soon};

#[tokio::test(start_paused = true)]
async fn every_edge_receives_every_clocks_announcements_in_order() {
    let bus = MemoryBus::new();
    let clocks = [bus.link("clock-0"), bus.link("clock-1")];
    let edges = [bus.link("edge-0"), bus.link("edge-1")];
    let mut events = edges.each_ref().map(|edge| edge.edge_events(&[]));
    for events in &mut events {
        assert_eq!(soon(events.next()).await, Some(EdgeEvent::Connected));
    }
    for epoch_ms in [1_000, 2_000, 3_000] {
        for clock in &clocks {
            clock.announce(&announcement(epoch_ms)).unwrap();
        }
    }
    let expected = [1_000, 1_000, 2_000, 2_000, 3_000, 3_000].map(Heard::Tick);
    for events in &mut events {
        assert_eq!(heard(events).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn every_clock_receives_a_request_and_only_its_sender_the_answers() {
    let bus = MemoryBus::new();
    let clocks = [bus.link("clock-0"), bus.link("clock-1")];
    let mut requests = clocks
        .each_ref()
        .map(|clock| clock.clock_events(&id("clock-0")));
    let (asker, other) = (bus.link("edge-0"), bus.link("edge-1"));
    let (mut asked, mut unasked) = (asker.edge_events(&[]), other.edge_events(&[]));
    asker.ask(42).unwrap();
    for (clock, requests) in clocks.iter().zip(&mut requests) {
        assert_eq!(soon(requests.next()).await, Some(ClockEvent::Connected));
        let Some(ClockEvent::Request {
            nonce: 42,
            reply_to,
        }) = soon(requests.next()).await
        else {
            panic!("no request");
        };
        clock.answer(&reply_to, &reply(42)).unwrap();
    }
    assert_eq!(soon(asked.next()).await, Some(EdgeEvent::Connected));
    assert_eq!(
        heard(&mut asked).await,
        [Heard::Reply(42), Heard::Reply(42)]
    );
    assert_eq!(soon(unasked.next()).await, Some(EdgeEvent::Connected));
    assert_eq!(heard(&mut unasked).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_cut_connection_neither_sends_nor_receives_until_it_is_restored() {
    let (bus, clock, edge, mut events) = clock_and_edge().await;
    bus.cut("edge");
    assert_eq!(soon(events.next()).await, Some(EdgeEvent::Disconnected));
    clock.announce(&announcement(1_000)).unwrap();
    assert_eq!(edge.ask(1), Err(Unavailable));
    bus.restore("edge");
    assert_eq!(soon(events.next()).await, Some(EdgeEvent::Connected));
    clock.announce(&announcement(2_000)).unwrap();
    assert_eq!(heard(&mut events).await, [Heard::Tick(2_000)]);
    bus.cut("clock");
    assert_eq!(clock.announce(&announcement(3_000)), Err(Unavailable));
    let mut late = clock.clock_events(&id("clock-0"));
    bus.restore("clock");
    assert_eq!(soon(late.next()).await, Some(ClockEvent::Connected));
}

#[tokio::test(start_paused = true)]
async fn a_cut_restored_before_it_was_noticed_is_reported_as_a_new_connection() {
    let (bus, _clock, _edge, mut events) = clock_and_edge().await;
    bus.cut("edge");
    bus.restore("edge");
    assert_eq!(soon(events.next()).await, Some(EdgeEvent::Connected));
    assert_eq!(soon(events.next()).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_full_subscription_keeps_the_oldest_messages_and_counts_the_others() {
    const SENT: u64 = 10_000;
    let (bus, clock, _edge, mut events) = clock_and_edge().await;
    let mut requests = clock.clock_events(&id("clock-0"));
    // No reply subject may ask this often, so each request comes from another edge.
    let edges = (0..SENT / 8).map(|number| bus.link(&format!("edge-{number}")));
    for (number, edge) in edges.enumerate() {
        for nonce in 0..8 {
            edge.ask(number as u64 * 8 + nonce).unwrap();
        }
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    bus.cut("clock");
    assert_eq!(
        soon(requests.next()).await,
        Some(ClockEvent::Disconnected),
        "a change of status is not lost even if the queue is full"
    );
    let Some(ClockEvent::Dropped {
        reason: DropReason::Full,
        count,
    }) = soon(requests.next()).await
    else {
        panic!("dropped messages were not reported");
    };
    let kept = SENT - count;
    assert!(kept > 1_000, "{count} of {SENT} dropped");
    for expected in 0..kept {
        let next = soon(requests.next()).await;
        assert!(
            matches!(next, Some(ClockEvent::Request { nonce, .. }) if nonce == expected),
            "{next:?} instead of {expected}"
        );
    }
    assert_eq!(soon(requests.next()).await, None);
    assert_eq!(soon(events.next()).await, None);
}

#[tokio::test(start_paused = true)]
async fn events_end_with_the_bus() {
    let (bus, clock, edge, mut events) = clock_and_edge().await;
    clock.announce(&announcement(1_000)).unwrap();
    drop((bus, clock, edge));
    assert_eq!(
        soon(events.next()).await,
        Some(EdgeEvent::Announcement(announcement(1_000), None))
    );
    assert_eq!(soon(events.next()).await, None);
}

#[tokio::test(start_paused = true)]
async fn after_a_redraw_answers_arrive_at_the_new_reply_subject_only() {
    let (_bus, clock, edge, mut events) = clock_and_edge().await;
    let mut requests = clock.clock_events(&id("clock-0"));
    assert_eq!(soon(requests.next()).await, Some(ClockEvent::Connected));
    let mut request = async |nonce| {
        edge.ask(nonce).unwrap();
        match soon(requests.next()).await {
            Some(ClockEvent::Request { reply_to, .. }) => reply_to,
            other => panic!("{other:?}"),
        }
    };
    let former = request(1).await;
    assert_eq!(request(2).await, former, "the reply subject stays the same");
    edge.redraw_reply_subject();
    let current = request(3).await;
    assert_ne!(current, former);
    clock.answer(&former, &reply(1)).unwrap();
    clock.answer(&current, &reply(3)).unwrap();
    assert_eq!(heard(&mut events).await, [Heard::Reply(3)]);
}
