//! [`Shard`]: the loop of one shard. Each turn releases the ticks that are due, sends one chunk of
//! a fan-out, and then gives every other kind of work its share of time; unfinished work continues
//! after the next chunk. Work is divided into steps that concern one connection each. The loop
//! reads the clock between steps, and ends the turn when a tick is due.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tickstorm_protocol::code::CloseReason;
use tickstorm_timebase::{Authority, Clock, Mono};

use super::accept::{AcceptOutcome, Acceptor};
use super::connections::{Connections, Walk, WalkProgress};
use super::drain::Drain;
use super::driver::Driver;
use super::env::{Commons, Env};
use super::idle::AfterWait;
use super::key::Key;
use super::publication::Publication;
use super::release::{NextTick, TurnTimer};
use super::sending::Sending;
use super::slots::{close_if_open, empty_slot, with_connection};
use super::tasks::ShardTask;
use super::time::{Moment, ShardTime};
use super::turns::Turns;
use super::waiting::Waiting;
use super::wheel::WHEEL_INTERVAL;
use super::work_kind::WorkKind;
use super::{ShardCommand, ShardHandle, Vitals};
use crate::admission::Evicted;
#[cfg(feature = "bench")]
use crate::feed::FeedId;
use crate::sys::network::{Network, NetworkEvent, Readiness, Token};

/// The time per turn for each kind of work other than the fan-out. If all kinds have work, a chunk
/// waits about 2 ms.
pub(super) const SHARE: Duration = Duration::from_micros(300);
/// The time per turn for accepting while no tick is being sent. With [`SHARE`], it would take only
/// a part of the shard's time in a burst of connections, and the kernel's queue would overflow.
const ACCEPT_SHARE: Duration = Duration::from_millis(1);

/// The state of one shard.
pub(super) struct Shard<N: Network, C> {
    pub(super) index: usize,
    pub(super) time: ShardTime<C>,
    pub(super) vitals: Arc<Vitals>,
    pub(super) connections: Connections<N::Socket>,
    pub(super) driver: Driver<N>,
    pub(super) acceptor: Acceptor,
    pub(super) due: NextTick,
    pub(super) timer: TurnTimer,
    pub(super) sending: Sending,
    pub(super) waiting: Waiting,
    pub(super) turns: Turns,
    pub(super) publication: Publication,
    pub(super) peers: Vec<ShardHandle>,
}

impl<N: Network, C: Clock> Shard<N, C> {
    pub(super) fn new(
        index: usize,
        commons: Commons,
        vitals: Arc<Vitals>,
        network: N,
        clock: C,
    ) -> Self {
        let mut time = ShardTime::new(clock);
        let at = time.read_clock();
        let turns = Turns::new(commons.metrics.loops.turn.clone(), Arc::clone(&vitals));
        let publication = Publication::new(&commons.metrics.feeds);
        Self {
            index,
            time,
            vitals,
            connections: Connections::new(),
            driver: Driver::new(Env::new(index, commons), network, at),
            acceptor: Acceptor::new(index),
            due: NextTick::new(),
            timer: TurnTimer::new(),
            sending: Sending::default(),
            waiting: Waiting::new(at.mono + WHEEL_INTERVAL),
            turns,
            publication,
            peers: Vec::new(),
        }
    }

    /// Runs one turn. Waits for events if there is nothing to do.
    ///
    /// # Errors
    /// Fails if waiting for the network fails. Without it the shard can't send ticks.
    pub(super) fn turn(&mut self) -> io::Result<()> {
        let at = self.time.read_clock();
        self.turns.begin(at.mono);
        self.notice_suspension();
        let Driver { env, feeds, .. } = &mut self.driver;
        self.due.release(env, feeds, at.mono);
        let is_sending = self.send(at);
        if self.waiting.events.is_empty()
            && self.await_events(is_sending, at.mono)? == AfterWait::EndTurn
        {
            return Ok(());
        }
        let woken_at = self.time.read_clock().mono;
        for kind in WorkKind::ALL {
            if !self.has_work(kind, woken_at) {
                continue;
            }
            let mono = self.time.read_clock().mono;
            if mono >= self.due.next_tick() {
                break;
            }
            let is_accepting = matches!(kind, WorkKind::Accepts);
            let share = if is_accepting && !is_sending {
                ACCEPT_SHARE
            } else {
                SHARE
            };
            let until = (mono + share).min(self.due.next_tick());
            match kind {
                WorkKind::Doomed => self.close_doomed(until),
                WorkKind::Evictions => self.evict_buffers(until),
                WorkKind::Events => self.serve_events(until),
                WorkKind::Deadlines => self.advance_wheel(until),
                WorkKind::Arrivals => self.join_arrivals(until),
                WorkKind::Handshakes => self.shake_hands(until),
                WorkKind::Tasks => self.run_tasks(until),
                WorkKind::Accepts => self.accept(until),
                WorkKind::Departures => self.send_away(until),
                WorkKind::Replays => self.send_replays(until),
            }
        }
        Ok(())
    }

