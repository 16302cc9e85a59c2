//! [`Handshakes`]: MAX_HANDSHAKES. At the limit a new handshake is counted all the same, and one is
//! chosen that must be closed for it, so that a flood pushes out itself and not other clients. Each
//! step takes logarithmic time, since a flood causes tens of thousands of them per second.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntGauge;
use tickstorm_timebase::Mono;

use super::address::{Address, Prefix};

/// In an address or prefix with too many handshakes, one younger than this is closed only if all of
/// them are.
const GRACE: Duration = Duration::from_secs(1);
/// An address has too many handshakes if it has more than this part of MAX_HANDSHAKES, which is 16
/// by default: enough for a few households or an office behind one address, each of whose
/// handshakes takes only a few round trips.
const ADDRESS_PART: usize = 256;
/// A prefix has too many handshakes if it has more than this many times what an address may have.
const PREFIX_FACTOR: usize = 16;

/// The handshakes in progress.
pub(super) struct Handshakes {
    len_max: usize,
    table: Mutex<Table>,
    shown: IntGauge,
}

/// A connection that has not authenticated yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handshake {
    /// `None` until a load balancer has announced the client.
    pub(crate) address: Option<Address>,
    pub(crate) accepted: Mono,
    pub(crate) shard: usize,
    pub(crate) slot: u32,
}

/// A handshake that must be closed to make room for a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Evicted {
    pub(crate) shard: usize,
    pub(crate) slot: u32,
    pub(crate) id: u64,
}

struct Table {
    /// Ids are given out in the order of accepting, so the first handshake is the oldest.
    by_id: BTreeMap<u64, Entry>,
    addresses: Groups<Address>,
    prefixes: Groups<Prefix>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    handshake: Handshake,
    progress: Progress,
}

/// How far a handshake has come. Those that have come less far are closed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    /// No byte was received.
    Silent,
    /// A byte was received, but no AUTH.
    Heard,
    /// Its AUTH waits until it is judged.
    Judging,
}

impl Progress {
    const ALL: [Self; 3] = [Self::Silent, Self::Heard, Self::Judging];
}

/// The handshakes in groups by `K`.
struct Groups<K> {
    /// A group with more handshakes than this is crowded.
    crowded_above: usize,
    len_by_key: BTreeMap<K, usize>,
    /// The crowded groups, smallest first.
    crowded: BTreeSet<(usize, K)>,
    /// The handshakes by group, those that have come less far first, then by id.
    members: BTreeSet<(K, Progress, u64)>,
}

impl Handshakes {
    /// Creates the limit. `shown` is kept equal to the number of handshakes.
    pub(super) fn new(len_max: usize, shown: IntGauge) -> Self {
        let per_address = (len_max / ADDRESS_PART).max(1);
        Self {
            len_max,
            table: Mutex::new(Table {
                by_id: BTreeMap::new(),
                addresses: Groups::new(per_address),
                prefixes: Groups::new(per_address * PREFIX_FACTOR),
            }),
            shown,
        }
    }

    /// Adds a handshake, which is newer than all others. If there are now too many, removes and
    /// returns one that must be closed.
    pub(super) fn begin(&self, id: u64, handshake: Handshake) -> Option<Evicted> {
        let mut table = self.table();
        table.insert(
            id,
            Entry {
                handshake,
                progress: Progress::Silent,
            },
        );
        let evicted = (table.by_id.len() > self.len_max)
            .then(|| table.evict(handshake.accepted))
            .flatten();
        self.show(&table);
        evicted
    }

    /// Notes that a handshake has received its first byte. Has no effect after it was evicted.
    pub(super) fn mark_received(&self, id: u64) {
        self.progress(id, Progress::Heard);
    }

    /// Notes that the AUTH of a handshake waits. Has no effect after it was evicted.
    pub(super) fn mark_judging(&self, id: u64) {
        self.progress(id, Progress::Judging);
    }

    fn progress(&self, id: u64, to: Progress) {
        self.table()
            .update(id, |entry| entry.progress = entry.progress.max(to));
    }

