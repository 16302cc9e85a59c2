use std::collections::BTreeMap;

use async_nats::Client;
use tickstorm_bus::message::{
    MESSAGE_BYTES_MAX, encode_announcement, encode_reply, encode_request,
};
use tickstorm_bus::{Bus, ClockEvent, DropReason, EdgeEvent, NatsBus, ReplyKey};
use tickstorm_testkit::Nats;
use tickstorm_timebase::Mode;

use crate::{announce_until_heard, announcement, clock, edge, id, reply, soon};

#[tokio::test]
async fn every_clock_answers_a_request_and_only_its_sender_receives_the_answers() {
    let nats = Nats::run(&[]);
    let (clocks, edges) = (
        [clock(&nats).await, clock(&nats).await],
        [edge(&nats).await, edge(&nats).await],
    );
    let [(asker, mut heard), (bystander, mut overheard)] = edges;
    asker.ask(9).unwrap();
    for ((clock, mut requests), id) in clocks.into_iter().zip(["clock-0", "clock-1"]) {
        let ClockEvent::Request { nonce, reply_to } = soon(requests.next()).await else {
            panic!("no request");
        };
        clock.answer(&reply_to, &reply(nonce, id)).unwrap();
        assert_eq!(
            soon(heard.next()).await,
            EdgeEvent::Reply(reply(9, id)),
            "{id}"
        );
    }
    assert_eq!(
        announce_until_heard(&bystander, &mut overheard, 1_000).await,
        []
    );
}

#[tokio::test]
async fn a_request_without_clocks_does_not_count_as_garbage() {
    let nats = Nats::run(&[]);
    let (edge, mut events) = edge(&nats).await;
    edge.ask(1).unwrap();
    // The server's reply that there are no subscribers comes before messages sent afterwards.
    assert_eq!(announce_until_heard(&edge, &mut events, 1_000).await, []);
}

#[tokio::test]
async fn messages_of_a_system_with_another_prefix_are_not_received() {
    let nats = Nats::run(&[]);
    let (edge, mut events) = edge(&nats).await;
    let raw_client = raw_client(&nats).await;
    let payload = encode_announcement(&announcement(5_000));
    publish(&raw_client, "other.v1.tick.second.clock-0", None, payload).await;
    assert_eq!(announce_until_heard(&edge, &mut events, 1_000).await, []);
}

#[tokio::test]
async fn garbage_on_the_subjects_is_dropped_counted_and_does_no_harm() {
    let nats = Nats::run(&[]);
    let (edge, mut ticks) = edge(&nats).await;
    let (_clock, mut requests) = clock(&nats).await;
    let raw_client = raw_client(&nats).await;
    let subjects = edge.subjects();
    let tick = |mode| subjects.tick(mode, &id("clock-0"));
    let (second, minute) = (&*tick(Mode::Second), &*tick(Mode::Minute));
    publish(&raw_client, second, None, b"\xFF\xFF".to_vec()).await;
    publish(&raw_client, second, None, Vec::new()).await;
    publish(&raw_client, minute, None, vec![0; MESSAGE_BYTES_MAX + 1]).await;
    publish(&raw_client, minute, None, vec![0; 512 * 1_024]).await;
    let misplaced = encode_announcement(&announcement(60_000));
    publish(&raw_client, minute, None, misplaced).await;
    let key = ReplyKey::random();
    let time = subjects.time();
    publish(&raw_client, time, None, encode_request(1, &key)).await;
    publish(&raw_client, time, Some(second), encode_request(2, &key)).await;
    let own_reply = subjects.reply(key.token());
    publish(&raw_client, time, Some(&own_reply), encode_request(3, &key)).await;

    let mut dropped = BTreeMap::new();
    while dropped.values().sum::<u64>() < 5 {
        match soon(ticks.next()).await {
            EdgeEvent::Dropped {
                reason,
                clock,
                count,
            } => {
                assert_eq!(clock, Some(id("clock-0")), "{reason:?}");
                *dropped.entry(reason).or_default() += count;
            }
            other @ (EdgeEvent::Announcement(..)
            | EdgeEvent::Reply(_)
            | EdgeEvent::Connected
            | EdgeEvent::Disconnected) => panic!("{other:?}"),
        }
    }
    let expected = [
        (DropReason::Malformed, 2),
        (DropReason::Oversized, 2),
        (DropReason::WrongSubject, 1),
    ];
    assert_eq!(dropped, BTreeMap::from(expected));
    assert_eq!(announce_until_heard(&edge, &mut ticks, 1_000).await, []);

    // One request names no reply subject, and another a subject of ticks. The valid request may be
    // received while these two are still being counted. What is on the clock's own subjects and not
    // oversized may be another clock's: the first two messages, the misplaced one, and what the
    // edge's connection has announced in its name.
    let (mut unanswerable, mut heard, mut foreign) = (0, None, 0);
    while unanswerable < 2 || heard.is_none() || foreign < 3 {
        match soon(requests.next()).await {
            ClockEvent::Dropped {
                reason: DropReason::Malformed,
                count,
            } => unanswerable += count,
            ClockEvent::Dropped {
                reason: DropReason::SharedId,
                count,
            } => foreign += count,
            ClockEvent::Request { nonce, .. } => heard = Some(nonce),
            other @ (ClockEvent::Connected
            | ClockEvent::Disconnected
            | ClockEvent::Dropped { .. }) => panic!("{other:?}"),
        }
    }
    assert_eq!((unanswerable, heard), (2, Some(3)));
}

