use std::time::Duration;

use tickstorm_bus::message::{
    MESSAGE_BYTES_MAX, encode_announcement, encode_reply, encode_request,
};
use tickstorm_bus::{Bus, ClockEvent, DropReason, EdgeEvent, ReplyKey};
use tickstorm_timebase::Mode;

use crate::{Heard, announcement, clock_and_edge, heard, id, messages, reply, soon};

/// Returns the event that `count` messages from the login of `clock` were dropped.
fn dropped(clock: Option<&str>, reason: DropReason, count: u64) -> Option<EdgeEvent> {
    let clock = clock.map(id);
    Some(EdgeEvent::Dropped {
        reason,
        clock,
        count,
    })
}

#[tokio::test(start_paused = true)]
async fn garbage_is_dropped_counted_by_clock_and_reason_and_does_no_harm() {
    let (bus, clock, edge, mut events) = clock_and_edge().await;
    let subjects = edge.subjects();
    let oversized = vec![0; MESSAGE_BYTES_MAX + 1];
    let tick = |mode, clock| subjects.tick(mode, &id(clock));
    for payload in [b"\xFF\xFF".as_slice(), b"", b"\x08\x07"] {
        bus.inject(&tick(Mode::Second, "clock-0"), None, payload.to_vec());
    }
    bus.inject(&edge.answer_subject(&id("clock-1")), None, b"\xFF".to_vec());
    bus.inject(
        &edge.answer_subject(&id("clock-1")),
        None,
        oversized.clone(),
    );
    bus.inject(&tick(Mode::Minute, "clock-0"), None, oversized);
    bus.inject(
        &tick(Mode::Minute, "clock-0"),
        None,
        encode_announcement(&announcement(60_000)),
    );
    clock.announce(&announcement(1_000)).unwrap();

    for expected in [
        dropped(Some("clock-0"), DropReason::Malformed, 3),
        dropped(Some("clock-0"), DropReason::Oversized, 1),
        dropped(Some("clock-0"), DropReason::WrongSubject, 1),
        dropped(Some("clock-1"), DropReason::Malformed, 1),
        dropped(Some("clock-1"), DropReason::Oversized, 1),
    ] {
        assert_eq!(soon(events.next()).await, expected);
    }
    assert_eq!(heard(&mut events).await, [Heard::Tick(1_000)]);
}

#[tokio::test(start_paused = true)]
async fn a_message_in_the_name_of_another_clock_than_its_subjects_is_dropped() {
    let (bus, _clock, edge, mut events) = clock_and_edge().await;
    let announcement = encode_announcement(&announcement(1_000));
    let tick = edge.subjects().tick(Mode::Second, &id("clock-1"));
    bus.inject(&tick, None, announcement);
    let answer = edge.answer_subject(&id("clock-1"));
    bus.inject(&answer, None, encode_reply(&reply(1)));
    assert_eq!(
        soon(events.next()).await,
        dropped(Some("clock-1"), DropReason::ForeignId, 2)
    );
    bus.inject(&answer, None, encode_reply(&messages::reply(1, "clock-1")));
    assert_eq!(heard(&mut events).await, [Heard::Reply(1)]);
}

