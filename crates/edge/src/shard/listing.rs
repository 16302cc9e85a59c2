//! The list of a shard's connections that operators can request. It visits one connection at a
//! time, between ticks.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::Duration;

use tickstorm_timebase::{Clock, Mode, Mono};
use tokio::sync::oneshot;

use super::connection::Connection;
use super::connections::{Connections, Walk, WalkProgress};
use super::driver::Driver;
use super::feeds::Feeds;
use super::key::Key;
use super::time::Moment;
use super::turn::Shard;
use crate::feed::Delivery;
use crate::sys::network::{ClientCertificate, Network};

/// The time before a tick in which no work for operators starts: a turn's share of time, and a
/// millisecond in which the tick's data comes back into the processor's caches.
const MARGIN: Duration = Duration::from_micros(1_300);
/// The longest time for which work for operators waits for a fan-out. An edge that sends without a
/// pause can then still be looked at, and gives up less than a fiftieth of its time for it.
const PATIENCE: Duration = Duration::from_millis(20);

/// The order of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Largest backlog first.
    Backlog,
    /// Oldest connection first.
    Age,
}

/// A connection, as shown to operators.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) id: u64,
    pub(crate) peer: SocketAddr,
    /// The client; `None` before it has authenticated.
    pub(crate) client: Option<ListedClient>,
    /// The certificate that it presented, if any.
    pub(crate) certificate: Option<ClientCertificate>,
    pub(crate) subscribed: bool,
    /// The mode of its feed.
    pub(crate) mode: Option<Mode>,
    pub(crate) ahead: bool,
    pub(crate) age: Duration,
    /// The time at which it was accepted. Unlike `age`, this is comparable between shards, which
    /// describe their connections at different times.
    pub(crate) accepted: Mono,
    /// The number of frames of its feed that it has not been sent.
    pub(crate) backlog_frames: u64,
}

/// The name of the credentials that a client authenticated with, and the id and version that it
/// sent.
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
    /// Returns the sort key for `order`, highest first.
    pub(crate) fn rank(&self, order: Order) -> u64 {
        order.rank(self.accepted, || self.backlog_frames)
    }
}

/// A list being compiled.
pub(super) struct Listing {
    order: Order,
    limit: usize,
    walk: Walk,
    /// The first connections so far, by rank and then by id.
    first: BinaryHeap<Reverse<(u64, Reverse<u64>, u32)>>,
    listed: Vec<Listed>,
    reply: Option<oneshot::Sender<Vec<Listed>>>,
}

impl Listing {
    /// Creates a list of the first `limit` connections by `order`, which is sent to `reply`
    /// unsorted.
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

    /// Ranks one connection or, once all are ranked, describes one of the first. If the request for
    /// the list has ended, the unfinished list is freed in the same small steps.
    pub(super) fn step<N: Network>(
        &mut self,
        connections: &mut Connections<N::Socket>,
        driver: &mut Driver<N>,
        at: Moment,
    ) -> WalkProgress {
        if self.reply.as_ref().is_none_or(oneshot::Sender::is_closed) {
            return match self.listed.pop() {
                Some(_) => WalkProgress::More,
                None => WalkProgress::Done,
            };
        }
        if let Some(connection) = connections.step(&mut self.walk) {
            self.rank(connection, &mut driver.feeds);
            return WalkProgress::More;
        }
        if let Some(Reverse((_, Reverse(id), slot))) = self.first.pop() {
            let connection = connections.get(Key { slot, id });
            let described = connection.map(|found| {
                let certificate = driver.network.client_certificate(&found.socket).cloned();
                describe(found, certificate, &mut driver.feeds, at)
            });
            self.listed.extend(described.flatten());
            return WalkProgress::More;
        }
        if let Some(reply) = self.reply.take() {
            // The requester may have gone away meanwhile.
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

impl<N: Network, C: Clock> Shard<N, C> {
    /// Returns whether work for operators may be done at `mono`: not while a tick is being sent or
    /// almost due.
    pub(super) fn may_serve_operators(&self, mono: Mono) -> bool {
        let must_wait = self.sending.busy_since.is_some_and(|since| {
            let waits_since = since.max(self.waiting.served_operators);
            mono < waits_since + PATIENCE
        });
        !must_wait && mono + MARGIN < self.due.next_tick()
    }
}

/// Describes a connection; `None` if it is already being closed.
fn describe<S>(
    connection: &Connection<S>,
    certificate: Option<ClientCertificate>,
    feeds: &mut Feeds,
    at: Moment,
) -> Option<Listed> {
    if !connection.is_open() {
        return None;
    }
    let Key { slot, id } = connection.key;
    let feed = feeds.feed_of(slot);
    Some(Listed {
        id,
        peer: connection.peer,
        client: connection.served().map(|served| ListedClient {
            identity: served.client.identity().to_owned(),
            id: served.client.id.to_string(),
            version: served.client.version.to_string(),
        }),
        certificate,
        subscribed: feed.is_some(),
        mode: feed.map(|feed| feed.mode),
        ahead: feed.is_some_and(|feed| feed.delivery == Delivery::Ahead),
        age: at.mono.since(connection.accepted),
        accepted: connection.accepted,
        backlog_frames: feeds.backlog(slot),
    })
}
