//! [`Connections`]: a shard's connections by slot. Slots are reused, so other code refers to a
//! connection by its [`Key`], which never matches a later connection in the same slot.

use slab::Slab;

use super::connection::Connection;
use super::key::Key;
use crate::sys::network::Token;

/// A shard's connections, from accept until their sockets are closed.
pub(super) struct Connections<S> {
    slots: Slab<Box<Connection<S>>>,
    /// One more than the highest slot that was ever used.
    end: usize,
}

/// A cursor over all connections. A walk may or may not visit connections that are added meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Walk {
    next: usize,
}

/// The state of a walk after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum WalkProgress {
    /// More connections may be left to visit.
    More,
    /// All connections were visited.
    Done,
}

impl<S> Connections<S> {
    pub(super) fn new() -> Self {
        Self {
            slots: Slab::new(),
            end: 0,
        }
    }

    /// Calls `make` with the key of a free slot and puts the connection that it returns there.
    pub(super) fn insert(&mut self, id: u64, make: impl FnOnce(Key) -> Connection<S>) -> Key {
        let entry = self.slots.vacant_entry();
        let slot = u32::try_from(entry.key()).expect("fewer connections than descriptors");
        self.end = self.end.max(entry.key() + 1);
        let key = Key { slot, id };
        entry.insert(Box::new(make(key)));
        key
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<Box<Connection<S>>> {
        self.slots.try_remove(slot as usize)
    }

    /// Returns the connection at a slot.
    pub(super) fn at(&mut self, slot: u32) -> Option<&mut Connection<S>> {
        self.slots.get_mut(slot as usize).map(Box::as_mut)
    }

    pub(super) fn get(&mut self, key: Key) -> Option<&mut Connection<S>> {
        self.at(key.slot).filter(|found| found.key == key)
    }

    /// Returns the connection for which an event was reported.
    pub(super) fn reported(&mut self, token: Token) -> Option<&mut Connection<S>> {
        self.at(token.slot)
            .filter(|found| found.key.token() == token)
    }

    /// Returns the next connection of a walk; `None` when all were visited.
    pub(super) fn step(&mut self, walk: &mut Walk) -> Option<&mut Connection<S>> {
        while walk.next < self.end && !self.slots.contains(walk.next) {
            walk.next += 1;
        }
        let found = self.slots.get_mut(walk.next)?;
        walk.next += 1;
        Some(found)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
}