    /// Changes the address of a handshake. Has no effect after it was evicted.
    pub(super) fn set_address(&self, id: u64, address: Address) {
        self.table()
            .update(id, |entry| entry.handshake.address = Some(address));
    }

    /// Removes and returns a handshake that must be closed for a client at `address`: one of
    /// another address or prefix from which too many come, or the oldest of all if it is due and no
    /// address or prefix stands out. With `shard`, only handshakes of this shard are closed.
    pub(super) fn displace(
        &self,
        address: Option<Address>,
        shard: Option<usize>,
        now: Mono,
    ) -> Option<Evicted> {
        let mut table = self.table();
        let evicted = table.displace(address, shard, now);
        self.show(&table);
        evicted
    }

    /// Removes a handshake, unless it was evicted before.
    pub(super) fn end(&self, id: u64) {
        let mut table = self.table();
        table.remove(id);
        self.show(&table);
    }

    fn show(&self, table: &Table) {
        self.shown
            .set(i64::try_from(table.by_id.len()).unwrap_or(i64::MAX));
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn insert(&mut self, id: u64, entry: Entry) {
        self.by_id.insert(id, entry);
        // The clients of a load balancer are no group while nobody knows who they are.
        if let Some(address) = entry.handshake.address {
            self.addresses.insert(address, entry.progress, id);
            self.prefixes.insert(address.prefix(), entry.progress, id);
        }
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.by_id.remove(&id)?;
        if let Some(address) = entry.handshake.address {
            self.addresses.remove(address, entry.progress, id);
            self.prefixes.remove(address.prefix(), entry.progress, id);
        }
        Some(entry)
    }

    fn update(&mut self, id: u64, change: impl FnOnce(&mut Entry)) {
        if let Some(mut entry) = self.remove(id) {
            change(&mut entry);
            self.insert(id, entry);
        }
    }

    fn evict(&mut self, now: Mono) -> Option<Evicted> {
        let id = self.choose(now)?;
        self.take(id)
    }

    fn displace(
        &mut self,
        address: Option<Address>,
        shard: Option<usize>,
        now: Mono,
    ) -> Option<Evicted> {
        let may_close = |id| shard.is_none_or(|shard| self.is_on(id, shard));
        let is_due = |id| self.is_due(id, now);
        let id = match (self.addresses.most_crowded(), self.prefixes.most_crowded()) {
            (Some(crowd), _) if Some(crowd) != address => {
                self.addresses.choose(crowd, may_close, is_due)
            }
            (None, Some(crowd)) if Some(crowd) != address.map(Address::prefix) => {
                self.prefixes.choose(crowd, may_close, is_due)
            }
            (None, None) => {
                let mut due = self.by_id.keys().copied().take_while(|id| is_due(*id));
                due.find(|id| may_close(*id))
            }
            (_, _) => None,
        };
        self.take(id?)
    }

    fn take(&mut self, id: u64) -> Option<Evicted> {
        let Handshake { shard, slot, .. } = self.remove(id)?.handshake;
        Some(Evicted { shard, slot, id })
    }

    /// Chooses the handshake to close: of the address with the most of them; if no address has too
    /// many, of the prefix with the most; and if no prefix has too many either, the oldest of all.
    /// That last case has no grace: a flood from everywhere would otherwise keep out all new
    /// clients.
    fn choose(&self, now: Mono) -> Option<u64> {
        let is_due = |id| self.is_due(id, now);
        if let Some(address) = self.addresses.most_crowded() {
            return self.addresses.choose(address, |_| true, is_due);
        }
        if let Some(prefix) = self.prefixes.most_crowded() {
            return self.prefixes.choose(prefix, |_| true, is_due);
        }
        self.by_id.keys().next().copied()
    }

    fn is_on(&self, id: u64, shard: usize) -> bool {
        let entry = self.by_id.get(&id);
        entry.is_some_and(|entry| entry.handshake.shard == shard)
    }

    fn is_due(&self, id: u64, now: Mono) -> bool {
        let entry = self.by_id.get(&id);
        entry.is_some_and(|entry| now.since(entry.handshake.accepted) >= GRACE)
    }
}

impl<K: Copy + Ord> Groups<K> {
    fn new(crowded_above: usize) -> Self {
        Self {
            crowded_above,
            len_by_key: BTreeMap::new(),
            crowded: BTreeSet::new(),
            members: BTreeSet::new(),
        }
    }