    /// Applies how long the machine has been suspended: the time from before does not count. The
    /// clock must be read before that. So a suspension between the two is noticed. Returns whether
    /// there was one.
    pub(super) fn notice_suspension(&mut self) -> bool {
        let was_suspended = self.driver.env.set_suspended(self.time.suspended());
        if was_suspended {
            self.due.invalidate();
        }
        was_suspended
    }

    /// Returns whether work of a kind is waiting at `mono`.
    pub(super) fn has_work(&self, kind: WorkKind, mono: Mono) -> bool {
        match kind {
            WorkKind::Doomed => !self.sending.doomed.is_empty(),
            WorkKind::Evictions => self.driver.buffered.is_over(),
            WorkKind::Events => !self.waiting.events.is_empty() && !self.driver.buffered.is_over(),
            WorkKind::Deadlines => {
                mono >= self.waiting.wheel_due || !self.waiting.expired.is_empty()
            }
            WorkKind::Handshakes => {
                !self.waiting.handshakes.is_empty()
                    && !self.driver.buffered.is_over()
                    && self.may_shake_hands(mono)
            }
            WorkKind::Arrivals => self.driver.feeds.have_arrivals(),
            WorkKind::Tasks => {
                let with_operators = self.may_serve_operators(mono);
                self.waiting.tasks.have_any(with_operators)
            }
            WorkKind::Accepts => mono >= self.acceptor.due(),
            WorkKind::Departures => mono >= self.departures_due(mono),
            WorkKind::Replays => mono >= self.replays_due(mono),
        }
    }

    /// Applies a new authority time; `None` if the time is no longer known.
    pub(super) fn set_authority(&mut self, new: Option<Authority>) {
        self.due.invalidate();
        if self.driver.env.set_authority(new) {
            self.waiting.tasks.end_subscriptions();
        }
        if new.is_some() {
            self.serve_pending_subscribes();
        }
    }

    fn serve_pending_subscribes(&mut self) {
        if std::mem::take(&mut self.driver.has_pending_subscribes) {
            let walk = Walk::default();
            self.waiting
                .tasks
                .add(ShardTask::ServePendingSubscribes(walk));
        }
    }

    /// Sends one chunk of the next feed. Returns false if no feed has anything to send.
    pub(super) fn send(&mut self, at: Moment) -> bool {
        let Self {
            connections,
            driver,
            vitals,
            time,
            sending,
            ..
        } = self;
        sending.send_chunk(connections, driver, vitals, time, at)
    }

    fn serve_events(&mut self, until: Mono) {
        while let Some(event) = self.waiting.next_event() {
            let at = self.time.read_clock();
            match event {
                NetworkEvent::Timer => self.timer.handle_fired(),
                NetworkEvent::Woken => self.waiting.commands = true,
                NetworkEvent::Incoming => self.acceptor.set_pending(),
                NetworkEvent::Socket(token, readiness) => {
                    let connection = self.connections.reported(token);
                    let network = &self.driver.network;
                    if let Some(connection) = connection
                        && let Some(step) = network.handshake_step(&connection.socket)
                    {
                        // A connection is queued once, however many events it has.
                        if !std::mem::replace(&mut connection.is_handshake_queued, true) {
                            self.waiting.handshakes.push(step, token);
                        }
                    } else {
                        self.handle_readiness(token, readiness, at);
                    }
                }
            }
            if at.mono >= until || self.driver.buffered.is_over() {
                return;
            }
        }
    }

    pub(super) fn handle_readiness(&mut self, token: Token, readiness: Readiness, at: Moment) {
        let Some(connection) = self.connections.reported(token) else {
            return;
        };
        let after = self.driver.handle_readiness(connection, readiness, at);
        if after.is_gone() {
            empty_slot(token.slot, &mut self.connections, &mut self.driver);
        } else {
            self.driver.account(connection);
        }
    }

    fn advance_wheel(&mut self, until: Mono) {
        let at = self.time.read_clock();
        if at.mono >= self.waiting.wheel_due {
            let turned = &self.vitals.turned;
            turned.store(at.mono.as_nanos(), Ordering::Relaxed);
            self.driver.wheel.advance(at.now, &mut self.waiting.expired);
            self.waiting.wheel_due = at.mono + WHEEL_INTERVAL;
            self.look_at_time(at);
            self.publish(at.mono);
        }
        while let Some((key, bucket)) = self.waiting.next_expired() {
            let at = self.time.read_clock();
            with_connection(
                key,
                &mut self.connections,
                &mut self.driver,
                |driver, connection| driver.handle_deadline(connection, bucket, at),
            );
            if at.mono >= until {
                return;
            }
        }
    }

