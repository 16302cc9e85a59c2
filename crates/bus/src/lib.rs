//! What clocks and edges say to each other: one trait, [`Bus`], over whatever carries the bytes. Decides nothing about time:
//! who is believed, and which announcement is off the grid or too far ahead, timebase judges. Nothing is kept for later, since
//! a lost message costs nothing and a late one says nothing: what can't be sent or taken at once is dropped and counted.

mod events;
mod inbound;
mod memory;
pub mod message;
mod nats;
mod subject;

pub use events::Events;
pub use memory::{Fate, MemoryBus, MemoryLink, Passage, Weather};
pub use message::DropReason;
pub use nats::{NatsBus, NatsError, NatsOptions};
pub use subject::Subjects;

use tickstorm_timebase::{Announcement, Reply};

/// One process's connection to all the others. Sending never waits.
pub trait Bus: Send + Sync + 'static {
    /// A clock tells every edge that a tick will be due.
    ///
    /// # Errors
    /// While there is no connection.
    fn announce(&self, announcement: &Announcement) -> Result<(), Unavailable>;

    /// An edge asks every clock for the time; the answers come as [`EdgeEvent::Reply`].
    ///
    /// # Errors
    /// While there is no connection.
    fn ask(&self, nonce: u64) -> Result<(), Unavailable>;

    /// A clock answers a [`ClockEvent::Request`].
    ///
    /// # Errors
    /// While there is no connection.
    fn answer(&self, to: &ReplyTo, reply: &Reply) -> Result<(), Unavailable>;

    /// Subscribes to what a clock must hear.
    fn clock_events(&self) -> Events<ClockEvent>;

    /// Subscribes to what an edge must hear.
    fn edge_events(&self) -> Events<EdgeEvent>;
}

/// There is no connection; nothing was sent, nor will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not connected to the bus")]
pub struct Unavailable;

/// Where an answer to a time request goes: the subject that only its asker listens to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyTo(String);

/// What a clock hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClockEvent {
    /// An edge asks for the time.
    Request {
        /// Comes back in the answer.
        nonce: u64,
        /// Where the answer goes.
        reply_to: ReplyTo,
    },
    /// There is a connection (again).
    Connected,
    /// There is none.
    Disconnected,
    /// Messages that never became events.
    Dropped {
        /// Why.
        reason: DropReason,
        /// How many since the last such event.
        count: u64,
    },
}

/// What an edge hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EdgeEvent {
    /// A clock announces a tick.
    Announcement(Announcement),
    /// A clock answers this edge's time request.
    Reply(Reply),
    /// There is a connection (again).
    Connected,
    /// There is none.
    Disconnected,
    /// Messages that never became events.
    Dropped {
        /// Why.
        reason: DropReason,
        /// How many since the last such event.
        count: u64,
    },
}

impl From<events::Notice> for ClockEvent {
    fn from(notice: events::Notice) -> Self {
        match notice {
            events::Notice::Connected => Self::Connected,
            events::Notice::Disconnected => Self::Disconnected,
            events::Notice::Dropped { reason, count } => Self::Dropped { reason, count },
        }
    }
}

impl From<events::Notice> for EdgeEvent {
    fn from(notice: events::Notice) -> Self {
        match notice {
            events::Notice::Connected => Self::Connected,
            events::Notice::Disconnected => Self::Disconnected,
            events::Notice::Dropped { reason, count } => Self::Dropped { reason, count },
        }
    }
}