/// A flood under every subject that an edge hears: it reads all of it, drops most of it by its
/// sender, and receives everything that others send.
#[tokio::test]
async fn a_flood_of_one_clock_costs_an_edge_no_message_of_another() {
    const FLOOD: u64 = 100_000;
    let nats = Nats::run(&[]);
    let edge = NatsBus::start(crate::options(&nats)).expect("valid options");
    let mut events = edge.edge_events(&[id("clock-0"), id("clock-1")]);
    assert_eq!(soon(events.next()).await, EdgeEvent::Connected);
    let raw_client = raw_client(&nats).await;
    let subjects = edge.subjects();
    let of_clock_1 = subjects.tick(Mode::Second, &id("clock-1"));
    let of_mallory = subjects.tick(Mode::Minute, &id("mallory"));
    for number in 0..FLOOD {
        let subject = [&of_clock_1, &of_mallory][usize::from(number % 2 == 0)];
        let payload = encode_announcement(&announcement(5_000)).into();
        let sent = raw_client.publish(subject.clone(), payload).await;
        sent.expect("async-nats accepts the message");
        if number % 1_000 == 0 {
            let epoch_ms = i64::try_from(number).unwrap() + 1_000;
            let payload = encode_announcement(&announcement(epoch_ms)).into();
            let subject = subjects.tick(Mode::Second, &id("clock-0"));
            let sent = raw_client.publish(subject, payload).await;
            sent.expect("async-nats accepts the message");
            // A clock may announce ten times per second.
            tokio::time::sleep(std::time::Duration::from_millis(60)).await;
        }
    }
    raw_client.flush().await.expect("the message is sent");
    let (mut heard, mut dropped) = (Vec::new(), 0);
    while dropped < FLOOD || heard.len() < 100 {
        match soon(events.next()).await {
            EdgeEvent::Announcement(announcement, _) => heard.push(announcement.epoch.as_ms()),
            EdgeEvent::Dropped {
                reason,
                clock,
                count,
            } => {
                let is_expected = match reason {
                    DropReason::UnknownClock => clock.is_none(),
                    DropReason::ForeignId | DropReason::RateLimited => clock == Some(id("clock-1")),
                    DropReason::Malformed
                    | DropReason::Oversized
                    | DropReason::WrongSubject
                    | DropReason::SharedId
                    | DropReason::ForeignReply
                    | DropReason::Overloaded
                    | DropReason::Stale
                    | DropReason::Full => false,
                };
                assert!(is_expected, "{count} {reason:?} of {clock:?}");
                dropped += count;
            }
            other @ (EdgeEvent::Reply(_) | EdgeEvent::Connected | EdgeEvent::Disconnected) => {
                panic!("{other:?}")
            }
        }
    }
    let expected: Vec<_> = (0..100).map(|number| number * 1_000 + 1_000).collect();
    assert_eq!((heard, dropped), (expected, FLOOD));
}

