//! The number of connections in each state. A connection is counted again after each of its steps,
//! in the state that it is then in, so no step can forget to do so.

use super::connection::Connection;
use super::driver::Driver;
use crate::sys::network::Network;

impl<N: Network> Driver<N> {
    /// Counts a connection in its present state, and no longer in the one before.
    pub(super) fn count_state(&self, connection: &mut Connection<N::Socket>) {
        let state = connection.state();
        let before = connection.counted_as.replace(state);
        if before != Some(state) {
            let connections = &self.env.metrics().connections;
            connections.enter(state);
            if let Some(before) = before {
                connections.leave(before);
            }
        }
    }

    /// Stops counting a connection, whose socket is about to be closed.
    pub(super) fn end_count(&self, connection: &Connection<N::Socket>) {
        if let Some(state) = connection.counted_as {
            self.env.metrics().connections.leave(state);
        }
    }
}
