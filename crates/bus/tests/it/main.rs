//! Tests of the in-memory bus from the viewpoint of clocks and edges, and of the NATS bus as far as
//! they need no real server.

mod corpus;
mod delivery;
mod fuzz_drivers;
mod garbage;
#[path = "../log/mod.rs"]
mod log;
mod message;
#[path = "../messages/mod.rs"]
mod messages;
mod retries;
mod script;

use std::time::Duration;

use tickstorm_bus::{Bus, EdgeEvent, Events, MemoryBus, MemoryLink};
use tickstorm_timebase::Reply;

use messages::{announcement, id};

/// An event that an edge received.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Tick(i64),
    Reply(u64),
}

/// Creates a bus with a clock and an edge, which has received its `Connected` event.
async fn clock_and_edge() -> (MemoryBus, MemoryLink, MemoryLink, Events<EdgeEvent>) {
    let bus = MemoryBus::new();
    let (clock, edge) = (bus.link("clock"), bus.link("edge"));
    let mut events = edge.edge_events(&[]);
    assert_eq!(soon(events.next()).await, Some(EdgeEvent::Connected));
    (bus, clock, edge, events)
}

fn reply(nonce: u64) -> Reply {
    messages::reply(nonce, "clock-0")
}

/// Returns the next event, or `None` if there is none within a virtual minute.
async fn soon<T>(next: impl Future<Output = Option<T>>) -> Option<T> {
    tokio::time::timeout(Duration::from_secs(60), next)
        .await
        .ok()
        .flatten()
}

/// Returns all ticks and replies until none has arrived for a virtual minute.
async fn heard(events: &mut Events<EdgeEvent>) -> Vec<Heard> {
    let mut heard = Vec::new();
    while let Some(event) = soon(events.next()).await {
        match event {
            EdgeEvent::Announcement(announcement, _) => {
                heard.push(Heard::Tick(announcement.epoch.as_ms()));
            }
            EdgeEvent::Reply(reply) => heard.push(Heard::Reply(reply.nonce)),
            other
            @ (EdgeEvent::Connected | EdgeEvent::Disconnected | EdgeEvent::Dropped { .. }) => {
                panic!("{other:?}")
            }
        }
    }
    heard
}
