//! [`Task`]: work over all connections of a shard, done a connection at a time, so that no tick and no client waits for it.

use std::collections::VecDeque;

use tickstorm_protocol::code::CloseReason;
use tokio::sync::oneshot;

use super::connection::Connection;
use super::connections::{Connections, Walk};
use super::driver::{Driver, close, serve};
use super::listing::Listing;
use super::time::Moment;
use crate::sys::network::Network;

/// A walk over all connections, and what is done to each.
pub(super) enum Task {
    /// Authority time was stepped back: every subscription of before ends, those that wait for the time too.
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

/// Whether a task is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Progress {
    GoesOn,
    Done,
}

/// The tasks under way; each gets its turn.
#[derive(Default)]
pub(super) struct Tasks(VecDeque<Task>);

impl Tasks {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add(&mut self, task: Task) {
        self.0.push_back(task);
    }

    /// Ends all subscriptions, beginning afresh if that is under way already.
    pub(super) fn end_subscriptions(&mut self) {
        self.0
            .retain(|task| !matches!(task, Task::EndSubscriptions(_)));
        self.0.push_front(Task::EndSubscriptions(Walk::default()));
    }

    pub(super) fn next(&mut self) -> Option<Task> {
        self.0.pop_front()
    }
}

impl Task {
    /// Deals with one connection.
    pub(super) fn step<N: Network>(
        &mut self,
        connections: &mut Connections<N::Socket>,
        driver: &mut Driver<N>,
        at: Moment,
    ) -> Progress {
        match self {
            Self::EndSubscriptions(walk) => {
                let Some(connection) = connections.step(walk) else {
                    return Progress::Done;
                };
                let key = connection.key;
                let asked = connection.served().map(|served| &served.asked);
                let waits = asked.is_some_and(|asked| !asked.is_empty());
                if waits || driver.feeds.of(key.slot).is_some() {
                    close(key, CloseReason::TimeStepped, connections, driver, at);
                }
            }
            Self::ServeAskers(walk) => {
                let Some(connection) = connections.step(walk) else {
                    return Progress::Done;
                };
                let key = connection.key;
                serve(key, connections, driver, |driver, connection| {
                    driver.serve_asked(connection, at)
                });
            }
            Self::List(listing) => return listing.step(connections, driver, at),
            Self::CloseOne { id, walk, reply } => {
                let found = connections.step(walk);
                if found.as_ref().is_some_and(|found| found.key.id != *id) {
                    return Progress::GoesOn;
                }
                let open = found.filter(|found| found.is_open());
                if let Some(reply) = reply.take() {
                    // Whoever asked may have left meanwhile.
                    let _ = reply.send(open.is_some());
                }
                if let Some(Connection { key, .. }) = open {
                    close(*key, CloseReason::Operator, connections, driver, at);
                }
                return Progress::Done;
            }
        }
        Progress::GoesOn
    }
}
