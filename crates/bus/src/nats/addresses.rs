//! [`Addresses`]: in which order the addresses of a server's name are tried. It remembers those
//! that were tried without success, so that the next attempt continues where the last one stopped,
//! and a name with many silent addresses hides none of the others. It resolves nothing itself.

use std::net::SocketAddr;

/// The most addresses of a name that are used. More would not fit into one answer over UDP.
const RESOLVED_MAX: usize = 64;

/// The addresses of one server.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// Those tried since [`Self::forget_attempts`], the latest last.
    tried: Vec<SocketAddr>,
    /// The number of addresses that the name had when it was last resolved.
    known: usize,
}

impl Addresses {
    /// Returns the order in which to try the addresses that the name has now: first those that were
    /// not tried, in the resolver's order, and then the others, the latest last.
    pub(super) fn order(
        &mut self,
        resolved: impl IntoIterator<Item = SocketAddr>,
    ) -> Vec<SocketAddr> {
        let mut order: Vec<SocketAddr> = Vec::new();
        for addr in resolved.into_iter().take(RESOLVED_MAX) {
            if !order.contains(&addr) {
                order.push(addr);
            }
        }
        self.known = order.len();
        self.tried.retain(|addr| order.contains(addr));
        let when = |addr: &SocketAddr| self.tried.iter().position(|tried| tried == addr);
        order.sort_by_key(when);
        order
    }

    /// Notes that an attempt at this address begins.
    pub(super) fn note_attempt(&mut self, addr: SocketAddr) {
        self.tried.retain(|tried| *tried != addr);
        self.tried.push(addr);
    }

    /// Notes that a connection to the server has worked, so that the resolver's order counts again.
    pub(super) fn forget_attempts(&mut self) {
        self.tried.clear();
    }

    /// Returns the number of addresses, or 1 if the name was not resolved yet.
    pub(super) fn count(&self) -> usize {
        self.known.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(last: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, last], 4_222))
    }

    fn addrs(last: &[u8]) -> Vec<SocketAddr> {
        last.iter().copied().map(addr).collect()
    }

    #[test]
    fn the_next_attempt_goes_on_where_the_last_one_stopped() {
        let mut addresses = Addresses::default();
        assert_eq!(addresses.count(), 1);
        assert_eq!(addresses.order(addrs(&[1, 2, 3, 4])), addrs(&[1, 2, 3, 4]));
        addresses.note_attempt(addr(1));
        addresses.note_attempt(addr(2));
        assert_eq!(addresses.order(addrs(&[1, 2, 3, 4])), addrs(&[3, 4, 1, 2]));
        // The resolver's order may change at any time.
        assert_eq!(addresses.order(addrs(&[4, 2, 3, 1])), addrs(&[4, 3, 1, 2]));
        for last in [4, 3, 1] {
            addresses.note_attempt(addr(last));
        }
        assert_eq!(addresses.order(addrs(&[1, 2, 3, 4])), addrs(&[2, 4, 3, 1]));
        assert_eq!(addresses.count(), 4);
        addresses.forget_attempts();
        assert_eq!(addresses.order(addrs(&[1, 2, 3, 4])), addrs(&[1, 2, 3, 4]));
    }

    #[test]
    fn an_address_that_the_name_no_longer_has_is_forgotten() {
        let mut addresses = Addresses::default();
        addresses.order(addrs(&[1, 2]));
        addresses.note_attempt(addr(1));
        assert_eq!(addresses.order(addrs(&[2, 2, 3])), addrs(&[2, 3]));
        assert_eq!(addresses.order(addrs(&[1, 2, 3])), addrs(&[1, 2, 3]));
    }

    #[test]
    fn the_number_of_addresses_is_bounded() {
        let mut addresses = Addresses::default();
        let many = (1..=200).map(addr);
        assert_eq!(addresses.order(many).len(), RESOLVED_MAX);
    }
}
