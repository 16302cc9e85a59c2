//! [`Buffered`]: how much memory a shard's connections hold for unfinished input and waiting
//! control frames, and in which order they are closed if it is too much. A connection that holds
//! nothing has no entry.
//!
//! Half of the bound is kept for clients that have authenticated, so that the edge closes none of
//! them because of others. The other half is kept for clients that have not, so that authenticated
//! clients cannot shut out new ones, each of which holds a TLS handshake for a moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::memory::Memory;

/// The buffers of a shard's connections.
pub(super) struct Buffered {
    bytes: usize,
    /// The part of `bytes` that clients hold which have not authenticated.
    unauthenticated_bytes: usize,
    /// The shard's share of the bound over all connections.
    max: usize,
    held_by_slot: BTreeMap<u32, Held>,
    order: BTreeSet<Place>,
    /// The number of times that a connection began to hold something.
    began: u64,
    memory: Arc<Memory>,
}

/// The memory that a connection holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    bytes: usize,
    place: Place,
}

/// A connection's place in the order of closing. Among clients that have authenticated, and among
/// those that have not, the first is the one that has held something without interruption for the
/// longest time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    is_authenticated: bool,
    began: u64,
    slot: u32,
}

impl Buffered {
    /// Creates the buffers of a shard whose connections may hold `max` bytes. Its total counts
    /// towards that of `memory`.
    pub(super) fn new(memory: Arc<Memory>, max: usize) -> Self {
        Self {
            bytes: 0,
            unauthenticated_bytes: 0,
            max,
            held_by_slot: BTreeMap::new(),
            order: BTreeSet::new(),
            began: 0,
            memory,
        }
    }

    /// Records that the connection in `slot` now holds `bytes`.
    pub(super) fn set(&mut self, slot: u32, bytes: usize, is_authenticated: bool) {
        let old = self.held_by_slot.remove(&slot);
        let began = old.map_or(self.began, |old| old.place.began);
        self.began += u64::from(old.is_none());
        let place = Place {
            is_authenticated,
            began,
            slot,
        };
        let new = (bytes > 0).then_some(Held { bytes, place });
        if let Some(old) = old
            && new.is_none_or(|new| new.place != old.place)
        {
            self.order.remove(&old.place);
        }
        if let Some(new) = new {
            self.held_by_slot.insert(slot, new);
            self.order.insert(place);
        }
        let before = old.map_or(0, |old| old.bytes);
        self.bytes = self.bytes - before + bytes;
        let unauthenticated = |held: Option<Held>| {
            let held = held.filter(|held| !held.place.is_authenticated);
            held.map_or(0, |held| held.bytes)
        };
        self.unauthenticated_bytes =
            self.unauthenticated_bytes - unauthenticated(old) + unauthenticated(new);
        self.memory.add_buffered(signed(bytes) - signed(before));
    }

    /// Returns whether the connections hold more than they may.
    pub(super) fn is_over(&self) -> bool {
        self.bytes > self.max
    }

    /// Returns the slot of the connection that must be closed next, if they hold more than they
    /// may: the oldest of the clients that have not authenticated, if these hold more than their
    /// half, and otherwise the oldest of the others.
    pub(super) fn next_evicted(&self) -> Option<u32> {
        if !self.is_over() {
            return None;
        }
        let authenticated = Place {
            is_authenticated: true,
            began: 0,
            slot: 0,
        };
        let first = if self.unauthenticated_bytes > self.max / 2 {
            self.order.first()
        } else {
            self.order.range(authenticated..).next()
        };
        first.map(|place| place.slot)
    }

    /// Returns the number of bytes that all connections hold.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::memory::{KernelBound, MemoryMetrics};

    fn buffered(max: usize) -> Buffered {
        let metrics = MemoryMetrics::register(&Registry::new()).unwrap();
        Buffered::new(Memory::new(&metrics, max, KernelBound::none()), max)
    }

    /// Closes connections until the bound holds, and returns their slots.
    fn evict(buffered: &mut Buffered) -> Vec<u32> {
        let mut evicted = Vec::new();
        while let Some(slot) = buffered.next_evicted() {
            buffered.set(slot, 0, false);
            evicted.push(slot);
        }
        evicted
    }

    #[test]
    fn at_the_bound_no_connection_is_closed() {
        let mut buffered = buffered(10);
        buffered.set(1, 10, false);
        assert!(evict(&mut buffered).is_empty());
        buffered.set(2, 1, false);
        assert_eq!(evict(&mut buffered), [1]);
        assert_eq!(buffered.bytes(), 1);
    }

    #[test]
    fn clients_that_have_not_authenticated_are_closed_first_if_they_hold_more_than_half() {
        let mut buffered = buffered(100);
        for (slot, is_authenticated) in [(9, true), (8, false), (7, true), (6, false)] {
            buffered.set(slot, 20, is_authenticated);
        }
        buffered.set(5, 50, false);
        assert_eq!(evict(&mut buffered), [8, 6]);
        buffered.set(4, 41, false);
        assert_eq!(evict(&mut buffered), [5]);
    }

    #[test]
    fn authenticated_clients_that_hold_more_than_half_shut_out_no_new_client() {
        let mut buffered = buffered(100);
        for slot in [9, 8, 7, 6, 5] {
            buffered.set(slot, 20, true);
        }
        buffered.set(4, 20, false);
        assert_eq!(evict(&mut buffered), [9]);
        buffered.set(3, 30, false);
        assert_eq!(evict(&mut buffered), [8, 7]);
        buffered.set(2, 11, false);
        assert_eq!(evict(&mut buffered), [4]);
        assert_eq!(buffered.unauthenticated_bytes, 41);
    }

    #[test]
    fn age_counts_from_the_last_time_that_a_connection_held_nothing() {
        let mut buffered = buffered(100);
        for slot in [1, 2, 3] {
            buffered.set(slot, 20, true);
        }
        // More of the same frame does not make the first one younger, but its end does.
        buffered.set(1, 30, true);
        buffered.set(2, 0, true);
        buffered.set(2, 20, true);
        buffered.set(4, 90, true);
        assert_eq!(evict(&mut buffered), [1, 3, 2]);
    }

    #[test]
    fn a_connection_that_authenticates_keeps_its_age() {
        let mut buffered = buffered(100);
        for slot in [1, 2] {
            buffered.set(slot, 40, false);
        }
        buffered.set(3, 40, true);
        buffered.set(1, 40, true);
        buffered.set(2, 40, true);
        assert_eq!(evict(&mut buffered), [1]);
    }

    #[test]
    fn the_total_over_all_shards_follows_and_its_fall_is_reported_once() {
        let metrics = MemoryMetrics::register(&Registry::new()).unwrap();
        let memory = Memory::new(&metrics, 100, KernelBound::none());
        let mut shards = [0, 1].map(|_| Buffered::new(Arc::clone(&memory), 50));
        shards[0].set(1, 30, true);
        shards[1].set(1, 40, true);
        assert_eq!(memory.take_fall(), 0);
        shards[0].set(1, 0, true);
        shards[1].set(1, 50, true);
        assert_eq!(memory.take_fall(), 20);
        assert_eq!(memory.take_fall(), 0);
    }
}
