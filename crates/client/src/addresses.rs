//! [`Addresses`]: which of an edge cluster's addresses to try next. An address that refused this
//! client rests for a while, and the others are tried meanwhile: a password that one edge does not
//! know yet may be right at all others. This module does no I/O.

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
    /// The number of refusals since a subscription was last made there.
    refusals: u32,
    rests_until: Mono,
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

    /// Records that the edge at an address refused this client, and will again. `random` is any
    /// number, a different one each time.
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
        self.states[index] = AddressState::default();
    }

    /// Returns the index of the address to try after `index`, and from when on. That is the next
    /// one that does not rest at `now`, or else the one that rests for the shortest time.
    pub(crate) fn after(&self, index: usize, now: Mono) -> (usize, Mono) {
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
