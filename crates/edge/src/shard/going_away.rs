//! GOING_AWAY: telling a client that its connection will be closed, so that it moves to another
//! edge before that.

use std::time::Duration;

use tickstorm_protocol::session::server;

use super::connection::{AfterStep, Connection};
use super::connections::Connections;
use super::debugged::log_connection;
use super::driver::Driver;
use super::key::Key;
use super::slots::with_connection;
use super::time::Moment;
use crate::metrics::SentFrame;
use crate::sys::network::Network;

/// The reason why a client is sent to another edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MoveCause {
    /// The edge drains.
    Drain,
    /// An operator moves this client.
    Operator,
    /// An operator moves a share of all clients.
    Rebalance,
}

impl MoveCause {
    /// All causes, in declaration order.
    pub(crate) const ALL: [Self; 3] = [Self::Drain, Self::Operator, Self::Rebalance];

    /// Returns the value of the label `reason` of `tickstorm_going_away_total`.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Operator => "operator",
            Self::Rebalance => "rebalance",
        }
    }

    /// Returns the sentence that the frame carries.
    const fn sentence(self) -> &'static str {
        match self {
            Self::Drain => "this edge is being shut down",
            Self::Operator => "an operator moves this client to another edge",
            Self::Rebalance => "this edge gives a share of its clients to other edges",
        }
    }
}

/// Tells the client with `key` that its connection will be closed `within` this time. Returns false
/// if there is no such client, or if it has not authenticated.
pub(super) fn tell<N: Network>(
    key: Key,
    cause: MoveCause,
    within: Duration,
    connections: &mut Connections<N::Socket>,
    driver: &mut Driver<N>,
    at: Moment,
) -> bool {
    let mut is_told = false;
    with_connection(key, connections, driver, |driver, connection| {
        if connection.served().is_none() {
            return AfterStep::Stays;
        }
        is_told = true;
        driver.send_going_away(connection, cause, within, at)
    });
    is_told
}

impl<N: Network> Driver<N> {
    /// Sends the frame. If the socket is full, it waits in the connection's outbox.
    fn send_going_away(
        &mut self,
        connection: &mut Connection<N::Socket>,
        cause: MoveCause,
        within: Duration,
        at: Moment,
    ) -> AfterStep {
        log_connection!(
            &self.env, connection.key.id, connection.peer;
            cause = cause.label(),
            ?within,
            "client told to move to another edge"
        );
        server::going_away(within, cause.sentence(), self.control.frames());
        self.env.metrics().count_going_away(cause);
        self.env.frames.count_sent(SentFrame::GoingAway);
        self.deliver(connection, at)
    }
}
