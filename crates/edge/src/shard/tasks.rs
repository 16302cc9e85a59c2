//! [`ShardTask`]: work over all connections of a shard, done a connection at a time, so that no
//! tick and no client waits for it.

use std::collections::VecDeque;

use tickstorm_protocol::code::CloseReason;
use tokio::sync::oneshot;

use super::connection::Connection;
use super::connections::{Connections, Walk, WalkProgress};
use super::driver::Driver;
use super::listing::Listing;
use super::slots::{close_if_open, with_connection};
use super::time::Moment;
use crate::sys::network::Network;

/// A walk over all connections, and what is done to each.
pub(super) enum ShardTask {
    /// Authority time was stepped back: every subscription of before ends, and those that waited
    /// for the time then.
    EndSubscriptions(Walk),
    /// The time is known: every SUBSCRIBE that waited for it is served.
    ServeAskers(Walk),
    /// Operators ask which connections come first.
    List(Listing),
    /// An operator closes the connection of this id.
    CloseOne {
        id: u64,
        walk: Walk,
        /// None once it has been answered.
        reply: Option<oneshot::Sender<bool>>,
    },
}

/// The tasks under way; each gets its turn.
#[derive(Default)]
pub(super) struct ShardTasks(VecDeque<ShardTask>);

impl ShardTasks {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add(&mut self, task: ShardTask) {
        self.0.push_back(task);
    }

    /// Ends all subscriptions, beginning afresh if that is under way already.
    pub(super) fn end_subscriptions(&mut self) {
        self.0
            .retain(|task| !matches!(task, ShardTask::EndSubscriptions(_)));
        self.0
            .push_front(ShardTask::EndSubscriptions(Walk::default()));
    }

    pub(super) fn next(&mut self) -> Option<ShardTask> {
        self.0.pop_front()
    }
}

impl ShardTask {
    /// Deals with one connection.
    pub(super) fn step<N: Network>(
        &mut self,
        connections: &mut Connections<N::Socket>,
        driver: &mut Driver<N>,
        at: Moment,
    ) -> WalkProgress {
        match self {
            Self::EndSubscriptions(walk) => {
                let Some(connection) = connections.step(walk) else {
                    return WalkProgress::Done;
                };
                let key = connection.key;
                let has_asked = connection
                    .served()
                    .is_some_and(|served| served.has_asked_before(&driver.env));
                if has_asked || driver.feeds.of(key.slot).is_some() {
                    close_if_open(key, CloseReason::TimeStepped, connections, driver, at);
                }
            }
            Self::ServeAskers(walk) => {
                let Some(connection) = connections.step(walk) else {
                    return WalkProgress::Done;
                };
                let key = connection.key;
                with_connection(key, connections, driver, |driver, connection| {
                    driver.serve_asked(connection, at)
                });
            }
            Self::List(listing) => return listing.step(connections, driver, at),
            Self::CloseOne { id, walk, reply } => {
                let found = connections.step(walk);
                if found.as_ref().is_some_and(|found| found.key.id != *id) {
                    return WalkProgress::GoesOn;
                }
                let open = found.filter(|found| found.is_open());
                if let Some(reply) = reply.take() {
                    // Whoever asked may have left meanwhile.
                    let _ = reply.send(open.is_some());
                }
                if let Some(Connection { key, .. }) = open {
                    close_if_open(*key, CloseReason::Operator, connections, driver, at);
                }
                return WalkProgress::Done;
            }
        }
        WalkProgress::GoesOn
    }
}
