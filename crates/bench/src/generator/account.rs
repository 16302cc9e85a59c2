//! Accounts of the ticks that each client received, and whether they were right: every tick once,
//! in order. This module does no I/O, so that a test can prove that no lost tick is overlooked.

/// Violations of the protocol's promises, over all clients of a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Ticks that never arrived.
    pub lost: u64,
    /// Ticks that arrived more than once.
    pub duplicate: u64,
    /// Ticks that arrived after a later one.
    pub out_of_order: u64,
    /// Ticks that arrived before they were due.
    pub early: u64,
    /// Ticks that no edge may send: off the grid, or before the subscription's start.
    pub strange: u64,
    /// Frames with a wrong checksum or payload, after which the rest of the connection can't be
    /// decoded.
    pub broken: u64,
    /// Connections that ended or were refused unexpectedly.
    pub disconnected: u64,
}

impl Faults {
    /// Adds the faults of another thread.
    pub fn add(&mut self, other: &Self) {
        self.lost += other.lost;
        self.duplicate += other.duplicate;
        self.out_of_order += other.out_of_order;
        self.early += other.early;
        self.strange += other.strange;
        self.broken += other.broken;
        self.disconnected += other.disconnected;
    }

    /// Returns all counts, with their names in the report.
    pub(crate) fn named(&self) -> [(&'static str, u64); 7] {
        [
            ("lost", self.lost),
            ("duplicate", self.duplicate),
            ("out_of_order", self.out_of_order),
            ("early", self.early),
            ("strange", self.strange),
            ("broken", self.broken),
            ("disconnected", self.disconnected),
        ]
    }
}

/// The ticks of one subscription. The fields needed for each message are few, since the kernel's
/// work evicts them from the cache before the next one.
#[derive(Clone, Debug)]
pub(crate) struct TickAccount {
    last_ms: i64,
    rest: Box<Rest>,
}

/// The fields that are needed only if something is wrong.
#[derive(Clone, Debug)]
struct Rest {
    start_ms: i64,
    /// The gaps, each with its first and last missing tick.
    missing: Vec<(i64, i64)>,
}

impl TickAccount {
    /// Creates an account of the ticks after `start_ms`, which need not be on the grid.
    pub(crate) fn new(start_ms: i64, period_ms: i64) -> Self {
        let start_ms = start_ms - start_ms.rem_euclid(period_ms);
        Self {
            last_ms: start_ms,
            rest: Box::new(Rest {
                start_ms,
                missing: Vec::new(),
            }),
        }
    }

    /// Accounts for the ticks from `first_ms` to `last_ms`, which have no gap between them.
    pub(crate) fn take(
        &mut self,
        first_ms: i64,
        last_ms: i64,
        period_ms: i64,
        faults: &mut Faults,
    ) {
        if first_ms == self.last_ms + period_ms && last_ms >= first_ms {
            self.last_ms = last_ms;
            return;
        }
        let mut epoch_ms = first_ms;
        while epoch_ms <= last_ms {
            self.take_one(epoch_ms, period_ms, faults);
            epoch_ms += period_ms;
        }
    }

    /// Accounts for one tick in any position.
    #[cold]
    fn take_one(&mut self, epoch_ms: i64, period_ms: i64, faults: &mut Faults) {
        if epoch_ms <= self.rest.start_ms || epoch_ms.rem_euclid(period_ms) != 0 {
            faults.strange += 1;
        } else if epoch_ms > self.last_ms {
            if epoch_ms > self.last_ms + period_ms {
                let gap = (self.last_ms + period_ms, epoch_ms - period_ms);
                self.rest.missing.push(gap);
            }
            self.last_ms = epoch_ms;
        } else if self.remove_from_gaps(epoch_ms, period_ms) {
            faults.out_of_order += 1;
        } else {
            faults.duplicate += 1;
        }
    }

