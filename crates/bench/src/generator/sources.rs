//! [`ClientSources`]: the source addresses that clients connect from over loopback.

use std::net::{IpAddr, Ipv4Addr};

/// The number of clients per source address: less than half of the 28,000 ports that Linux assigns
/// for an address pair. Linux assigns ports of one parity first, and walks through all of those
/// again for each port of the other parity.
pub(crate) const CLIENTS_PER_SOURCE: u32 = 12_500;

/// Consecutive source addresses, each of them for a number of consecutive clients.
#[derive(Clone, Copy, Debug)]
pub struct ClientSources {
    /// The address of the first clients, within 127.0.0.0/8.
    pub first: Ipv4Addr,
    /// The number of clients per address, at least 1.
    pub clients_each: u32,
}

impl Default for ClientSources {
    /// Returns 127.0.0.2, 127.0.0.3 and so on, with as many clients each as ports allow.
    fn default() -> Self {
        Self {
            first: Ipv4Addr::new(127, 0, 0, 2),
            clients_each: CLIENTS_PER_SOURCE,
        }
    }
}

impl ClientSources {
    /// Returns the source address of a client.
    pub(super) fn of(self, number: u32) -> IpAddr {
        let index = number / self.clients_each.max(1);
        let address = u32::from(self.first).saturating_add(index);
        IpAddr::V4(Ipv4Addr::from(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_thousand_clients_use_eight_source_addresses() {
        let source = |number| ClientSources::default().of(number);
        assert_eq!(source(0), IpAddr::from([127, 0, 0, 2]));
        assert_eq!(source(12_499), IpAddr::from([127, 0, 0, 2]));
        assert_eq!(source(99_999), IpAddr::from([127, 0, 0, 9]));
        assert_eq!(source(12_499_999), IpAddr::from([127, 0, 3, 233]));
    }

    #[test]
    fn clients_can_have_an_address_each() {
        let sources = ClientSources {
            first: Ipv4Addr::new(127, 1, 0, 1),
            clients_each: 1,
        };
        assert_eq!(sources.of(0), IpAddr::from([127, 1, 0, 1]));
        assert_eq!(sources.of(999), IpAddr::from([127, 1, 3, 232]));
    }
}