    fn insert(&mut self, key: K, progress: Progress, id: u64) {
        self.members.insert((key, progress, id));
        let len = self.len_by_key.entry(key).or_default();
        *len += 1;
        let len = *len;
        self.rank(key, len - 1, len);
    }

    fn remove(&mut self, key: K, progress: Progress, id: u64) {
        self.members.remove(&(key, progress, id));
        let Some(len) = self.len_by_key.get_mut(&key) else {
            return;
        };
        *len -= 1;
        let len = *len;
        if len == 0 {
            self.len_by_key.remove(&key);
        }
        self.rank(key, len + 1, len);
    }

    /// Updates the rank of a group whose size has changed.
    fn rank(&mut self, key: K, before: usize, after: usize) {
        if before > self.crowded_above {
            self.crowded.remove(&(before, key));
        }
        if after > self.crowded_above {
            self.crowded.insert((after, key));
        }
    }

    /// Returns the largest of the crowded groups; `None` if no group is crowded.
    fn most_crowded(&self) -> Option<K> {
        self.crowded.last().map(|(_, key)| *key)
    }

    /// Chooses the handshake of a group that is closed first, among those for which `may_close`
    /// holds. Of those that are due, this is the oldest that has come least far. If none is due, it
    /// is the newest: a flood that is faster than that closes its own connections, and the older
    /// ones keep their chance.
    fn choose(
        &self,
        key: K,
        may_close: impl Fn(u64) -> bool,
        is_due: impl Fn(u64) -> bool,
    ) -> Option<u64> {
        let members = |progress| self.of(key, progress).filter(|id| may_close(*id));
        let oldest = Progress::ALL.map(|progress| members(progress).next());
        let due = oldest.into_iter().flatten().find(|id| is_due(*id));
        let newest = Progress::ALL.map(|progress| members(progress).next_back());
        due.or_else(|| newest.into_iter().flatten().max())
    }

