//! The bus that carries messages between clocks and edges: one trait, [`Bus`], over any transport.
//! It makes no decisions about time: timebase decides which clocks to accept, and which
//! announcements are off the grid or too far ahead. Nothing is stored, since a lost message costs
//! nothing and a late message is useless. Sending fails immediately if it is not possible, and a
//! received message that does not fit into its subscriber's queue is dropped and counted.

mod events;
mod inbound;
mod memory;
pub mod message;
mod nats;
mod subject;

pub use events::Events;
pub use memory::{Fate, MemoryBus, MemoryLink, Passage, RandomFaults};
pub use message::DropReason;
pub use nats::{NatsBus, NatsError, NatsOptions};
pub use subject::Subjects;

use tickstorm_timebase::{Announcement, Reply};

/// One process's connection to all others. Sending never waits.
pub trait Bus: Send + Sync + 'static {
    /// Announces to every edge that a tick will be due; called by clocks.
    ///
    /// # Errors
    /// Returns [`Unavailable`] without a connection, or if the connection accepts no more messages.
    fn announce(&self, announcement: &Announcement) -> Result<(), Unavailable>;

    /// Asks every clock for the time; called by edges. The answers arrive as [`EdgeEvent::Reply`].
    ///
    /// # Errors
    /// Returns [`Unavailable`] without a connection, or if the connection accepts no more messages.
    fn ask(&self, nonce: u64) -> Result<(), Unavailable>;

    /// Answers a [`ClockEvent::Request`]; called by clocks.
    ///
    /// # Errors
    /// Returns [`Unavailable`] without a connection, or if the connection accepts no more messages.
    fn answer(&self, to: &ReplyTo, reply: &Reply) -> Result<(), Unavailable>;

    /// Subscribes to the events for a clock.
    fn clock_events(&self) -> Events<ClockEvent>;

    /// Subscribes to the events for an edge.
    fn edge_events(&self) -> Events<EdgeEvent>;
}

/// The error of sending without a working connection. The message was not sent and will not be sent
/// later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not connected to the bus")]
pub struct Unavailable;

/// The destination of an answer to a time request: a subject that only the requesting edge
/// subscribes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyTo(String);

/// An event for a clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClockEvent {
    /// An edge asks for the time.
    Request {
        /// The number of the request, which the answer must repeat.
        nonce: u64,
        /// The destination of the answer.
        reply_to: ReplyTo,
    },
    /// A connection was made, for the first time or again.
    Connected,
    /// The connection was lost.
    Disconnected,
    /// Messages were dropped before they became events.
    Dropped {
        /// The reason.
        reason: DropReason,
        /// The number of messages dropped for this reason since the last such event.
        count: u64,
    },
}

/// An event for an edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EdgeEvent {
    /// A clock announces a tick.
    Announcement(Announcement),
    /// A clock answers this edge's time request.
    Reply(Reply),
    /// A connection was made, for the first time or again.
    Connected,
    /// The connection was lost.
    Disconnected,
    /// Messages were dropped before they became events.
    Dropped {
        /// The reason.
        reason: DropReason,
        /// The number of messages dropped for this reason since the last such event.
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
