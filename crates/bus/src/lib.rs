//! The bus that carries messages between clocks and edges: one trait, [`Bus`], over any transport.
//! It makes no decisions about time: timebase decides which clocks to accept, and which
//! announcements are off the grid or too far ahead. It decides whether a message comes from the
//! sender that it names, and how many messages of each sender are read. Nothing is stored, since a
//! lost message costs nothing and a late message is useless. Sending fails immediately if it is not
//! possible, and a received message that does not fit into its subscriber's queue is dropped and
//! counted.

mod clock_filter;
mod echo;
mod events;
mod headers;
mod link_report;
mod memory;
pub mod message;
mod nats;
mod pause;
mod rate;
mod reply_address;
mod request_limits;
mod silence;
mod subject;
mod subscribers;
mod trace_parent;

pub use events::Events;
pub use link_report::{LinkReport, RefusedPublish};
pub use memory::{Fate, MemoryBus, MemoryLink, Passage, RandomFaults};
pub use message::DropReason;
pub use nats::{
    Credential, CredentialError, CredentialResult, NatsBus, NatsError, NatsOptions, NatsSecrets,
};
pub use reply_address::{InvalidReplyToken, ReplyKey, ReplyToken};
pub use subject::Subjects;
pub use trace_parent::{InvalidTraceParent, TraceParent};

use std::time::Duration;

use tickstorm_timebase::{Announcement, ClockId, Reply};

/// One process's connection to all others. Sending never waits.
pub trait Bus: Send + Sync + 'static {
    /// Announces to every edge that a tick will be due; called by clocks.
    ///
    /// # Errors
    /// Returns [`Unavailable`] without a connection, or if the connection accepts no more messages.
    fn announce(&self, announcement: &Announcement) -> Result<(), Unavailable> {
        self.announce_traced(announcement, None)
    }

    /// Does the same, and tells edges the announcement's place in a trace, if there is one. An edge
    /// that knows nothing of traces gets the same announcement.
    ///
    /// # Errors
    /// Returns [`Unavailable`] without a connection, or if the connection accepts no more messages.
    fn announce_traced(
        &self,
        announcement: &Announcement,
        trace: Option<&TraceParent>,
    ) -> Result<(), Unavailable>;

    /// Asks every clock for the time; called by edges. The answers arrive as [`EdgeEvent::Reply`].
    ///
    /// # Errors
    /// Returns [`Unavailable`] without a connection, or if the connection accepts no more messages.
    fn ask(&self, nonce: u64) -> Result<(), Unavailable>;

    /// Draws another reply subject for later time requests; called by edges whose requests are not
    /// answered. Answers to earlier requests no longer arrive.
    fn redraw_reply_subject(&self);

    /// Answers a [`ClockEvent::Request`]; called by clocks.
    ///
    /// # Errors
    /// Returns [`Unavailable`] without a connection, or if the connection accepts no more messages.
    fn answer(&self, to: &ReplyTo, reply: &Reply) -> Result<(), Unavailable>;

    /// Returns how many reply subjects of edges the clock in this process knows: those under which
    /// it has answered within 10 s. Known edges are served in a flood of requests.
    fn known_reply_subjects(&self) -> usize;

    /// Returns, for each of the clock's own announcements that was heard since the last call, how
    /// long it took from being sent, at most 64; called by clocks. A bus without servers has none.
    fn take_echo_times(&self) -> Vec<Duration>;

    /// Returns the state of this process's connection.
    fn link_report(&self) -> LinkReport;

    /// Subscribes to the events for the clock with this id.
    fn clock_events(&self, id: &ClockId) -> Events<ClockEvent>;

    /// Subscribes to the events for an edge that listens to `clocks`, or to all clocks if there are
    /// none.
    fn edge_events(&self, clocks: &[ClockId]) -> Events<EdgeEvent>;
}

/// The error of sending without a working connection. The message was not sent and will not be sent
/// later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not connected to the bus")]
pub struct Unavailable;

/// The destination of an answer to a time request: the reply subject of the edge that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo(ReplyToken);

/// An event for a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// A clock announces a tick, and may tell the announcement's place in a trace.
    Announcement(Announcement, Option<TraceParent>),
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
        /// The clock from whose login they came; `None` if the edge does not know the clock, or the
        /// sender.
        clock: Option<ClockId>,
        /// The number of messages dropped for this reason since the last such event.
        count: u64,
    },
}

impl From<events::Notice> for ClockEvent {
    fn from(notice: events::Notice) -> Self {
        match notice {
            events::Notice::Connected => Self::Connected,
            events::Notice::Disconnected => Self::Disconnected,
            events::Notice::Dropped { reason, count, .. } => Self::Dropped { reason, count },
        }
    }
}

impl From<events::Notice> for EdgeEvent {
    fn from(notice: events::Notice) -> Self {
        match notice {
            events::Notice::Connected => Self::Connected,
            events::Notice::Disconnected => Self::Disconnected,
            events::Notice::Dropped {
                reason,
                clock,
                count,
            } => Self::Dropped {
                reason,
                clock,
                count,
            },
        }
    }
}
