//! The end of a connection: why, what it is told, and that it lingers.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};

use tickstorm_protocol::code::{CloseReason, LogLevel};
use tickstorm_protocol::session::server;

use super::connection::{AfterStep, Connection};
use super::driver::Driver;
use super::time::Moment;
use crate::sys::network::Network;

impl<N: Network> Driver<N> {
    /// Reading or writing failed.
    pub(super) fn fail(
        &mut self,
        connection: &mut Connection<N::Socket>,
        error: &io::Error,
        at: Moment,
    ) -> AfterStep {
        let reason = self.reason_of(connection, error);
        self.close(connection, reason, at)
    }

    /// What the end of a connection is counted as whose socket has failed.
    pub(super) fn reason_of(
        &self,
        connection: &Connection<N::Socket>,
        error: &io::Error,
    ) -> CloseReason {
        // TCP_USER_TIMEOUT ends a closed window of a living peer too. A subscriber always has
        // output on its way before keepalive would ask after it: it did not read.
        let has_outbox = connection
            .served()
            .is_some_and(|served| served.outbox.is_some());
        let is_pending = has_outbox || self.feeds.has_joined(connection.key.slot);
        if error.kind() == io::ErrorKind::TimedOut && is_pending {
            CloseReason::SlowConsumer
        } else {
            CloseReason::ConnectionLost
        }
    }

    /// Begins the end of a connection: out of its feed, then an ERROR if one fits, after which it
    /// lingers, so that unread input does not turn the close into a reset that destroys the ERROR
    /// on its way. One that lingers already is over.
    pub(super) fn close(
        &mut self,
        connection: &mut Connection<N::Socket>,
        reason: CloseReason,
        at: Moment,
    ) -> AfterStep {
        let Some(farewell) = connection.end(reason, at.now) else {
            return AfterStep::Gone;
        };
        self.feeds.leave(connection.key.slot);
        self.record(connection.key.id, connection.peer, farewell.reason);
        let fd = connection.socket.as_raw_fd();
        if !(farewell.is_clear && self.send_error(fd, farewell.reason)) {
            return AfterStep::Gone;
        }
        self.network.shut_down_sending(&connection.socket);
        if !farewell.was_read {
            self.rearm(connection);
        }
        self.arm(connection);
        AfterStep::Stays
    }

    /// Counts and logs the end of a connection.
    pub(super) fn record(&self, id: u64, peer: SocketAddr, reason: CloseReason) {
        self.env.count_closed(reason);
        let reason_label = reason.label();
        match reason.log_level() {
            LogLevel::Debug => {
                tracing::debug!(connection = id, %peer, reason = reason_label, "connection closed");
            }
            LogLevel::Warn => {
                tracing::warn!(connection = id, %peer, reason = reason_label, "connection closed");
            }
        }
    }

    /// Sends the ERROR frame, if there is one for the reason. True if the socket took all of it.
    pub(super) fn send_error(&mut self, fd: RawFd, reason: CloseReason) -> bool {
        let Some(code) = reason.error_code() else {
            return false;
        };
        let retry_after_ms = code.retry_after_ms().map_or(0, rand::random_range);
        let mut frame = Vec::new();
        server::error(code, &reason.to_string(), retry_after_ms, &mut frame);
        let sent = self.network.send(fd, &frame);
        if let Ok(taken) = sent {
            self.env.metrics().bytes_sent.inc_by(taken as u64);
        }
        sent == Ok(frame.len())
    }
}
