//! [`Waiting`]: a shard's pending work, and when more of it will be due.

use std::collections::VecDeque;

use tickstorm_timebase::Mono;

use super::departures::Departures;
use super::handshakes::HandshakeQueues;
use super::key::Key;
use super::tasks::ShardTasks;
use super::wheel::Bucket;
use crate::sys::network::NetworkEvent;

/// The pending work of a shard.
pub(super) struct Waiting {
    /// The events that the last wait reported.
    pub(super) events: Vec<NetworkEvent>,
    /// The number of `events` already handled.
    events_handled: usize,
    /// Whether the waker was used, so that commands may be waiting.
    pub(super) commands: bool,
    /// The time at which the wheel next advances, in the machine's time.
    pub(super) wheel_due: Mono,
    /// The expired buckets of the wheel, earliest first.
    pub(super) expired: VecDeque<Vec<(Key, Bucket)>>,
    /// Connections with input for their TLS handshakes.
    pub(super) handshakes: HandshakeQueues,
    /// The time at which a handshake last took a step.
    pub(super) shook_hands: Mono,
    pub(super) tasks: ShardTasks,
    /// The time at which a task for operators last took a step.
    pub(super) served_operators: Mono,
    pub(super) departures: Departures,
}

impl Waiting {
    pub(super) fn new(wheel_due: Mono) -> Self {
        Self {
            events: Vec::new(),
            events_handled: 0,
            commands: false,
            wheel_due,
            expired: VecDeque::new(),
            handshakes: HandshakeQueues::default(),
            shook_hands: Mono::ZERO,
            tasks: ShardTasks::default(),
            served_operators: Mono::ZERO,
            departures: Departures::default(),
        }
    }

    /// Returns the next connection from the expired buckets, and its bucket. Each bucket's memory
    /// is freed when it is empty, however many connections it held.
    pub(super) fn next_expired(&mut self) -> Option<(Key, Bucket)> {
        let bucket = self.expired.front_mut()?;
        let next = bucket.pop();
        if bucket.is_empty() {
            self.expired.pop_front();
        }
        next
    }

    /// Returns the next event that the last wait reported.
    pub(super) fn next_event(&mut self) -> Option<NetworkEvent> {
        let event = self.events.get(self.events_handled).copied();
        self.events_handled += 1;
        if event.is_none() {
            self.events.clear();
            self.events_handled = 0;
        }
        event
    }
}