/// A flood of requests under new reply subjects beside an edge that asks once in a while, and a
/// clock that announces meanwhile.
#[tokio::test]
async fn a_flood_of_requests_costs_an_edge_no_answer_and_delays_no_announcement() {
    const FLOOD: u64 = 100_000;
    const ROUNDS: u64 = 20;
    let nats = Nats::run(&[]);
    let (clock, mut requests) = clock(&nats).await;
    let (edge, mut events) = edge(&nats).await;
    let raw_client = raw_client(&nats).await;
    let subjects = edge.subjects();
    let answering = async {
        loop {
            if let ClockEvent::Request { nonce, reply_to } = soon(requests.next()).await {
                // If the connection is stuck, the round below has no answer and the test fails.
                let _ = clock.answer(&reply_to, &reply(nonce, "clock-0"));
            }
        }
    };
    let asking = async {
        for round in 0..ROUNDS {
            // In the first round, the clock gets to know the edge.
            for _ in 0..FLOOD / ROUNDS * round.min(1) {
                let key = ReplyKey::random();
                let (reply, request) = (subjects.reply(key.token()), encode_request(1, &key));
                let sent = raw_client.publish_with_reply(
                    subjects.time().to_owned(),
                    reply,
                    request.into(),
                );
                sent.await.expect("async-nats accepts the message");
            }
            edge.ask(1_000 + round).unwrap();
            clock.announce(&announcement(5_000)).unwrap();
            let (mut answered, mut announced) = (false, false);
            while !(answered && announced) {
                match soon(events.next()).await {
                    EdgeEvent::Reply(reply) => {
                        assert_eq!(reply.nonce, 1_000 + round);
                        answered = true;
                    }
                    EdgeEvent::Announcement(..) => announced = true,
                    other @ (EdgeEvent::Connected
                    | EdgeEvent::Disconnected
                    | EdgeEvent::Dropped { .. }) => panic!("{other:?}"),
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        () = asking => {}
        () = answering => {}
    }
}

#[tokio::test]
async fn an_answer_to_another_reply_subject_is_not_received() {
    let nats = Nats::run(&[]);
    let (edge, mut events) = edge(&nats).await;
    let raw_client = raw_client(&nats).await;
    let other = ReplyKey::random().token();
    let subject = edge.subjects().answer(other, &id("clock-0"));
    publish(
        &raw_client,
        &subject,
        None,
        encode_reply(&reply(1, "clock-0")),
    )
    .await;
    assert_eq!(announce_until_heard(&edge, &mut events, 1_000).await, []);
}

#[tokio::test]
async fn after_a_redraw_requests_are_answered_under_the_new_reply_subject() {
    let nats = Nats::run(&[]);
    let (clock, mut requests) = clock(&nats).await;
    let (edge, mut events) = edge(&nats).await;
    let mut reply_subjects = Vec::new();
    for nonce in 0..100 {
        edge.ask(nonce).unwrap();
        let ClockEvent::Request { nonce, reply_to } = soon(requests.next()).await else {
            panic!("no request");
        };
        clock.answer(&reply_to, &reply(nonce, "clock-0")).unwrap();
        if nonce == 0 {
            assert_eq!(
                soon(events.next()).await,
                EdgeEvent::Reply(reply(0, "clock-0"))
            );
            edge.redraw_reply_subject();
        }
        let is_new = !reply_subjects.contains(&reply_to);
        reply_subjects.push(reply_to);
        if nonce > 0 && is_new {
            let answer = EdgeEvent::Reply(reply(nonce, "clock-0"));
            while soon(events.next()).await != answer {}
            return;
        }
        // The connection subscribes to the new reply subject in the background.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the reply subject is still the same: {reply_subjects:?}");
}

async fn raw_client(nats: &Nats) -> Client {
    Box::pin(async_nats::connect(nats.url()))
        .await
        .expect("NATS is running")
}

async fn publish(client: &Client, subject: &str, reply_to: Option<&str>, payload: Vec<u8>) {
    let (subject, payload) = (subject.to_owned(), payload.into());
    let sent = match reply_to {
        Some(inbox) => {
            client
                .publish_with_reply(subject, inbox.to_owned(), payload)
                .await
        }
        None => client.publish(subject, payload).await,
    };
    sent.expect("async-nats accepts the message");
    client.flush().await.expect("the message is sent");
}
