//! Serving one connection in its slot, and emptying the slot once the connection has ended. This is
//! the only way from a [`Key`] to a step of the driver, so no step can forget to empty it.

use tickstorm_protocol::code::CloseReason;

use super::connection::{AfterStep, Connection};
use super::connections::Connections;
use super::driver::Driver;
use super::key::Key;
use super::time::Moment;
use crate::sys::network::Network;

/// Runs `step` on a connection, if it still exists, and empties its slot if it has ended.
pub(super) fn with_connection<N: Network>(
    key: Key,
    connections: &mut Connections<N::Socket>,
    driver: &mut Driver<N>,
    step: impl FnOnce(&mut Driver<N>, &mut Connection<N::Socket>) -> AfterStep,
) {
    let Some(connection) = connections.get(key) else {
        return;
    };
    if step(driver, connection).is_gone() {
        empty_slot(key.slot, connections, driver);
    } else {
        driver.account(connection);
    }
}

/// Closes a connection, unless it is already being closed.
pub(super) fn close_if_open<N: Network>(
    key: Key,
    reason: CloseReason,
    connections: &mut Connections<N::Socket>,
    driver: &mut Driver<N>,
    at: Moment,
) {
    with_connection(key, connections, driver, |driver, connection| {
        if connection.is_open() {
            driver.close(connection, reason, at)
        } else {
            AfterStep::Stays
        }
    });
}

/// Empties a slot, which closes the socket. The socket is deregistered explicitly, because the
/// epoll would keep reporting it if another descriptor still referred to it.
pub(super) fn empty_slot<N: Network>(
    slot: u32,
    connections: &mut Connections<N::Socket>,
    driver: &mut Driver<N>,
) {
    if let Some(connection) = connections.remove(slot) {
        debug_assert!(
            driver.feeds.feed_of(slot).is_none(),
            "a connection leaves its feed before its slot is emptied"
        );
        driver.release_memory(&connection);
        driver.end_count(&connection);
        driver.network.deregister(&connection.socket);
    }
}
