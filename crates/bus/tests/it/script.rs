use std::time::Duration;

use tickstorm_bus::{Bus, EdgeEvent, Fate, Passage, RandomFaults};
use tokio::time::Instant;

use crate::{Heard, announcement, clock_and_edge, heard, id, reply, soon};

/// Returns a script that applies `fate` to the announcement with this epoch.
fn apply_to(epoch_ms: i64, fate: Fate) -> impl FnMut(&Passage<'_>) -> Fate + Send {
    let affected = tickstorm_bus::message::encode_announcement(&announcement(epoch_ms));
    move |passage| {
        if passage.payload == affected {
            fate
        } else {
            Fate::Deliver
        }
    }
}

async fn heard_with(fate: Fate) -> Vec<Heard> {
    let (bus, clock, _edge, mut events) = clock_and_edge().await;
    bus.set_script(apply_to(2_000, fate));
    for epoch_ms in [1_000, 2_000, 3_000, 4_000] {
        clock
            .announce(&announcement(epoch_ms))
            .expect("a connection");
    }
    heard(&mut events).await
}

#[tokio::test(start_paused = true)]
async fn each_fate_applies_only_to_its_message() {
    let second = Duration::from_secs(1);
    for (fate, expected) in [
        (Fate::Deliver, vec![1_000, 2_000, 3_000, 4_000]),
        (Fate::Lose, vec![1_000, 3_000, 4_000]),
        (Fate::Delay(second), vec![1_000, 3_000, 4_000, 2_000]),
        (
            Fate::Duplicate(second),
            vec![1_000, 2_000, 3_000, 4_000, 2_000],
        ),
        (Fate::Swap, vec![1_000, 3_000, 2_000, 4_000]),
    ] {
        let expected: Vec<_> = expected.into_iter().map(Heard::Tick).collect();
        assert_eq!(heard_with(fate).await, expected, "{fate:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_delayed_message_arrives_when_it_is_due_and_equal_delays_keep_their_order() {
    let (bus, clock, _edge, mut events) = clock_and_edge().await;
    bus.set_script(|_: &Passage<'_>| Fate::Delay(Duration::from_millis(250)));
    let start = Instant::now();
    for epoch_ms in [1_000, 2_000, 3_000] {
        clock.announce(&announcement(epoch_ms)).unwrap();
    }
    assert_eq!(
        soon(events.next()).await,
        Some(EdgeEvent::Announcement(announcement(1_000), None))
    );
    assert_eq!(start.elapsed(), Duration::from_millis(250));
    assert_eq!(heard(&mut events).await, [2_000, 3_000].map(Heard::Tick));
}

#[tokio::test(start_paused = true)]
async fn a_script_sees_sender_receiver_and_subject_and_can_cut_one_direction() {
    let (bus, clock, edge, mut events) = clock_and_edge().await;
    let mut requests = clock.clock_events(&id("clock-0"));
    let answers = edge.answer_subject(&id("clock-0"));
    bus.set_script(move |passage: &Passage<'_>| {
        match (passage.from, passage.to, passage.subject) {
            ("edge", "clock", "tickstorm.v1.time") => Fate::Deliver,
            ("clock", "edge", subject) if subject == answers => Fate::Lose,
            other => panic!("{other:?}"),
        }
    });
    edge.ask(1).unwrap();
    soon(requests.next()).await;
    let request = soon(requests.next()).await;
    let Some(tickstorm_bus::ClockEvent::Request { reply_to, .. }) = request else {
        panic!("{request:?}");
    };
    clock.answer(&reply_to, &reply(1)).unwrap();
    assert_eq!(heard(&mut events).await, []);
    bus.clear_script();
    clock.answer(&reply_to, &reply(2)).unwrap();
    assert_eq!(heard(&mut events).await, [Heard::Reply(2)]);
}

#[tokio::test(start_paused = true)]
async fn messages_in_flight_when_the_connection_is_cut_are_lost() {
    let (bus, clock, _edge, mut events) = clock_and_edge().await;
    bus.set_script(|_: &Passage<'_>| Fate::Delay(Duration::from_secs(1)));
    clock.announce(&announcement(1_000)).unwrap();
    bus.cut("edge");
    tokio::time::sleep(Duration::from_secs(2)).await;
    bus.restore("edge");
    assert_eq!(soon(events.next()).await, Some(EdgeEvent::Connected));
    assert_eq!(heard(&mut events).await, []);
}

#[tokio::test(start_paused = true)]
async fn weather_depends_only_on_its_seed_and_has_all_fates() {
    const SENT: i64 = 1_000;
    let mut runs = Vec::new();
    for seed in [1, 1, 2] {
        let (bus, clock, _edge, mut events) = clock_and_edge().await;
        let delay_max = Duration::from_secs(3);
        let weather = RandomFaults {
            lose: 0.2,
            delay: 0.2,
            double: 0.2,
            swap: 0.2,
            delay_max,
        };
        bus.set_script(weather.script(seed));
        for second in 1..=SENT {
            clock.announce(&announcement(second * 1_000)).unwrap();
            // Faster, edges do not read.
            tokio::time::advance(Duration::from_millis(200)).await;
        }
        runs.push(heard(&mut events).await);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
    let calm: Vec<_> = (1..=SENT)
        .map(|second| Heard::Tick(second * 1_000))
        .collect();
    let lost = calm.iter().filter(|tick| !runs[0].contains(tick)).count();
    assert!((100..300).contains(&lost), "{lost} of {SENT} lost");
    let doubled = runs[0].len() + lost - calm.len();
    assert!((100..300).contains(&doubled), "{doubled} of {SENT} doubled");
}
