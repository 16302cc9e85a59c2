//! [`Addresses`]: which of an edge cluster's addresses to try next, and whether briefly. An address
//! that refused this client rests for a while, and the others are tried meanwhile: a password that
//! one edge does not know yet may be right at all others. For the same reason, all IP addresses of
//! a name are tried before it rests. This module does no I/O.

use std::time::Duration;

use tickstorm_timebase::Mono;

use crate::backoff::fraction;

/// The shortest rest of an address whose edge refused this client for a reason that will recur. It
/// is finite because a password or an edge may be in the middle of a change.
const REFUSED_REST_MIN: Duration = Duration::from_secs(60);
/// The upper bound of the random time that is added to the first such rest. It doubles with each
/// further refusal at the address.
const BOUND_MIN: Duration = Duration::from_secs(1);
/// The highest upper bound of that random time.
const BOUND_MAX: Duration = Duration::from_secs(30);
/// The largest number of refusals in a row before an address rests, however many IP addresses its
/// name has.
const REFUSALS_IN_A_ROW_MAX: usize = 16;

/// The addresses in the order in which the options give them; never empty.
#[derive(Debug)]
pub(crate) struct Addresses {
    states: Vec<AddressState>,
    current: usize,
    /// The address of the last attempt that was made beside the connection in use.
    tried: Option<usize>,
}

#[derive(Debug, Default)]
struct AddressState {
    /// The number of rests because of a refusal since a subscription was last made there.
    refusals: u32,
    rests_until: Mono,
    /// The number of IP addresses that the name had at the last connection.
    ip_addresses: usize,
    /// The number of attempts in a row that were refused. It starts again after each rest.
    refused_in_a_row: usize,
    /// Whether an attempt was made here since the last subscription.
    was_tried: bool,
}

impl Addresses {
    /// Starts at the first of `count` addresses.
    pub(crate) fn new(count: usize) -> Self {
        Self {
            states: (0..count.max(1)).map(|_| AddressState::default()).collect(),
            current: 0,
            tried: None,
        }
    }

    /// Returns the index of the address that is in use, or was tried last.
    pub(crate) fn current(&self) -> usize {
        self.current
    }

    pub(crate) fn count(&self) -> usize {
        self.states.len()
    }

    /// Makes the address with this index the one in use.
    pub(crate) fn select(&mut self, index: usize) {
        self.current = index;
        self.tried = None;
    }

    /// Records that an attempt was made at an address while another one was in use, so that the
    /// next attempt is made at the address after it.
    pub(crate) fn handle_attempt(&mut self, index: usize) {
        self.tried = Some(index);
    }

    /// Records that an attempt is made at the address in use. Returns whether it must be brief,
    /// because another address may be tried now, and was not tried since the last subscription.
    pub(crate) fn handle_attempt_in_use(&mut self, now: Mono) -> bool {
        self.states[self.current].was_tried = true;
        self.states
            .iter()
            .any(|state| !state.was_tried && state.rests_until <= now)
    }

    /// Records that a connection was made to an address, whose name has so many IP addresses.
    pub(crate) fn handle_connection(&mut self, index: usize, ip_addresses: usize) {
        self.states[index].ip_addresses = ip_addresses;
    }

    /// Records that a connection to an address ended, or was not made. Returns whether the address
    /// must rest: if it `is_refused`, unless another IP address of its name may lead to another
    /// edge.
    pub(crate) fn handle_failure(&mut self, index: usize, is_refused: bool) -> bool {
        let state = &mut self.states[index];
        if !is_refused {
            state.refused_in_a_row = 0;
            return false;
        }
        state.refused_in_a_row += 1;
        let must_rest = state.refused_in_a_row >= state.ip_addresses.min(REFUSALS_IN_A_ROW_MAX);
        if must_rest {
            state.refused_in_a_row = 0;
        }
        must_rest
    }

    /// Returns whether the next attempt at this address leads to another IP address of its name,
    /// because an edge at the last one has refused this client.
    pub(crate) fn has_more_edges(&self, index: usize) -> bool {
        self.states[index].refused_in_a_row > 0
    }

    /// Lets an address rest, because the edges there refused this client, and will again. `random`
    /// is any number, a different one each time.
    pub(crate) fn handle_refusal(&mut self, index: usize, now: Mono, random: u32) {
        let state = &mut self.states[index];
        let bound = BOUND_MIN
            .saturating_mul(2_u32.saturating_pow(state.refusals))
            .min(BOUND_MAX);
        let drawn = fraction(bound, random);
        state.refusals = state.refusals.saturating_add(1);
        state.rests_until = now + REFUSED_REST_MIN + drawn;
    }

    /// Lets an address rest, because its edge is of no use for that long.
    pub(crate) fn rest(&mut self, index: usize, until: Mono) {
        let state = &mut self.states[index];
        state.rests_until = state.rests_until.max(until);
    }

    /// Records that a subscription was made at an address.
    pub(crate) fn handle_success(&mut self, index: usize) {
        self.states[index] = AddressState {
            ip_addresses: self.states[index].ip_addresses,
            ..AddressState::default()
        };
        for state in &mut self.states {
            state.was_tried = false;
        }
    }

