//! The in-memory bus as clocks and edges see it, and what can be shown of NATS without a real
//! server.

mod delivery;
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

use messages::announcement;

/// What an edge heard.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Tick(i64),
    Reply(u64),
}

/// A bus with a clock and an edge that has been told that it is connected.
async fn clock_and_edge() -> (MemoryBus, MemoryLink, MemoryLink, Events<EdgeEvent>) {
    let bus = MemoryBus::new();
    let (clock, edge) = (bus.link("clock"), bus.link("edge"));
    let mut events = edge.edge_events();
    assert_eq!(soon(events.next()).await, Some(EdgeEvent::Connected));
    (bus, clock, edge, events)
}

fn reply(nonce: u64) -> Reply {
    messages::reply(nonce, "clock-0")
}

/// The next event, unless there is none for a virtual minute.
async fn soon<T>(next: impl Future<Output = Option<T>>) -> Option<T> {
    tokio::time::timeout(Duration::from_secs(60), next)
        .await
        .ok()
        .flatten()
}

/// All ticks and replies until nothing has come for a virtual minute.
async fn heard(events: &mut Events<EdgeEvent>) -> Vec<Heard> {
    let mut heard = Vec::new();
    while let Some(event) = soon(events.next()).await {
        match event {
            EdgeEvent::Announcement(announcement) => {
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
