//! [`Driver`]: performs what the rules of a connection decide. It owns what all connections of a
//! shard are served with, and is handed one connection at a time; that one's [`AfterStep`] goes
//! back to whoever owns the slots.

use std::io;
use std::os::fd::AsRawFd;

use bytes::Bytes;
use tickstorm_protocol::code::CloseReason;

use super::connection::{AfterStep, Connection, Overdue};
use super::context::InputContext;
use super::control_buffer::ControlBuffer;
use super::env::Env;
use super::feeds::Feeds;
use super::input::{self, InputTaken};
use super::outbox::Outbox;
use super::subscription::{self, SubscribeOutcome};
use super::time::Moment;
use super::wheel::{Turn, Wheel};
use crate::feed::{Arrival, FeedId};
use crate::sys::network::{Network, Readiness};

/// One read's bytes at most. A connection has no buffer of its own: all of a shard read into this
/// one.
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

    /// What the rules of a connection may touch beside it.
    fn context(&mut self, at: Moment) -> InputContext<'_> {
        InputContext {
            env: &self.env,
            feeds: &mut self.feeds,
            control: &mut self.control,
            has_askers: &mut self.has_askers,
            at,
        }
    }

    /// Serves a connection whose socket is ready.
    pub(super) fn attend(
        &mut self,
        connection: &mut Connection<N::Socket>,
        readiness: Readiness,
        at: Moment,
    ) -> AfterStep {
        if readiness.takes_output && self.write(connection, at).is_gone() {
            return AfterStep::Gone;
        }
        if readiness.has_input {
            return self.read(connection, readiness.until_empty, at);
        }
        AfterStep::Stays
    }

    /// Reads what is there and acts on it. Reads on after a short read if that does not mean that
    /// the socket is empty.
    pub(super) fn read(
        &mut self,
        connection: &mut Connection<N::Socket>,
        until_empty: bool,
        at: Moment,
    ) -> AfterStep {
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
    ) -> AfterStep {
        for _ in 0..READS {
            connection.pause_if_blocked(at.now);
            if !connection.is_read() {
                return AfterStep::Stays;
            }
            match self.network.receive(&connection.socket, scratch) {
                Ok(0) => return self.close(connection, CloseReason::ClientClosed, at),
                Ok(taken) => {
                    let mono = self.network.now();
                    let at = Moment { mono, ..at };
                    connection.hear();
                    let input = &scratch[..taken];
                    if self.take_input(connection, input, at).is_gone() {
                        return AfterStep::Gone;
                    }
                    // A short read has emptied the socket, which saves the next one.
                    if taken < scratch.len() && !until_empty {
                        connection.pause_if_blocked(at.now);
                        return AfterStep::Stays;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return AfterStep::Stays,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.fail(connection, &error, at),
            }
        }
        self.rearm(connection);
        AfterStep::Stays
    }

    /// Takes bytes through the session, up to their end or to where it can't go on for now, and
    /// sends the answers.
    fn take_input(
        &mut self,
        connection: &mut Connection<N::Socket>,
        mut input: &[u8],
        at: Moment,
    ) -> AfterStep {
        loop {
            let mut context = self.context(at);
            let taken = input::take(connection, &mut input, &mut context);
            if self.deliver(connection, at).is_gone() {
                return AfterStep::Gone;
            }
            match taken {
                InputTaken::ControlFull => {}
                InputTaken::All => {
                    self.arm(connection);
                    return AfterStep::Stays;
                }
                InputTaken::Close(reason) => return self.close(connection, reason, at),
            }
        }
    }

    /// Goes on reading if nothing holds it up any longer.
    pub(super) fn resume_reading(
        &mut self,
        connection: &mut Connection<N::Socket>,
        at: Moment,
    ) -> AfterStep {
        if !connection.resume(at.now) {
            return AfterStep::Stays;
        }
        if self.take_input(connection, &[], at).is_gone() {
            return AfterStep::Gone;
        }
        connection.pause_if_blocked(at.now);
        // Also if that has closed it: what it still sends must be read and discarded.
        if connection.is_read() {
            self.rearm(connection);
        }
        AfterStep::Stays
    }

    /// Serves the SUBSCRIBEs of a connection that have waited for the time.
    pub(super) fn serve_asked(
        &mut self,
        connection: &mut Connection<N::Socket>,
        at: Moment,
    ) -> AfterStep {
        if connection
            .served()
            .is_none_or(|served| served.asked.is_empty())
        {
            return AfterStep::Stays;
        }
        let mut context = self.context(at);
        let subscribed = subscription::serve_asked(connection, &mut context);
        if self.deliver(connection, at).is_gone() {
            return AfterStep::Gone;
        }
        match subscribed {
            SubscribeOutcome::Waits => {
                self.has_askers = true;
                AfterStep::Stays
            }
            SubscribeOutcome::Served => self.resume_reading(connection, at),
            SubscribeOutcome::Refused(reason) => self.close(connection, reason, at),
        }
    }

    /// Lets a waiting subscriber join the feed, which has passed its resume point, on the slow
    /// path: the frame that it joins with may be on its way to the others already.
    pub(super) fn arrive(
        &mut self,
        connection: &mut Connection<N::Socket>,
        feed: FeedId,
        arrival: Arrival,
        at: Moment,
    ) -> AfterStep {
        let (slot, fd) = (connection.key.slot, connection.socket.as_raw_fd());
        let Some(served) = connection.served_mut() else {
            return AfterStep::Stays;
        };
        let outbox = served.outbox.get_or_insert_with(|| Outbox::new(at.now));
        if let Some(own) = arrival.own {
            self.env.count_frame(&own, at.mono);
            outbox.set_own(own.bytes);
        }
        self.feeds.join(slot, fd, feed, arrival.next);
        self.deliver(connection, at)
    }

    /// Puts a subscriber on the slow path whose socket was full for the hot loop. `rest` is the
    /// unsent tail of a frame.
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
    ) -> AfterStep {
        if connection.armed != turn {
            return AfterStep::Stays;
        }
        connection.armed = Turn::NONE;
        let fate = match connection.overdue(&self.env, at.now) {
            Overdue::Nothing => AfterStep::Stays,
            Overdue::Lingering => AfterStep::Gone,
            Overdue::Close(reason) => self.close(connection, reason, at),
            Overdue::Silent => self.end_silence(connection, at),
            Overdue::Unread => match self.network.take_error(&connection.socket) {
                Some(error) => self.fail(connection, &error, at),
                None => AfterStep::Stays,
            },
        };
        if !fate.is_gone() {
            self.arm(connection);
        }
        fate
    }

    fn end_silence(&mut self, connection: &mut Connection<N::Socket>, at: Moment) -> AfterStep {
        if self.read(connection, true, at).is_gone() {
            return AfterStep::Gone;
        }
        match connection.silence(&self.env, at.now) {
            Some(reason) => self.close(connection, reason, at),
            None => AfterStep::Stays,
        }
    }

    /// Closes a handshake whose room another one needs, unless its AUTH lies unread in the socket.
    pub(super) fn evict(
        &mut self,
        connection: &mut Connection<N::Socket>,
        at: Moment,
    ) -> AfterStep {
        if self.read(connection, true, at).is_gone() {
            return AfterStep::Gone;
        }
        match connection.eviction(&self.env) {
            Some(reason) => self.close(connection, reason, at),
            None => AfterStep::Stays,
        }
    }

    /// Re-arms a socket: its present readiness is reported again.
    pub(super) fn rearm(&mut self, connection: &Connection<N::Socket>) {
        let rearmed = self
            .network
            .rearm(&connection.socket, connection.key.token());
        if let Err(error) = rearmed {
            // The kernel has no reason to. Nobody waits for ever: the wheel looks at it when its
            // deadline passes.
            tracing::warn!(%error, "a connection's epoll registration can't be re-armed");
        }
    }

    /// Puts a connection into the wheel for its next deadline, unless it is there for an earlier
    /// turn.
    pub(super) fn arm(&mut self, connection: &mut Connection<N::Socket>) {
        let deadline = connection.deadline(&self.env);
        if self.wheel.turn_of(deadline) < connection.armed {
            connection.armed = self.wheel.arm(connection.key, deadline);
        }
    }
}
