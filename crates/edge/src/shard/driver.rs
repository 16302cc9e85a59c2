//! [`Driver`]: performs what the rules of a connection decide. It owns what all connections of a shard are served with, and is
//! handed one connection at a time; that one's [`Fate`] goes back to whoever owns the slots.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};

use bytes::Bytes;
use tickstorm_protocol::code::{CloseReason, LogLevel};
use tickstorm_protocol::session::server;

use super::connection::{Connection, Fate, Overdue};
use super::connections::{Connections, Key};
use super::control_buffer::ControlBuffer;
use super::env::Env;
use super::feeds::Feeds;
use super::input::{self, Serving, Taken};
use super::outbox::Outbox;
use super::subscription::{self, Subscribed};
use super::time::Moment;
use super::wheel::{Turn, Wheel};
use crate::feed::{Arrival, FeedId};
use crate::sys::network::{Network, Readiness};

/// One read's bytes at most. A connection has no buffer of its own: all of a shard read into this one.
const SCRATCH: usize = 16 * 1024;
/// Reads in a row: a peer that never stops sending waits for its next turn.
const READS: usize = 4;

/// What connections are served with.
pub(super) struct Driver<N> {
    pub(super) env: Env,
    pub(super) network: N,
    pub(super) feeds: Feeds,
    pub(super) wheel: Wheel,
    /// A SUBSCRIBE waits until the time is known.
    pub(super) has_askers: bool,
    pub(super) control: ControlBuffer,
    scratch: Box<[u8]>,
}

impl<N: Network> Driver<N> {
    pub(super) fn new(env: Env, network: N, at: Moment) -> Self {
        Self {
            feeds: Feeds::new(env.settings()),
            wheel: Wheel::new(at.now),
            env,
            network,
            has_askers: false,
            control: ControlBuffer::default(),
            scratch: vec![0; SCRATCH].into_boxed_slice(),
        }
    }

    /// Serves a connection whose socket is ready.
    pub(super) fn attend(
        &mut self,
        connection: &mut Connection<N::Socket>,
        readiness: Readiness,
        at: Moment,
    ) -> Fate {
        if readiness.takes_output && self.write(connection, at).is_gone() {
            return Fate::Gone;
        }
        if readiness.has_input {
            return self.read(connection, readiness.until_empty, at);
        }
        Fate::Stays
    }

    /// Reads what is there and acts on it. Reads on after a short read if that does not mean that the
    /// socket is empty.
    pub(super) fn read(
        &mut self,
        connection: &mut Connection<N::Socket>,
        until_empty: bool,
        at: Moment,
    ) -> Fate {
        let mut scratch = std::mem::take(&mut self.scratch);
        let fate = self.read_into(connection, until_empty, at, &mut scratch);
        self.scratch = scratch;
        fate
    }

