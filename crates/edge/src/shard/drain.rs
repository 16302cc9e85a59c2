//! Draining a shard: new connections are refused. Clients are told that the edge goes away, and
//! those that have not left by then are closed evenly over the second half of the drain's time, so
//! that other edges see no reconnect storm. Until it is closed, each connection is served as usual.

use std::time::Duration;

use tickstorm_protocol::code::CloseReason;
use tickstorm_timebase::Mono;
use tokio::sync::oneshot;

use super::accept;
use super::connection::LINGER;
use super::connections::{Connections, Walk};
use super::driver::Driver;
use super::going_away::{self, MoveCause};
use super::key::Key;
use super::leaving::Leaving;
use super::slots::close_if_open;
use super::time::Moment;
use super::wheel::WHEEL_INTERVAL;
use crate::sys::network::Network;
use crate::sys::socket::BACKLOG;

/// The time reserved at the end of a drain for the connection that is closed last: it may linger
/// for [`LINGER`], and the wheel needs up to three intervals to notice that this is over.
const LAST_CLOSE_TIME: Duration = LINGER.saturating_add(WHEEL_INTERVAL.saturating_mul(3));
/// The interval at which a drain looks whether the last client has left.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// The part of a drain's time over which clients are told, so that telling 100,000 of them leaves
/// room for everything else.
const TELLING_PART: u32 = 10;
/// The longest time over which clients are told.
const TELLING_TIME_MAX: Duration = Duration::from_secs(2);

/// Returns the time that a drain over `over` takes at most. It is longer than `over` only if that
/// is too short for the half that each client has, and for closing the last one.
pub(crate) fn time_max(over: Duration) -> Duration {
    over.max(over / 2 + telling_time(over) + LAST_CLOSE_TIME)
}

/// Returns the time over which clients are told in a drain over `over`.
fn telling_time(over: Duration) -> Duration {
    (over / TELLING_PART).min(TELLING_TIME_MAX)
}

/// A drain in progress.
pub(super) struct Drain {
    /// The time over which connections are closed, including [`LAST_CLOSE_TIME`].
    over: Duration,
    stage: DrainStage,
    /// The time at which the next step is due, while connections are being refused or collected.
    /// Later, the time at which the drain next looks whether the last client has left.
    due: Mono,
    reply: Option<oneshot::Sender<()>>,
}

enum DrainStage {
    /// Refuses connections that wait to be accepted: at most as many as can have been waiting when
    /// the drain started, even if clients keep connecting.
    Refusing { left: u16 },
    /// Collects the keys of all connections.
    Collecting { walk: Walk, keys: Vec<Key> },
    /// Tells the clients, and closes those that have not left.
    SendingAway(SendingAway),
}

struct SendingAway {
    schedule: Schedule,
    keys: Vec<Key>,
    /// The number of `keys` that were told, or that can't be told because they have not
    /// authenticated.
    told: usize,
    leaving: Leaving,
}

impl Drain {
    /// Creates a drain that takes `over` from `now`, and notifies `reply` when all connections are
    /// closed.
    pub(super) fn new(over: Duration, now: Mono, reply: oneshot::Sender<()>) -> Self {
        Self {
            over,
            stage: DrainStage::Refusing { left: BACKLOG },
            due: now,
            reply: Some(reply),
        }
    }

    /// Returns when the next step is due.
    pub(super) fn due(&self) -> Mono {
        match &self.stage {
            DrainStage::Refusing { .. } | DrainStage::Collecting { .. } => self.due,
            DrainStage::SendingAway(sending) => self.due.min(sending.due()),
        }
    }

    /// Refuses, collects, tells or closes one connection.
    pub(super) fn step<N: Network>(
        &mut self,
        connections: &mut Connections<N::Socket>,
        driver: &mut Driver<N>,
        at: Moment,
    ) {
        match &mut self.stage {
            DrainStage::Refusing { left } => {
                *left -= 1;
                if !accept::refuse_one(connections, driver, at) || *left == 0 {
                    driver.network.stop_listening();
                    driver.latecomers = Some(Vec::new());
                    self.stage = DrainStage::Collecting {
                        walk: Walk::default(),
                        keys: Vec::new(),
                    };
                }
            }
            DrainStage::Collecting { walk, keys } => match connections.step(walk) {
                Some(connection) => keys.push(connection.key),
                None => {
                    let keys = std::mem::take(keys);
                    self.stage = DrainStage::SendingAway(SendingAway::new(keys, self.over, at));
                }
            },
            DrainStage::SendingAway(sending) => {
                if sending.step(connections, driver, at) {
                    return;
                }
                self.due = at.mono + LOOK_INTERVAL;
                if connections.is_empty() {
                    self.due = Mono::NEVER;
                    if let Some(reply) = self.reply.take() {
                        // The requester may have gone away meanwhile.
                        let _ = reply.send(());
                    }
                }
            }
        }
    }
}

