//! AUTH_RATE_LIMIT: which addresses may try to authenticate. For the whole process this counts
//! failed AUTHs by address and minute, and authenticated connections by address. It is touched only
//! at AUTH and close. It is given the time and only decides; the shard sends the answers and times
//! them.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tickstorm_timebase::Mono;

/// The time for which failures count, measured from the first one.
const MINUTE: Duration = Duration::from_secs(60);
/// The most addresses whose failures are remembered, which takes about 8 MB. At the limit, the
/// address whose minute is the oldest is forgotten first.
const ADDRESSES_MAX: usize = 65_536;
/// The most expired minutes that one call clears away, which takes a few microseconds.
const FORGOTTEN_MAX: usize = 16;
/// An address with this many authenticated connections is taken for a load balancer or a NAT.
/// Refusing it would shut out every client behind it.
const SHARED_CONNECTIONS_MIN: u32 = 100;
/// The shortest time between two warnings about failures at shared addresses.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// A client's address as the limits see it: an IPv4 address, or an IPv6 /64 network, since a single
/// host usually has a /64 to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Address {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip.octets()),
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, h, ..] = ip.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// The way to answer a failed AUTH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureAnswer {
    /// Immediately.
    Now,
    /// After a delay, which slows down guessing from an address that can't be refused. `warn` is
    /// true if a warning to the operator is due.
    Late { warn: bool },
}

/// AUTH_RATE_LIMIT, and the attempts that count against it.
pub(crate) struct Attempts {
    /// Failures per minute and address; 0 turns the limit off.
    failures_max: u32,
    table: Mutex<AttemptTable>,
}

/// The failures of one address.
#[derive(Clone, Copy, Debug)]
struct Failures {
    /// The time of the first one.
    since: Mono,
    count: u32,
}

#[derive(Default)]
struct AttemptTable {
    authenticated: BTreeMap<Address, u32>,
    failures: BTreeMap<Address, Failures>,
    /// The start of the minute of each entry of `failures`, oldest first.
    minutes: VecDeque<(Mono, Address)>,
    warned: Option<Mono>,
}

/// Counts an authenticated connection towards its address until dropped.
pub(crate) struct Authenticated {
    attempts: Arc<Attempts>,
    address: Address,
}

impl Attempts {
    pub(crate) fn new(failures_max: u32) -> Arc<Self> {
        Arc::new(Self {
            failures_max,
            table: Mutex::default(),
        })
    }

    /// Returns whether an AUTH from `address` may be checked at all. Shards that ask at the same
    /// moment may each let one more attempt through.
    pub(crate) fn may_try(&self, address: Address, now: Mono) -> bool {
        let mut table = self.table();
        table.forget(now);
        let failures = table.failures_of(address, now);
        self.failures_max == 0 || failures < self.failures_max || table.is_shared(address)
    }

    /// Counts a failure and returns how it must be answered.
    pub(crate) fn fail(&self, address: Address, now: Mono) -> FailureAnswer {
        if self.failures_max == 0 {
            return FailureAnswer::Now;
        }
        let mut table = self.table();
        table.forget(now);
        table.count(address, now);
        if !table.is_shared(address) {
            return FailureAnswer::Now;
        }
        let warn = table.warned.is_none_or(|at| now.since(at) >= WARN_INTERVAL);
        if warn {
            table.warned = Some(now);
        }
        FailureAnswer::Late { warn }
    }

    /// Counts an authenticated connection until the returned guard is dropped.
    pub(crate) fn succeed(self: &Arc<Self>, address: Address) -> Authenticated {
        *self.table().authenticated.entry(address).or_default() += 1;
        let attempts = Arc::clone(self);
        Authenticated { attempts, address }
    }

    fn table(&self) -> MutexGuard<'_, AttemptTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AttemptTable {
    fn is_shared(&self, address: Address) -> bool {
        let connections = self.authenticated.get(&address);
        connections.is_some_and(|connections| *connections >= SHARED_CONNECTIONS_MIN)
    }

    fn failures_of(&self, address: Address, now: Mono) -> u32 {
        let failures = self.failures.get(&address);
        failures
            .filter(|failures| now.since(failures.since) < MINUTE)
            .map_or(0, |failures| failures.count)
    }

    fn count(&mut self, address: Address, now: Mono) {
        if let Some(failures) = self.failures.get_mut(&address)
            && now.since(failures.since) < MINUTE
        {
            failures.count = failures.count.saturating_add(1);
            return;
        }
        if self.minutes.len() == ADDRESSES_MAX {
            self.forget_oldest();
        }
        let first = Failures {
            since: now,
            count: 1,
        };
        self.failures.insert(address, first);
        self.minutes.push_back((now, address));
    }

    /// Forgets expired minutes: more of them than one AUTH can add, so that they can't pile up, but
    /// few enough that no tick is delayed.
    fn forget(&mut self, now: Mono) {
        for _ in 0..FORGOTTEN_MAX {
            match self.minutes.front() {
                Some((began, _)) if now.since(*began) >= MINUTE => self.forget_oldest(),
                Some(_) | None => return,
            }
        }
    }

    fn forget_oldest(&mut self) {
        let Some((began, address)) = self.minutes.pop_front() else {
            return;
        };
        // The address may have begun a later minute, which has its own entry in `minutes`.
        if self
            .failures
            .get(&address)
            .is_some_and(|failures| failures.since == began)
        {
            self.failures.remove(&address);
        }
    }
}

