//! What operators see of a shard's connections, and the end that they may put to one. It goes through all of them in chunks, so
//! that no tick waits for it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tickstorm_protocol::code::CloseReason;
use tickstorm_timebase::{Mode, Mono};

use super::connection::{Connection, Phase, Place};
use super::{FeedIndex, Shard};
use crate::feed::CHUNK;

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

impl Listed {
    /// The more, the further to the front.
    pub(crate) fn rank(&self, order: Order) -> u64 {
        match order {
            Order::Backlog => self.backlog_frames,
            Order::Age => u64::MAX - self.accepted.as_nanos(),
        }
    }
}

impl Shard {
    /// The first `limit` connections by `order`, in no order.
    pub(super) async fn list(self: Rc<Self>, order: Order, limit: usize) -> Vec<Listed> {
        let mut first = BinaryHeap::new();
        for (index, connection) in self.all().into_iter().enumerate() {
            if index % CHUNK == CHUNK - 1 {
                tokio::task::yield_now().await;
            }
            if connection.state.borrow().phase != Phase::Open {
                continue;
            }
            let rank = match order {
                Order::Backlog => self.backlog(&connection),
                Order::Age => u64::MAX - connection.accepted.as_nanos(),
            };
            first.push(Reverse((
                rank,
                Reverse(connection.key.id),
                connection.key.slot,
            )));
            if first.len() > limit {
                first.pop();
            }
        }
        let of = |Reverse((_, Reverse(id), slot))| {
            let connection = self.at(slot).filter(|found| found.key.id == id)?;
            self.describe(&connection)
        };
        first.into_iter().filter_map(of).collect()
    }

    /// Closes connection `id`, if it is here.
    pub(super) async fn close_one(self: Rc<Self>, id: u64) -> bool {
        for (index, connection) in self.all().into_iter().enumerate() {
            if index % CHUNK == CHUNK - 1 {
                tokio::task::yield_now().await;
            }
            if connection.key.id == id {
                let is_open = connection.state.borrow().phase == Phase::Open;
                if is_open {
                    self.close(&connection, CloseReason::Operator);
                }
                return is_open;
            }
        }
        false
    }

    /// None once its end has begun.
    fn describe(&self, connection: &Connection) -> Option<Listed> {
        let backlog_frames = self.backlog(connection);
        let state = connection.state.borrow();
        if state.phase != Phase::Open {
            return None;
        }
        let feed = match state.place {
            Place::None => None,
            Place::Waiting(feed) | Place::Joined(feed, _) => Some(feed),
        };
        Some(Listed {
            id: connection.key.id,
            peer: connection.peer,
            client: state.client.as_ref().map(|client| ListedClient {
                identity: client.identity().to_owned(),
                id: client.id.to_string(),
                version: client.version.to_string(),
            }),
            subscribed: state.session.is_subscribed(),
            mode: feed.map(FeedIndex::mode),
            ahead: feed.is_some_and(FeedIndex::is_ahead),
            age: self.time.mono().since(connection.accepted),
            accepted: connection.accepted,
            backlog_frames,
        })
    }

    fn backlog(&self, connection: &Connection) -> u64 {
        let Place::Joined(feed, position) = connection.state.borrow().place else {
            return 0;
        };
        let mut feeds = self.feeds.borrow_mut();
        let feed = &mut feeds[usize::from(feed.0)];
        let entry = feed.subscribers().entry(position);
        let next = entry.behind().unwrap_or_else(|| entry.ready_for());
        feed.ring().head().saturating_sub(next)
    }
}
