//! The bus as its two kinds of users see it, over the in-memory one.

mod delivery;
mod garbage;
mod message;
mod script;

use std::time::Duration;

use tickstorm_bus::{Bus, EdgeEvent, Events, MemoryBus, MemoryLink};
use tickstorm_timebase::{Announcement, Epoch, Mode, Reply};

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

fn announcement(epoch_ms: i64) -> Announcement {
    Announcement {
        mode: Mode::Second,
        epoch: Epoch::from_ms(epoch_ms),
        clock_id: "clock-0".parse().expect("a valid id"),
        rank: 3,
        sent_unix_us: (epoch_ms - 1_500) * 1_000,
        timeline: u64::MAX,
    }
}

fn reply(nonce: u64) -> Reply {
    Reply {
        nonce,
        clock_id: "clock-0".parse().expect("a valid id"),
        rank: 3,
        received_unix_us: 1_000_001,
        sent_unix_us: 1_000_002,
        clock_error_us: 16_000_000,
        synchronized: true,
        timeline: 7,
    }
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