    /// Returns the handshakes of a group that have come this far, oldest first.
    fn of(&self, key: K, progress: Progress) -> impl DoubleEndedIterator<Item = u64> {
        let ids = (key, progress, 0)..=(key, progress, u64::MAX);
        self.members.range(ids).map(|(_, _, id)| *id)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    const NOBODY: [u64; 0] = [];

    fn at(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    /// The handshakes of a test, with ids that count from 0.
    struct Bench {
        handshakes: Handshakes,
        accepted: Vec<Address>,
        evicted: Vec<u64>,
    }

    impl Bench {
        fn new(len_max: usize) -> Self {
            let shown = IntGauge::new("handshakes", "Shown.").unwrap();
            Self {
                handshakes: Handshakes::new(len_max, shown),
                accepted: Vec::new(),
                evicted: Vec::new(),
            }
        }

        /// Begins a handshake, and returns its id.
        fn begin(&mut self, address: Address, ms: u64) -> u64 {
            let id = self.accepted.len() as u64;
            self.accepted.push(address);
            let evicted = self.handshakes.begin(
                id,
                Handshake {
                    address: Some(address),
                    accepted: at(ms),
                    shard: 3,
                    slot: u32::try_from(id).unwrap() + 7,
                },
            );
            if let Some(Evicted { shard, slot, id }) = evicted {
                assert_eq!((shard, u64::from(slot)), (3, id + 7));
                self.evicted.push(id);
            }
            id
        }

        fn begin_many(&mut self, address: Address, number: usize, ms: u64) -> Vec<u64> {
            (0..number).map(|_| self.begin(address, ms)).collect()
        }

        fn evicted(&mut self) -> Vec<u64> {
            std::mem::take(&mut self.evicted)
        }

        fn open(&self) -> Vec<u64> {
            let table = self.handshakes.table();
            assert_consistent(&table);
            let len = i64::try_from(table.by_id.len()).unwrap();
            assert_eq!(self.handshakes.shown.get(), len);
            table.by_id.keys().copied().collect()
        }
    }

    /// Asserts that both groupings contain exactly the handshakes in the table.
    fn assert_consistent(table: &Table) {
        fn assert_grouped<K: Copy + Ord + std::fmt::Debug>(
            groups: &Groups<K>,
            expected: BTreeSet<(K, Progress, u64)>,
        ) {
            assert_eq!(groups.members, expected);
            let mut len_by_key = BTreeMap::new();
            for (key, ..) in expected {
                *len_by_key.entry(key).or_insert(0) += 1;
            }
            let crowded = len_by_key.iter().map(|(key, len)| (*len, *key));
            let crowded = crowded.filter(|(len, _)| *len > groups.crowded_above);
            assert_eq!(groups.crowded, crowded.collect());
            assert_eq!(groups.len_by_key, len_by_key);
        }
        let entries = || {
            table.by_id.iter().filter_map(|(id, entry)| {
                let address = entry.handshake.address?;
                Some((address, entry.progress, *id))
            })
        };
        assert_grouped(&table.addresses, entries().collect());
        let by_prefix = entries().map(|(address, progress, id)| (address.prefix(), progress, id));
        assert_grouped(&table.prefixes, by_prefix.collect());
    }

    #[test]
    fn a_flood_from_one_address_pushes_out_only_itself_and_its_oldest_first() {
        let mut bench = Bench::new(512);
        let honest = bench.begin_many(address("192.0.2.1"), 2, 0);
        let flood = bench.begin_many(address("198.51.100.1"), 510, 1);
        assert_eq!(bench.evicted(), NOBODY);
        let newcomers = bench.begin_many(address("192.0.2.2"), 2, 1_001);
        assert_eq!(bench.evicted(), flood[..2]);
        bench.begin_many(address("198.51.100.1"), 600, 1_001);
        let evicted = bench.evicted();
        assert_eq!(evicted.len(), 600);
        assert_eq!(evicted[..508], flood[2..], "the old ones first");
        let open = bench.open();
        assert!(honest.iter().chain(&newcomers).all(|id| open.contains(id)));
    }

    #[test]
    fn in_a_flood_faster_than_the_grace_the_newest_of_its_address_is_closed() {
        let mut bench = Bench::new(512);
        bench.begin_many(address("198.51.100.1"), 512, 0);
        let last = bench.begin(address("198.51.100.1"), 999);
        assert_eq!(
            bench.evicted(),
            [last],
            "the newest is the one that just came"
        );
        bench.begin(address("192.0.2.1"), 999);
        assert_eq!(bench.evicted(), [511]);
        bench.begin(address("192.0.2.1"), 1_000);
        assert_eq!(bench.evicted(), [0]);
    }

    #[test]
    fn a_waiting_auth_goes_after_all_that_have_sent_none() {
        let mut bench = Bench::new(4);
        let flood = bench.begin_many(address("198.51.100.1"), 4, 0);
        bench.handshakes.mark_judging(flood[0]);
        bench.handshakes.mark_received(flood[0]);
        bench.handshakes.mark_received(flood[1]);
        bench.handshakes.mark_received(flood[3]);
        for from in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
            bench.begin(address(from), 1_000);
        }
        assert_eq!(bench.evicted(), [2, 1, 3]);
    }

    #[test]
    fn handshakes_whose_client_is_not_known_yet_are_no_crowd() {
        let bench = Bench::new(4_096);
        let begin = |id, address| {
            let handshake = Handshake {
                address,
                accepted: at(0),
                shard: 0,
                slot: 0,
            };
            bench
                .handshakes
                .begin(id, handshake)
                .map(|evicted| evicted.id)
        };
        for id in 0..4_080 {
            assert_eq!(begin(id, None), None);
        }
        let crowd = Some(address("198.51.100.1"));
        for id in 4_080..4_096 {
            assert_eq!(begin(id, crowd), None);
        }
        assert_eq!(begin(4_096, None), Some(0), "nobody stands out: the oldest");
        assert_eq!(
            begin(4_097, crowd),
            Some(4_097),
            "a crowd of 17, none of them due"
        );
        bench.handshakes.set_address(1, address("198.51.100.1"));
        assert_eq!(
            begin(4_098, None),
            Some(4_095),
            "the newest of a crowd of 17"
        );
    }

    #[test]
    fn on_a_full_edge_a_crowd_makes_room_for_others_but_not_for_itself() {
        let mut bench = Bench::new(4_096);
        let displaced = |bench: &Bench, from: &str| {
            let displaced = bench.handshakes.displace(Some(address(from)), None, at(0));
            displaced.map(|evicted| evicted.id)
        };
        bench.begin_many(address("198.51.100.1"), 16, 0);
        assert_eq!(displaced(&bench, "192.0.2.1"), None, "16 are no crowd");
        bench.begin(address("198.51.100.1"), 0);
        assert_eq!(displaced(&bench, "198.51.100.1"), None);
        assert_eq!(displaced(&bench, "192.0.2.1"), Some(16));
        assert_eq!(displaced(&bench, "192.0.2.1"), None);
        // A crowded network.
        for number in 0..=256_u32 {
            let host = number % 256;
            bench.begin(address(&format!("203.0.113.{host}")), 0);
        }
        assert_eq!(displaced(&bench, "203.0.113.7"), None);
        assert!(displaced(&bench, "192.0.2.1").is_some());
        assert_eq!(displaced(&bench, "192.0.2.1"), None);
    }

    #[test]
    fn on_a_full_edge_the_oldest_makes_room_once_it_is_due_if_no_address_stands_out() {
        let mut bench = Bench::new(4_096);
        for number in 0..20_u32 {
            bench.begin(address(&format!("198.51.{number}.1")), u64::from(number));
        }
        let displaced = |ms, shard| {
            let from = Some(address("192.0.2.1"));
            let displaced = bench.handshakes.displace(from, shard, at(ms));
            displaced.map(|evicted| evicted.id)
        };
        assert_eq!(displaced(999, None), None);
        assert_eq!(displaced(1_000, Some(2)), None, "all are on shard 3");
        assert_eq!(displaced(1_000, None), Some(0));
        assert_eq!(displaced(1_000, None), None);
        assert_eq!(displaced(1_002, Some(3)), Some(1));
        assert_eq!(displaced(1_002, None), Some(2));
        assert_eq!(displaced(1_002, None), None);
    }

    #[test]
    fn a_full_shard_displaces_only_its_own_handshakes() {
        let mut bench = Bench::new(4_096);
        bench.begin_many(address("198.51.100.1"), 18, 0);
        let displaced = |from: &str, shard| {
            let from = Some(address(from));
            let evicted = bench.handshakes.displace(from, Some(shard), at(0));
            evicted.map(|evicted| evicted.id)
        };
        assert_eq!(displaced("192.0.2.1", 2), None, "all are on shard 3");
        assert_eq!(displaced("192.0.2.1", 3), Some(17));
        assert_eq!(displaced("198.51.100.1", 3), None);
    }

    #[test]
    fn those_without_a_byte_go_first_then_the_oldest() {
        let mut bench = Bench::new(4);
        let flood = bench.begin_many(address("198.51.100.1"), 4, 0);
        bench.handshakes.mark_received(flood[0]);
        bench.handshakes.mark_received(flood[2]);
        for from in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
            bench.begin(address(from), 1_000);
        }
        assert_eq!(bench.evicted(), [1, 3, 0]);
    }