impl SendingAway {
    fn new(keys: Vec<Key>, over: Duration, at: Moment) -> Self {
        Self {
            schedule: Schedule {
                started: at.mono,
                connections: keys.len(),
                over,
            },
            keys,
            told: 0,
            leaving: Leaving::default(),
        }
    }

    fn due(&self) -> Mono {
        self.telling_due().min(self.leaving.due())
    }

    fn telling_due(&self) -> Mono {
        if self.told < self.keys.len() {
            self.schedule.telling(self.told)
        } else {
            Mono::NEVER
        }
    }

    /// Tells or closes one connection. Returns false if nothing is due.
    fn step<N: Network>(
        &mut self,
        connections: &mut Connections<N::Socket>,
        driver: &mut Driver<N>,
        at: Moment,
    ) -> bool {
        let now = at.mono;
        if let Some(key) = self.leaving.pop(now) {
            close_if_open(key, CloseReason::ServerDraining, connections, driver, at);
        } else if now >= self.telling_due() {
            let close_at = self.schedule.closing(self.told, now);
            let key = self.keys[self.told];
            self.told += 1;
            self.leaving.push(key, close_at);
            let within = close_at.since(now);
            going_away::tell(key, MoveCause::Drain, within, connections, driver, at);
        } else if let Some(key) = driver.latecomers.as_mut().and_then(Vec::pop) {
            // A client that authenticates before it is its turn to be told is told then.
            if let Some(close_at) = self.leaving.close_at(key) {
                let within = close_at.since(now);
                going_away::tell(key, MoveCause::Drain, within, connections, driver, at);
            }
        } else {
            return false;
        }
        true
    }
}

/// The moments at which clients are told and closed. Each has at least half of the drain's time in
/// between.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    started: Mono,
    connections: usize,
    over: Duration,
}

impl Schedule {
    /// Returns when to tell a connection.
    fn telling(self, index: usize) -> Mono {
        self.started + self.share(telling_time(self.over), index)
    }

    /// Returns when to close a connection that is told at `told`.
    fn closing(self, index: usize, told: Mono) -> Mono {
        let half = self.over / 2;
        let last = self.over.saturating_sub(LAST_CLOSE_TIME);
        let spread = self.share(last.saturating_sub(half), index);
        // If telling was held up, no client is closed sooner for it, and the drain ends in time.
        let latest = self.started + last.max(half + telling_time(self.over));
        (self.started + half + spread).max(told + half).min(latest)
    }

    /// Returns the part of `time` that has passed when it is the turn of a connection.
    fn share(self, time: Duration, index: usize) -> Duration {
        let nanos = time.as_nanos() * index as u128 / self.connections.max(1) as u128;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn schedule(connections: usize, over: Duration) -> Schedule {
        Schedule {
            started: Mono::ZERO,
            connections,
            over,
        }
    }

    fn ms(at: Mono) -> u64 {
        at.as_nanos() / 1_000_000
    }

    #[test]
    fn all_connections_have_half_of_the_time_and_are_closed_evenly_in_the_rest() {
        let schedule = schedule(1_000, 20_000 * MS);
        let mut before = Mono::ZERO;
        for index in 0..1_000 {
            let told = schedule.telling(index);
            let closed = schedule.closing(index, told);
            assert!(ms(told) <= 2_000, "{told:?}");
            assert!(closed.since(told) >= 10_000 * MS, "{told:?} to {closed:?}");
            assert!(closed.since(before) <= 10_009 * MS && closed >= before);
            before = closed;
        }
        assert_eq!(ms(schedule.closing(0, Mono::ZERO)), 10_000);
        assert_eq!(ms(schedule.closing(500, schedule.telling(500))), 14_350);
        assert_eq!(ms(before), 18_691);
    }

    #[test]
    fn a_client_that_is_told_late_has_half_of_the_time_but_does_not_hold_up_the_drain() {
        let schedule = schedule(1_000, 20_000 * MS);
        assert_eq!(ms(schedule.closing(0, Mono::ZERO + 500 * MS)), 10_500);
        assert_eq!(ms(schedule.closing(0, Mono::ZERO + 15_000 * MS)), 18_700);
    }

    #[test]
    fn a_single_client_is_closed_after_half_of_the_time() {
        assert_eq!(ms(schedule(1, 20_000 * MS).closing(0, Mono::ZERO)), 10_000);
    }

    #[test]
    fn a_drain_over_zero_time_closes_all_connections_immediately() {
        for connections in [0, 1, 100_000] {
            let schedule = schedule(connections, Duration::ZERO);
            let last = connections.saturating_sub(1);
            assert_eq!(schedule.closing(last, Mono::ZERO), Mono::ZERO);
        }
        assert_eq!(time_max(Duration::ZERO), LAST_CLOSE_TIME);
        assert_eq!(time_max(20_000 * MS), 20_000 * MS);
        assert_eq!(time_max(2_000 * MS), 2_500 * MS);
    }
}