    fn read_into(
        &mut self,
        connection: &mut Connection<N::Socket>,
        until_empty: bool,
        at: Moment,
        scratch: &mut [u8],
    ) -> Fate {
        for _ in 0..READS {
            connection.pause_if_blocked(at.now);
            if !connection.is_read() {
                return Fate::Stays;
            }
            match self.network.receive(&connection.socket, scratch) {
                Ok(0) => return self.close(connection, CloseReason::ClientClosed, at),
                Ok(taken) => {
                    connection.hear();
                    let input = &scratch[..taken];
                    if self.take_input(connection, input, at).is_gone() {
                        return Fate::Gone;
                    }
                    // A short read has emptied the socket, which saves the next one.
                    if taken < scratch.len() && !until_empty {
                        connection.pause_if_blocked(at.now);
                        return Fate::Stays;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Fate::Stays,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.fail(connection, &error, at),
            }
        }
        self.rearm(connection);
        Fate::Stays
    }

    /// Takes bytes through the session, up to their end or to where it can't go on for now, and sends the answers.
    fn take_input(
        &mut self,
        connection: &mut Connection<N::Socket>,
        mut input: &[u8],
        at: Moment,
    ) -> Fate {
        loop {
            let mut serving = Serving {
                env: &self.env,
                feeds: &mut self.feeds,
                control: &mut self.control,
                has_askers: &mut self.has_askers,
                at,
            };
            let taken = input::take(connection, &mut input, &mut serving);
            if self.deliver(connection, at).is_gone() {
                return Fate::Gone;
            }
            match taken {
                Taken::ControlFull => {}
                Taken::All => {
                    self.arm(connection);
                    return Fate::Stays;
                }
                Taken::Close(reason) => return self.close(connection, reason, at),
            }
        }
    }

    /// Goes on reading if nothing holds it up any longer.
    pub(super) fn resume_reading(
        &mut self,
        connection: &mut Connection<N::Socket>,
        at: Moment,
    ) -> Fate {
        if !connection.resume(at.now) {
            return Fate::Stays;
        }
        if self.take_input(connection, &[], at).is_gone() {
            return Fate::Gone;
        }
        connection.pause_if_blocked(at.now);
        if connection.is_open() && connection.is_read() {
            self.rearm(connection);
        }
        Fate::Stays
    }

    /// Serves the SUBSCRIBEs of a connection that have waited for the time.
    pub(super) fn serve_asked(
        &mut self,
        connection: &mut Connection<N::Socket>,
        at: Moment,
    ) -> Fate {
        if connection
            .served()
            .is_none_or(|served| served.asked.is_empty())
        {
            return Fate::Stays;
        }
        let mut serving = Serving {
            env: &self.env,
            feeds: &mut self.feeds,
            control: &mut self.control,
            has_askers: &mut self.has_askers,
            at,
        };
        let subscribed = subscription::serve_asked(connection, &mut serving);
        if self.deliver(connection, at).is_gone() {
            return Fate::Gone;
        }
        match subscribed {
            Subscribed::Waits => {
                self.has_askers = true;
                Fate::Stays
            }
            Subscribed::Served => self.resume_reading(connection, at),
            Subscribed::Refused(reason) => self.close(connection, reason, at),
        }
    }

    /// Lets a waiting subscriber join the feed, which has passed its resume point.
    pub(super) fn arrive(
        &mut self,
        connection: &mut Connection<N::Socket>,
        feed: FeedId,
        arrival: Arrival,
        at: Moment,
    ) -> Fate {
        let (slot, fd) = (connection.key.slot, connection.socket.as_raw_fd());
        let is_behind = connection.outbox_mut().is_some();
        self.feeds.join(slot, fd, feed, arrival.next, is_behind);
        let Some(own) = arrival.own else {
            return Fate::Stays;
        };
        self.env.count_frame(&own, at.mono);
        self.control.frames().extend_from_slice(&own.bytes);
        self.deliver(connection, at)
    }

    /// Puts a subscriber on the slow path whose socket was full for the hot loop. `rest` is the unsent tail of a frame.
    pub(super) fn take_fallen(
        &mut self,
        connection: &mut Connection<N::Socket>,
        rest: Bytes,
        at: Moment,
    ) {
        if let Some(served) = connection.served_mut() {
            let mut outbox = Outbox::with_rest(rest, at.now);
            outbox.start();
            served.outbox = Some(outbox);
            self.wait_for_output(connection);
        }
    }

    /// A connection's turn of the wheel has come: acts on the deadline that has passed, if one has.
    pub(super) fn look_at(
        &mut self,
        connection: &mut Connection<N::Socket>,
        turn: Turn,
        at: Moment,
    ) -> Fate {
        if connection.armed != turn {
            return Fate::Stays;
        }
        connection.armed = Turn::NONE;
        let fate = match connection.overdue(&self.env, at.now) {
            Overdue::Nothing => Fate::Stays,
            Overdue::Lingering => Fate::Gone,
            Overdue::Close(reason) => self.close(connection, reason, at),
            Overdue::Silent => self.end_silence(connection, at),
            Overdue::Unread => match self.network.take_error(&connection.socket) {
                Some(error) => self.fail(connection, &error, at),
                None => Fate::Stays,
            },
        };
        if !fate.is_gone() {
            self.arm(connection);
        }
        fate
    }

    fn end_silence(&mut self, connection: &mut Connection<N::Socket>, at: Moment) -> Fate {
        if self.read(connection, true, at).is_gone() {
            return Fate::Gone;
        }
        match connection.silence(&self.env, at.now) {
            Some(reason) => self.close(connection, reason, at),
            None => Fate::Stays,
        }
    }

    /// Closes a handshake whose room another one needs, unless its AUTH lies unread in the socket.
    pub(super) fn evict(&mut self, connection: &mut Connection<N::Socket>, at: Moment) -> Fate {
        if self.read(connection, true, at).is_gone() {
            return Fate::Gone;
        }
        match connection.eviction(&self.env) {
            Some(reason) => self.close(connection, reason, at),
            None => Fate::Stays,
        }
    }

    /// Reading or writing failed.
    pub(super) fn fail(
        &mut self,
        connection: &mut Connection<N::Socket>,
        error: &io::Error,
        at: Moment,
    ) -> Fate {
        let reason = self.reason_of(connection, error);
        self.close(connection, reason, at)
    }

    /// What the end of a connection is counted as whose socket has failed.
    pub(super) fn reason_of(
        &self,
        connection: &Connection<N::Socket>,
        error: &io::Error,
    ) -> CloseReason {
        // TCP_USER_TIMEOUT ends a closed window of a living peer too. A subscriber always has output on its way before
        // keepalive would ask after it: it did not read.
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

    /// Begins the end of a connection: out of its feed, then an ERROR if one fits, after which it lingers, so that unread input
    /// does not turn the close into a reset that destroys the ERROR on its way. One that lingers already is over.
    pub(super) fn close(
        &mut self,
        connection: &mut Connection<N::Socket>,
        reason: CloseReason,
        at: Moment,
    ) -> Fate {
        let Some(farewell) = connection.end(reason, at.now) else {
            return Fate::Gone;
        };
        self.feeds.leave(connection.key.slot);
        self.record(connection.key.id, connection.peer, farewell.reason);
        let fd = connection.socket.as_raw_fd();
        if !(farewell.is_clear && self.send_error(fd, farewell.reason)) {
            return Fate::Gone;
        }
        self.network.shut_down_sending(&connection.socket);
        if !farewell.was_read {
            self.rearm(connection);
        }
        self.arm(connection);
        Fate::Stays
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

    /// Re-arms a socket: its present readiness is reported again.
    pub(super) fn rearm(&mut self, connection: &Connection<N::Socket>) {
        let rearmed = self
            .network
            .rearm(&connection.socket, connection.key.token());
        if let Err(error) = rearmed {
            // The kernel has no reason to. Nobody waits for ever: the wheel looks at it when its deadline passes.
            tracing::warn!(%error, "a connection's epoll registration can't be re-armed");
        }
    }

    /// Puts a connection into the wheel for its next deadline, unless it is there for an earlier turn.
    pub(super) fn arm(&mut self, connection: &mut Connection<N::Socket>) {
        let deadline = connection.deadline(&self.env);
        if self.wheel.turn_of(deadline) < connection.armed {
            connection.armed = self.wheel.arm(connection.key, deadline);
        }
    }
}

/// Does something with a connection, if it is still there, and empties its slot if it is over.
pub(super) fn serve<N: Network>(
    key: Key,
    connections: &mut Connections<N::Socket>,
    driver: &mut Driver<N>,
    step: impl FnOnce(&mut Driver<N>, &mut Connection<N::Socket>) -> Fate,
) {
    if let Some(connection) = connections.get(key)
        && step(driver, connection).is_gone()
    {
        forget(key.slot, connections, driver);
    }
}

/// Closes a connection whose end has not begun.
pub(super) fn close<N: Network>(
    key: Key,
    reason: CloseReason,
    connections: &mut Connections<N::Socket>,
    driver: &mut Driver<N>,
    at: Moment,
) {
    serve(key, connections, driver, |driver, connection| {
        if connection.is_open() {
            driver.close(connection, reason, at)
        } else {
            Fate::Stays
        }
    });
}

/// Empties a slot, which closes the socket. It leaves the epoll at once: whoever else still has it open keeps nothing reported.
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
