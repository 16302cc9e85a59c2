//! [`Backoff`]: how long a client waits before it connects again. This module does no I/O. It reads
//! no clock and draws no random numbers; its caller supplies times and random numbers.

use std::time::Duration;

use tickstorm_protocol::code::Return;

/// The upper bound of the first wait. Waits are random, so that clients which were cut off together
/// do not all come back together.
const BOUND_MIN: Duration = Duration::from_secs(1);
/// The highest upper bound of a random wait.
const BOUND_MAX: Duration = Duration::from_secs(30);
/// A subscription that lasted this long resets the backoff: its end does not count as one more
/// failure.
const SETTLED_AFTER: Duration = Duration::from_secs(30);
/// The shortest wait if the same bytes will fail again. It is finite because a password or an edge
/// may be in the middle of a change.
const REFUSED_WAIT_MIN: Duration = Duration::from_secs(60);
/// The longest wait that a hint can cause; longer hints are cut to it. This is six times the
/// longest hint in the protocol, and keeps an edge from sending a client away indefinitely.
const HINT_MAX: Duration = Duration::from_secs(60);

/// The outcome of a connection, or of an attempt to make one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttemptOutcome {
    /// The way in which the client comes back after this outcome.
    pub(crate) come_back: Return,
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
        match ended.come_back {
            Return::No => REFUSED_WAIT_MIN + drawn,
            Return::AtOnce
            | Return::AtOnceWithoutResume
            | Return::RetryResumeOnce
            | Return::Later
            | Return::Elsewhere => {
                let hint = ended.retry_after.min(HINT_MAX);
                if is_first && !hint.is_zero() {
                    return hint;
                }
                // After further failures, the client's own backoff applies, but never less than the
                // hint.
                drawn.max(hint)
            }
        }
    }
}

/// Returns `whole` × `random` / [`u32::MAX`].
fn fraction(whole: Duration, random: u32) -> Duration {
    whole.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use tickstorm_protocol::ErrorCode;

    use super::*;

    fn ended(come_back: Return) -> AttemptOutcome {
        AttemptOutcome {
            come_back,
            retry_after: Duration::ZERO,
            subscribed_for: Duration::ZERO,
        }
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// Returns the longest waits after consecutive ends like this one, in seconds.
    fn longest<const N: usize>(ended: &AttemptOutcome) -> [u64; N] {
        let mut backoff = Backoff::new();
        [(); N].map(|()| backoff.wait(ended, u32::MAX).as_secs())
    }

    #[test]
    fn the_wait_after_each_code_follows_from_how_it_comes_back() {
        for &code in ErrorCode::ALL {
            let longest = longest(&ended(code.come_back()));
            let expected = match code.come_back() {
                Return::No => [61, 62, 64, 68, 76, 90, 90],
                Return::AtOnce
                | Return::AtOnceWithoutResume
                | Return::RetryResumeOnce
                | Return::Later
                | Return::Elsewhere => [1, 2, 4, 8, 16, 30, 30],
            };
            assert_eq!(longest, expected, "{code}");
            let shortest = Backoff::new().wait(&ended(code.come_back()), 0).as_secs();
            assert_eq!(shortest, if expected[0] > 60 { 60 } else { 0 }, "{code}");
        }
    }

    #[test]
    fn waits_are_spread_from_zero_to_their_bound() {
        let mut backoff = Backoff::new();
        backoff.bound = BOUND_MAX;
        let waits = [0, u32::MAX / 2, u32::MAX]
            .map(|random| backoff.wait(&ended(Return::AtOnce), random).as_millis());
        assert_eq!((waits[0], waits[2]), (0, 30_000));
        assert!(waits[1].abs_diff(15_000) <= 1, "{waits:?}");
    }

    #[test]
    fn a_hint_replaces_the_first_wait_and_is_never_undercut() {
        let mut backoff = Backoff::new();
        let hinted = AttemptOutcome {
            retry_after: Duration::from_millis(5),
            ..ended(Return::Elsewhere)
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
            ..ended(Return::AtOnce)
        };
        let short = after(Duration::from_millis(29_999));
        assert_eq!(backoff.wait(&short, u32::MAX), secs(1));
        assert_eq!(backoff.wait(&short, u32::MAX), secs(2));
        assert_eq!(backoff.wait(&after(secs(30)), u32::MAX), secs(1));
        assert_eq!(backoff.wait(&short, u32::MAX), secs(2));
    }
}
