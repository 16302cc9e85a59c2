//! Draining a shard: new connections are refused, and existing ones are closed evenly over a given
//! time, so that other edges see no reconnect storm. Until it is closed, each connection is served
//! as usual.

use std::time::Duration;

use tickstorm_protocol::code::CloseReason;
use tickstorm_timebase::Mono;
use tokio::sync::oneshot;

use super::accept;
use super::connection::LINGER;
use super::connections::{Connections, Walk};
use super::driver::Driver;
use super::key::Key;
use super::slots::close_if_open;
use super::time::Moment;
use super::wheel::WHEEL_INTERVAL;
use crate::sys::network::Network;
use crate::sys::socket::BACKLOG;

/// The time reserved at the end of a drain for the connection that is closed last: it may linger
/// for [`LINGER`], and the wheel needs up to three intervals to notice that this is over.
pub(crate) const LAST_CLOSE_TIME: Duration =
    LINGER.saturating_add(WHEEL_INTERVAL.saturating_mul(3));
/// The interval at which due connections are closed, a few each time, so that ticks are sent in
/// between.
const CLOSE_INTERVAL: Duration = Duration::from_millis(10);

/// A drain in progress.
pub(super) struct Drain {
    /// The time over which connections are closed, including [`LAST_CLOSE_TIME`].
    over: Duration,
    stage: DrainStage,
    /// The time at which the next step is due.
    due: Mono,
    reply: Option<oneshot::Sender<()>>,
}

enum DrainStage {
    /// Refuses connections that wait to be accepted: at most as many as can have been waiting when
    /// the drain started, even if clients keep connecting.
    Refusing { left: u16 },
    /// Collects the keys of all connections.
    Collecting { walk: Walk, keys: Vec<Key> },
    /// Closes those connections evenly over the time of the drain.
    Closing {
        keys: Vec<Key>,
        closed: usize,
        started: Mono,
    },
}

impl Drain {
    /// Creates a drain that takes `over`, and notifies `reply` when all connections are closed.
    pub(super) fn new(over: Duration, reply: oneshot::Sender<()>) -> Self {
        Self {
            over,
            stage: DrainStage::Refusing { left: BACKLOG },
            due: Mono::ZERO,
            reply: Some(reply),
        }
    }

    /// Returns when the next step is due.
    pub(super) fn due(&self) -> Mono {
        self.due
    }

    /// Refuses, collects or closes one connection.
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
                    self.stage = DrainStage::Collecting {
                        walk: Walk::default(),
                        keys: Vec::new(),
                    };
                }
            }
            DrainStage::Collecting { walk, keys } => match connections.step(walk) {
                Some(connection) => keys.push(connection.key),
                None => {
                    self.stage = DrainStage::Closing {
                        keys: std::mem::take(keys),
                        closed: 0,
                        started: at.mono,
                    };
                }
            },
            DrainStage::Closing {
                keys,
                closed,
                started,
            } => {
                let spread = Spread {
                    connections: keys.len(),
                    over: self.over.saturating_sub(LAST_CLOSE_TIME),
                };
                if *closed < spread.due(at.mono.since(*started)) {
                    let key = keys[*closed];
                    *closed += 1;
                    close_if_open(key, CloseReason::ServerDraining, connections, driver, at);
                } else if connections.is_empty() {
                    self.due = Mono::NEVER;
                    if let Some(reply) = self.reply.take() {
                        // The requester may have gone away meanwhile.
                        let _ = reply.send(());
                    }
                } else {
                    self.due = at.mono + CLOSE_INTERVAL;
                }
            }
        }
    }
}

/// Closing connections evenly over a time.
#[derive(Clone, Copy, Debug)]
struct Spread {
    connections: usize,
    over: Duration,
}

impl Spread {
    /// Returns how many connections must be closed once `elapsed` has passed.
    fn due(self, elapsed: Duration) -> usize {
        if elapsed >= self.over {
            return self.connections;
        }
        let share = elapsed.as_nanos() * self.connections as u128 / self.over.as_nanos();
        usize::try_from(share).unwrap_or(self.connections)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_connections_are_closed_evenly_and_in_time() {
        let spread = Spread {
            connections: 1_000,
            over: Duration::from_secs(19),
        };
        let due = |ms| spread.due(Duration::from_millis(ms));
        assert_eq!(due(0), 0);
        let mut before = 0;
        for ms in (10..=19_000).step_by(10) {
            let now = due(ms);
            assert!((before..=before + 1).contains(&now), "{now} after {before}");
            before = now;
        }
        assert_eq!((due(9_500), due(18_999), due(19_000)), (500, 999, 1_000));
        assert_eq!(due(60_000), 1_000);
    }

    #[test]
    fn a_drain_over_zero_time_closes_all_connections_immediately() {
        for connections in [0, 1, 100_000] {
            let spread = Spread {
                connections,
                over: Duration::ZERO,
            };
            assert_eq!(spread.due(Duration::ZERO), connections);
        }
    }
}
