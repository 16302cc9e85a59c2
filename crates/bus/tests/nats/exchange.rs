use async_nats::Client;
use tickstorm_bus::message::{
    MESSAGE_BYTES_MAX, encode_announcement, encode_reply, encode_request,
};
use tickstorm_bus::{Bus, ClockEvent, DropReason, EdgeEvent};
use tickstorm_testkit::Nats;
use tickstorm_timebase::Mode;

use crate::{announce_until_heard, announcement, clock, edge, reply, soon};

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
    publish(&raw_client, "other.v1.tick.second", None, payload).await;
    assert_eq!(announce_until_heard(&edge, &mut events, 1_000).await, []);
}

#[tokio::test]
async fn garbage_on_the_subjects_is_dropped_counted_and_does_no_harm() {
    let nats = Nats::run(&[]);
    let (edge, mut ticks) = edge(&nats).await;
    let (_clock, mut requests) = clock(&nats).await;
    let raw_client = raw_client(&nats).await;
    let subjects = edge.subjects();
    let (second, minute) = (subjects.tick(Mode::Second), subjects.tick(Mode::Minute));
    publish(&raw_client, second, None, b"\xFF\xFF".to_vec()).await;
    publish(&raw_client, second, None, Vec::new()).await;
    publish(&raw_client, minute, None, vec![0; MESSAGE_BYTES_MAX + 1]).await;
    publish(&raw_client, minute, None, vec![0; 512 * 1_024]).await;
    let misplaced = encode_announcement(&announcement(60_000));
    publish(&raw_client, minute, None, misplaced).await;
    publish(&raw_client, subjects.time(), None, encode_request(1)).await;
    publish(
        &raw_client,
        subjects.time(),
        Some(second),
        encode_request(2),
    )
    .await;
    publish(
        &raw_client,
        subjects.time(),
        Some("_INBOX.x"),
        encode_request(3),
    )
    .await;

    let mut dropped = [0; 4];
    while dropped.iter().sum::<u64>() < 5 {
        match soon(ticks.next()).await {
            EdgeEvent::Dropped { reason, count } => dropped[reason as usize] += count,
            other @ (EdgeEvent::Announcement(_)
            | EdgeEvent::Reply(_)
            | EdgeEvent::Connected
            | EdgeEvent::Disconnected) => panic!("{other:?}"),
        }
    }
    assert_eq!(dropped[DropReason::Malformed as usize], 2);
    assert_eq!(dropped[DropReason::Oversized as usize], 2);
    assert_eq!(dropped[DropReason::WrongSubject as usize], 1);
    assert_eq!(announce_until_heard(&edge, &mut ticks, 1_000).await, []);

    // One request names no subject for the answer, and another names one that is not an inbox. The
    // valid request may be received while these two are still being counted.
    let (mut unanswerable, mut heard) = (0, None);
    while unanswerable < 2 || heard.is_none() {
        match soon(requests.next()).await {
            ClockEvent::Dropped {
                reason: DropReason::Malformed,
                count,
            } => unanswerable += count,
            ClockEvent::Request { nonce, .. } => heard = Some(nonce),
            other @ (ClockEvent::Connected
            | ClockEvent::Disconnected
            | ClockEvent::Dropped { .. }) => panic!("{other:?}"),
        }
    }
    assert_eq!((unanswerable, heard), (2, Some(3)));
}

#[tokio::test]
async fn a_full_subscription_counts_dropped_messages_and_receives_later_ones() {
    let nats = Nats::run(&[]);
    let (edge, mut events) = edge(&nats).await;
    let raw_client = raw_client(&nats).await;
    let subject = edge.subjects().tick(Mode::Second);
    for _ in 0..20_000 {
        let payload = encode_announcement(&announcement(5_000)).into();
        let sent = raw_client.publish(subject.to_owned(), payload).await;
        sent.expect("async-nats accepts the message");
    }
    raw_client.flush().await.expect("the message is sent");
    // A request that the edge sends to itself after the flood also arrives after the flood.
    let mut requests = edge.clock_events();
    // Messages that the connection dropped are reported to all of its subscriptions, possibly
    // before this one has reached the server.
    while soon(requests.next()).await != ClockEvent::Connected {}
    edge.ask(1).unwrap();
    while !matches!(
        soon(requests.next()).await,
        ClockEvent::Request { nonce: 1, .. }
    ) {}
    let others = announce_until_heard(&edge, &mut events, 1_000).await;
    let dropped: u64 = others
        .iter()
        .map(|event| match event {
            EdgeEvent::Dropped {
                reason: DropReason::Full,
                count,
            } => *count,
            EdgeEvent::Announcement(_) => 0,
            other @ (EdgeEvent::Dropped { .. }
            | EdgeEvent::Reply(_)
            | EdgeEvent::Connected
            | EdgeEvent::Disconnected) => panic!("{other:?}"),
        })
        .sum();
    assert!(dropped > 0, "{} events", others.len());
}

#[tokio::test]
async fn an_answer_to_another_inbox_is_not_received() {
    let nats = Nats::run(&[]);
    let (edge, mut events) = edge(&nats).await;
    let raw_client = raw_client(&nats).await;
    publish(
        &raw_client,
        "_INBOX.x",
        None,
        encode_reply(&reply(1, "clock-0")),
    )
    .await;
    assert_eq!(announce_until_heard(&edge, &mut events, 1_000).await, []);
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
