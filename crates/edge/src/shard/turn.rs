//! [`Shard`]: the loop of one shard. A turn releases what is due, sends one chunk, and then gives
//! everything else that waits its share of time; what is left has its turn after the next chunk.
//! Work comes in pieces of one connection each. Between two of them the loop looks at the clock,
//! and a tick that has become due ends the turn.

use std::hint;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tickstorm_protocol::code::CloseReason;
use tickstorm_timebase::{Authority, Clock, Mono};

use super::accept::{Accepted, Acceptor};
use super::connections::{Connections, Walk, WalkProgress};
use super::drain::Drain;
use super::driver::Driver;
use super::env::{Commons, Env};
use super::key::Key;
use super::release::{IdleAction, NextTick, TurnTimer};
use super::sending::Sending;
use super::slots::{close_if_open, forget, with_connection};
use super::tasks::ShardTask;
use super::time::{Moment, ShardTime};
use super::waiting::Waiting;
use super::wheel::TURN;
use super::work_kind::WorkKind;
use super::{ShardCommand, ShardHandle, Vitals};
use crate::admission::Evicted;
#[cfg(feature = "bench")]
use crate::feed::FeedId;
use crate::sys::network::{Network, NetworkEvent, WaitFor};
use crate::sys::waker::Waker;

/// How long each kind of work other than the fan-out goes on in a turn. With all kinds at once a
/// chunk waits some 2 ms.
const SHARE: Duration = Duration::from_micros(300);

/// Everything that one shard owns.
pub(super) struct Shard<N: Network, C> {
    pub(super) index: usize,
    pub(super) time: ShardTime<C>,
    vitals: Arc<Vitals>,
    pub(super) connections: Connections<N::Socket>,
    pub(super) driver: Driver<N>,
    pub(super) acceptor: Acceptor,
    due: NextTick,
    timer: TurnTimer,
    sending: Sending,
    pub(super) waiting: Waiting,
    pub(super) peers: Vec<ShardHandle>,
}

impl<N: Network, C: Clock> Shard<N, C> {
    pub(super) fn new(
        index: usize,
        commons: Commons,
        vitals: Arc<Vitals>,
        (network, waker): (N, Waker),
        clock: C,
    ) -> Self {
        let mut time = ShardTime::new(clock);
        let at = time.look();
        Self {
            index,
            time,
            vitals,
            connections: Connections::new(),
            driver: Driver::new(Env::new(commons), network, at),
            acceptor: Acceptor::new(index, waker),
            due: NextTick::new(),
            timer: TurnTimer::new(),
            sending: Sending::default(),
            waiting: Waiting::new(at.mono + TURN),
            peers: Vec::new(),
        }
    }

    /// One turn. It waits for events if there is nothing to do.
    ///
    /// # Errors
    /// The network can't be waited for: without it no client would get its ticks.
    pub(super) fn turn(&mut self) -> io::Result<()> {
        let at = self.time.look();
        let Driver { env, feeds, .. } = &mut self.driver;
        self.due.release(env, feeds, at.mono);
        let is_sending = self.send(at);
        if self.waiting.events.is_empty() {
            let is_busy = is_sending
                || self.waiting.commands
                || WorkKind::ALL
                    .into_iter()
                    .any(|kind| self.waits(kind, at.mono));
            let idle = if is_busy {
                IdleAction::Wait(WaitFor::None)
            } else {
                self.idle(at.mono)
            };
            match idle {
                IdleAction::Wait(rest) => {
                    let events = &mut self.waiting.events;
                    self.driver.network.wait(rest, events)?;
                }
                IdleAction::Spin(until) => {
                    while self.time.look().mono < until {
                        hint::spin_loop();
                    }
                    return Ok(());
                }
            }
        }
        let woken = self.time.look().mono;
        for kind in WorkKind::ALL {
            if !self.waits(kind, woken) {
                continue;
            }
            let mono = self.time.look().mono;
            if mono >= self.due.next_tick() {
                break;
            }
            let until = (mono + SHARE).min(self.due.next_tick());
            match kind {
                WorkKind::Doomed => self.close_doomed(until),
                WorkKind::Events => self.serve_events(until),
                WorkKind::Deadlines => self.turn_wheel(until),
                WorkKind::Arrivals => self.let_in(until),
                WorkKind::Tasks => self.run_tasks(until),
                WorkKind::Newcomers => self.accept(until),
                WorkKind::Drain => self.run_drain(until),
            }
        }
        Ok(())
    }

    /// Whether work of a kind waits at `mono`.
    fn waits(&self, kind: WorkKind, mono: Mono) -> bool {
        match kind {
            WorkKind::Doomed => !self.sending.doomed.is_empty(),
            WorkKind::Events => !self.waiting.events.is_empty(),
            WorkKind::Deadlines => mono >= self.waiting.wheel || !self.waiting.passed.is_empty(),
            WorkKind::Arrivals => self.driver.feeds.have_arrivals(),
            WorkKind::Tasks => !self.waiting.tasks.is_empty(),
            WorkKind::Newcomers => mono >= self.acceptor.due(),
            WorkKind::Drain => mono >= self.waiting.drain_due(),
        }
    }

    /// Whether a tick has become due since the last turn.
    pub(super) fn is_tick_due(&mut self) -> bool {
        self.time.look().mono >= self.due.next_tick()
    }

