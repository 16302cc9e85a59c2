//! [`Driver`]: carries out what the rules of a connection decide. It owns everything that the
//! connections of a shard share, and is passed one connection at a time. It returns an
//! [`AfterStep`], which tells the caller, the owner of the slots, whether to drop the connection.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use bytes::Bytes;
use tickstorm_protocol::code::CloseReason;

use super::buffered::Buffered;
use super::connection::{AfterStep, Connection, Overdue};
use super::context::InputContext;
use super::control_buffer::ControlBuffer;
use super::env::Env;
use super::feeds::Feeds;
use super::input::{self, InputProgress};
use super::key::Key;
use super::lingering::Lingering;
use super::outbox::Outbox;
use super::replay_queue::ReplayQueue;
use super::round_trips::RoundTripSampler;
use super::subscription::{self, SubscribeOutcome};
use super::time::Moment;
use super::wheel::{Bucket, Wheel};
use crate::admission::FloodKind;
use crate::feed::{Arrival, FeedId};
use crate::log_limit::LogLimit;
use crate::sys::network::{BUFFER_MIN, Network, Readiness, Received};

/// The most clients that were cut off for which a shard writes a line in a minute.
const CUT_OFF_LOGGED_MAX: u32 = 60;
/// The maximum number of consecutive reads from one socket, so that a peer that never stops sending
/// does not hold up the others.
const READS_MAX: usize = 4;

/// The state that all connections of a shard share.
pub(super) struct Driver<N> {
    pub(super) env: Env,
    pub(super) network: N,
    pub(super) feeds: Feeds,
    pub(super) wheel: Wheel,
    pub(super) lingering: Lingering,
    /// Whether any SUBSCRIBE waits until the time is known.
    pub(super) has_pending_subscribes: bool,
    /// Clients that have authenticated since the drain has collected the others; `None` while the
    /// shard does not drain.
    pub(super) latecomers: Option<Vec<Key>>,
    pub(super) replays: ReplayQueue,
    pub(super) round_trips: RoundTripSampler,
    pub(super) control: ControlBuffer,
    pub(super) buffered: Buffered,
    /// Limits how often the log says that a client was cut off.
    pub(super) cut_off: LogLimit,
    /// The buffer that all connections of the shard read into; none has its own.
    scratch: Box<[u8]>,
}

impl<N: Network> Driver<N> {
    pub(super) fn new(env: Env, network: N, at: Moment) -> Self {
        Self {
            feeds: Feeds::new(env.settings()),
            buffered: Buffered::new(Arc::clone(&env.commons.memory), env.settings().buffered_max),
            wheel: Wheel::new(at.now),
            lingering: Lingering::new(env.settings().lingering_max),
            env,
            network,
            has_pending_subscribes: false,
            latecomers: None,
            replays: ReplayQueue::default(),
            round_trips: RoundTripSampler::default(),
            control: ControlBuffer::default(),
            cut_off: LogLimit::of(CUT_OFF_LOGGED_MAX),
            scratch: vec![0; BUFFER_MIN].into_boxed_slice(),
        }
    }

