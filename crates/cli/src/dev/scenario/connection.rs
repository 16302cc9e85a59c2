//! [`Connection`]: the state of one connection to the scripted edge. The stage decides what happens
//! to it.

use std::time::Duration;

use tickstorm_protocol::frame::Decoder;
use tickstorm_protocol::message::{Auth, Subscribe};
use tickstorm_timebase::{Epoch, Mode, Mono};
use zeroize::Zeroizing;

use super::outbox::Outbox;
use super::pace::Pace;

/// The number of a connection, in the order in which they were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ConnectionId(pub(super) u64);

/// One connection.
pub(super) struct Connection {
    pub(super) accepted_at: Mono,
    /// Whether the client has sent a byte. If it has not, the connection is a health check.
    pub(super) has_sent: bool,
    /// What the client sent that was not decoded yet.
    pub(super) input: Vec<u8>,
    pub(super) decoder: Decoder,
    pub(super) outbox: Outbox,
    pub(super) stage: Stage,
    /// The index of the part that is played on it.
    pub(super) part: usize,
    pub(super) edge_id: String,
    /// The pace since the ACK of AUTH.
    pub(super) pace: Option<Pace>,
    /// The number of frames sent so far, for the oddities among them.
    pub(super) turn: usize,
}

/// How far a connection has come.
pub(super) enum Stage {
    /// AUTH has not arrived.
    Greeting,
    /// AUTH has arrived while another connection is in use, whose end may be about to be noticed.
    Held {
        auth: Zeroizing<Auth>,
        until: Mono,
    },
    /// AUTH is answered at this time.
    Welcoming {
        at: Mono,
    },
    /// SUBSCRIBE has not arrived.
    Welcomed,
    /// SUBSCRIBE is answered at this time.
    Subscribing {
        subscribe: Subscribe,
        read_at: Mono,
        at: Mono,
    },
    Served(Feed),
    /// The edge has ended it.
    Ended,
}

/// A subscription.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) mode: Mode,
    pub(super) ahead: bool,
    /// The last tick that was sent, or the start.
    pub(super) last: Epoch,
    /// The ticks up to this one are REPLAY.
    pub(super) replay_until: Epoch,
    /// Since when the subscription has lasted. A move continues it.
    pub(super) since: Mono,
    /// When the part began on this connection.
    pub(super) part_began: Mono,
    pub(super) ends_at: Mono,
    /// The steps of time that were made.
    pub(super) steps: usize,
    pub(super) phase: Phase,
}

/// What has become of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    /// The edge does not know the time, and closes the connection at `until`.
    Timeless {
        until: Mono,
    },
    /// Nothing is sent any more.
    Silent {
        since: Mono,
        is_reported: bool,
    },
    /// A frame with a bad checksum was sent.
    Broken {
        since: Mono,
        is_reported: bool,
    },
}

impl Connection {
    pub(super) fn new(accepted_at: Mono) -> Self {
        Self {
            accepted_at,
            has_sent: false,
            input: Vec::new(),
            decoder: Decoder::default(),
            outbox: Outbox::default(),
            stage: Stage::Greeting,
            part: 0,
            edge_id: String::new(),
            pace: None,
            turn: 0,
        }
    }

    /// Returns for how long the client has been subscribed; zero if it is not.
    pub(super) fn subscribed_for(&self, now: Mono) -> Duration {
        let feed = self.feed();
        feed.map_or(Duration::ZERO, |feed| {
            now.since(feed.since).max(Duration::from_nanos(1))
        })
    }

    /// Returns whether the client uses this connection.
    pub(super) fn is_in_use(&self) -> bool {
        match &self.stage {
            Stage::Welcoming { .. }
            | Stage::Welcomed
            | Stage::Subscribing { .. }
            | Stage::Served(_) => true,
            Stage::Greeting | Stage::Held { .. } | Stage::Ended => false,
        }
    }

    /// Returns the subscription, if there is one.
    pub(super) fn feed(&self) -> Option<&Feed> {
        match &self.stage {
            Stage::Served(feed) => Some(feed),
            Stage::Greeting
            | Stage::Held { .. }
            | Stage::Welcoming { .. }
            | Stage::Welcomed
            | Stage::Subscribing { .. }
            | Stage::Ended => None,
        }
    }

    /// Returns the subscription, if there is one.
    pub(super) fn feed_mut(&mut self) -> Option<&mut Feed> {
        match &mut self.stage {
            Stage::Served(feed) => Some(feed),
            Stage::Greeting
            | Stage::Held { .. }
            | Stage::Welcoming { .. }
            | Stage::Welcomed
            | Stage::Subscribing { .. }
            | Stage::Ended => None,
        }
    }

    /// Returns what has become of the subscription, if there is one.
    pub(super) fn phase(&self) -> Option<Phase> {
        self.feed().map(|feed| feed.phase)
    }

    /// Returns what the client waits for, in words.
    pub(super) fn awaited(&self) -> &'static str {
        match &self.stage {
            Stage::Greeting | Stage::Held { .. } | Stage::Welcoming { .. } => "the ACK of AUTH",
            Stage::Welcomed | Stage::Subscribing { .. } => "the ACK of SUBSCRIBE",
            Stage::Served(_) | Stage::Ended => "ticks",
        }
    }
}
