//! [`Rates`]: a token bucket for each client address, in tables of bounded size that a flood of
//! addresses cannot flush. A known address keeps its bucket until it is full again, when forgetting
//! it changes nothing. If the table is full, addresses without a bucket share that of their prefix,
//! and if that table is full, too, a single one. It is given the time and only decides.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tickstorm_timebase::Mono;

use super::address::{Address, Prefix};

/// The most addresses that have a bucket of their own, which takes about 6 MB.
const ADDRESSES_MAX: usize = 65_536;
/// The most prefixes that have a bucket, used only while the table of addresses is full.
const PREFIXES_MAX: usize = 16_384;
/// The allowance of a prefix's bucket, in allowances of an address.
const PREFIX_FACTOR: u32 = 16;
/// The allowance of the bucket that all other addresses share, in allowances of an address.
const REST_FACTOR: u32 = 256;
/// The most buckets that one call looks at to forget those that are full again. A call creates at
/// most one bucket, so they cannot pile up, and this takes only a few microseconds.
const FORGOTTEN_MAX: usize = 4;

/// A rate limit for each address.
pub(crate) struct Rates {
    /// The time in which an empty bucket fills up.
    per: Duration,
    /// The tokens in a full bucket; 0 means no limit.
    full: u32,
    tables: Mutex<Tables>,
}

struct Tables {
    addresses: Buckets<Address>,
    prefixes: Buckets<Prefix>,
    /// The moment at which the bucket of all other addresses is full again.
    rest: Mono,
}

/// Buckets that are not full. A bucket is represented by the moment at which it is full again.
struct Buckets<K> {
    len_max: usize,
    full_at: BTreeMap<K, Mono>,
    /// Every key once, with a moment at or before that in `full_at`, earliest first.
    forgettable: BTreeSet<(Mono, K)>,
}

/// The result of taking tokens from a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Yes,
    No,
    /// The key has no bucket, and the table has no room for another one.
    TableFull,
}

impl Rates {
    /// Creates buckets that hold `full` tokens each and fill up within `per`. If `full` is 0, there
    /// is no limit.
    pub(crate) fn new(per: Duration, full: u32) -> Self {
        Self {
            per,
            full,
            tables: Mutex::new(Tables {
                addresses: Buckets::new(ADDRESSES_MAX),
                prefixes: Buckets::new(PREFIXES_MAX),
                rest: Mono::ZERO,
            }),
        }
    }

    /// Takes `cost` tokens for `address`, and returns whether there were as many. If not, none are
    /// taken. A cost of more than a full bucket is never granted.
    pub(crate) fn take(&self, address: Address, cost: u32, now: Mono) -> bool {
        self.take_since(address, cost, now, now)
    }

    /// Takes tokens like [`Self::take`], for something that may have happened at any time from
    /// `since` on: what the bucket has earned since then counts, too, even if it was full.
    pub(crate) fn take_since(&self, address: Address, cost: u32, since: Mono, now: Mono) -> bool {
        if self.full == 0 {
            return true;
        }
        let emptied = |full_at: Mono, factor| self.emptied(full_at.max(since), cost, factor, now);
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        match tables.addresses.take(address, since, |at| emptied(at, 1)) {
            Taken::Yes => return true,
            Taken::No => return false,
            Taken::TableFull => {}
        }
        let prefix = address.prefix();
        match tables
            .prefixes
            .take(prefix, since, |at| emptied(at, PREFIX_FACTOR))
        {
            Taken::Yes => return true,
            Taken::No => return false,
            Taken::TableFull => {}
        }
        let emptied = emptied(tables.rest, REST_FACTOR);
        tables.rest = emptied.unwrap_or(tables.rest);
        emptied.is_some()
    }

    /// Takes `cost` tokens from a bucket that has `factor` times the allowance and is full again at
    /// `full_at`. Returns the moment at which it is full again afterwards, or `None` if it does not
    /// have as many tokens.
    fn emptied(&self, full_at: Mono, cost: u32, factor: u32, now: Mono) -> Option<Mono> {
        let tokens = u128::from(self.full) * u128::from(factor);
        let nanos = self.per.as_nanos() * u128::from(cost) / tokens;
        let filling = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let emptied = full_at + filling;
        (emptied.since(now) <= self.per).then_some(emptied)
    }
}

