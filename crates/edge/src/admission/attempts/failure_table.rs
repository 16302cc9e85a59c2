//! [`FailureTable`]: the failures in the current minute of each of many keys, and the AUTHs that
//! wait for each. It is bounded, and no record makes room for another: at the limit, a new key is
//! not recorded.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tickstorm_timebase::Mono;

/// The time for which failures count, measured from the first one.
pub(super) const MINUTE: Duration = Duration::from_secs(60);
/// The most keys in a table, which takes about 6 MB. A table of addresses fills up only if
/// AUTH_RATE_LIMIT is far above its default: failures of all addresses together have a limit.
pub(super) const KEYS_MAX: usize = 65_536;
/// The most expired records that one call clears away, which takes a few microseconds.
const FORGOTTEN_MAX: usize = 16;

/// The records by key. They are in a tree, because growing a hash table of this size would delay
/// ticks.
pub(super) struct FailureTable<K> {
    records: BTreeMap<K, Record>,
    /// Each key once, and when to check whether its record has expired, earliest first.
    checks: VecDeque<(Mono, K)>,
    keys_max: usize,
}

/// The record of one key.
#[derive(Default)]
struct Record {
    /// The time of the first failure of the current minute.
    since: Mono,
    failures: u32,
    waiting: Vec<Wait>,
}

/// An AUTH that waits. Its slot is taken until `until`, even if the client leaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    pub(super) until: Mono,
    /// Whether it counts like a failure until then.
    pub(super) counts: bool,
}

/// The state of one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KeyState {
    /// The failures in the current minute.
    pub(super) failures: u32,
    /// The AUTHs that wait.
    pub(super) waiting: usize,
    /// Those of them that count like failures.
    pub(super) counted: u32,
}

impl<K: Copy + Ord> FailureTable<K> {
    pub(super) fn new(keys_max: usize) -> Self {
        Self {
            records: BTreeMap::new(),
            checks: VecDeque::new(),
            keys_max,
        }
    }

    /// Returns the state of a key.
    pub(super) fn state(&self, key: K, now: Mono) -> KeyState {
        let Some(record) = self.records.get(&key) else {
            return KeyState::default();
        };
        let mut state = KeyState {
            failures: record.failures_at(now),
            ..KeyState::default()
        };
        for wait in record.waiting.iter().filter(|wait| wait.until > now) {
            state.waiting += 1;
            state.counted += u32::from(wait.counts);
        }
        state
    }

    /// Returns whether failures of a key would be counted.
    pub(super) fn has_room_for(&self, key: K) -> bool {
        self.records.len() < self.keys_max || self.records.contains_key(&key)
    }

    /// Counts a failure.
    pub(super) fn count(&mut self, key: K, now: Mono) {
        if let Some(record) = self.record(key, now) {
            if record.failures_at(now) == 0 {
                record.since = now;
                record.failures = 0;
            }
            record.failures = record.failures.saturating_add(1);
        }
    }

    /// Records an AUTH that waits.
    pub(super) fn hold(&mut self, key: K, wait: Wait, now: Mono) {
        if let Some(record) = self.record(key, now) {
            record.waiting.retain(|wait| wait.until > now);
            record.waiting.push(wait);
        }
    }

    /// Forgets expired records: more of them than one AUTH can add, so that they can't pile up, but
    /// few enough that no tick is delayed.
    pub(super) fn forget(&mut self, now: Mono) {
        for _ in 0..FORGOTTEN_MAX {
            match self.checks.front() {
                Some((due, _)) if *due <= now => {}
                Some(_) | None => return,
            }
            let Some((_, key)) = self.checks.pop_front() else {
                return;
            };
            if self.state(key, now) == KeyState::default() {
                self.records.remove(&key);
            } else {
                self.checks.push_back((now + MINUTE, key));
            }
        }
    }

    /// Returns the record of a key; `None` if it has none and the table is full.
    fn record(&mut self, key: K, now: Mono) -> Option<&mut Record> {
        if !self.has_room_for(key) {
            return None;
        }
        let checks = &mut self.checks;
        let record = self.records.entry(key).or_insert_with(|| {
            checks.push_back((now + MINUTE, key));
            Record::default()
        });
        Some(record)
    }
}

impl Record {
    fn failures_at(&self, now: Mono) -> u32 {
        if now.since(self.since) < MINUTE {
            self.failures
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    fn failures(table: &FailureTable<u32>, key: u32, ms: u64) -> u32 {
        table.state(key, at(ms)).failures
    }

    #[test]
    fn failures_count_for_a_minute_from_the_first_one() {
        let mut table = FailureTable::new(10);
        table.count(1, at(1_000));
        table.count(1, at(60_999));
        assert_eq!(failures(&table, 1, 60_999), 2);
        assert_eq!(failures(&table, 1, 61_000), 0);
        table.count(1, at(61_000));
        assert_eq!(failures(&table, 1, 120_999), 1);
        assert_eq!(failures(&table, 1, 121_000), 0);
        assert_eq!(failures(&table, 2, 1_000), 0);
    }

    #[test]
    fn a_full_table_keeps_its_records_and_takes_no_new_key() {
        let mut table = FailureTable::new(2);
        for key in [1, 2, 3] {
            table.count(key, at(0));
            table.count(key, at(0));
        }
        assert_eq!([1, 2, 3].map(|key| failures(&table, key, 1)), [2, 2, 0]);
        table.forget(at(60_000));
        table.count(3, at(60_000));
        assert_eq!(failures(&table, 3, 60_000), 1);
    }

    #[test]
    fn a_slot_is_taken_until_its_wait_is_over() {
        let mut table = FailureTable::new(1);
        for (until, counts) in [(250, true), (500, false), (8_000, true)] {
            let until = at(until);
            table.hold(1, Wait { until, counts }, at(0));
        }
        let state = |ms| {
            let state = table.state(1, at(ms));
            (state.waiting, state.counted)
        };
        assert_eq!(state(249), (3, 2));
        assert_eq!(state(250), (2, 1));
        assert_eq!(state(500), (1, 1));
        assert_eq!(state(8_000), (0, 0));
    }

    #[test]
    fn expired_records_are_forgotten_a_few_at_a_time_and_others_stay() {
        let mut table = FailureTable::new(100);
        for key in 0..50 {
            table.count(key, at(0));
        }
        table.hold(
            0,
            Wait {
                until: at(62_000),
                counts: true,
            },
            at(59_000),
        );
        table.forget(at(60_000));
        assert_eq!(table.records.len(), 50 - FORGOTTEN_MAX + 1, "key 0 waits");
        for _ in 0..10 {
            table.forget(at(60_000));
        }
        assert_eq!(table.records.len(), 1);
        assert_eq!(table.state(0, at(61_999)).waiting, 1);
        table.forget(at(120_000));
        assert!(table.records.is_empty() && table.checks.is_empty());
    }
}