    #[test]
    fn one_that_was_heard_and_is_due_goes_before_a_silent_one_that_is_not() {
        let mut bench = Bench::new(4);
        let heard = bench.begin(address("198.51.100.1"), 0);
        bench.handshakes.mark_received(heard);
        bench.begin_many(address("198.51.100.1"), 3, 500);
        bench.begin(address("192.0.2.1"), 1_000);
        assert_eq!(bench.evicted(), [heard]);
    }

    #[test]
    fn a_flood_from_one_24_pushes_out_only_itself() {
        let mut bench = Bench::new(4_096);
        let honest = bench.begin_many(address("192.0.2.1"), 16, 0);
        for number in 0..6_000_usize {
            let host = u8::try_from(number % 256).unwrap();
            let ms = 10 + number as u64;
            bench.begin(address(&format!("198.51.100.{host}")), ms);
        }
        assert_eq!(bench.evicted().len(), 6_000 + 16 - 4_096);
        let newcomers = bench.begin_many(address("192.0.2.2"), 16, 6_010);
        assert_eq!(bench.evicted().len(), 16);
        let open = bench.open();
        assert!(honest.iter().chain(&newcomers).all(|id| open.contains(id)));
    }

    #[test]
    fn a_flood_from_one_ipv6_48_pushes_out_only_itself() {
        let mut bench = Bench::new(4_096);
        let honest = bench.begin_many(address("2001:db8:1::1"), 16, 0);
        for number in 0..6_000_u64 {
            // Each from a /64 of its own.
            let from = format!("2001:db8:666:{number:x}::1");
            bench.begin(address(&from), 10 + number);
        }
        let evicted = bench.evicted();
        assert_eq!(evicted.len(), 6_000 + 16 - 4_096);
        assert!(
            evicted.windows(2).all(|pair| pair[0] < pair[1]),
            "oldest first"
        );
        let newcomers = bench.begin_many(address("2001:db8:1:2::1"), 16, 6_010);
        let open = bench.open();
        assert!(honest.iter().chain(&newcomers).all(|id| open.contains(id)));
    }

