//! The end of a connection: out of its feed, an ERROR where one fits, then reading and discarding for a while, so that unread
//! input does not turn the close into a reset that destroys the ERROR on its way.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use socket2::SockRef;
use tickstorm_protocol::code::{CloseReason, LogLevel};
use tickstorm_protocol::session::server;
use tickstorm_timebase::Mono;

use super::Shard;
use super::connection::{Connection, Phase, State};
use super::deadlines::{Key, TURN, Turn};

/// How long a connection is read after its ERROR was sent.
const LINGER: Duration = Duration::from_secs(1);

impl Shard {
    /// Closes a connection; once it lingers, for good.
    pub(super) fn close(self: &Rc<Self>, connection: &Rc<Connection>, reason: CloseReason) {
        if connection.state.borrow().phase != Phase::Open {
            self.remove(connection);
            return;
        }
        self.leave(connection);
        let mut state = connection.state.borrow_mut();
        let reason = match reason {
            CloseReason::ClientClosed | CloseReason::ConnectionLost if !state.has_spoken => {
                CloseReason::HealthCheck
            }
            reason => reason,
        };
        self.record(connection, reason);
        state.handshake = None;
        state.asked = Vec::new();
        // An outbox means a full socket or a frame half sent: no ERROR fits there.
        let is_clear = state.outbox.take().is_none();
        if let Some(writer) = state.writer.take() {
            writer.abort();
        }
        let deadline = self.time.now() + LINGER;
        state.phase = Phase::Lingering(deadline);
        drop(state);
        if !(is_clear && self.send_error(connection, reason)) {
            self.remove(connection);
            return;
        }
        // The peer may be gone already: then there is nothing to wait for, and reading says so.
        let _ = SockRef::from(&connection.stream).shutdown(Shutdown::Write);
        if connection.state.borrow().reader.is_none() {
            self.start_reading(connection);
        }
        self.arm(connection);
    }

    /// Writes the ERROR frame, if there is one for the reason and it goes through whole.
    fn send_error(&self, connection: &Connection, reason: CloseReason) -> bool {
        let Some(code) = reason.error_code() else {
            return false;
        };
        let retry_after_ms = code.retry_after_ms().map_or(0, rand::random_range);
        let mut frame = Vec::new();
        server::error(code, &reason.to_string(), retry_after_ms, &mut frame);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let sent = send(connection.stream.as_raw_fd(), &frame, flags);
        if let Ok(taken) = sent {
            self.shared.metrics.bytes_sent.inc_by(taken as u64);
        }
        sent == Ok(frame.len())
    }

    fn record(&self, connection: &Connection, reason: CloseReason) {
        let metrics = &self.shared.metrics;
        metrics.closed.with_label_values(&[reason.label()]).inc();
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
        // TCP_USER_TIMEOUT ends a closed window of a living peer too: output was pending, so the client did not read.
        let is_timeout = error.raw_os_error() == Some(Errno::ETIMEDOUT as i32);
        let is_pending = connection.state.borrow().outbox.is_some();
        let reason = if is_timeout && is_pending {
            CloseReason::SlowConsumer
        } else {
            CloseReason::ConnectionLost
        };
        self.close(connection, reason);
    }

    /// Takes a connection out of the shard; its socket closes as the last task lets go of it.
    fn remove(&self, connection: &Connection) {
        let mut state = connection.state.borrow_mut();
        if std::mem::replace(&mut state.phase, Phase::Gone) == Phase::Gone {
            return;
        }
        for task in state.reader.take().into_iter().chain(state.writer.take()) {
            task.abort();
        }
        state.permit = None;
        drop(state);
        self.connections
            .borrow_mut()
            .try_remove(connection.key.slot as usize);
        self.count_connections();
    }

    /// Closes a handshake whose place another needs.
    pub(super) fn evict(self: &Rc<Self>, key: Key) {
        if let Some(connection) = self.at(key.slot).filter(|found| found.key == key)
            && !connection.state.borrow().session.is_authenticated()
        {
            let allowed = self.limits().auth_timeout;
            self.close(&connection, CloseReason::AuthTimeout { allowed });
        }
    }

    /// Closes every connection for `reason`, those that are subscribed (or want to be) only where `subscribed`.
    pub(super) fn close_all(self: &Rc<Self>, reason: CloseReason, subscribed: bool) {
        for connection in self.all() {
            let state = connection.state.borrow();
            let concerned = !subscribed || state.session.is_subscribed() || !state.asked.is_empty();
            drop(state);
            if concerned {
                self.close(&connection, reason);
            }
        }
    }

    /// Puts a connection into the wheel for its next deadline, unless it stands there for an earlier turn.
    pub(super) fn arm(&self, connection: &Connection) {
        let mut state = connection.state.borrow_mut();
        let deadline = self.deadline(&state);
        self.arm_at(connection, &mut state, deadline);
    }

    /// Likewise for `deadline`.
    pub(super) fn arm_at(&self, connection: &Connection, state: &mut State, deadline: Mono) {
        let mut wheel = self.wheel.borrow_mut();
        if wheel.turn_of(deadline) < state.armed {
            state.armed = wheel.arm(connection.key, deadline);
        }
    }

    fn deadline(&self, state: &State) -> Mono {
        if let Phase::Lingering(until) = state.phase {
            return until;
        }
        let stuck = state.outbox.as_ref().map_or(Mono::NEVER, |outbox| {
            outbox.progress + self.settings().write_deadline
        });
        state.session.deadline(self.limits()).min(stuck)
    }

    /// Turns the wheel until the shard ends.
    pub(super) async fn turn_wheel(self: Rc<Self>) {
        let mut due = Vec::new();
        loop {
            tokio::time::sleep(TURN).await;
            let now = self.time.now();
            self.vitals
                .turned
                .store(self.time.mono().as_nanos(), Ordering::Relaxed);
            self.wheel.borrow_mut().turn(now, &mut due);
            for (key, turn) in due.drain(..) {
                if let Some(connection) = self.at(key.slot).filter(|found| found.key == key) {
                    self.look_at(&connection, turn);
                }
            }
        }
    }

    /// A connection's turn has come: acts on the deadline that has passed, if one has.
    fn look_at(self: &Rc<Self>, connection: &Rc<Connection>, turn: Turn) {
        let mut state = connection.state.borrow_mut();
        if state.armed != turn {
            return;
        }
        state.armed = Turn::NONE;
        let now = self.time.now();
        if let Phase::Lingering(until) = state.phase {
            drop(state);
            if now >= until {
                self.remove(connection);
                return;
            }
        } else if self.is_stuck(&state, now) {
            drop(state);
            self.close(connection, CloseReason::SlowConsumer);
        } else if state.session.check_deadline(self.limits(), now).is_some() {
            drop(state);
            // What it sent may lie in the socket unread because the edge itself was busy.
            self.read_late(connection);
            let state = connection.state.borrow();
            let verdict = state.session.check_deadline(self.limits(), now);
            let is_open = state.phase == Phase::Open;
            drop(state);
            if let (Some(reason), true) = (verdict, is_open) {
                self.close(connection, reason);
            }
        } else {
            drop(state);
        }
        if connection.state.borrow().phase != Phase::Gone {
            self.arm(connection);
        }
    }

    fn is_stuck(&self, state: &State, now: Mono) -> bool {
        let deadline = self.settings().write_deadline;
        state
            .outbox
            .as_ref()
            .is_some_and(|outbox| now >= outbox.progress + deadline)
    }
}
