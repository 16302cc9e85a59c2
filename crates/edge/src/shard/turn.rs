//! [`Shard`]: the loop of one shard. A turn releases what is due, sends one chunk, and serves whatever else waits for a millisecond
//! at most; what is left has its turn after the next chunk. Between two pieces of work it looks at the clock, so that no tick waits
//! for more than one of them.

use std::hint;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tickstorm_protocol::code::CloseReason;
use tickstorm_timebase::{Authority, Clock, Mono};

use super::accept::{Accepted, Acceptor};
use super::connections::{Connections, Key, Walk};
use super::drain::Drain;
use super::driver::Driver;
use super::env::{Commons, Env};
use super::release::{IdleAction, NextTick, TurnTimer};
use super::sending::Sending;
use super::serving::{close, forget, serve};
use super::tasks::{ShardTask, TaskProgress};
use super::time::{Moment, ShardTime};
use super::waiting::Waiting;
use super::wheel::TURN;
use super::{ShardCommand, ShardHandle, Vitals};
use crate::admission::Evicted;
#[cfg(feature = "bench")]
use crate::feed::FeedId;
use crate::sys::network::{Network, NetworkEvent, WaitFor};
use crate::sys::waker::Waker;

/// How long everything but the fan-out is served in a row: so long a chunk waits at most, and what clients send does not wait behind
/// whole fan-outs. A tick that becomes due ends it.
const IN_A_ROW: Duration = Duration::from_millis(1);

/// Entries of the wheel whose memory is kept from one turn to the next: 6 KiB.
const PASSED_KEPT: usize = 256;

/// Everything that one shard owns.
pub(super) struct Shard<N: Network, C> {
    pub(super) index: usize,
    pub(super) time: ShardTime<C>,
    vitals: Arc<Vitals>,
    pub(super) connections: Connections<N::Socket>,
    pub(super) driver: Driver<N>,
    pub(super) acceptor: Acceptor,
    due: NextTick,
    alarm: TurnTimer,
    generation: Option<u32>,
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
            alarm: TurnTimer::new(),
            generation: None,
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
            let is_busy = is_sending || self.waiting.is_any() || !self.sending.doomed.is_empty();
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
        let at = self.time.look();
        let until = (at.mono + IN_A_ROW).min(self.due.next_tick());
        self.serve_events(until);
        self.turn_wheel(at, until);
        if self.acceptor.due() <= at.mono {
            self.accept(until);
        }
        self.close_doomed(until);
        self.run_tasks(until);
        if self.waiting.drain_due() <= at.mono {
            self.run_drain(until);
        }
        Ok(())
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
        self.alarm.idle(mono, self.due.next_tick(), other, spins)
    }

    /// The time has become known, has changed, or is unknown again.
    pub(super) fn take_authority(&mut self, new: Option<Authority>) {
        self.driver.env.set_authority(new);
        self.due.forget();
        let Some(authority) = new else { return };
        let known = self.generation.replace(authority.generation());
        if known.is_some_and(|known| known != authority.generation()) {
            self.driver.env.set_ending(true);
            self.waiting.tasks.end_subscriptions();
        }
        self.serve_askers();
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
                NetworkEvent::Timer => {}
                NetworkEvent::Woken => {
                    self.waiting.commands = true;
                    self.acceptor.try_again(false);
                }
                NetworkEvent::Incoming => self.acceptor.try_again(true),
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

    fn turn_wheel(&mut self, at: Moment, until: Mono) {
        if at.mono >= self.waiting.wheel {
            let turned = &self.vitals.turned;
            turned.store(at.mono.as_nanos(), Ordering::Relaxed);
            self.driver.wheel.turn(at.now, &mut self.waiting.passed);
            self.waiting.wheel = at.mono + TURN;
        }
        while let Some((key, turn)) = self.waiting.passed.pop() {
            let at = self.time.look();
            serve(
                key,
                &mut self.connections,
                &mut self.driver,
                |driver, connection| driver.look_at(connection, turn, at),
            );
            if at.mono >= until {
                return;
            }
        }
        // A turn in which many passed at once does not keep their memory.
        self.waiting.passed.shrink_to(PASSED_KEPT);
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
        serve(
            key,
            &mut self.connections,
            &mut self.driver,
            |driver, connection| driver.evict(connection, at),
        );
    }

    fn close_doomed(&mut self, until: Mono) {
        while let Some((key, reason)) = self.sending.doomed.pop() {
            let at = self.time.look();
            close(key, reason, &mut self.connections, &mut self.driver, at);
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
                TaskProgress::Done => break,
                TaskProgress::GoesOn if at.mono >= until => {
                    self.waiting.tasks.add(task);
                    return;
                }
                TaskProgress::GoesOn => {}
            }
        }
        if matches!(task, ShardTask::EndSubscriptions(_)) {
            // From now on ticks of the new time may be sent, and the SUBSCRIBEs served that came meanwhile.
            self.driver.env.set_ending(false);
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
            close(key, reason, &mut self.connections, &mut self.driver, at);
            forget(key.slot, &mut self.connections, &mut self.driver);
        }
    }
}
