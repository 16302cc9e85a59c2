//! The orderly end of a shard: nobody new comes in, and everybody who is there is sent elsewhere,
//! spread over a time, so that other edges get no crowd. Until its turn a connection is served as
//! ever.

use std::time::Duration;

use tickstorm_protocol::code::CloseReason;
use tickstorm_timebase::Mono;
use tokio::sync::oneshot;

use super::accept::Acceptor;
use super::connection::LINGER;
use super::connections::{Connections, Walk};
use super::driver::Driver;
use super::key::Key;
use super::slots::close_if_open;
use super::time::Moment;
use super::wheel::TURN;
use crate::sys::network::Network;
use crate::sys::socket::BACKLOG;

/// What the last one closed has of the time: it may take its ERROR as slowly as anybody, and the
/// wheel has to notice.
pub(crate) const TIME_OF_LAST: Duration = LINGER.saturating_add(TURN.saturating_mul(3));
/// How often connections are closed: those whose time has come, a few each time, in between ticks.
const PACE: Duration = Duration::from_millis(10);

/// A drain under way.
pub(super) struct Drain {
    over: Duration,
    stage: DrainStage,
    /// When there is something to do next.
    due: Mono,
    reply: Option<oneshot::Sender<()>>,
}

enum DrainStage {
    /// Refuses those who wait to be accepted: no more than can have waited when it began, whoever
    /// connects on and on.
    Refusing { left: u16 },
    /// Writes down who is there.
    Counting { walk: Walk, keys: Vec<Key> },
    /// Closes them evenly over the time.
    Closing {
        keys: Vec<Key>,
        closed: usize,
        began: Mono,
    },
}

impl Drain {
    /// A drain that takes `over`, and tells `reply` when all connections are closed.
    pub(super) fn new(over: Duration, reply: oneshot::Sender<()>) -> Self {
        Self {
            over,
            stage: DrainStage::Refusing { left: BACKLOG },
            due: Mono::ZERO,
            reply: Some(reply),
        }
    }

    /// When there is something to do next.
    pub(super) fn due(&self) -> Mono {
        self.due
    }

    /// Deals with one newcomer or connection.
    pub(super) fn step<N: Network>(
        &mut self,
        acceptor: &Acceptor,
        connections: &mut Connections<N::Socket>,
        driver: &mut Driver<N>,
        at: Moment,
    ) {
        match &mut self.stage {
            DrainStage::Refusing { left } => {
                *left -= 1;
                if !acceptor.refuse_one(connections, driver, at) || *left == 0 {
                    driver.network.stop_listening();
                    self.stage = DrainStage::Counting {
                        walk: Walk::default(),
                        keys: Vec::new(),
                    };
                }
            }
            DrainStage::Counting { walk, keys } => match connections.step(walk) {
                Some(connection) => keys.push(connection.key),
                None => {
                    self.stage = DrainStage::Closing {
                        keys: std::mem::take(keys),
                        closed: 0,
                        began: at.mono,
                    };
                }
            },
            DrainStage::Closing {
                keys,
                closed,
                began,
            } => {
                let spread = Spread {
                    connections: keys.len(),
                    over: self.over.saturating_sub(TIME_OF_LAST),
                };
                if *closed < spread.due(at.mono.since(*began)) {
                    let key = keys[*closed];
                    *closed += 1;
                    close_if_open(key, CloseReason::ServerDraining, connections, driver, at);
                } else if connections.is_empty() {
                    self.due = Mono::NEVER;
                    if let Some(reply) = self.reply.take() {
                        // Whoever asked may have left meanwhile.
                        let _ = reply.send(());
                    }
                } else {
                    self.due = at.mono + PACE;
                }
            }
        }
    }
}

/// Who is to be closed by when: evenly over a time.
#[derive(Clone, Copy, Debug)]
struct Spread {
    connections: usize,
    over: Duration,
}

impl Spread {
    /// How many are to be closed once `elapsed` is over.
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
    fn connections_are_closed_evenly_and_all_of_them_in_time() {
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
    fn without_time_all_are_closed_at_once() {
        for connections in [0, 1, 100_000] {
            let spread = Spread {
                connections,
                over: Duration::ZERO,
            };
            assert_eq!(spread.due(Duration::ZERO), connections);
        }
    }
}