    #[test]
    fn many_hosts_of_one_64_are_one_address() {
        let mut bench = Bench::new(512);
        let honest = bench.begin(address("2001:db8:1::1"), 0);
        for number in 0..2_000_u64 {
            bench.begin(address(&format!("2001:db8:666::{number:x}")), number);
        }
        assert!(bench.open().contains(&honest));
    }

    #[test]
    fn in_a_flood_from_everywhere_the_oldest_goes_first_and_every_newcomer_gets_in() {
        let mut bench = Bench::new(4_096);
        let from = |number: u32| address(&IpAddr::from((number << 8).to_be_bytes()).to_string());
        for number in 0..4_096 {
            bench.begin(from(number), 0);
        }
        for number in 4_096..6_000 {
            // Faster than the grace, and even if it has received a byte.
            bench.handshakes.mark_received(u64::from(number - 4_096));
            let newcomer = bench.begin(from(number), 100);
            assert_eq!(bench.evicted(), [newcomer - 4_096]);
        }
        assert_eq!(bench.open().len(), 4_096);
    }

    #[test]
    fn an_office_behind_one_address_is_spared_in_a_flood_from_everywhere() {
        let mut bench = Bench::new(4_096);
        for number in 0..4_080_u32 {
            bench.begin(
                address(&IpAddr::from((number << 8).to_be_bytes()).to_string()),
                0,
            );
        }
        let office = bench.begin_many(address("192.0.2.1"), 16, 1);
        bench.begin(address("203.0.113.1"), 2);
        assert_eq!(bench.evicted(), [0]);
        assert!(office.iter().all(|id| bench.open().contains(id)));
    }

    #[test]
    fn a_handshake_that_has_ended_makes_room_and_is_not_evicted() {
        let mut bench = Bench::new(2);
        let ids = bench.begin_many(address("192.0.2.1"), 2, 0);
        bench.handshakes.end(ids[0]);
        bench.begin(address("192.0.2.1"), 5_000);
        assert_eq!(bench.evicted(), NOBODY);
        bench.begin(address("192.0.2.1"), 5_000);
        assert_eq!(bench.evicted(), [ids[1]]);
        // Later steps of an evicted handshake have no effect.
        bench.handshakes.mark_received(ids[1]);
        bench.handshakes.set_address(ids[1], address("192.0.2.9"));
        bench.handshakes.end(ids[1]);
        assert_eq!(bench.open(), [2, 3]);
    }