impl<K: Copy + Ord> Buckets<K> {
    fn new(len_max: usize) -> Self {
        Self {
            len_max,
            full_at: BTreeMap::new(),
            forgettable: BTreeSet::new(),
        }
    }

    /// Replaces the moment at which the bucket of `key` is full again by the one that `emptied`
    /// returns for it. A bucket that was full at `since` may be forgotten.
    fn take(&mut self, key: K, since: Mono, emptied: impl FnOnce(Mono) -> Option<Mono>) -> Taken {
        self.forget(since);
        if let Some(full_at) = self.full_at.get_mut(&key) {
            let Some(emptied) = emptied(*full_at) else {
                return Taken::No;
            };
            *full_at = emptied;
            return Taken::Yes;
        }
        if self.full_at.len() >= self.len_max {
            return Taken::TableFull;
        }
        let Some(emptied) = emptied(since) else {
            return Taken::No;
        };
        self.full_at.insert(key, emptied);
        self.forgettable.insert((emptied, key));
        Taken::Yes
    }

    /// Forgets a few of the buckets that are full again.
    fn forget(&mut self, now: Mono) {
        for _ in 0..FORGOTTEN_MAX {
            match self.forgettable.first() {
                Some((at, _)) if *at <= now => {}
                Some(_) | None => return,
            }
            let Some((_, key)) = self.forgettable.pop_first() else {
                return;
            };
            match self.full_at.get(&key) {
                Some(full_at) if *full_at > now => {
                    self.forgettable.insert((*full_at, key));
                }
                Some(_) | None => {
                    self.full_at.remove(&key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn numbered(number: u32) -> Address {
        IpAddr::from(Ipv4Addr::from(number)).into()
    }

    /// Takes single tokens until there are none left, and returns how many there were.
    fn taken(rates: &Rates, address: Address, now: Mono) -> u32 {
        let mut taken = 0;
        while rates.take(address, 1, now) {
            taken += 1;
        }
        taken
    }

    fn lens(rates: &Rates) -> (usize, usize) {
        let tables = rates.tables.lock().unwrap();
        let Tables {
            addresses,
            prefixes,
            ..
        } = &*tables;
        assert_eq!(addresses.full_at.len(), addresses.forgettable.len());
        assert_eq!(prefixes.full_at.len(), prefixes.forgettable.len());
        (addresses.full_at.len(), prefixes.full_at.len())
    }

    /// Fills the table of addresses, from 10.0.0.0 on. Each bucket is full again at `at(100)`.
    fn fill(rates: &Rates) {
        for number in 0..65_536 {
            assert!(rates.take(numbered(0x0a00_0000 + number), 1, at(0)));
        }
        assert_eq!(lens(rates), (ADDRESSES_MAX, 0));
    }

    #[test]
    fn what_happened_since_a_moment_may_use_all_that_was_earned_since_then() {
        let rates = Rates::new(SECOND, 10);
        let (known, new) = (address("192.0.2.1"), address("192.0.2.2"));
        let since = |address, since_ms, now_ms| {
            let mut each = 0..;
            each.find(|_| !rates.take_since(address, 1, at(since_ms), at(now_ms)))
        };
        assert_eq!(taken(&rates, known, at(10_000)), 10);
        assert_eq!(since(known, 10_000, 15_000), Some(50));
        assert_eq!(since(new, 10_000, 15_000), Some(60), "it was full");
        for address in [known, new] {
            assert_eq!(taken(&rates, address, at(15_000)), 0);
            assert_eq!(taken(&rates, address, at(15_500)), 5);
        }
    }

    #[test]
    fn a_bucket_starts_full_and_fills_up_evenly() {
        let rates = Rates::new(SECOND, 10);
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        assert_eq!(taken(&rates, one, at(5)), 10);
        assert_eq!(taken(&rates, one, at(104)), 0);
        assert_eq!(taken(&rates, one, at(105)), 1);
        assert_eq!(taken(&rates, one, at(405)), 3);
        assert_eq!(taken(&rates, other, at(405)), 10);
        assert_eq!(taken(&rates, one, at(60_000)), 10, "no more than full");
    }

    #[test]
    fn a_refused_cost_takes_nothing() {
        let rates = Rates::new(SECOND, 10);
        let one = address("2001:db8::1");
        assert!(!rates.take(one, 11, at(0)));
        assert_eq!(lens(&rates), (0, 0));
        assert!(rates.take(one, 7, at(0)));
        assert!(!rates.take(one, 4, at(0)));
        assert_eq!(taken(&rates, address("2001:db8::2"), at(0)), 3);
    }

    #[test]
    fn zero_means_no_limit() {
        let rates = Rates::new(SECOND, 0);
        assert!((0..1_000).all(|_| rates.take(address("192.0.2.1"), u32::MAX, at(0))));
        assert_eq!(lens(&rates), (0, 0));
    }

    #[test]
    fn newcomers_at_a_full_table_share_the_bucket_of_their_prefix_and_evict_nobody() {
        let rates = Rates::new(SECOND, 10);
        let known = address("192.0.2.1");
        assert_eq!(taken(&rates, known, at(0)), 10);
        for number in 1..65_536 {
            assert!(rates.take(numbered(0x0a00_0000 + number), 1, at(0)));
        }
        let newcomers = [address("198.51.100.1"), address("198.51.100.2")];
        assert_eq!(taken(&rates, newcomers[0], at(0)), 160);
        assert_eq!(taken(&rates, newcomers[1], at(0)), 0);
        assert_eq!(taken(&rates, address("198.51.101.1"), at(0)), 160);
        assert_eq!(taken(&rates, known, at(0)), 0, "it is still remembered");
        assert_eq!(lens(&rates), (ADDRESSES_MAX, 2));
    }

    #[test]
    fn if_both_tables_are_full_all_others_share_one_bucket() {
        let rates = Rates::new(SECOND, 10);
        fill(&rates);
        for number in 0..16_384 {
            assert!(rates.take(numbered(0x1400_0000 + (number << 8)), 1, at(0)));
        }
        assert_eq!(taken(&rates, address("198.51.100.1"), at(0)), 2_560);
        assert_eq!(taken(&rates, address("2001:db8::1"), at(0)), 0);
        assert_eq!(taken(&rates, numbered(0x1400_0001), at(0)), 159);
        assert_eq!(taken(&rates, numbered(0x0a00_0001), at(0)), 9);
        assert_eq!(lens(&rates), (ADDRESSES_MAX, PREFIXES_MAX));
    }

    #[test]
    fn buckets_that_are_full_again_are_forgotten_a_few_at_a_time() {
        let rates = Rates::new(SECOND, 10);
        fill(&rates);
        let newcomer = address("198.51.100.1");
        assert!(rates.take(newcomer, 1, at(99)));
        assert_eq!(lens(&rates), (ADDRESSES_MAX, 1), "they fill up in 100 ms");
        assert!(rates.take(newcomer, 1, at(100)));
        assert_eq!(lens(&rates), (ADDRESSES_MAX - FORGOTTEN_MAX + 1, 1));
        for number in 0..65_536 {
            rates.take(numbered(0x1400_0000 + number), 1, at(200));
        }
        let kept = numbered(0x1400_0000);
        assert_eq!(taken(&rates, kept, at(200)), 9);
        for _ in 0..65_536 {
            rates.take(kept, 1, at(299));
        }
        assert_eq!(lens(&rates).0, ADDRESSES_MAX, "none is full again yet");
        for _ in 0..65_536 {
            rates.take(kept, 1, at(300));
        }
        assert_eq!(lens(&rates).0, 1);
    }

    proptest! {
        /// In any stretch of time, an address gets no more than a full bucket and what flows in.
        #[test]
        fn no_address_gets_more_than_its_rate(
            steps in prop::collection::vec((0_u32..4, 0_u64..300, 1_u32..5), 1..200),
        ) {
            let rates = Rates::new(SECOND, 10);
            let mut now = 0;
            let mut granted = Vec::new();
            for (number, pause_ms, cost) in steps {
                now += pause_ms;
                if rates.take(numbered(number), cost, at(now)) {
                    granted.push((number, now, cost));
                }
            }
            for (first, (number, from, _)) in granted.iter().enumerate() {
                let mut tokens = 0;
                let later = granted[first..].iter();
                for (_, until, cost) in later.filter(|(other, ..)| other == number) {
                    tokens += u64::from(*cost) * 100;
                    prop_assert!(tokens <= 1_000 + until - from, "{granted:?}");
                }
            }
        }
    }
}