impl Drop for Authenticated {
    fn drop(&mut self) {
        let mut table = self.attempts.table();
        if let Some(connections) = table.authenticated.get_mut(&self.address) {
            *connections -= 1;
            if *connections == 0 {
                table.authenticated.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u32 = 10;

    fn at(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn numbered(number: usize) -> Address {
        Address::V4(u32::try_from(number).unwrap().to_be_bytes())
    }

    fn fail_until_refused(attempts: &Attempts, address: Address, now: Mono) -> u32 {
        let mut failures = 0;
        while attempts.may_try(address, now) {
            assert_eq!(attempts.fail(address, now), FailureAnswer::Now);
            failures += 1;
        }
        failures
    }

    fn share(attempts: &Arc<Attempts>, address: Address, connections: u32) -> Vec<Authenticated> {
        let each = 0..connections;
        each.map(|_| attempts.succeed(address)).collect()
    }

    #[test]
    fn the_limit_holds_for_a_minute_from_the_first_failure() {
        let attempts = Attempts::new(LIMIT);
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        assert_eq!(attempts.fail(one, at(1_000)), FailureAnswer::Now);
        assert_eq!(fail_until_refused(&attempts, one, at(50_000)), LIMIT - 1);
        assert!(attempts.may_try(other, at(50_000)));
        assert!(!attempts.may_try(one, at(60_999)));
        assert!(attempts.may_try(one, at(61_000)));
        assert_eq!(fail_until_refused(&attempts, one, at(61_000)), LIMIT);
        assert!(!attempts.may_try(one, at(120_999)));
        assert!(attempts.may_try(one, at(121_000)));
    }

    #[test]
    fn zero_means_no_limit() {
        let attempts = Attempts::new(0);
        let one = address("192.0.2.1");
        let _shared = share(&attempts, one, SHARED_CONNECTIONS_MIN);
        for _ in 0..1_000 {
            assert_eq!(attempts.fail(one, at(0)), FailureAnswer::Now);
        }
        assert!(attempts.may_try(one, at(0)));
    }

    #[test]
    fn an_ipv6_64_is_one_address_and_a_mapped_address_equals_its_ipv4_address() {
        assert_eq!(
            address("2001:db8:0:7::1"),
            address("2001:db8:0:7:ffff:ffff:ffff:ffff")
        );
        assert_ne!(address("2001:db8:0:7::1"), address("2001:db8:0:8::1"));
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
        assert_ne!(address("192.0.2.1"), address("192.0.2.2"));
    }

    #[test]
    fn a_shared_address_is_never_refused_and_its_failures_are_answered_late() {
        let attempts = Attempts::new(LIMIT);
        let one = address("192.0.2.1");
        let mut connections = share(&attempts, one, SHARED_CONNECTIONS_MIN - 1);
        assert_eq!(fail_until_refused(&attempts, one, at(0)), LIMIT);
        connections.push(attempts.succeed(one));
        for _ in 0..100 {
            assert!(attempts.may_try(one, at(1)));
            assert!(matches!(
                attempts.fail(one, at(1)),
                FailureAnswer::Late { .. }
            ));
        }
        connections.pop();
        assert!(
            !attempts.may_try(one, at(2)),
            "failures at a shared address still count"
        );
        drop(connections);
        assert!(attempts.table().authenticated.is_empty());
    }

    #[test]
    fn failures_at_shared_addresses_cause_one_warning_per_minute() {
        let attempts = Attempts::new(LIMIT);
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        let _connections = [one, other].map(|each| share(&attempts, each, SHARED_CONNECTIONS_MIN));
        let warns =
            |address, ms| attempts.fail(address, at(ms)) == FailureAnswer::Late { warn: true };
        assert!(warns(one, 0));
        assert!(!warns(other, 59_999));
        assert!(warns(other, 60_000));
        assert!(!warns(one, 60_001));
    }

    #[test]
    fn a_full_table_forgets_the_oldest_minute_first() {
        let attempts = Attempts::new(1);
        for number in 0..ADDRESSES_MAX {
            attempts.fail(numbered(number), at(0));
        }
        assert!(!attempts.may_try(numbered(0), at(1)));
        attempts.fail(numbered(ADDRESSES_MAX), at(1));
        assert!(attempts.may_try(numbered(0), at(1)));
        for number in 1..=ADDRESSES_MAX {
            assert!(!attempts.may_try(numbered(number), at(1)), "{number}");
        }
        let table = attempts.table();
        assert_eq!(table.failures.len(), ADDRESSES_MAX);
        assert_eq!(table.minutes.len(), ADDRESSES_MAX);
    }

    #[test]
    fn expired_minutes_do_not_count_and_are_forgotten_a_few_at_a_time() {
        let attempts = Attempts::new(1);
        for number in 0..100 {
            attempts.fail(numbered(number), at(0));
        }
        for number in 0..100 {
            assert!(attempts.may_try(numbered(number), at(60_000)), "{number}");
        }
        assert!(attempts.table().failures.is_empty() && attempts.table().minutes.is_empty());
        for number in 0..100 {
            attempts.fail(numbered(number), at(60_000));
        }
        assert!(attempts.may_try(numbered(200), at(120_000)));
        let left = 100 - FORGOTTEN_MAX;
        assert_eq!(attempts.table().minutes.len(), left, "no more in one call");
        // An address that has not been forgotten yet begins a new minute.
        assert_eq!(attempts.fail(numbered(99), at(120_001)), FailureAnswer::Now);
        for _ in 0..100 {
            attempts.may_try(numbered(200), at(120_002));
        }
        assert!(!attempts.may_try(numbered(99), at(120_002)));
        assert_eq!(attempts.table().failures.len(), 1);
    }
}
