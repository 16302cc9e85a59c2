//! One coarse wheel of deadlines a shard, instead of 100,000 timers. A connection stands in it
//! once; a heartbeat touches nothing here: when its turn comes, the connection says whether its
//! deadline has really passed or when to ask again.

use std::collections::VecDeque;
use std::time::Duration;

use tickstorm_timebase::Mono;

use super::key::Key;

/// How often the wheel turns. A deadline is met within two turns, and what the machine adds: the
/// protocol allows 500 ms.
pub(super) const TURN: Duration = Duration::from_nanos(TURN_NS);
const TURN_NS: u64 = 100_000_000;
/// Slots: 51 s. What lies further ahead is asked again then.
const SLOTS: usize = 512;

/// A turn of the wheel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn(u64);

impl Turn {
    /// Not in the wheel.
    pub(super) const NONE: Self = Self(u64::MAX);

    /// The first turn that does not come before `deadline`.
    fn after(deadline: Mono) -> Self {
        Self(deadline.as_nanos().div_ceil(TURN_NS))
    }
}

/// The wheel.
pub(super) struct Wheel {
    slots: Vec<Vec<(Key, Turn)>>,
    /// The next turn to come.
    next: Turn,
}

impl Wheel {
    pub(super) fn new(now: Mono) -> Self {
        Self {
            slots: vec![Vec::new(); SLOTS],
            next: Turn::after(now),
        }
    }

    /// Puts `key` in for `deadline` and gives the turn at which it will come. Of several entries of
    /// one connection the one whose turn it remembers counts.
    pub(super) fn arm(&mut self, key: Key, deadline: Mono) -> Turn {
        let furthest = self.next.0 + SLOTS as u64 - 1;
        let turn = Turn(Turn::after(deadline).0.clamp(self.next.0, furthest));
        self.slots[slot(turn)].push((key, turn));
        turn
    }

    /// The turn that `deadline` would get at the earliest.
    pub(super) fn turn_of(&self, deadline: Mono) -> Turn {
        Turn::after(deadline).max(self.next)
    }

    /// Takes out all whose turn has come, a slot after the other, none of which is copied.
    pub(super) fn turn(&mut self, now: Mono, passed: &mut VecDeque<Vec<(Key, Turn)>>) {
        let until = Turn(now.as_nanos() / TURN_NS);
        // After a long pause every slot is visited once, not once a turn missed.
        let first = self.next.0.max(until.0.saturating_sub(SLOTS as u64 - 1));
        for turn in first..=until.0 {
            let slot = std::mem::take(&mut self.slots[slot(Turn(turn))]);
            if !slot.is_empty() {
                passed.push_back(slot);
            }
        }
        self.next = Turn(self.next.0.max(until.0 + 1));
    }
}

fn slot(turn: Turn) -> usize {
    usize::try_from(turn.0 % SLOTS as u64).expect("less than SLOTS")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    fn keys(wheel: &mut Wheel, now: Mono) -> Vec<u64> {
        let mut passed = VecDeque::new();
        wheel.turn(now, &mut passed);
        passed.iter().flatten().map(|(key, _)| key.id).collect()
    }

    #[test]
    fn nothing_comes_early_and_nothing_later_than_one_turn() {
        let mut wheel = Wheel::new(at(1_000));
        wheel.arm(Key { slot: 0, id: 7 }, at(2_050));
        for ms in (1_000..2_100).step_by(100) {
            assert!(keys(&mut wheel, at(ms)).is_empty(), "{ms}");
        }
        assert_eq!(keys(&mut wheel, at(2_100)), [7]);
    }

    #[test]
    fn what_is_due_already_comes_at_the_next_turn() {
        let mut wheel = Wheel::new(at(5_000));
        keys(&mut wheel, at(5_000));
        wheel.arm(Key { slot: 0, id: 1 }, at(100));
        assert_eq!(keys(&mut wheel, at(5_100)), [1]);
    }

    #[test]
    fn what_is_far_ahead_is_asked_again_and_a_long_pause_misses_nobody() {
        let mut wheel = Wheel::new(at(0));
        let turn = wheel.arm(Key { slot: 0, id: 1 }, at(3_600_000));
        assert_eq!(turn, Turn(SLOTS as u64 - 1));
        wheel.arm(Key { slot: 1, id: 2 }, at(700));
        let mut all = keys(&mut wheel, at(10_000_000));
        all.sort_unstable();
        assert_eq!(all, [1, 2]);
    }

    #[test]
    fn time_that_goes_back_a_little_is_harmless() {
        let mut wheel = Wheel::new(at(0));
        assert!(keys(&mut wheel, at(1_000)).is_empty());
        wheel.arm(Key { slot: 0, id: 1 }, at(1_200));
        assert!(keys(&mut wheel, at(900)).is_empty());
        assert_eq!(keys(&mut wheel, at(1_200)), [1]);
    }
}
