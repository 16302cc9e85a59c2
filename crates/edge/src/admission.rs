//! Admission of connections: the process-wide limits, and those of each client address. They are
//! touched only at accept, at the first byte, at AUTH and at close, never while a tick is sent.
//! Nothing here waits, and nothing here closes a connection: the shards do what it decides.

mod address;
mod address_limits;
mod attempts;
mod connection_ids;
mod floods;
mod handshakes;
mod rates;
mod refusal;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus::IntGauge;
use tickstorm_timebase::Mono;
use tokio::sync::watch;

use self::address_limits::AddressLimits;
use self::connection_ids::ConnectionIds;
use self::handshakes::Handshakes;
use crate::ip_lists::IpLists;
pub(crate) use address::Address;
pub(crate) use attempts::{Attempts, Level, SlowWarning, Turn};
pub(crate) use connection_ids::{ConnectionId, ConnectionIdError};
pub(crate) use floods::{FloodKind, Floods};
pub(crate) use handshakes::{Evicted, Handshake};
pub(crate) use rates::Rates;
pub(crate) use refusal::Refusal;

/// The most connections beyond MAX_CONNECTIONS for which handshakes are about to be closed, mostly
/// by other shards. The file descriptors that are set aside are enough for them.
const DISPLACED_MAX: usize = 32;

/// The settings of an [`Admission`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdmissionLimits {
    /// MAX_CONNECTIONS, or less if there are not enough file descriptors.
    pub(crate) connections: usize,
    /// MAX_HANDSHAKES.
    pub(crate) handshakes: usize,
    /// MAX_CONNECTIONS_PER_IP; 0 means no limit.
    pub(crate) connections_per_address: u32,
    /// MAX_CONNECT_RATE_PER_IP, per second; 0 means no limit.
    pub(crate) connect_rate_per_address: u32,
}

/// The gauges that [`Admission`] keeps equal to its counts.
#[derive(Clone, Debug)]
pub(crate) struct AdmissionGauges {
    pub(crate) connections: IntGauge,
    pub(crate) handshakes: IntGauge,
}

/// The limits, and the counts that they bound.
pub(crate) struct Admission {
    connections_max: usize,
    connections: AtomicUsize,
    shown: IntGauge,
    ids: ConnectionIds,
    handshakes: Handshakes,
    lists: watch::Receiver<IpLists>,
    addresses: AddressLimits,
    floods: Floods,
}

/// A connection's share of MAX_CONNECTIONS, returned when dropped.
pub(crate) struct Permit {
    admission: Arc<Admission>,
}

/// A connection's share of its address's limits, returned when dropped.
pub(crate) struct AddressPermit {
    /// `None` if the number of connections per address is not limited.
    counted: Option<(Arc<Admission>, Address)>,
}

/// A handshake's share of MAX_HANDSHAKES, returned when dropped.
pub(crate) struct HandshakePermit {
    admission: Arc<Admission>,
    id: u64,
}

impl Admission {
    pub(crate) fn new(
        limits: AdmissionLimits,
        lists: watch::Receiver<IpLists>,
        shown: AdmissionGauges,
    ) -> Arc<Self> {
        let AdmissionLimits {
            connections: connections_max,
            handshakes,
            connections_per_address,
            connect_rate_per_address,
        } = limits;
        Arc::new(Self {
            connections_max,
            connections: AtomicUsize::new(0),
            shown: shown.connections,
            ids: ConnectionIds::new(),
            handshakes: Handshakes::new(handshakes, shown.handshakes),
            lists,
            addresses: AddressLimits::new(connections_per_address, connect_rate_per_address),
            floods: Floods::default(),
        })
    }

    /// Returns the most connections that are admitted at the same time.
    pub(crate) fn connections_max(&self) -> usize {
        self.connections_max
    }

    /// Returns the number of connections that are admitted.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Returns the number of accepted connections that have ended, including those that linger.
    pub(crate) fn ended(&self) -> u64 {
        let open = u64::try_from(self.connections()).unwrap_or(u64::MAX);
        self.ids.given().saturating_sub(open)
    }

    /// Returns a number that no other connection of this process has had.
    pub(crate) fn next_id(&self) -> u64 {
        self.ids.next()
    }

    /// Returns the id by which clients, logs and operators know the connection with this number.
    pub(crate) fn connection_id(&self, number: u64) -> ConnectionId {
        self.ids.id_of(number)
    }

    /// Returns the number of the connection with the id that `text` is.
    pub(crate) fn number_of(&self, text: &str) -> Result<u64, ConnectionIdError> {
        self.ids.number_of(text)
    }