    /// Lets waiting subscribers join the feeds that have passed their resume points.
    fn join_arrivals(&mut self, until: Mono) {
        while let Some((feed, arrival)) = self.driver.feeds.poll_arrival() {
            let at = self.time.read_clock();
            if let Some(connection) = self.connections.at(arrival.owner) {
                let key = connection.key;
                with_connection(
                    key,
                    &mut self.connections,
                    &mut self.driver,
                    |driver, connection| driver.join_arrival(connection, feed, arrival, at),
                );
            }
            if at.mono >= until {
                return;
            }
        }
    }

    fn accept(&mut self, until: Mono) {
        loop {
            let at = self.time.read_clock();
            if at.mono < self.acceptor.due() {
                break;
            }
            let accepted = self
                .acceptor
                .accept_one(&mut self.connections, &mut self.driver, at);
            match accepted {
                AcceptOutcome::Handled(evicted) => {
                    evicted
                        .into_iter()
                        .for_each(|evicted| self.make_room(evicted, at));
                }
                AcceptOutcome::Nothing => break,
            }
            if at.mono >= until {
                break;
            }
        }
        let accepting = !self.acceptor.is_starved();
        self.vitals.accepting.store(accepting, Ordering::Relaxed);
    }

    fn make_room(&mut self, evicted: Evicted, at: Moment) {
        if evicted.shard == self.index {
            self.evict(evicted, at);
        } else if let Some(peer) = self.peers.get(evicted.shard) {
            // If that shard has ended, it has already closed the handshake.
            let _ = peer.send(ShardCommand::Evict(evicted));
        }
    }

    pub(super) fn evict(&mut self, evicted: Evicted, at: Moment) {
        let key = Key {
            slot: evicted.slot,
            id: evicted.id,
        };
        with_connection(
            key,
            &mut self.connections,
            &mut self.driver,
            |driver, connection| driver.evict(connection, at),
        );
    }

    fn close_doomed(&mut self, until: Mono) {
        while let Some((key, reason)) = self.sending.doomed.pop() {
            let at = self.time.read_clock();
            close_if_open(key, reason, &mut self.connections, &mut self.driver, at);
            if at.mono >= until {
                return;
            }
        }
    }

    /// Closes connections until those that are left hold no more unfinished input than they may.
    fn evict_buffers(&mut self, until: Mono) {
        while let Some(slot) = self.driver.buffered.next_evicted() {
            let at = self.time.read_clock();
            let Some(connection) = self.connections.at(slot) else {
                debug_assert!(false, "only a connection holds anything");
                self.driver.buffered.set(slot, 0, false);
                continue;
            };
            let key = connection.key;
            with_connection(
                key,
                &mut self.connections,
                &mut self.driver,
                |driver, connection| driver.evict_buffer(connection, at),
            );
            if at.mono >= until {
                return;
            }
        }
    }

    fn run_tasks(&mut self, until: Mono) {
        let mono = self.time.read_clock().mono;
        let with_operators = self.may_serve_operators(mono);
        let Some(mut task) = self.waiting.tasks.next(with_operators) else {
            return;
        };
        if task.is_for_operators() {
            self.waiting.served_operators = mono;
        }
        loop {
            let at = self.time.read_clock();
            let departures = &mut self.waiting.departures;
            match task.step(&mut self.connections, &mut self.driver, departures, at) {
                WalkProgress::Done => break,
                WalkProgress::More if at.mono >= until => {
                    self.waiting.tasks.add(task);
                    return;
                }
                WalkProgress::More => {}
            }
        }
        if matches!(task, ShardTask::EndSubscriptions(_)) {
            // From here on, ticks of the new time may be sent, and the SUBSCRIBEs that arrived
            // meanwhile are served.
            self.driver.env.subscriptions_ended();
            self.due.invalidate();
            self.serve_pending_subscribes();
        }
    }

    /// Starts a drain: new connections are refused, and existing ones are closed over the drain's
    /// time.
    pub(super) fn drain(&mut self, drain: Drain) {
        self.acceptor.stop();
        self.waiting.departures.drain(drain);
    }

    /// Adds ticks that do not come from the grid.
    #[cfg(feature = "bench")]
    pub(super) fn burst(&mut self, feed: FeedId, ticks: &[tickstorm_timebase::Tick]) {
        self.driver.feeds.offer(feed, ticks);
    }

    /// Closes all connections, including lingering ones.
    pub(super) fn close_all(&mut self, reason: CloseReason) {
        let at = self.time.read_clock();
        let mut walk = Walk::default();
        while let Some(connection) = self.connections.step(&mut walk) {
            let key = connection.key;
            close_if_open(key, reason, &mut self.connections, &mut self.driver, at);
            empty_slot(key.slot, &mut self.connections, &mut self.driver);
        }
        self.publish(at.mono);
    }
}
