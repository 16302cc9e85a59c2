//! [`AddressLimits`]: MAX_CONNECTIONS_PER_IP and MAX_CONNECT_RATE_PER_IP.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tickstorm_timebase::Mono;

use super::address::Address;
use super::rates::Rates;

/// The time in which the allowance of new connections fills up, which is also the longest burst.
const RATE_PERIOD: Duration = Duration::from_secs(1);

/// The limits, and the connections of each address that count against them.
pub(super) struct AddressLimits {
    /// The most connections of an address; 0 means no limit.
    connections_max: u32,
    /// The number of open connections by address, for at most MAX_CONNECTIONS addresses. Empty
    /// without a limit.
    connections: Mutex<BTreeMap<Address, u32>>,
    rates: Rates,
}

impl AddressLimits {
    /// Creates limits on the connections and on the new connections per second of an address; 0
    /// means no limit.
    pub(super) fn new(connections_max: u32, rate: u32) -> Self {
        Self {
            connections_max,
            connections: Mutex::default(),
            rates: Rates::new(RATE_PERIOD, rate),
        }
    }

    /// Returns whether [`Self::enter`] counts connections, so that [`Self::leave`] must be called.
    pub(super) fn are_counted(&self) -> bool {
        self.connections_max > 0
    }

    /// Counts a new connection of `address`, which may have arrived at any time from `since` on.
    /// Returns false if the address has reached a limit.
    pub(super) fn enter(&self, address: Address, since: Mono, now: Mono) -> bool {
        if !self.are_counted() {
            return self.rates.take_since(address, 1, since, now);
        }
        let mut connections = self.connections();
        let open = connections.get(&address).copied().unwrap_or(0);
        if open >= self.connections_max || !self.rates.take_since(address, 1, since, now) {
            return false;
        }
        connections.insert(address, open + 1);
        true
    }

    /// Stops counting a connection of `address`.
    pub(super) fn leave(&self, address: Address) {
        let mut connections = self.connections();
        if let Some(open) = connections.get_mut(&address) {
            *open -= 1;
            if *open == 0 {
                connections.remove(&address);
            }
        }
    }

    fn connections(&self) -> MutexGuard<'_, BTreeMap<Address, u32>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