    /// Decides whether a client at `ip` may connect: checks IP_BLOCKLIST, IP_ALLOWLIST and the
    /// limits of its address. Called once for each connection, as soon as the client's address is
    /// known. Returns a permit that must be kept as long as the connection is open, or the reason
    /// to refuse it. If the edge was stalled, the client may have arrived at any time from `since`
    /// on; otherwise `since` is `now`.
    pub(crate) fn screen(
        self: &Arc<Self>,
        ip: IpAddr,
        since: Mono,
        now: Mono,
    ) -> Result<AddressPermit, Refusal> {
        let address = Address::from(ip);
        if !self.lists.borrow().permit(ip) {
            self.floods.note(FloodKind::Blocked, address);
            return Err(Refusal::Blocked);
        }
        if !self.addresses.enter(address, since, now) {
            self.floods.note(FloodKind::TooMany, address);
            return Err(Refusal::TooManyConnections);
        }
        let counted = self
            .addresses
            .are_counted()
            .then(|| (Arc::clone(self), address));
        Ok(AddressPermit { counted })
    }

    /// Returns a permit for one more connection, or `None` if MAX_CONNECTIONS is used up.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Permit> {
        self.enter_below(self.connections_max)
    }

    /// Returns a permit for a connection from `address` although MAX_CONNECTIONS is used up, and
    /// the handshake that must be closed for it: one of another address or prefix that has too
    /// many, or else the oldest if it is due. If only one `shard` is full, the handshake must be
    /// one of that shard. Returns `None` if there is none.
    pub(crate) fn displace(
        self: &Arc<Self>,
        address: Option<Address>,
        shard: Option<usize>,
        now: Mono,
    ) -> Option<(Permit, Evicted)> {
        let permit = self.enter_below(self.connections_max + DISPLACED_MAX)?;
        let evicted = self.handshakes.displace(address, shard, now)?;
        Some((permit, evicted))
    }

    fn enter_below(self: &Arc<Self>, connections_max: usize) -> Option<Permit> {
        if !increment_below(&self.connections, connections_max) {
            return None;
        }
        self.shown.inc();
        Some(Permit {
            admission: Arc::clone(self),
        })
    }

    /// Counts connection `id` as a handshake: it has not authenticated yet. If this exceeds
    /// MAX_HANDSHAKES, also returns the handshake that must be closed for it, which no longer
    /// counts. That may be this one.
    pub(crate) fn begin_handshake(
        self: &Arc<Self>,
        id: u64,
        handshake: Handshake,
    ) -> (HandshakePermit, Option<Evicted>) {
        let evicted = self.handshakes.begin(id, handshake);
        let admission = Arc::clone(self);
        (HandshakePermit { admission, id }, evicted)
    }

    /// Returns the events that are summarised in the log.
    pub(crate) fn floods(&self) -> &Floods {
        &self.floods
    }
}

impl HandshakePermit {
    /// Notes that the first byte was received. Handshakes without a byte are closed first.
    pub(crate) fn mark_received(&self) {
        self.admission.handshakes.mark_received(self.id);
    }

    /// Notes that the AUTH waits until it is judged. Handshakes without an AUTH are closed first.
    pub(crate) fn mark_judging(&self) {
        self.admission.handshakes.mark_judging(self.id);
    }

    /// Changes the address that the handshake counts towards: to that of the client, if the
    /// connection was accepted from a load balancer.
    pub(crate) fn set_address(&self, address: Address) {
        self.admission.handshakes.set_address(self.id, address);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.connections.fetch_sub(1, Ordering::Relaxed);
        self.admission.shown.dec();
    }
}

impl AddressPermit {
    /// Returns the permit of a load balancer's connection, which the limits do not concern. That of
    /// the client replaces it.
    pub(crate) fn exempt() -> Self {
        Self { counted: None }
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        if let Some((admission, address)) = &self.counted {
            admission.addresses.leave(*address);
        }
    }
}

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        self.admission.handshakes.end(self.id);
    }
}

/// Increments `counter` unless it has reached `max`; returns whether it did.
fn increment_below(counter: &AtomicUsize, max: usize) -> bool {
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            (count < max).then_some(count + 1)
        })
        .is_ok()
}

#[cfg(test)]
impl AdmissionGauges {
    pub(crate) fn unregistered() -> Self {
        let gauge = |name| IntGauge::new(name, "Shown.").expect("a valid name");
        Self {
            connections: gauge("connections"),
            handshakes: gauge("handshakes"),
        }
    }
}

