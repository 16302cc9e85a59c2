//! [`ReplayQueue`]: the connections whose replay waits for its turn. Ticks that are due go first:
//! no replay is written while a tick is being sent or almost due, and replays take at most a fifth
//! of a shard's time. So clients that ask for replays, however many, delay only each other.

use std::collections::VecDeque;
use std::time::Duration;

use tickstorm_timebase::{Clock, Mono};

use super::key::Key;
use super::slots::with_connection;
use super::turn::Shard;
use crate::sys::network::Network;

/// The time before a tick in which no frame of a replay is written. Making and sending one of 1,000
/// ticks takes less than 0.1 ms.
const MARGIN: Duration = Duration::from_micros(500);
/// The pause after some frames were written, in multiples of the time that they took.
const PAUSE_FACTOR: u32 = 4;
/// The longest pause. A longer one would be due to a stall of the machine.
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// The longest time for which replays wait for a fan-out. An edge that sends without a pause would
/// otherwise never complete one.
const PATIENCE: Duration = Duration::from_millis(500);

/// The most ticks, a minute's worth, of a replay that precedes longer ones. Clients that were away
/// for a short time are back soon, even if others ask for all that they can get.
const SHORT: u32 = 60;

/// After this many short replays, a long one has its turn.
const SHORT_IN_A_ROW_MAX: u32 = 8;

/// The queue of replays, and when the next one may be written. Each connection is in it once; one
/// that has since been closed is skipped.
#[derive(Default)]
pub(super) struct ReplayQueue {
    short: VecDeque<Key>,
    long: VecDeque<Key>,
    /// The number of short replays since the last long one.
    short_in_a_row: u32,
    /// The time at which the pause after the last frames ends.
    paused_until: Mono,
    /// The time at which the last frames were written.
    served: Mono,
}

impl ReplayQueue {
    /// Queues a connection whose replay has this many ticks left.
    pub(super) fn push(&mut self, key: Key, ticks: u32) {
        let queue = if ticks <= SHORT {
            &mut self.short
        } else {
            &mut self.long
        };
        queue.push_back(key);
    }

    /// Returns the connection whose turn it is. The queues' memory is freed when they are empty.
    fn pop(&mut self) -> Option<Key> {
        let is_long = self.short.is_empty() || self.short_in_a_row >= SHORT_IN_A_ROW_MAX;
        let long = self.long.pop_front_if(|_| is_long);
        self.short_in_a_row = match long {
            Some(_) => 0,
            None => self.short_in_a_row.saturating_add(1),
        };
        let key = long.or_else(|| self.short.pop_front());
        if key.is_none() {
            self.short = VecDeque::new();
            self.long = VecDeque::new();
        }
        key
    }

    fn is_empty(&self) -> bool {
        self.short.is_empty() && self.long.is_empty()
    }

    /// Notes that frames were written from `began` to `ended`.
    fn pause(&mut self, began: Mono, ended: Mono) {
        let pause = ended.since(began) * PAUSE_FACTOR;
        self.paused_until = ended + pause.min(PAUSE_MAX);
        self.served = ended;
    }
}

impl<N: Network, C: Clock> Shard<N, C> {
    /// Returns when the next replay may be written, at `mono` or later: after the pause, and not
    /// during a fan-out, unless that takes too long. [`Mono::NEVER`] if a tick comes first.
    pub(super) fn replays_due(&self, mono: Mono) -> Mono {
        let queue = &self.driver.replays;
        if queue.is_empty() {
            return Mono::NEVER;
        }
        let sent = self
            .sending
            .busy_since
            .map_or(Mono::ZERO, |since| since.max(queue.served) + PATIENCE);
        let due = mono.max(queue.paused_until).max(sent);
        if self.fits_replay(due) {
            due
        } else {
            Mono::NEVER
        }
    }

    /// Returns whether a frame of a replay that is written at `mono` delays no tick.
    fn fits_replay(&self, mono: Mono) -> bool {
        mono + MARGIN < self.due.next_tick()
    }

    /// Writes frames of replays, one for each connection in turn.
    pub(super) fn send_replays(&mut self, until: Mono) {
        let began = self.time.read_clock().mono;
        loop {
            let at = self.time.read_clock();
            if at.mono >= until || !self.fits_replay(at.mono) {
                break;
            }
            let Some(key) = self.driver.replays.pop() else {
                break;
            };
            with_connection(
                key,
                &mut self.connections,
                &mut self.driver,
                |driver, connection| driver.continue_replay(connection, at),
            );
        }
        let ended = self.time.read_clock().mono;
        self.driver.replays.pause(began, ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u64) -> Key {
        Key { slot: 0, id }
    }

    #[test]
    fn short_replays_go_first_but_not_for_ever() {
        let mut queue = ReplayQueue::default();
        for id in 100..103 {
            queue.push(key(id), SHORT + 1);
        }
        for id in 0..12 {
            queue.push(key(id), SHORT);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop())
            .map(|key| key.id)
            .collect();
        let expected = [0, 1, 2, 3, 4, 5, 6, 7, 100, 8, 9, 10, 11, 101, 102];
        assert_eq!(order, expected);
    }
}
