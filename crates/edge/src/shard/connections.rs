//! [`Connections`]: which connection is at which slot. Slots are used again, so whoever remembers a
//! connection remembers its [`Key`], and gets it back only while it is the same one.

use slab::Slab;

use super::connection::Connection;
use super::key::Key;
use crate::sys::network::Token;

/// A shard's connections, from accept until they are closed.
pub(super) struct Connections<S> {
    slots: Slab<Box<Connection<S>>>,
    /// Every slot that was ever used is below this one.
    end: usize,
    /// How many there are, those not counted that are only told why they may not come in.
    admitted: usize,
}

/// How far a walk over all connections has come. Those that join it meanwhile may be met or not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Walk {
    next: usize,
}

/// Whether work over all connections is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum WalkProgress {
    GoesOn,
    Done,
}

impl<S> Connections<S> {
    pub(super) fn new() -> Self {
        Self {
            slots: Slab::new(),
            end: 0,
            admitted: 0,
        }
    }

    /// Puts the connection that `make` returns for its key into a free slot.
    pub(super) fn insert(&mut self, id: u64, make: impl FnOnce(Key) -> Connection<S>) -> Key {
        let entry = self.slots.vacant_entry();
        let slot = u32::try_from(entry.key()).expect("fewer connections than descriptors");
        self.end = self.end.max(entry.key() + 1);
        let key = Key { slot, id };
        let connection = Box::new(make(key));
        self.admitted += usize::from(connection.is_admitted());
        entry.insert(connection);
        key
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<Box<Connection<S>>> {
        let removed = self.slots.try_remove(slot as usize)?;
        self.admitted -= usize::from(removed.is_admitted());
        Some(removed)
    }

    /// The connection at a slot.
    pub(super) fn at(&mut self, slot: u32) -> Option<&mut Connection<S>> {
        self.slots.get_mut(slot as usize).map(Box::as_mut)
    }

    pub(super) fn get(&mut self, key: Key) -> Option<&mut Connection<S>> {
        self.at(key.slot).filter(|found| found.key == key)
    }

    /// The connection that an event was reported for.
    pub(super) fn reported(&mut self, token: Token) -> Option<&mut Connection<S>> {
        self.at(token.slot)
            .filter(|found| found.key.token() == token)
    }

    /// The next connection of a walk; none when all have been met.
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

    pub(super) fn admitted(&self) -> usize {
        self.admitted
    }
}
