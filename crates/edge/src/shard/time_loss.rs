//! [`TimeLoss`]: an edge that has lost the time gives its subscribers back. They are closed with
//! NO_TIME, spread over DRAIN_TIMEOUT after a grace. If the time comes back meanwhile, those that
//! are left stay, and get the ticks that they have missed.

use std::time::Duration;

use tickstorm_protocol::code::CloseReason;
use tickstorm_timebase::Mono;

use super::connections::{Connections, Walk};
use super::driver::Driver;
use super::key::Key;
use super::slots::close_if_open;
use super::time::Moment;
use crate::sys::network::Network;

/// The time for which all subscribers are kept at first. An edge that was stopped or suspended for
/// longer than HOLDOVER_MAX, or suspended, learns the time again within its first rounds, however
/// short DRAIN_TIMEOUT is.
const GRACE: Duration = Duration::from_secs(2);
/// The shortest time over which all are closed: the grace, and a second to spread them.
const OVER_MIN: Duration = Duration::from_secs(3);
/// The interval at which due connections are closed.
const CLOSE_INTERVAL: Duration = Duration::from_millis(10);

/// The loss of the time. Its moments are in the shard's time, so that a stall of the edge closes
/// nobody.
pub(super) struct TimeLoss {
    since: Mono,
    /// The time over which subscribers are closed, including the grace.
    over: Duration,
    stage: TimeLossStage,
    /// The time at which the next step is due, in the machine's time.
    due: Mono,
}

enum TimeLossStage {
    /// Collects the keys of all connections.
    Collecting { walk: Walk, keys: Vec<Key> },
    /// Closes those that have subscribed.
    Closing { keys: Vec<Key>, closed: usize },
}

impl TimeLoss {
    /// Closes all subscribers between now and `over` later, but none in the grace.
    pub(super) fn new(over: Duration, at: Moment) -> Self {
        Self {
            since: at.now,
            over: over.max(OVER_MIN),
            stage: TimeLossStage::Collecting {
                walk: Walk::default(),
                keys: Vec::new(),
            },
            due: at.mono,
        }
    }

    /// Returns when the next step is due.
    pub(super) fn due(&self) -> Mono {
        self.due
    }

    /// Collects or closes one connection.
    pub(super) fn step<N: Network>(
        &mut self,
        connections: &mut Connections<N::Socket>,
        driver: &mut Driver<N>,
        at: Moment,
    ) {
        if driver.env.authority(at.mono).is_some() {
            // The time is back. The owner drops this when it notices that as well.
            self.due = at.mono + CLOSE_INTERVAL;
            return;
        }
        match &mut self.stage {
            TimeLossStage::Collecting { walk, keys } => match connections.step(walk) {
                Some(connection) => {
                    if driver.feeds.feed_of(connection.key.slot).is_some() {
                        keys.push(connection.key);
                    }
                }
                None => {
                    let keys = std::mem::take(keys);
                    self.stage = TimeLossStage::Closing { keys, closed: 0 };
                }
            },
            TimeLossStage::Closing { keys, closed } => {
                let elapsed = at.now.since(self.since);
                if *closed < due_after(elapsed, keys.len(), self.over) {
                    let key = keys[*closed];
                    *closed += 1;
                    close_if_open(key, CloseReason::NoTime, connections, driver, at);
                } else if *closed == keys.len() {
                    *keys = Vec::new();
                    *closed = 0;
                    self.due = Mono::NEVER;
                } else {
                    self.due = at.mono + CLOSE_INTERVAL;
                }
            }
        }
    }
}

/// Returns how many of `connections` must be closed once `elapsed` has passed: none during the
/// grace, and then evenly. `over` is at least [`OVER_MIN`].
fn due_after(elapsed: Duration, connections: usize, over: Duration) -> usize {
    if elapsed >= over {
        return connections;
    }
    let share = elapsed.saturating_sub(GRACE).as_nanos() * connections as u128
        / over.saturating_sub(GRACE).as_nanos();
    usize::try_from(share).unwrap_or(connections)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscribers_are_closed_evenly_after_a_grace() {
        let due = |ms, over_s| {
            let over = Duration::from_secs(over_s);
            due_after(Duration::from_millis(ms), 1_000, over)
        };
        assert_eq!((due(0, 20), due(2_000, 20)), (0, 0));
        assert_eq!(
            (due(11_000, 20), due(19_990, 20), due(20_000, 20)),
            (500, 999, 1_000)
        );
        assert_eq!(
            (due(2_000, 3), due(2_500, 3), due(3_000, 3)),
            (0, 500, 1_000)
        );
    }
}
