//! [`Waits`]: how long a client may wait before it comes back, as docs/protocol.md has it in
//! "Reconnecting".

use std::time::Duration;

/// The upper bound of the first random wait.
pub(super) const BOUND_MIN: Duration = Duration::from_secs(1);
/// The highest upper bound of a random wait.
const BOUND_MAX: Duration = Duration::from_secs(30);
/// A subscription that has lasted for 30 s makes the next wait the first again. A client may
/// measure a little less than this edge does.
const SETTLED_AFTER: Duration = Duration::from_secs(32);
/// The longest wait that a client draws when it leaves an edge by itself, or goes elsewhere because
/// an edge has lost the time.
const LEAVING_MAX: Duration = Duration::from_millis(500);
/// For how long a client leaves an address alone that has refused it.
const REFUSED_REST: Duration = Duration::from_secs(60);
/// A random wait that is shorter than this is rare.
const HASTY: Duration = Duration::from_millis(50);
/// If so many random waits in a row are that short, they are not random. The bounds of three are
/// 1, 2 and 4 s, so random waits do this once in 64,000 times.
const HASTY_MAX: u32 = 3;

/// How a connection or an attempt ended, as far as the next wait depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// A random wait or, if it is not zero, at least the hint.
    Hinted(Duration),
    /// The edge was of no use, or has lost the time, so that the client draws a hint itself.
    ClientLeaves,
    /// The same bytes will fail again at this address.
    Refused,
}

/// The shortest and the longest wait that are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) min: Duration,
    pub(super) max: Duration,
}

/// The waits of one client so far.
#[derive(Debug)]
pub(super) struct Waits {
    /// The upper bound of the next random wait.
    bound: Duration,
    refusals: u32,
    hasty: u32,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            bound: BOUND_MIN,
            refusals: 0,
            hasty: 0,
        }
    }
}

impl Waits {
    /// Returns the upper bound of the next random wait.
    pub(super) fn bound(&self) -> Duration {
        self.bound
    }

    /// Returns how long a subscription must last for the next wait to count as the first.
    pub(super) const fn settled_after() -> Duration {
        SETTLED_AFTER
    }

    /// Records that a subscription was made.
    pub(super) fn handle_subscribed(&mut self) {
        self.refusals = 0;
    }

    /// Records the end of a connection that was subscribed for this long, which is zero if it never
    /// was. Returns the waits that are right.
    pub(super) fn handle_end(&mut self, end: End, subscribed_for: Duration) -> Window {
        if subscribed_for >= SETTLED_AFTER {
            self.bound = BOUND_MIN;
        }
        let (bound, is_first) = (self.bound, self.bound == BOUND_MIN);
        self.bound = (bound * 2).min(BOUND_MAX);
        let at_least = |hint: Duration| {
            let max = if is_first && !hint.is_zero() {
                hint
            } else {
                bound.max(hint)
            };
            Window { min: hint, max }
        };
        match end {
            End::Hinted(hint) => at_least(hint),
            End::ClientLeaves => Window {
                min: Duration::ZERO,
                ..at_least(LEAVING_MAX)
            },
            End::Refused => {
                let random = BOUND_MIN.saturating_mul(2_u32.saturating_pow(self.refusals));
                self.refusals += 1;
                let max = REFUSED_REST + random.min(BOUND_MAX);
                Window {
                    min: REFUSED_REST,
                    max,
                }
            }
        }
    }

    /// Records a random wait, without a hint, and returns how many in a row have been too short to
    /// be random, if they are that many.
    pub(super) fn handle_random_wait(&mut self, waited: Duration) -> Option<u32> {
        self.hasty = if waited < HASTY { self.hasty + 1 } else { 0 };
        (self.hasty == HASTY_MAX).then_some(self.hasty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZERO: Duration = Duration::ZERO;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn window(min: u64, max: u64) -> Window {
        Window {
            min: ms(min),
            max: ms(max),
        }
    }

    #[test]
    fn a_hint_is_the_first_wait_and_the_least_of_the_others() {
        let mut waits = Waits::default();
        let mut next = |hint| waits.handle_end(End::Hinted(ms(hint)), ZERO);
        assert_eq!(next(400), window(400, 400));
        assert_eq!(next(400), window(400, 2_000));
        assert_eq!(next(0), window(0, 4_000));
        assert_eq!(next(9_000), window(9_000, 9_000));
        assert_eq!(next(0), window(0, 16_000));
        assert_eq!(next(0), window(0, 30_000));
    }

    #[test]
    fn a_client_that_leaves_draws_its_hint() {
        let mut waits = Waits::default();
        assert_eq!(waits.handle_end(End::ClientLeaves, ZERO), window(0, 500));
        assert_eq!(waits.handle_end(End::ClientLeaves, ZERO), window(0, 2_000));
        let settled = Duration::from_secs(32);
        assert_eq!(waits.handle_end(End::ClientLeaves, settled), window(0, 500));
    }

    #[test]
    fn an_address_that_refuses_is_left_alone_for_a_minute() {
        let mut waits = Waits::default();
        let mut next = || waits.handle_end(End::Refused, ZERO);
        assert_eq!(next(), window(60_000, 61_000));
        assert_eq!(next(), window(60_000, 62_000));
    }

    #[test]
    fn random_waits_are_not_all_short() {
        let mut waits = Waits::default();
        assert_eq!(waits.handle_random_wait(ms(2)), None);
        assert_eq!(waits.handle_random_wait(ms(2)), None);
        assert_eq!(waits.handle_random_wait(ms(700)), None);
        assert_eq!(waits.handle_random_wait(ms(2)), None);
        assert_eq!(waits.handle_random_wait(ms(2)), None);
        assert_eq!(waits.handle_random_wait(ms(2)), Some(3));
    }
}