    #[test]
    fn a_handshake_counts_towards_its_new_address() {
        let mut bench = Bench::new(4);
        let balancer = address("10.0.0.1");
        let behind = bench.begin_many(balancer, 4, 0);
        for id in &behind[1..] {
            bench.handshakes.set_address(*id, address("198.51.100.1"));
        }
        bench.handshakes.mark_received(behind[0]);
        bench.begin(address("192.0.2.1"), 1_000);
        assert_eq!(bench.evicted(), [behind[1]]);
        bench.open();
    }

    /// A random step of a client.
    #[derive(Clone, Debug)]
    enum Step {
        Begin { host: u8, wait_ms: u64 },
        Receive(prop::sample::Index),
        End(prop::sample::Index),
        Move(prop::sample::Index, u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let which = any::<prop::sample::Index>;
        // Low numbers are more frequent, so that some addresses have many handshakes.
        let host = || (0_u8..12, 0_u8..12).prop_map(|(a, b)| a.min(b));
        prop_oneof![
            6 => (host(), 0_u64..300).prop_map(|(host, wait_ms)| Step::Begin { host, wait_ms }),
            2 => which().prop_map(Step::Receive),
            1 => which().prop_map(Step::End),
            1 => (which(), host()).prop_map(|(which, host)| Step::Move(which, host)),
        ]
    }

    /// Twelve addresses in four prefixes, IPv4 and IPv6.
    fn host(number: u8) -> Address {
        match number % 4 {
            0 => Address::V4([192, 0, 2, number]),
            1 => Address::V4([198, 51, 100, number]),
            2 => Address::V6([0x20, 1, 0xd, 0xb8, 0, 1, 0, number]),
            _ => Address::V6([0x20, 1, 0xd, 0xb8, 0, 2, 0, number]),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// For any limit, an address that has no more handshakes than it may have loses none while
        /// another address has more than that. The loser is always the address with the most.
        #[test]
        fn an_honest_address_with_few_handshakes_is_never_evicted_while_another_has_more(
            len_max in 1_usize..300,
            steps in prop::collection::vec(step(), 1..800),
        ) {
            let mut bench = Bench::new(len_max);
            let mut current: BTreeMap<u64, Address> = BTreeMap::new();
            let mut now = 0;
            for step in steps {
                let pick = |which: &prop::sample::Index| {
                    let index = (!current.is_empty()).then(|| which.index(current.len()))?;
                    current.keys().nth(index).copied()
                };
                match step {
                    Step::Begin { host: number, wait_ms } => {
                        now += wait_ms;
                        let id = bench.begin(host(number), now);
                        current.insert(id, host(number));
                        let mut len_by_address = BTreeMap::new();
                        for address in current.values() {
                            *len_by_address.entry(*address).or_insert(0_usize) += 1;
                        }
                        let most = len_by_address.values().copied().max().unwrap();
                        let few = (len_max / 256).max(1);
                        let evicted = bench.evicted();
                        prop_assert_eq!(evicted.len(), usize::from(current.len() > len_max));
                        for evicted in evicted {
                            let loser = current.remove(&evicted).unwrap();
                            let had = len_by_address[&loser];
                            prop_assert!(most <= few || had == most, "{had} of {most}");
                        }
                    }
                    Step::Receive(which) => {
                        pick(&which).into_iter().for_each(|id| bench.handshakes.mark_received(id));
                    }
                    Step::End(which) => {
                        if let Some(id) = pick(&which) {
                            bench.handshakes.end(id);
                            current.remove(&id);
                        }
                    }
                    Step::Move(which, number) => {
                        if let Some(id) = pick(&which) {
                            bench.handshakes.set_address(id, host(number));
                            current.insert(id, host(number));
                        }
                    }
                }
            }
            prop_assert!(bench.open().iter().eq(current.keys()));
        }
    }
}