    /// How to wait when there is nothing to do at `mono`.
    fn idle(&mut self, mono: Mono) -> IdleAction {
        let Driver { env, feeds, .. } = &mut self.driver;
        let batch = match env.ticking_authority(mono) {
            Some(_) => feeds.next_batch(),
            None => Mono::NEVER,
        };
        let other = batch
            .min(self.waiting.wheel)
            .min(self.acceptor.due())
            .min(self.waiting.drain_due());
        let spins = env.settings().spin && feeds.have_subscribers();
        self.timer.idle(mono, self.due.next_tick(), other, spins)
    }

    /// The time has become known, has changed, or is unknown again.
    pub(super) fn take_authority(&mut self, new: Option<Authority>) {
        self.due.forget();
        if self.driver.env.set_authority(new) {
            self.waiting.tasks.end_subscriptions();
        }
        if new.is_some() {
            self.serve_askers();
        }
    }

    fn serve_askers(&mut self) {
        if std::mem::take(&mut self.driver.has_askers) {
            let walk = Walk::default();
            self.waiting.tasks.add(ShardTask::ServeAskers(walk));
        }
    }

    /// Sends a chunk of the feed whose turn it is. False if no feed has anything to send.
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
            let at = self.time.look();
            match event {
                NetworkEvent::Timer => self.timer.has_fired(),
                NetworkEvent::Woken => {
                    self.waiting.commands = true;
                    self.acceptor.try_again();
                }
                NetworkEvent::Incoming => self.acceptor.expect_newcomers(),
                NetworkEvent::Socket(token, readiness) => {
                    if let Some(connection) = self.connections.reported(token)
                        && self.driver.attend(connection, readiness, at).is_gone()
                    {
                        forget(token.slot, &mut self.connections, &mut self.driver);
                    }
                }
            }
            if at.mono >= until {
                return;
            }
        }
    }

    fn turn_wheel(&mut self, until: Mono) {
        let at = self.time.look();
        if at.mono >= self.waiting.wheel {
            let turned = &self.vitals.turned;
            turned.store(at.mono.as_nanos(), Ordering::Relaxed);
            self.driver.wheel.turn(at.now, &mut self.waiting.passed);
            self.waiting.wheel = at.mono + TURN;
        }
        while let Some((key, turn)) = self.waiting.next_passed() {
            let at = self.time.look();
            with_connection(
                key,
                &mut self.connections,
                &mut self.driver,
                |driver, connection| driver.look_at(connection, turn, at),
            );
            if at.mono >= until {
                return;
            }
        }
    }

    /// Lets waiting subscribers join their feeds, which have passed their resume points.
    fn let_in(&mut self, until: Mono) {
        while let Some((feed, arrival)) = self.driver.feeds.poll_arrival() {
            let at = self.time.look();
            if let Some(connection) = self.connections.at(arrival.owner) {
                let key = connection.key;
                with_connection(
                    key,
                    &mut self.connections,
                    &mut self.driver,
                    |driver, connection| driver.arrive(connection, feed, arrival, at),
                );
            }
            if at.mono >= until {
                return;
            }
        }
    }

    fn accept(&mut self, until: Mono) {
        loop {
            let at = self.time.look();
            if at.mono < self.acceptor.due() {
                break;
            }
            let accepted = self
                .acceptor
                .accept_one(&mut self.connections, &mut self.driver, at);
            match accepted {
                Accepted::One(Some(evicted)) => self.make_room(evicted, at),
                Accepted::One(None) => {}
                Accepted::Nobody => break,
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
            // A shard that has ended has closed it too.
            let _ = peer.tell(ShardCommand::Evict(evicted));
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
            let at = self.time.look();
            close_if_open(key, reason, &mut self.connections, &mut self.driver, at);
            if at.mono >= until {
                return;
            }
        }
    }

    fn run_tasks(&mut self, until: Mono) {
        let Some(mut task) = self.waiting.tasks.next() else {
            return;
        };
        loop {
            let at = self.time.look();
            match task.step(&mut self.connections, &mut self.driver, at) {
                WalkProgress::Done => break,
                WalkProgress::GoesOn if at.mono >= until => {
                    self.waiting.tasks.add(task);
                    return;
                }
                WalkProgress::GoesOn => {}
            }
        }
        if matches!(task, ShardTask::EndSubscriptions(_)) {
            // From now on ticks of the new time may be sent, and the SUBSCRIBEs served that came
            // meanwhile.
            self.driver.env.end_ending();
            self.due.forget();
            self.serve_askers();
        }
    }

    fn run_drain(&mut self, until: Mono) {
        let Self {
            time,
            connections,
            driver,
            acceptor,
            waiting: Waiting {
                drain: Some(drain), ..
            },
            ..
        } = self
        else {
            return;
        };
        loop {
            let at = time.look();
            if at.mono < drain.due() {
                return;
            }
            drain.step(acceptor, connections, driver, at);
            if at.mono >= until {
                return;
            }
        }
    }

    /// Begins to drain: nobody comes in any more, and everybody is sent elsewhere.
    pub(super) fn drain(&mut self, drain: Drain) {
        self.acceptor.end();
        self.waiting.drain = Some(drain);
    }

    /// Takes in ticks that did not come from the grid.
    #[cfg(feature = "bench")]
    pub(super) fn burst(&mut self, feed: FeedId, ticks: &[tickstorm_timebase::Tick]) {
        self.driver.feeds.offer(feed, ticks);
    }

    /// Closes every connection, lingering or not.
    pub(super) fn close_all(&mut self, reason: CloseReason) {
        let at = self.time.look();
        let mut walk = Walk::default();
        while let Some(connection) = self.connections.step(&mut walk) {
            let key = connection.key;
            close_if_open(key, reason, &mut self.connections, &mut self.driver, at);
            forget(key.slot, &mut self.connections, &mut self.driver);
        }
    }
}
