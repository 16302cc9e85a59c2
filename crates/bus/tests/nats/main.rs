//! Tests of the bus on real NATS servers, which run in containers.

mod credentials;
mod exchange;
#[path = "../log/mod.rs"]
mod log;
mod login;
#[path = "../messages/mod.rs"]
mod messages;
mod outage;
mod silence;
mod tls;
mod traces;

use std::time::Duration;

use tickstorm_bus::{Bus, ClockEvent, EdgeEvent, Events, NatsBus, NatsOptions};
use tickstorm_testkit::Nats;

use messages::{announcement, id, reply};

/// The time limit for operations that take milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn options(nats: &Nats) -> NatsOptions {
    NatsOptions {
        urls: nats.url(),
        subject_prefix: "tickstorm".into(),
        name: "test".into(),
        ..NatsOptions::default()
    }
}

fn bus(nats: &Nats) -> NatsBus {
    NatsBus::start(options(nats)).expect("valid options")
}

/// Starts a clock's bus. Returns it with its events once it is connected.
async fn clock(nats: &Nats) -> (NatsBus, Events<ClockEvent>) {
    let bus = bus(nats);
    let mut events = bus.clock_events(&id("clock-0"));
    assert_eq!(soon(events.next()).await, ClockEvent::Connected);
    (bus, events)
}

/// Starts an edge's bus. Returns it with its events once it is connected.
async fn edge(nats: &Nats) -> (NatsBus, Events<EdgeEvent>) {
    let bus = bus(nats);
    let mut events = bus.edge_events(&[]);
    assert_eq!(soon(events.next()).await, EdgeEvent::Connected);
    (bus, events)
}

async fn soon<T>(next: impl Future<Output = Option<T>>) -> T {
    tokio::time::timeout(PATIENCE, next)
        .await
        .expect("an event in time")
        .expect("the bus has not ended")
}

/// Returns the edge's next event that is no announcement. Copies of one may arrive after the first
/// was received.
async fn next_notice(edge: &mut Events<EdgeEvent>) -> EdgeEvent {
    loop {
        let event = soon(edge.next()).await;
        if !matches!(event, EdgeEvent::Announcement(..)) {
            return event;
        }
    }
}

/// Announces `epoch_ms` until the edge receives it: other servers and fresh subscriptions may miss
/// the first announcements. Returns all other events, except copies of earlier announcements.
async fn announce_until_heard(
    clock: &NatsBus,
    edge: &mut Events<EdgeEvent>,
    epoch_ms: i64,
) -> Vec<EdgeEvent> {
    let wanted = announcement(epoch_ms);
    let mut others = Vec::new();
    let heard = async {
        loop {
            // This fails while the clock is not connected.
            let _ = clock.announce(&wanted);
            let next = tokio::time::timeout(Duration::from_millis(50), edge.next());
            match next.await {
                Ok(Some(EdgeEvent::Announcement(heard, _))) if heard == wanted => return,
                Ok(Some(EdgeEvent::Announcement(heard, _))) if heard.epoch < wanted.epoch => {}
                Ok(Some(event)) => others.push(event),
                Ok(None) => panic!("the bus is gone"),
                Err(_) => {}
            }
        }
    };
    let outcome = tokio::time::timeout(PATIENCE, heard).await;
    assert!(
        outcome.is_ok(),
        "{epoch_ms} was never received, only {others:?}"
    );
    others
}
