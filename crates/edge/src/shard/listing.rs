//! What operators see of a shard's connections. A listing walks through all of them a connection at
//! a time, so that no tick waits for it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::Duration;

use tickstorm_timebase::{Mode, Mono};
use tokio::sync::oneshot;

use super::connection::Connection;
use super::connections::{Connections, Walk, WalkProgress};
use super::driver::Driver;
use super::feeds::Feeds;
use super::key::Key;
use super::time::Moment;
use crate::feed::Delivery;

/// Who comes first in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Who lacks most.
    Backlog,
    /// Who has been there longest.
    Age,
}

/// One connection, as operators see it.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) id: u64,
    pub(crate) peer: SocketAddr,
    /// None before it has authenticated.
    pub(crate) client: Option<ListedClient>,
    pub(crate) subscribed: bool,
    /// Of the feed that it is on.
    pub(crate) mode: Option<Mode>,
    pub(crate) ahead: bool,
    pub(crate) age: Duration,
    /// Shards answer at different moments: what they say of ages can't be compared, this can.
    pub(crate) accepted: Mono,
    /// Frames of its feed that it has yet to take.
    pub(crate) backlog_frames: u64,
}

/// What a client showed itself to be, and says of itself.
#[derive(Clone, Debug)]
pub(crate) struct ListedClient {
    pub(crate) identity: String,
    pub(crate) id: String,
    pub(crate) version: String,
}

impl Order {
    fn rank(self, accepted: Mono, backlog_frames: impl FnOnce() -> u64) -> u64 {
        match self {
            Self::Backlog => backlog_frames(),
            Self::Age => u64::MAX - accepted.as_nanos(),
        }
    }
}

impl Listed {
    /// Sort key, highest first.
    pub(crate) fn rank(&self, order: Order) -> u64 {
        order.rank(self.accepted, || self.backlog_frames)
    }
}

/// A list in the making.
pub(super) struct Listing {
    order: Order,
    limit: usize,
    walk: Walk,
    /// The first ones so far, by rank and then by id.
    first: BinaryHeap<Reverse<(u64, Reverse<u64>, u32)>>,
    listed: Vec<Listed>,
    reply: Option<oneshot::Sender<Vec<Listed>>>,
}

impl Listing {
    /// The first `limit` connections by `order`, in no order, for `reply`.
    pub(super) fn new(order: Order, limit: usize, reply: oneshot::Sender<Vec<Listed>>) -> Self {
        Self {
            order,
            limit,
            walk: Walk::default(),
            first: BinaryHeap::new(),
            listed: Vec::new(),
            reply: Some(reply),
        }
    }

    /// Ranks one connection or, when all are ranked, describes one of the first.
    pub(super) fn step<N: crate::sys::network::Network>(
        &mut self,
        connections: &mut Connections<N::Socket>,
        driver: &mut Driver<N>,
        at: Moment,
    ) -> WalkProgress {
        if let Some(connection) = connections.step(&mut self.walk) {
            self.rank(connection, &mut driver.feeds);
            return WalkProgress::GoesOn;
        }
        if let Some(Reverse((_, Reverse(id), slot))) = self.first.pop() {
            let connection = connections.get(Key { slot, id });
            let described = connection.map(|found| describe(found, &mut driver.feeds, at));
            self.listed.extend(described.flatten());
            return WalkProgress::GoesOn;
        }
        if let Some(reply) = self.reply.take() {
            // Whoever asked may have left meanwhile.
            let _ = reply.send(std::mem::take(&mut self.listed));
        }
        WalkProgress::Done
    }

    fn rank<S>(&mut self, connection: &Connection<S>, feeds: &mut Feeds) {
        if !connection.is_open() {
            return;
        }
        let Key { slot, id } = connection.key;
        let rank = self.order.rank(connection.accepted, || feeds.backlog(slot));
        self.first.push(Reverse((rank, Reverse(id), slot)));
        if self.first.len() > self.limit {
            self.first.pop();
        }
    }
}

/// None once its end has begun.
fn describe<S>(connection: &Connection<S>, feeds: &mut Feeds, at: Moment) -> Option<Listed> {
    if !connection.is_open() {
        return None;
    }
    let Key { slot, id } = connection.key;
    let feed = feeds.of(slot);
    Some(Listed {
        id,
        peer: connection.peer,
        client: connection.served().map(|served| ListedClient {
            identity: served.client.identity().to_owned(),
            id: served.client.id.to_string(),
            version: served.client.version.to_string(),
        }),
        subscribed: feed.is_some(),
        mode: feed.map(|feed| feed.mode),
        ahead: feed.is_some_and(|feed| feed.delivery == Delivery::Ahead),
        age: at.mono.since(connection.accepted),
        accepted: connection.accepted,
        backlog_frames: feeds.backlog(slot),
    })
}
