//! The log of a subscription, by `tracing`: one line for each event, ticks at trace level. Names
//! that edges give themselves may contain any characters and are escaped.

use std::error::Error as _;

use tickstorm_protocol::session::client::Welcome;
use tickstorm_timebase::Epoch;
use tracing::{debug, info, trace, warn};

use crate::error::{ConnectionId, Error};
use crate::event::Event;

/// Logs the first connection.
pub(crate) fn write_start(address: &str, welcome: &Welcome, start: Epoch) {
    info!(
        address,
        edge_id = ?welcome.edge_id,
        connection_id = id(welcome.connection_id.as_ref()),
        start_ms = start.as_ms(),
        "subscribed"
    );
}

/// Logs that a first connection was not made to an address.
pub(crate) fn write_failure(address: &str, error: &Error) {
    warn!(
        address,
        error = %error,
        cause = error.source().map(tracing::field::display),
        "not connected"
    );
}

/// Logs that an attempt to move to an address failed.
pub(crate) fn write_failed_move(address: &str, error: &Error) {
    debug!(
        address,
        error = %error,
        cause = error.source().map(tracing::field::display),
        "not moved"
    );
}

/// Logs an event.
pub(crate) fn write(event: &Event) {
    match event {
        Event::Tick(tick) => trace!(
            mode = tick.mode.name(),
            epoch_ms = tick.epoch.as_ms(),
            "tick"
        ),
        Event::Gap { after, before } => warn!(
            after_ms = after.as_ms(),
            before_ms = before.as_ms(),
            "ticks are missing"
        ),
        Event::Reconnecting {
            why,
            connection_id,
            after,
            resumes,
        } => warn!(
            error = %why,
            cause = why.source().map(tracing::field::display),
            connection_id = id(connection_id.as_ref()),
            after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
            resumes,
            "not connected, reconnecting"
        ),
        Event::Reconnected {
            address,
            edge_id,
            connection_id,
        } => info!(
            address,
            ?edge_id,
            connection_id = id(connection_id.as_ref()),
            "subscribed again"
        ),
        Event::Moved {
            address,
            edge_id,
            connection_id,
        } => info!(
            address,
            ?edge_id,
            connection_id = id(connection_id.as_ref()),
            "moved to another edge"
        ),
        Event::ModeChanged { mode, start } => info!(
            mode = mode.name(),
            start_ms = start.as_ms(),
            "the mode has changed"
        ),
    }
}

/// Logs the error that ends the stream.
pub(crate) fn write_end(error: &Error) {
    warn!(
        error = %error,
        cause = error.source().map(tracing::field::display),
        connection_id = id(error.connection_id()),
        "the connection has ended"
    );
}

fn id(connection_id: Option<&ConnectionId>) -> Option<&str> {
    connection_id.map(ConnectionId::as_str)
}