    /// Returns the state that the rules of a connection may access.
    fn context(&mut self, at: Moment) -> InputContext<'_> {
        InputContext {
            env: &self.env,
            feeds: &mut self.feeds,
            control: &mut self.control,
            has_pending_subscribes: &mut self.has_pending_subscribes,
            latecomers: &mut self.latecomers,
            round_trips: &mut self.round_trips,
            at,
        }
    }

    /// Writes to and reads from a connection whose socket is ready.
    pub(super) fn handle_readiness(
        &mut self,
        connection: &mut Connection<N::Socket>,
        readiness: Readiness,
        at: Moment,
    ) -> AfterStep {
        if readiness.takes_output {
            self.network.flush(&connection.socket);
            if self.write(connection, at).is_gone() {
                return AfterStep::Gone;
            }
        }
        if readiness.has_input {
            return self.read(connection, readiness.until_empty, at);
        }
        AfterStep::Stays
    }

    /// Reads available input and acts on it, until the socket is empty. With `until_empty`, only an
    /// unsuccessful read shows that it is.
    pub(super) fn read(
        &mut self,
        connection: &mut Connection<N::Socket>,
        until_empty: bool,
        at: Moment,
    ) -> AfterStep {
        let mut scratch = std::mem::take(&mut self.scratch);
        let after = self.read_into(connection, until_empty, at, &mut scratch);
        self.scratch = scratch;
        after
    }

    fn read_into(
        &mut self,
        connection: &mut Connection<N::Socket>,
        until_empty: bool,
        at: Moment,
        scratch: &mut [u8],
    ) -> AfterStep {
        let stalled = connection.note_stall(at);
        for _ in 0..READS_MAX {
            connection.pause_if_blocked(at.now);
            if !connection.is_reading() {
                return AfterStep::Stays;
            }
            let received = self.network.receive(&connection.socket, scratch);
            let introduced = self.learn_client_address(connection, stalled, at);
            if introduced.is_some_and(AfterStep::is_gone) {
                return AfterStep::Gone;
            }
            match received {
                Ok(Received::End) => {
                    return self.close(connection, CloseReason::ClientClosed, at);
                }
                Ok(Received::Bytes { len, is_last }) => {
                    let mono = self.network.now();
                    let at = Moment { mono, ..at };
                    let is_first = connection.mark_received();
                    let input = &mut scratch[..len];
                    let was_served = connection.served().is_some();
                    let after = self.process_input(connection, input, at);
                    // The next read may be shorter, and would leave a password in the buffer. Only
                    // an authenticated client that stays connected has sent none. The compiler
                    // can't leave this out, because the buffer is used again.
                    if !was_served || connection.served().is_none() {
                        input.fill(0);
                    }
                    if after.is_gone() {
                        return AfterStep::Gone;
                    }
                    if is_first {
                        connection.report_received();
                    }
                    if is_last && !until_empty {
                        connection.session.caught_up();
                        connection.pause_if_blocked(at.now);
                        return AfterStep::Stays;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    connection.session.caught_up();
                    return AfterStep::Stays;
                }
                // TLS has read bytes that brought no plaintext, or a load balancer's header was
                // read, which is no byte of the client.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    if introduced.is_none() && connection.mark_received() {
                        connection.report_received();
                    }
                }
                Err(error) => return self.fail(connection, &error, at),
            }
        }
        self.rearm(connection);
        AfterStep::Stays
    }

    /// Passes bytes through the session until they are used up or the connection blocks, and sends
    /// the answers.
    fn process_input(
        &mut self,
        connection: &mut Connection<N::Socket>,
        mut input: &[u8],
        at: Moment,
    ) -> AfterStep {
        loop {
            let mut context = self.context(at);
            let progress = input::process(connection, &mut input, &mut context);
            self.sample_round_trip(connection);
            if self.deliver(connection, at).is_gone() {
                return AfterStep::Gone;
            }
            match progress {
                InputProgress::ControlFull => {}
                InputProgress::All => {
                    self.arm(connection);
                    return AfterStep::Stays;
                }
                InputProgress::Close(reason) => return self.close(connection, reason, at),
            }
        }
    }

    /// Resumes reading, if it was paused and nothing blocks it any longer.
    pub(super) fn resume_reading(
        &mut self,
        connection: &mut Connection<N::Socket>,
        at: Moment,
    ) -> AfterStep {
        if !connection.resume(at.now) {
            return AfterStep::Stays;
        }
        if self.process_input(connection, &[], at).is_gone() {
            return AfterStep::Gone;
        }
        connection.pause_if_blocked(at.now);
        // Re-arm even if the connection was just closed: what the client still sends must be read
        // and discarded.
        if connection.is_reading() {
            self.rearm(connection);
        }
        AfterStep::Stays
    }

    /// Serves the SUBSCRIBEs of a connection that have waited until the time is known.
    pub(super) fn serve_pending_subscribes(
        &mut self,
        connection: &mut Connection<N::Socket>,
        at: Moment,
    ) -> AfterStep {
        if connection
            .served()
            .is_none_or(|served| !served.has_pending_subscribes())
        {
            return AfterStep::Stays;
        }
        let mut context = self.context(at);
        let subscribed = subscription::serve_pending_subscribes(connection, &mut context);
        if self.deliver(connection, at).is_gone() {
            return AfterStep::Gone;
        }
        match subscribed {
            SubscribeOutcome::Waits => {
                self.has_pending_subscribes = true;
                AfterStep::Stays
            }
            SubscribeOutcome::Served => self.resume_reading(connection, at),
            SubscribeOutcome::Refused(reason) => self.close(connection, reason, at),
        }
    }

    /// Serves the SUBSCRIBEs of a connection that have waited for as long as they may, or closes it
    /// if the time is still not known.
    fn answer_subscribes(
        &mut self,
        connection: &mut Connection<N::Socket>,
        at: Moment,
    ) -> AfterStep {
        if self.serve_pending_subscribes(connection, at).is_gone() {
            return AfterStep::Gone;
        }
        let waits = connection
            .served()
            .is_some_and(|served| served.has_pending_subscribes());
        // If the time is known, only subscriptions of an earlier generation are still being ended.
        if waits && self.env.authority(at.mono).is_none() {
            return self.close(connection, CloseReason::NoTime, at);
        }
        AfterStep::Stays
    }

    /// Lets a waiting subscriber join the feed, which has passed its resume point. It joins on the
    /// slow path, because the frame that it joins with may already be going out to other
    /// subscribers.
    pub(super) fn join_arrival(
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
            outbox.set_own_frame(own.bytes);
        }
        self.feeds.join(slot, fd, feed, arrival.next);
        self.deliver(connection, at)
    }

    /// Puts a subscriber on the slow path because its socket was full in the hot loop. `tail` is
    /// the unsent tail of a partially written frame; it is empty at a frame boundary.
    pub(super) fn put_on_slow_path(
        &mut self,
        connection: &mut Connection<N::Socket>,
        tail: Bytes,
        at: Moment,
    ) {
        if let Some(served) = connection.served_mut() {
            served.outbox = Some(Outbox::with_tail(tail, at.now));
            self.wait_for_output(connection, at);
            self.account(connection);
        }
    }

    /// Acts on a connection's deadline, if it has passed. The wheel has reported the connection in
    /// `bucket`; if its deadline has since been armed for another bucket, nothing happens.
    pub(super) fn handle_deadline(
        &mut self,
        connection: &mut Connection<N::Socket>,
        bucket: Bucket,
        at: Moment,
    ) -> AfterStep {
        if connection.armed != bucket {
            return AfterStep::Stays;
        }
        connection.armed = Bucket::NONE;
        let after = match connection.overdue(&self.env, at.now) {
            Overdue::Nothing => AfterStep::Stays,
            Overdue::Lingering => AfterStep::Gone,
            Overdue::Close(reason) => self.close(connection, reason, at),
            Overdue::Judge => self.judge(connection, at),
            Overdue::Unanswered => self.answer_subscribes(connection, at),
            Overdue::Silent => self.close_if_silent(connection, at),
            Overdue::NotReading => match self.network.take_error(&connection.socket) {
                Some(error) => self.fail(connection, &error, at),
                None => AfterStep::Stays,
            },
        };
        if !after.is_gone() {
            self.arm(connection);
        }
        after
    }

    /// Continues with an AUTH whose wait is over. If it is accepted, the input that has been kept
    /// and the input in the socket follow.
    fn judge(&mut self, connection: &mut Connection<N::Socket>, at: Moment) -> AfterStep {
        let after = match input::judge(connection, &mut self.context(at)) {
            InputProgress::Close(reason) => self.close(connection, reason, at),
            InputProgress::All | InputProgress::ControlFull => {
                self.process_input(connection, &[], at)
            }
        };
        if after.is_gone() {
            return AfterStep::Gone;
        }
        connection.pause_if_blocked(at.now);
        // Re-arm even if the connection was just closed: what the client still sends must be read
        // and discarded.
        if connection.is_reading() {
            self.rearm(connection);
        }
        AfterStep::Stays
    }

    fn close_if_silent(&mut self, connection: &mut Connection<N::Socket>, at: Moment) -> AfterStep {
        if self.read_last(connection, at).is_gone() {
            return AfterStep::Gone;
        }
        match connection.timeout_reason(&self.env, at.now) {
            Some(reason) => self.close(connection, reason, at),
            None => AfterStep::Stays,
        }
    }

    /// Reads input that may save a connection from being closed. In the middle of a TLS handshake,
    /// none can.
    fn read_last(&mut self, connection: &mut Connection<N::Socket>, at: Moment) -> AfterStep {
        if self.network.handshake_step(&connection.socket).is_some() {
            return AfterStep::Stays;
        }
        self.read(connection, true, at)
    }

    /// Closes a handshake to make room for another, unless its AUTH is still unread in the socket.
    pub(super) fn evict(
        &mut self,
        connection: &mut Connection<N::Socket>,
        at: Moment,
    ) -> AfterStep {
        if self.read_last(connection, at).is_gone() {
            return AfterStep::Gone;
        }
        let Some(reason) = connection.eviction_reason(&self.env) else {
            return AfterStep::Stays;
        };
        self.env.metrics().admission.evicted.inc();
        let floods = self.env.commons.admission.floods();
        floods.note(FloodKind::Evicted, connection.peer.ip().into());
        self.close(connection, reason, at)
    }

    /// Re-arms a socket, so that its current readiness is reported again.
    pub(super) fn rearm(&mut self, connection: &Connection<N::Socket>) {
        let rearmed = self
            .network
            .rearm(&connection.socket, connection.key.token());
        if let Err(error) = rearmed {
            // The kernel has no reason to fail here. Even so, the connection does not hang
            // indefinitely: the wheel checks it when its deadline passes.
            tracing::warn!(
                connection = %self.env.connection_id(connection.key.id),
                %error,
                "can't re-arm a connection's epoll registration"
            );
        }
    }

    /// Arms the wheel for the connection's next deadline, unless it is already armed for an earlier
    /// bucket.
    pub(super) fn arm(&mut self, connection: &mut Connection<N::Socket>) {
        let deadline = connection.deadline(&self.env);
        if self.wheel.bucket_of(deadline) < connection.armed {
            connection.armed = self.wheel.arm(connection.key, deadline);
        }
    }
}