    /// Removes a tick from the gaps. Returns false if it is in none.
    fn remove_from_gaps(&mut self, epoch_ms: i64, period_ms: i64) -> bool {
        let within = |gap: &(i64, i64)| (gap.0..=gap.1).contains(&epoch_ms);
        let Some(at) = self.rest.missing.iter().position(within) else {
            return false;
        };
        let (first, last) = self.rest.missing.swap_remove(at);
        let parts = [(first, epoch_ms - period_ms), (epoch_ms + period_ms, last)];
        let left = parts.into_iter().filter(|(first, last)| first <= last);
        self.rest.missing.extend(left);
        true
    }

    /// Returns the number of ticks that are missing between others, or up to `until_ms`, the last
    /// tick due.
    pub(crate) fn lost(&self, until_ms: Option<i64>, period_ms: i64) -> u64 {
        let ticks = |from: i64, to: i64| ((to - from).max(0) / period_ms).unsigned_abs();
        let gaps = self.rest.missing.iter();
        let between: u64 = gaps
            .map(|(first, last)| ticks(*first, *last + period_ms))
            .sum();
        between + until_ms.map_or(0, |until_ms| ticks(self.last_ms, until_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: i64 = 1_000;

    /// Returns the faults of a client that receives these ticks in this order. Its subscription
    /// starts after tick 10, and tick 20 is the last tick due.
    fn account(seconds: &[i64]) -> Faults {
        let (mut account, mut faults) = (TickAccount::new(10_000, PERIOD), Faults::default());
        for second in seconds {
            account.take(second * 1_000, second * 1_000, PERIOD, &mut faults);
        }
        faults.lost = account.lost(Some(20_000), PERIOD);
        faults
    }

    #[test]
    fn all_ticks_in_order_are_no_fault() {
        assert_eq!(account(&Vec::from_iter(11..=20)), Faults::default());
    }

    #[test]
    fn a_tick_left_out_anywhere_is_lost() {
        for left_out in 11..=20 {
            let seconds = Vec::from_iter((11..=20).filter(|second| *second != left_out));
            let faults = Faults {
                lost: 1,
                ..Faults::default()
            };
            assert_eq!(account(&seconds), faults, "{left_out} left out");
        }
        assert_eq!(account(&[]).lost, 10);
        assert_eq!(account(&[15]).lost, 9);
    }

    #[test]
    fn a_tick_sent_twice_is_a_duplicate() {
        for twice in 11..=20 {
            let mut seconds = Vec::from_iter(11..=20);
            let at = seconds.partition_point(|second| *second <= twice);
            seconds.insert(at, twice);
            let faults = Faults {
                duplicate: 1,
                ..Faults::default()
            };
            assert_eq!(account(&seconds), faults, "{twice} twice");
        }
    }

    #[test]
    fn swapped_ticks_are_out_of_order_and_not_lost() {
        for first in 11..=19 {
            let mut seconds = Vec::from_iter(11..=20);
            let at = seconds.partition_point(|second| *second < first);
            seconds.swap(at, at + 1);
            let faults = Faults {
                out_of_order: 1,
                ..Faults::default()
            };
            assert_eq!(account(&seconds), faults, "{first} after its successor");
        }
        let backwards = account(&[11, 20, 19, 18, 17, 16, 15, 14, 13, 12]);
        assert_eq!((backwards.out_of_order, backwards.lost), (8, 0));
    }

    #[test]
    fn a_tick_off_the_grid_or_before_the_start_is_strange() {
        let (mut account, mut faults) = (TickAccount::new(10_500, PERIOD), Faults::default());
        account.take(10_000, 10_000, PERIOD, &mut faults);
        account.take(11_500, 11_500, PERIOD, &mut faults);
        assert_eq!(faults.strange, 2);
        assert_eq!(account.last_ms, 10_000);
    }

    #[test]
    fn a_batch_counts_like_its_ticks_taken_separately() {
        let (mut account, mut faults) = (TickAccount::new(10_000, PERIOD), Faults::default());
        account.take(11_000, 15_000, PERIOD, &mut faults);
        account.take(14_000, 17_000, PERIOD, &mut faults);
        account.take(19_000, 20_000, PERIOD, &mut faults);
        assert_eq!(
            (faults.duplicate, account.lost(Some(20_000), PERIOD)),
            (2, 1)
        );
    }
}
