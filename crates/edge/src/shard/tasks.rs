//! [`ShardTask`]: work on all connections of a shard. It is done one connection at a time, so that
//! neither ticks nor clients have to wait for it.

use std::collections::VecDeque;
use std::time::Duration;

use tickstorm_protocol::code::CloseReason;
use tokio::sync::oneshot;

use super::connection::Connection;
use super::connections::{Connections, Walk, WalkProgress};
use super::departures::Departures;
use super::driver::Driver;
use super::listing::Listing;
use super::moves::MoveAnswer;
use super::shedding::Shedding;
use super::slots::{close_if_open, with_connection};
use super::time::Moment;
use crate::sys::network::Network;

/// A task that walks over all connections.
pub(super) enum ShardTask {
    /// Ends every subscription of an earlier generation, including SUBSCRIBEs that were waiting for
    /// the time, because authority time was stepped back.
    EndSubscriptions(Walk),
    /// Serves every SUBSCRIBE that has waited until the time is known.
    ServePendingSubscribes(Walk),
    /// Compiles a list of connections for an operator.
    List(Listing),
    /// Closes the connections whose sockets hold most memory.
    Shed(Shedding),
    /// Closes the connection with this id for an operator.
    CloseOne {
        id: u64,
        walk: Walk,
        /// `None` once the answer was sent.
        reply: Option<oneshot::Sender<bool>>,
    },
    /// Tells the client of the connection with this id, for an operator, that its connection will
    /// be closed `within` this time.
    MoveOne {
        id: u64,
        within: Duration,
        walk: Walk,
        /// `None` once the answer was sent.
        reply: Option<oneshot::Sender<MoveAnswer>>,
    },
}

/// The tasks in progress. Those that clients depend on take turns and come first, and so do those
/// for operators after them.
#[derive(Default)]
pub(super) struct ShardTasks {
    for_clients: VecDeque<ShardTask>,
    for_operators: VecDeque<ShardTask>,
}

impl ShardTasks {
    /// Returns whether there is a task to do now. `with_operators` says whether those for operators
    /// count.
    pub(super) fn have_any(&self, with_operators: bool) -> bool {
        !self.for_clients.is_empty() || (with_operators && !self.for_operators.is_empty())
    }

    pub(super) fn add(&mut self, task: ShardTask) {
        if task.is_for_operators() {
            self.for_operators.push_back(task);
        } else {
            self.for_clients.push_back(task);
        }
    }

    /// Starts ending all subscriptions, or starts over if that is already in progress.
    pub(super) fn end_subscriptions(&mut self) {
        self.for_clients
            .retain(|task| !matches!(task, ShardTask::EndSubscriptions(_)));
        self.for_clients
            .push_front(ShardTask::EndSubscriptions(Walk::default()));
    }

    /// Starts to shed connections, unless that is already in progress.
    pub(super) fn shed(&mut self, shedding: Shedding) {
        let mut tasks = self.for_clients.iter();
        if !tasks.any(|task| matches!(task, ShardTask::Shed(_))) {
            self.add(ShardTask::Shed(shedding));
        }
    }

    /// Returns the next task to do. `with_operators` says whether it may be one for operators.
    pub(super) fn next(&mut self, with_operators: bool) -> Option<ShardTask> {
        let for_operators = &mut self.for_operators;
        self.for_clients
            .pop_front()
            .or_else(|| for_operators.pop_front_if(|_| with_operators))
    }
}

impl ShardTask {
    /// Returns whether an operator waits for it, and no client depends on it.
    pub(super) fn is_for_operators(&self) -> bool {
        match self {
            Self::List(_) | Self::CloseOne { .. } | Self::MoveOne { .. } => true,
            Self::EndSubscriptions(_) | Self::ServePendingSubscribes(_) | Self::Shed(_) => false,
        }
    }

    /// Processes one connection.
    pub(super) fn step<N: Network>(
        &mut self,
        connections: &mut Connections<N::Socket>,
        driver: &mut Driver<N>,
        departures: &mut Departures,
        at: Moment,
    ) -> WalkProgress {
        match self {
            Self::EndSubscriptions(walk) => {
                let Some(connection) = connections.step(walk) else {
                    return WalkProgress::Done;
                };
                let key = connection.key;
                let has_stale = connection
                    .served()
                    .is_some_and(|served| served.has_stale_subscribe(&driver.env));
                if has_stale || driver.feeds.feed_of(key.slot).is_some() {
                    close_if_open(key, CloseReason::TimeStepped, connections, driver, at);
                }
            }
            Self::ServePendingSubscribes(walk) => {
                let Some(connection) = connections.step(walk) else {
                    return WalkProgress::Done;
                };
                let key = connection.key;
                with_connection(key, connections, driver, |driver, connection| {
                    driver.serve_pending_subscribes(connection, at)
                });
            }
            Self::List(listing) => return listing.step(connections, driver, at),
            Self::Shed(shedding) => return shedding.step(connections, driver, at),
            Self::CloseOne { id, walk, reply } => {
                let found = connections.step(walk);
                if found.as_ref().is_some_and(|found| found.key.id != *id) {
                    return WalkProgress::More;
                }
                let open = found.filter(|found| found.is_open());
                if let Some(reply) = reply.take() {
                    // The requester may have gone away meanwhile.
                    let _ = reply.send(open.is_some());
                }
                if let Some(Connection { key, .. }) = open {
                    close_if_open(*key, CloseReason::Operator, connections, driver, at);
                }
                return WalkProgress::Done;
            }
            Self::MoveOne {
                id,
                within,
                walk,
                reply,
            } => {
                let found = connections.step(walk);
                if found.as_ref().is_some_and(|found| found.key.id != *id) {
                    return WalkProgress::More;
                }
                let open = found.filter(|found| found.is_open());
                let answer = match open.map(|found| found.key) {
                    Some(key) => departures.move_one(key, *within, connections, driver, at),
                    None => MoveAnswer::Unknown,
                };
                if let Some(reply) = reply.take() {
                    // The requester may have gone away meanwhile.
                    let _ = reply.send(answer);
                }
                return WalkProgress::Done;
            }
        }
        WalkProgress::More
    }
}
