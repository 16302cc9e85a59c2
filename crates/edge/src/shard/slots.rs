//! Serving one connection out of its slot, which is emptied when the connection is over. This is
//! the only way from a [`Key`] to a step of the driver, so that no step can forget to.

use tickstorm_protocol::code::CloseReason;

use super::connection::{AfterStep, Connection};
use super::connections::Connections;
use super::driver::Driver;
use super::key::Key;
use super::time::Moment;
use crate::sys::network::Network;

/// Does something with a connection, if it is still there, and empties its slot if it is over.
pub(super) fn with_connection<N: Network>(
    key: Key,
    connections: &mut Connections<N::Socket>,
    driver: &mut Driver<N>,
    step: impl FnOnce(&mut Driver<N>, &mut Connection<N::Socket>) -> AfterStep,
) {
    if let Some(connection) = connections.get(key)
        && step(driver, connection).is_gone()
    {
        forget(key.slot, connections, driver);
    }
}

/// Closes a connection whose end has not begun.
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

/// Empties a slot, which closes the socket. It leaves the epoll at once: whoever else still has it
/// open keeps nothing reported.
pub(super) fn forget<N: Network>(
    slot: u32,
    connections: &mut Connections<N::Socket>,
    driver: &mut Driver<N>,
) {
    if let Some(connection) = connections.remove(slot) {
        debug_assert!(driver.feeds.of(slot).is_none(), "it has left its feed");
        driver.network.deregister(&connection.socket);
    }
}
