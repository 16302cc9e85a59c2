//! The dense array of a feed's subscribers: what the hot loop runs over. An entry is a descriptor
//! and the number of the frame that it lacks next, 16 bytes, in connection order (memory order:
//! random order costs 7 to 13 %).
//!
//! The array may change while a fan-out is under way: a leaver leaves a hole, a newcomer is
//! appended, and the holes are filled when the fan-out is over, each with the last entry, so that
//! this costs as much as there were leavers and no more. Whoever owns the entries must record every
//! move.

use std::os::fd::RawFd;

/// Set in `next` while the subscriber is on the slow path, so that the hot loop's one comparison
/// passes it over.
const BEHIND: u64 = 1 << 63;
/// The descriptor of a hole.
const HOLE: RawFd = -1;
/// Holes whose list is kept from one fan-out to the next: 4 KiB.
const HOLES_KEPT: usize = 1_024;

/// One subscriber.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    fd: RawFd,
    owner: u32,
    next: u64,
}

impl Entry {
    /// Its socket.
    pub(crate) fn fd(&self) -> RawFd {
        self.fd
    }

    /// The connection it belongs to.
    pub(crate) fn owner(&self) -> u32 {
        self.owner
    }

    /// Number of the frame it lacks next, where it is not on the slow path (the hot loop's
    /// question).
    pub(crate) fn ready_for(&self) -> u64 {
        self.next
    }

    /// The number of the frame it lacks next if it is on the slow path.
    pub(crate) fn behind(&self) -> Option<u64> {
        (self.fd != HOLE && self.next & BEHIND != 0).then_some(self.next & !BEHIND)
    }

    /// Moves on: the next frame it lacks is `next`.
    pub(crate) fn advance(&mut self, next: u64) {
        self.next = next;
    }

    /// Puts it on the slow path, lacking `next`.
    pub(crate) fn fall_behind(&mut self, next: u64) {
        self.next = next | BEHIND;
    }
}

/// All subscribers of a feed on a shard.
#[derive(Default)]
pub(crate) struct Subscribers {
    entries: Vec<Entry>,
    /// Positions of the holes that the fan-out under way has to pass over.
    holes: Vec<u32>,
    /// A fan-out is under way: no entry may move.
    pinned: bool,
}

impl Subscribers {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn entry(&mut self, position: u32) -> &mut Entry {
        &mut self.entries[position as usize]
    }

    pub(crate) fn entries(&mut self) -> &mut [Entry] {
        &mut self.entries
    }

    /// Appends a subscriber and gives its position.
    pub(crate) fn join(&mut self, fd: RawFd, owner: u32, next: u64, behind: bool) -> u32 {
        let position = u32::try_from(self.entries.len()).expect("fewer entries than descriptors");
        let next = if behind { next | BEHIND } else { next };
        self.entries.push(Entry { fd, owner, next });
        position
    }

    /// Takes a subscriber out; gives the owner that now stands at its position, if one was moved
    /// there.
    pub(crate) fn leave(&mut self, position: u32) -> Option<u32> {
        let index = position as usize;
        if self.pinned {
            self.entries[index] = Entry {
                fd: HOLE,
                owner: 0,
                next: BEHIND,
            };
            self.holes.push(position);
            return None;
        }
        self.entries.swap_remove(index);
        self.entries.get(index).map(Entry::owner)
    }

    /// A fan-out begins: from now on no entry moves.
    pub(crate) fn pin(&mut self) {
        self.pinned = true;
    }

    /// The fan-out is over: fills the holes, and calls `moved(owner, position)` for every entry
    /// that moved.
    pub(crate) fn unpin(&mut self, mut moved: impl FnMut(u32, u32)) {
        self.pinned = false;
        let mut holes = std::mem::take(&mut self.holes);
        // From the back on, so that what fills a hole is never a hole itself.
        holes.sort_unstable();
        while let Some(position) = holes.pop() {
            if let Some(owner) = self.leave(position) {
                moved(owner, position);
            }
        }
        // Its memory serves the next fan-out, unless very many left during this one.
        holes.shrink_to(HOLES_KEPT);
        self.holes = holes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(subscribers: &Subscribers) -> Vec<u32> {
        subscribers
            .entries
            .iter()
            .filter(|e| e.fd != HOLE)
            .map(|e| e.owner)
            .collect()
    }

    #[test]
    fn leaving_moves_the_last_one_and_says_so() {
        let mut subscribers = Subscribers::default();
        for owner in 0..4 {
            assert_eq!(subscribers.join(10, owner, 0, false), owner);
        }
        assert_eq!(subscribers.leave(1), Some(3));
        assert_eq!(owners(&subscribers), [0, 3, 2]);
        assert_eq!(
            subscribers.leave(2),
            None,
            "the last one left: nobody moved"
        );
    }

    #[test]
    fn during_a_fan_out_nobody_changes_places_and_holes_are_closed_after_it() {
        let mut subscribers = Subscribers::default();
        for owner in 0..4 {
            subscribers.join(10, owner, 7, false);
        }
        subscribers.pin();
        assert_eq!(subscribers.leave(1), None);
        assert_eq!(subscribers.join(10, 9, 8, false), 4);
        assert_eq!(subscribers.entry(2).owner(), 2);
        assert_ne!(
            subscribers.entry(1).ready_for(),
            7,
            "a hole is never sent to"
        );
        assert_eq!(
            subscribers.entry(1).behind(),
            None,
            "nor is it a slow consumer"
        );
        let mut moves = Vec::new();
        subscribers.unpin(|owner, position| moves.push((owner, position)));
        assert_eq!(moves, [(9, 1)]);
        assert_eq!(owners(&subscribers), [0, 9, 2, 3]);
    }

    #[test]
    fn filling_holes_costs_as_many_moves_as_there_were_leavers() {
        let mut subscribers = Subscribers::default();
        for owner in 0..100_000 {
            subscribers.join(10, owner, 0, false);
        }
        subscribers.pin();
        // The first, the last, and neighbours.
        for position in [0, 99_999, 5_000, 5_001, 99_998] {
            subscribers.leave(position);
        }
        let mut moves = Vec::new();
        subscribers.unpin(|owner, position| moves.push((owner, position)));
        assert_eq!(moves, [(99_997, 5_001), (99_996, 5_000), (99_995, 0)]);
        assert_eq!(owners(&subscribers).len(), 99_995);
        for (owner, position) in moves {
            assert_eq!(subscribers.entry(position).owner(), owner);
        }
    }

    #[test]
    fn an_entry_is_sixteen_bytes() {
        assert_eq!(size_of::<Entry>(), 16);
    }
}