#[tokio::test(start_paused = true)]
async fn an_edge_reads_only_its_clocks_and_no_flood_of_one_crowds_out_another() {
    let (bus, clock, _edge, _events) = clock_and_edge().await;
    let edge = bus.link("edge-1");
    let mut events = edge.edge_events(&[id("clock-0"), id("clock-1")]);
    assert_eq!(soon(events.next()).await, Some(EdgeEvent::Connected));
    let flood = |clock: &str| {
        let payload = encode_reply(&messages::reply(7, clock));
        for _ in 0..10_000 {
            bus.inject(&edge.answer_subject(&id(clock)), None, payload.clone());
        }
    };
    flood("mallory");
    flood("clock-1");
    bus.inject(
        &edge.answer_subject(&id("clock-0")),
        None,
        encode_reply(&reply(8)),
    );
    clock.announce(&announcement(1_000)).unwrap();
    let mut answers = 0;
    loop {
        match soon(events.next()).await {
            Some(EdgeEvent::Dropped { reason, clock, .. }) if clock.is_none() => {
                assert_eq!(reason, DropReason::UnknownClock);
            }
            Some(EdgeEvent::Dropped { reason, clock, .. }) => {
                let expected = (DropReason::RateLimited, Some(id("clock-1")));
                assert_eq!((reason, clock), expected);
            }
            Some(EdgeEvent::Reply(reply)) if reply.nonce == 7 => answers += 1,
            Some(EdgeEvent::Reply(reply)) => {
                assert_eq!(reply.nonce, 8);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(answers, 50);
    assert_eq!(heard(&mut events).await, [Heard::Tick(1_000)]);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_subscriber_is_notified_of_garbage_immediately() {
    let (bus, _clock, edge, mut events) = clock_and_edge().await;
    let (event, ()) = tokio::join!(soon(events.next()), async {
        tokio::task::yield_now().await;
        let subject = edge.answer_subject(&id("clock-0"));
        bus.inject(&subject, None, b"\xFF".to_vec());
    });
    assert_eq!(event, dropped(Some("clock-0"), DropReason::Malformed, 1));
}

#[tokio::test(start_paused = true)]
async fn a_request_must_have_a_reply_subject_and_no_key_that_does_not_belong_to_it() {
    let (bus, clock, edge, _events) = clock_and_edge().await;
    let mut requests = clock.clock_events(&id("clock-0"));
    assert_eq!(soon(requests.next()).await, Some(ClockEvent::Connected));
    let time = clock.subjects().time();
    let own = encode_request(1, &edge.reply_key());
    let tick = edge.subjects().tick(Mode::Second, &id("clock-0"));
    let reply = edge.reply_subject();
    let below = edge.answer_subject(&id("clock-0"));
    for reply_to in [None, Some(&*tick), Some("_INBOX.x"), Some(&*below)] {
        bus.inject(time, reply_to, own.clone());
    }
    bus.inject(time, Some(&reply), b"\x08\x01\x12\x01k".to_vec());
    let expected = ClockEvent::Dropped {
        reason: DropReason::Malformed,
        count: 5,
    };
    assert_eq!(soon(requests.next()).await, Some(expected));
    let forged = encode_request(2, &ReplyKey::random());
    bus.inject(time, Some(&reply), forged);
    let expected = ClockEvent::Dropped {
        reason: DropReason::ForeignReply,
        count: 1,
    };
    assert_eq!(soon(requests.next()).await, Some(expected));
    bus.inject(time, Some(&reply), own);
    let request = soon(requests.next()).await;
    assert!(
        matches!(request, Some(ClockEvent::Request { nonce: 1, .. })),
        "{request:?}"
    );
    let without_key = b"\x08\x03".to_vec();
    bus.inject(time, Some(&reply), without_key.clone());
    assert_eq!(soon(requests.next()).await, Some(expected));
    let other = format!(
        "{}other-edge",
        reply.trim_end_matches(|letter| letter != '.')
    );
    bus.inject(time, Some(&other), without_key);
    let request = soon(requests.next()).await;
    assert!(
        matches!(request, Some(ClockEvent::Request { nonce: 3, .. })),
        "{request:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_requests_costs_no_other_edge_an_answer() {
    let (bus, clock, edge, _events) = clock_and_edge().await;
    let mut requests = clock.clock_events(&id("clock-0"));
    assert_eq!(soon(requests.next()).await, Some(ClockEvent::Connected));
    let subjects = edge.subjects();
    let mut asked = 0;
    for round in 0..20 {
        // The first round is before the flood.
        for _ in 0..2_000 * round.min(1) {
            let key = ReplyKey::random();
            let reply = subjects.reply(key.token());
            bus.inject(
                subjects.time(),
                Some(&reply),
                encode_request(u64::MAX, &key),
            );
        }
        edge.ask(round).unwrap();
        tokio::time::advance(Duration::from_millis(500)).await;
        while let Some(event) = tokio::time::timeout(Duration::ZERO, requests.next())
            .await
            .ok()
            .flatten()
        {
            asked +=
                u32::from(matches!(event, ClockEvent::Request { nonce, .. } if nonce == round));
        }
    }
    assert_eq!(asked, 20);
}

#[tokio::test(start_paused = true)]
async fn valid_injected_messages_are_received() {
    let (bus, clock, edge, mut events) = clock_and_edge().await;
    let mut requests = clock.clock_events(&id("clock-0"));
    assert_eq!(soon(requests.next()).await, Some(ClockEvent::Connected));
    bus.inject(
        clock.subjects().time(),
        Some(&edge.reply_subject()),
        encode_request(9, &edge.reply_key()),
    );
    let request = soon(requests.next()).await;
    assert!(
        matches!(request, Some(ClockEvent::Request { nonce: 9, .. })),
        "{request:?}"
    );
    let subject = edge.answer_subject(&id("clock-0"));
    bus.inject(&subject, None, encode_reply(&reply(9)));
    assert_eq!(heard(&mut events).await, [Heard::Reply(9)]);
}
