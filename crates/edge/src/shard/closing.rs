//! The end of a connection: out of its feed, an ERROR where one fits, then reading and discarding for a while, so that unread
//! input does not turn the close into a reset that destroys the ERROR on its way.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use socket2::SockRef;
use tickstorm_protocol::code::{CloseReason, LogLevel};
use tickstorm_protocol::session::server;

use super::Shard;
use super::connection::{Connection, Phase, Place};
use super::wheel::Key;
use crate::sys::socket::transmit;

/// How long a connection is read after its ERROR was sent.
pub(super) const LINGER: Duration = Duration::from_secs(1);

impl Shard {
    /// Closes a connection; once it lingers, for good.
    pub(super) fn close(self: &Rc<Self>, connection: &Rc<Connection>, reason: CloseReason) {
        if connection.state.borrow().phase != Phase::Open {
            self.remove(connection);
            return;
        }
        self.uncork(connection);
        if connection.state.borrow().phase != Phase::Open {
            // That failed, and has closed it.
            return;
        }
        self.leave(connection);
        let mut state = connection.state.borrow_mut();
        let is_over = matches!(
            reason,
            CloseReason::ClientClosed | CloseReason::ConnectionLost
        );
        let said_nothing = is_over && !state.has_spoken;
        let reason = if said_nothing {
            CloseReason::HealthCheck
        } else {
            reason
        };
        self.record(connection, reason);
        state.handshake = None;
        state.client = None;
        state.asked = Vec::new();
        // An outbox means a full socket or a frame half sent: no ERROR fits there.
        let is_clear = state.outbox.take().is_none();
        let deadline = self.time.now() + LINGER;
        state.phase = Phase::Lingering(deadline);
        drop(state);
        if !(is_clear && self.send_error(&connection.stream, reason)) {
            self.remove(connection);
            return;
        }
        // The peer may be gone already: then there is nothing to wait for, and reading says so.
        let _ = SockRef::from(&connection.stream).shutdown(Shutdown::Write);
        if !connection.state.borrow().is_read {
            self.start_reading(connection);
        }
        self.arm(connection);
    }

    /// Writes the ERROR frame, if there is one for the reason and it goes through whole.
    pub(super) fn send_error(&self, stream: &impl AsRawFd, reason: CloseReason) -> bool {
        let Some(code) = reason.error_code() else {
            return false;
        };
        let retry_after_ms = code.retry_after_ms().map_or(0, rand::random_range);
        let mut frame = Vec::new();
        server::error(code, &reason.to_string(), retry_after_ms, &mut frame);
        let sent = transmit(stream.as_raw_fd(), &frame);
        if let Ok(taken) = sent {
            self.shared.metrics.bytes_sent.inc_by(taken as u64);
        }
        sent == Ok(frame.len())
    }

    pub(super) fn count_closed(&self, reason: CloseReason) {
        self.shared
            .metrics
            .closed
            .with_label_values(&[reason.label()])
            .inc();
    }

    fn record(&self, connection: &Connection, reason: CloseReason) {
        self.count_closed(reason);
        let metrics = &self.shared.metrics;
        if matches!(reason, CloseReason::HeartbeatTimeout { .. }) {
            metrics.heartbeat_timeouts.inc();
        }
        let (id, peer, reason_label) = (connection.key.id, connection.peer, reason.label());
        match reason.log_level() {
            LogLevel::Debug => {
                tracing::debug!(connection = id, %peer, reason = reason_label, "connection closed");
            }
            LogLevel::Warn => {
                tracing::warn!(connection = id, %peer, reason = reason_label, "connection closed");
            }
        }
    }

    /// Reading or writing failed.
    pub(super) fn fail(self: &Rc<Self>, connection: &Rc<Connection>, error: &io::Error) {
        // TCP_USER_TIMEOUT ends a closed window of a living peer too. A subscriber always has output on its way before
        // keepalive would ask after it: it did not read.
        let is_timeout = error.raw_os_error() == Some(Errno::ETIMEDOUT as i32);
        let state = connection.state.borrow();
        let is_pending = state.outbox.is_some() || matches!(state.place, Place::Joined(..));
        drop(state);
        let reason = if is_timeout && is_pending {
            CloseReason::SlowConsumer
        } else {
            CloseReason::ConnectionLost
        };
        self.close(connection, reason);
    }

    /// Takes a connection out of the shard; its socket closes as the last one lets go of it.
    pub(super) fn remove(&self, connection: &Connection) {
        let mut state = connection.state.borrow_mut();
        if std::mem::replace(&mut state.phase, Phase::Gone) == Phase::Gone {
            return;
        }
        if state
            .permit
            .take()
            .is_some_and(|permit| !permit.is_overflow())
        {
            self.inside.update(|inside| inside - 1);
        }
        drop(state);
        // Closing it would do so as well, but whoever still looks at it keeps it open, and older kernels take a lock of the whole
        // host for that. It stands in there until now.
        let _ = self.sockets.remove(&connection.stream);
        self.connections
            .borrow_mut()
            .try_remove(connection.key.slot as usize);
    }

    /// Closes a handshake whose place another needs, unless its AUTH lies in the socket unread. One whose answer was only to
    /// come late gets it now.
    pub(super) fn evict(self: &Rc<Self>, key: Key) {
        let Some(connection) = self.at(key.slot).filter(|found| found.key == key) else {
            return;
        };
        self.read_late(&connection);
        let state = connection.state.borrow();
        let is_handshake = state.phase == Phase::Open && !state.session.is_authenticated();
        let is_refused = state.is_refused();
        drop(state);
        if is_handshake && is_refused {
            self.close(&connection, CloseReason::AuthFailed);
        } else if is_handshake {
            let allowed = self.limits().auth_timeout;
            self.close(&connection, CloseReason::AuthTimeout { allowed });
        }
    }

    /// Ends all subscriptions, those that wait for the time too, at once: no tick of the new time may come before the ERROR.
    pub(super) fn end_subscriptions(self: &Rc<Self>, reason: CloseReason) {
        for connection in self.all() {
            let state = connection.state.borrow();
            let is_subscribed = state.session.is_subscribed() || !state.asked.is_empty();
            let is_concerned = state.phase == Phase::Open && is_subscribed;
            drop(state);
            if is_concerned {
                self.close(&connection, reason);
            }
        }
    }

    /// Closes every connection, lingering or not.
    pub(super) fn close_all(self: &Rc<Self>, reason: CloseReason) {
        for connection in self.all() {
            self.close(&connection, reason);
        }
    }
}