    /// Returns the index of the address to try after `index`, and from when on. That is the same
    /// one while its name has more edges, or the next one that does not rest at `now`, or else the
    /// one that rests for the shortest time.
    pub(crate) fn after(&self, index: usize, now: Mono) -> (usize, Mono) {
        if self.has_more_edges(index) {
            return (index, self.states[index].rests_until.max(now));
        }
        let count = self.states.len();
        (1..=count)
            .map(|step| (index + step) % count)
            .map(|next| (next, self.states[next].rests_until.max(now)))
            .min_by_key(|&(_, from)| from)
            .expect("there is at least one address")
    }

    /// Moves on to the next address, and returns from when on it may be tried.
    pub(crate) fn advance(&mut self, now: Mono) -> Mono {
        let last = self.tried.unwrap_or(self.current);
        let (next, from) = self.after(last, now);
        self.select(next);
        from
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Mono = Mono::from_nanos(1_000_000_000_000);

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn addresses_are_tried_in_turn() {
        let mut addresses = Addresses::new(3);
        let turns = [(); 4].map(|()| {
            assert_eq!(addresses.advance(NOW), NOW);
            addresses.current()
        });
        assert_eq!(turns, [1, 2, 0, 1]);
    }

    #[test]
    fn an_address_that_was_tried_beside_the_one_in_use_counts_as_the_last() {
        let mut addresses = Addresses::new(4);
        addresses.handle_attempt(2);
        assert_eq!(addresses.current(), 0);
        let turns = [(); 2].map(|()| {
            addresses.advance(NOW);
            addresses.current()
        });
        assert_eq!(turns, [3, 0]);
    }

    #[test]
    fn an_address_that_refused_is_skipped_while_it_rests() {
        let mut addresses = Addresses::new(3);
        addresses.handle_refusal(1, NOW, 0);
        let later = NOW + secs(59);
        let turns = [(); 3].map(|()| {
            assert_eq!(addresses.advance(later), later);
            addresses.current()
        });
        assert_eq!(turns, [2, 0, 2]);
        addresses.advance(NOW + secs(60));
        addresses.advance(NOW + secs(60));
        assert_eq!(addresses.current(), 1);
    }

    #[test]
    fn attempts_are_brief_until_each_address_that_does_not_rest_was_tried() {
        let mut addresses = Addresses::new(4);
        addresses.rest(3, NOW + secs(9));
        let mut next = |now| {
            let is_brief = addresses.handle_attempt_in_use(now);
            addresses.advance(now);
            is_brief
        };
        assert_eq!([(); 4].map(|()| next(NOW)), [true, true, false, false]);
        assert!(next(NOW + secs(9)), "the last address no longer rests");
        addresses.handle_success(2);
        addresses.select(2);
        assert!(addresses.handle_attempt_in_use(NOW));
        assert!(!Addresses::new(1).handle_attempt_in_use(NOW));
    }

    #[test]
    fn a_name_rests_once_each_of_its_ip_addresses_may_have_refused() {
        for (ip_addresses, refusals) in [(0, 1), (1, 1), (3, 3), (16, 16), (500, 16)] {
            let mut addresses = Addresses::new(2);
            for _ in 0..2 {
                addresses.handle_connection(0, ip_addresses);
                for _ in 1..refusals {
                    assert!(!addresses.handle_failure(0, true));
                    assert_eq!(addresses.after(0, NOW), (0, NOW));
                }
                assert!(addresses.handle_failure(0, true), "{ip_addresses}");
                assert_eq!(addresses.after(0, NOW), (1, NOW));
            }
        }
    }

    #[test]
    fn only_refusals_in_a_row_count() {
        let mut addresses = Addresses::new(2);
        addresses.handle_connection(0, 2);
        assert!(!addresses.handle_failure(0, true));
        assert!(!addresses.handle_failure(0, false));
        assert_eq!(addresses.after(0, NOW), (1, NOW));
        assert!(!addresses.handle_failure(0, true));
        addresses.handle_success(0);
        assert!(!addresses.handle_failure(0, true), "the number is known");
        assert!(addresses.handle_failure(0, true));
    }

    #[test]
    fn if_all_rest_the_one_that_is_first_over_is_next() {
        let mut addresses = Addresses::new(2);
        addresses.handle_refusal(0, NOW, 0);
        addresses.rest(1, NOW + secs(7));
        assert_eq!(addresses.advance(NOW), NOW + secs(7));
        assert_eq!(addresses.current(), 1);
        addresses.handle_refusal(1, NOW + secs(7), 0);
        assert_eq!(addresses.advance(NOW + secs(7)), NOW + secs(60));
        assert_eq!(addresses.current(), 0);
    }

    #[test]
    fn rests_grow_with_each_refusal_at_an_address_until_a_subscription() {
        let mut addresses = Addresses::new(1);
        let rest = |addresses: &mut Addresses| {
            addresses.handle_refusal(0, NOW, u32::MAX);
            addresses.advance(NOW).since(NOW).as_secs()
        };
        let rests = [(); 7].map(|()| rest(&mut addresses));
        assert_eq!(rests, [61, 62, 64, 68, 76, 90, 90]);
        addresses.handle_success(0);
        assert_eq!(rest(&mut addresses), 61);
    }
}