#[cfg(test)]
impl AdmissionLimits {
    /// Limits that no test reaches.
    pub(crate) const NONE: Self = Self {
        connections: 1_000_000,
        handshakes: 1_000_000,
        connections_per_address: 0,
        connect_rate_per_address: 0,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn admission(limits: AdmissionLimits, lists: IpLists) -> Arc<Admission> {
        let lists = watch::channel(lists).1;
        Admission::new(limits, lists, AdmissionGauges::unregistered())
    }

    fn lists(allowed: Option<&str>, blocked: &str) -> IpLists {
        let networks = |text: &str| tickstorm_service::env::Value::parse(text, &()).unwrap();
        IpLists {
            allowed: allowed.map(networks),
            blocked: networks(blocked),
        }
    }

    #[test]
    fn no_more_than_max_connections_are_admitted_at_the_same_time() {
        let limits = AdmissionLimits {
            connections: 2,
            ..AdmissionLimits::NONE
        };
        let admission = admission(limits, IpLists::default());
        let kept = [admission.enter().unwrap(), admission.enter().unwrap()];
        assert!(admission.enter().is_none());
        assert_eq!((admission.connections(), admission.shown.get()), (2, 2));
        drop(kept);
        assert_eq!((admission.connections(), admission.shown.get()), (0, 0));
        assert!(admission.enter().is_some());
    }

    #[test]
    fn a_handshake_counts_until_its_permit_is_dropped() {
        let limits = AdmissionLimits {
            handshakes: 2,
            ..AdmissionLimits::NONE
        };
        let admission = admission(limits, IpLists::default());
        let begin = |id, from| {
            let handshake = Handshake {
                address: Some(ip(from).into()),
                accepted: at(0),
                shard: 0,
                slot: 0,
            };
            admission.begin_handshake(id, handshake)
        };
        let (first, _) = begin(1, "10.0.0.1");
        first.mark_received();
        first.set_address(ip("192.0.2.1").into());
        let (second, none) = begin(2, "192.0.2.1");
        assert_eq!(none, None);
        drop(second);
        let (_third, none) = begin(3, "192.0.2.1");
        assert_eq!(none, None);
        let (_fourth, evicted) = begin(4, "192.0.2.1");
        assert_eq!(evicted.map(|evicted| evicted.id), Some(4));
    }

    #[test]
    fn a_blocked_address_is_refused_even_if_it_is_allowed() {
        let lists = lists(Some("10.0.0.0/8, 2001:db8::/32"), "10.6.6.0/24");
        let admission = admission(AdmissionLimits::NONE, lists);
        let screen = |text| admission.screen(ip(text), at(0), at(0)).err();
        for allowed in ["10.0.0.1", "::ffff:10.0.0.1", "2001:db8:1::1"] {
            assert_eq!(screen(allowed), None, "{allowed}");
        }
        for refused in ["10.6.6.1", "::ffff:10.6.6.1", "11.0.0.1", "2001:db9::1"] {
            assert_eq!(screen(refused), Some(Refusal::Blocked), "{refused}");
        }
    }

    #[test]
    fn a_changed_list_applies_to_the_next_connection() {
        let (sender, receiver) = watch::channel(IpLists::default());
        let gauges = AdmissionGauges::unregistered();
        let admission = Admission::new(AdmissionLimits::NONE, receiver, gauges);
        let running = admission.screen(ip("192.0.2.1"), at(0), at(0));
        assert!(running.is_ok());
        sender.send_replace(lists(None, "192.0.2.0/24"));
        let refused = admission.screen(ip("192.0.2.1"), at(0), at(0)).err();
        assert_eq!(refused, Some(Refusal::Blocked));
        sender.send_replace(IpLists::default());
        assert!(admission.screen(ip("192.0.2.1"), at(0), at(0)).is_ok());
    }

    #[test]
    fn connections_of_an_address_are_limited_and_counted_until_they_end() {
        let limits = AdmissionLimits {
            connections_per_address: 2,
            ..AdmissionLimits::NONE
        };
        let admission = admission(limits, IpLists::default());
        let screen = |text| admission.screen(ip(text), at(0), at(0));
        let kept = [screen("2001:db8::1").ok(), screen("2001:db8::2").ok()];
        assert!(kept.iter().all(Option::is_some));
        let third = screen("2001:db8::3").err();
        assert_eq!(third, Some(Refusal::TooManyConnections));
        assert!(screen("2001:db8:0:1::1").is_ok(), "another /64");
        assert!(screen("2001:db8:0:1::1").is_ok(), "the first one has ended");
        drop(kept);
        assert!(screen("2001:db8::3").is_ok());
    }

    #[test]
    fn new_connections_of_an_address_are_limited_to_a_seconds_worth() {
        let limits = AdmissionLimits {
            connect_rate_per_address: 4,
            ..AdmissionLimits::NONE
        };
        let admission = admission(limits, IpLists::default());
        let accepted = |text, ms| {
            let each = (0..10).map(|_| admission.screen(ip(text), at(ms), at(ms)));
            each.filter(Result::is_ok).count()
        };
        assert_eq!(accepted("192.0.2.1", 0), 4);
        assert_eq!(accepted("::ffff:192.0.2.1", 249), 0);
        assert_eq!(accepted("192.0.2.1", 250), 1);
        assert_eq!(accepted("192.0.2.2", 250), 4);
        assert_eq!(accepted("192.0.2.1", 5_000), 4);
    }
}
