//! [`Backoff`]: how long a client waits before it connects again, to whatever address. This module
//! does no I/O. It reads no clock and draws no random numbers; its caller supplies times and random
//! numbers.

use std::time::Duration;

/// The upper bound of the first wait. Waits are random, so that clients which were cut off together
/// do not all come back together.
const BOUND_MIN: Duration = Duration::from_secs(1);
/// The highest upper bound of a random wait.
const BOUND_MAX: Duration = Duration::from_secs(30);
/// A subscription that lasted this long resets the backoff: its end does not count as one more
/// failure.
const SETTLED_AFTER: Duration = Duration::from_secs(30);
/// The longest wait that a hint can cause; longer hints are cut to it. This is six times the
/// longest hint in the protocol, and keeps an edge from sending a client away indefinitely.
pub(crate) const HINT_MAX: Duration = Duration::from_secs(60);

/// The outcome of a connection, or of an attempt to make one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttemptOutcome {
    /// The edge's hint; zero if it gave none.
    pub(crate) retry_after: Duration,
    /// The time for which the connection was subscribed; zero if it never was.
    pub(crate) subscribed_for: Duration,
}

/// The waits between connections, which grow with each consecutive failure.
#[derive(Debug)]
pub(crate) struct Backoff {
    /// The upper bound of the next random wait.
    bound: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { bound: BOUND_MIN }
    }

    /// Returns the wait before the next connection. `random` is any number, a different one each
    /// time.
    pub(crate) fn wait(&mut self, ended: &AttemptOutcome, random: u32) -> Duration {
        if ended.subscribed_for >= SETTLED_AFTER {
            self.bound = BOUND_MIN;
        }
        let is_first = self.bound == BOUND_MIN;
        let drawn = fraction(self.bound, random);
        self.bound = (self.bound * 2).min(BOUND_MAX);
        let hint = ended.retry_after.min(HINT_MAX);
        if is_first && !hint.is_zero() {
            return hint;
        }
        // After further failures, the client's own backoff applies, but never less than the hint.
        drawn.max(hint)
    }
}

/// Returns `whole` × `random` / [`u32::MAX`].
pub(crate) fn fraction(whole: Duration, random: u32) -> Duration {
    whole.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended() -> AttemptOutcome {
        AttemptOutcome {
            retry_after: Duration::ZERO,
            subscribed_for: Duration::ZERO,
        }
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn the_bound_of_the_wait_doubles_with_each_failure() {
        let mut backoff = Backoff::new();
        let longest = [(); 7].map(|()| backoff.wait(&ended(), u32::MAX).as_secs());
        assert_eq!(longest, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(Backoff::new().wait(&ended(), 0), Duration::ZERO);
    }

    #[test]
    fn waits_are_spread_from_zero_to_their_bound() {
        let mut backoff = Backoff::new();
        backoff.bound = BOUND_MAX;
        let waits =
            [0, u32::MAX / 2, u32::MAX].map(|random| backoff.wait(&ended(), random).as_millis());
        assert_eq!((waits[0], waits[2]), (0, 30_000));
        assert!(waits[1].abs_diff(15_000) <= 1, "{waits:?}");
    }

    #[test]
    fn a_hint_replaces_the_first_wait_and_is_never_undercut() {
        let mut backoff = Backoff::new();
        let hinted = AttemptOutcome {
            retry_after: Duration::from_millis(5),
            ..ended()
        };
        assert_eq!(backoff.wait(&hinted, u32::MAX), hinted.retry_after);
        assert_eq!(backoff.wait(&hinted, u32::MAX), secs(2));
        let hinted = AttemptOutcome {
            retry_after: secs(9),
            ..hinted
        };
        assert_eq!(backoff.wait(&hinted, u32::MAX), secs(9));
        assert_eq!(backoff.wait(&hinted, 0), secs(9));
        let absurd = AttemptOutcome {
            retry_after: secs(4_294_967),
            ..hinted
        };
        assert_eq!(backoff.wait(&absurd, 0), secs(60));
    }

    #[test]
    fn half_a_minute_of_being_subscribed_resets_the_backoff() {
        let mut backoff = Backoff::new();
        let after = |subscribed_for| AttemptOutcome {
            subscribed_for,
            ..ended()
        };
        let short = after(Duration::from_millis(29_999));
        assert_eq!(backoff.wait(&short, u32::MAX), secs(1));
        assert_eq!(backoff.wait(&short, u32::MAX), secs(2));
        assert_eq!(backoff.wait(&after(secs(30)), u32::MAX), secs(1));
        assert_eq!(backoff.wait(&short, u32::MAX), secs(2));
    }
}
