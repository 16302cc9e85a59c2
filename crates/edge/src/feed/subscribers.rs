//! The dense array of a feed's subscribers, which the hot loop runs over. An entry takes 16 bytes:
//! a descriptor, its connection, and the number of the next frame to send. Entries are in
//! connection order, so that sends walk through memory in order; a random order costs 7 to 13 %.
//!
//! The array may change during a fan-out: a subscriber that leaves becomes a hole, and a new one is
//! appended. When the fan-out is over, each hole is filled with the last entry, so the cost depends
//! only on the number of subscribers that left. The caller must record every move.

use std::os::fd::RawFd;

/// Set in `next` while the subscriber is on the slow path. It makes `next` greater than any frame
/// number, so the hot loop skips the subscriber without a separate check.
const BEHIND: u64 = 1 << 63;
/// The descriptor of a hole.
const HOLE: RawFd = -1;
/// The capacity of the hole list that is kept from one fan-out to the next: 4 KiB.
const HOLES_KEPT: usize = 1_024;

/// One subscriber.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    fd: RawFd,
    owner: u32,
    next: u64,
}

impl Entry {
    /// Returns the descriptor of its socket.
    pub(crate) fn fd(&self) -> RawFd {
        self.fd
    }

    /// Returns the connection it belongs to.
    pub(crate) fn owner(&self) -> u32 {
        self.owner
    }

    /// Returns the number of the next frame to send, for the hot loop. While the subscriber is on
    /// the slow path, the result is greater than any frame number.
    pub(crate) fn ready_for(&self) -> u64 {
        self.next
    }

    /// Returns the number of the next frame to send if the subscriber is on the slow path.
    pub(crate) fn behind(&self) -> Option<u64> {
        (self.fd != HOLE && self.next & BEHIND != 0).then_some(self.next & !BEHIND)
    }

    /// Sets the next frame to send to `next`, on the fast path.
    pub(super) fn advance(&mut self, next: u64) {
        self.next = next;
    }

    /// Puts it on the slow path, with `next` as the next frame to send.
    pub(super) fn fall_behind(&mut self, next: u64) {
        self.next = next | BEHIND;
    }
}

/// All subscribers of a feed on a shard.
#[derive(Default)]
pub(crate) struct Subscribers {
    entries: Vec<Entry>,
    /// The number of subscribers on the slow path.
    behind: usize,
    /// Positions of the holes that the current fan-out must skip.
    holes: Vec<u32>,
    /// Whether a fan-out is in progress, so that no entry may move.
    pinned: bool,
}

impl Subscribers {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the number of subscribers on the slow path.
    pub(crate) fn behind(&self) -> usize {
        self.behind
    }

    pub(crate) fn entry(&mut self, position: u32) -> &mut Entry {
        &mut self.entries[position as usize]
    }

    pub(crate) fn entries(&mut self) -> &mut [Entry] {
        &mut self.entries
    }

    /// Appends a subscriber and returns its position.
    pub(crate) fn join(&mut self, fd: RawFd, owner: u32, next: u64, behind: bool) -> u32 {
        let position = u32::try_from(self.entries.len()).expect("fewer entries than descriptors");
        let next = if behind { next | BEHIND } else { next };
        self.entries.push(Entry { fd, owner, next });
        self.behind += usize::from(behind);
        position
    }

    /// Puts a subscriber on the slow path, if it is not there yet, with `next` as the next frame to
    /// send.
    pub(crate) fn fall_behind(&mut self, position: u32, next: u64) {
        let entry = &mut self.entries[position as usize];
        self.behind += usize::from(entry.behind().is_none());
        entry.fall_behind(next);
    }

    /// Takes a subscriber off the slow path, with `next` as the next frame to send.
    pub(crate) fn catch_up(&mut self, position: u32, next: u64) {
        let entry = &mut self.entries[position as usize];
        self.behind -= usize::from(entry.behind().is_some());
        entry.advance(next);
    }

    /// Notes that the hot loop has put subscribers on the slow path.
    pub(super) fn note_fallen(&mut self, fallen: usize) {
        self.behind += fallen;
    }

    /// Removes a subscriber. If another one was moved to its position, returns that one's owner.
    pub(crate) fn leave(&mut self, position: u32) -> Option<u32> {
        let index = position as usize;
        self.behind -= usize::from(self.entries[index].behind().is_some());
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

    /// Starts a fan-out. No entry moves until [`Self::unpin`].
    pub(crate) fn pin(&mut self) {
        self.pinned = true;
    }

    /// Ends the fan-out: fills the holes, and calls `moved(owner, position)` for every entry that
    /// moved.
    pub(crate) fn unpin(&mut self, mut moved: impl FnMut(u32, u32)) {
        self.pinned = false;
        let mut holes = std::mem::take(&mut self.holes);
        // From back to front, so that the entry that fills a hole is never a hole itself.
        holes.sort_unstable();
        while let Some(position) = holes.pop() {
            if let Some(owner) = self.leave(position) {
                moved(owner, position);
            }
        }
        // The next fan-out reuses the list's memory, unless very many subscribers left during this
        // one.
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
    fn leaving_moves_the_last_entry_and_returns_its_owner() {
        let mut subscribers = Subscribers::default();
        for owner in 0..4 {
            assert_eq!(subscribers.join(10, owner, 0, false), owner);
        }
        assert_eq!(subscribers.leave(1), Some(3));
        assert_eq!(owners(&subscribers), [0, 3, 2]);
        assert_eq!(
            subscribers.leave(2),
            None,
            "the last entry left, so no entry moved"
        );
    }

    #[test]
    fn during_a_fan_out_no_entry_moves_and_holes_are_filled_after_it() {
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
            "a hole is never a slow consumer"
        );
        let mut moves = Vec::new();
        subscribers.unpin(|owner, position| moves.push((owner, position)));
        assert_eq!(moves, [(9, 1)]);
        assert_eq!(owners(&subscribers), [0, 9, 2, 3]);
    }

    #[test]
    fn filling_holes_takes_at_most_one_move_per_subscriber_that_left() {
        let mut subscribers = Subscribers::default();
        for owner in 0..100_000 {
            subscribers.join(10, owner, 0, false);
        }
        subscribers.pin();
        // The first entry, the last one, and neighbours.
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
