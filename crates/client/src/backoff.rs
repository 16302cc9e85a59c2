//! How long a client waits before it connects again. Without I/O, clock or chance of its own: whoever waits brings all three.

use std::time::Duration;

use tickstorm_protocol::code::Return;

/// The longest of the first waits: they are random, so that a crowd that was cut off together doesn't come back together.
const REACH_MIN: Duration = Duration::from_secs(1);
/// The longest wait of all but refusals.
const REACH_MAX: Duration = Duration::from_secs(30);
/// After being subscribed for so long, the next end is a new one and no failure to come back.
const SETTLED: Duration = Duration::from_secs(30);
/// At least, where the same bytes will fail again: a password or an edge may be in the middle of a change.
const REFUSED: Duration = Duration::from_secs(60);
/// Six times what the protocol lets an edge ask for: whatever it says, it can't send a client away for good.
const HINT_MAX: Duration = Duration::from_secs(60);

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttemptOutcome {
    /// What its end says about coming back.
    pub(crate) come_back: Return,
    /// The edge's hint; zero where it gave none.
    pub(crate) retry_after: Duration,
    /// How long it was subscribed; zero where it never was.
    pub(crate) subscribed_for: Duration,
}

/// The waits between connections, which grow from one failure to the next.
#[derive(Debug)]
pub(crate) struct Backoff {
    /// The next wait is random up to this.
    reach: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { reach: REACH_MIN }
    }

    /// The wait before the next connection. `random` is any number, another one each time.
    pub(crate) fn wait(&mut self, ended: &AttemptOutcome, random: u32) -> Duration {
        if ended.subscribed_for >= SETTLED {
            self.reach = REACH_MIN;
        }
        let is_first = self.reach == REACH_MIN;
        let drawn = fraction(self.reach, random);
        self.reach = (self.reach * 2).min(REACH_MAX);
        match ended.come_back {
            Return::No => REFUSED + drawn,
            Return::AtOnce
            | Return::AtOnceWithoutResume
            | Return::OnceMoreWithResume
            | Return::Later
            | Return::Elsewhere => {
                let hint = ended.retry_after.min(HINT_MAX);
                if is_first && !hint.is_zero() {
                    return hint;
                }
                // Later failures wait by the client's own measure, but no hint is undercut.
                drawn.max(hint)
            }
        }
    }
}

/// The share of `whole` that `random` is of all numbers.
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

    /// The longest waits after ends like this one, in seconds.
    fn longest<const N: usize>(ended: &AttemptOutcome) -> [u64; N] {
        let mut backoff = Backoff::new();
        [(); N].map(|()| backoff.wait(ended, u32::MAX).as_secs())
    }

    #[test]
    fn each_code_waits_as_its_class_says() {
        for &code in ErrorCode::ALL {
            let longest = longest(&ended(code.come_back()));
            let expected = match code.come_back() {
                Return::No => [61, 62, 64, 68, 76, 90, 90],
                Return::AtOnce
                | Return::AtOnceWithoutResume
                | Return::OnceMoreWithResume
                | Return::Later
                | Return::Elsewhere => [1, 2, 4, 8, 16, 30, 30],
            };
            assert_eq!(longest, expected, "{code}");
            let shortest = Backoff::new().wait(&ended(code.come_back()), 0).as_secs();
            assert_eq!(shortest, if expected[0] > 60 { 60 } else { 0 }, "{code}");
        }
    }

    #[test]
    fn waits_are_spread_over_all_of_their_reach() {
        let mut backoff = Backoff::new();
        backoff.reach = REACH_MAX;
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
    fn half_a_minute_of_being_subscribed_begins_anew() {
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
