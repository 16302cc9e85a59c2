//! [`Move`]: when a client that its edge has asked to move tries another edge. This module does no
//! I/O. It reads no clock and draws no random numbers.

use std::time::Duration;

use tickstorm_timebase::Mono;

use crate::backoff::fraction;

/// The part of the time until the deadline that is kept for the move itself, as a divisor, and its
/// limits. A move usually takes milliseconds; an attempt that fails must leave time for others.
const MARGIN_DIVISOR: u32 = 4;
const MARGIN_MIN: Duration = Duration::from_millis(500);
const MARGIN_MAX: Duration = Duration::from_secs(5);
/// The longest wait after the first failed attempt. It doubles with each further one.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(4);

/// A move that the edge has asked for.
#[derive(Debug)]
pub(crate) struct Move {
    deadline: Mono,
    next_attempt: Mono,
    retry: Duration,
}

impl Move {
    /// Plans a move that must be over `within` from `now`. Many clients are asked at once, so each
    /// moves at a random moment. `random` is any number, a different one each time.
    pub(crate) fn new(within: Duration, now: Mono, random: u32) -> Self {
        Self {
            deadline: now + within,
            next_attempt: now + fraction(span(within), random),
            retry: RETRY_MIN,
        }
    }

    /// Records that the edge asks again. Its new deadline holds, since that is the time which the
    /// connection has left. If the last deadline is over, everything begins again.
    pub(crate) fn handle_again(&mut self, within: Duration, now: Mono, random: u32) {
        let again = Self::new(within, now, random);
        if now > self.deadline {
            *self = again;
            return;
        }
        self.deadline = again.deadline;
        // An attempt that is planned stays planned, unless that leaves too little time.
        if self.next_attempt > now + span(within) {
            self.next_attempt = self.next_attempt.min(again.next_attempt);
        }
    }

    /// Returns when to make the next attempt, or `None` if there is no time for another one.
    pub(crate) fn next_attempt(&self) -> Option<Mono> {
        (self.next_attempt <= self.deadline).then_some(self.next_attempt)
    }

    /// Records that an attempt was dropped, for no fault of its edge.
    pub(crate) fn handle_dropped(&mut self, now: Mono) {
        self.next_attempt = now;
    }

    /// Records that an attempt has failed, or led back to the same edge, and that the next address
    /// may be tried from `rested` on.
    pub(crate) fn handle_failure(&mut self, rested: Mono, now: Mono, random: u32) {
        let wait = self.retry / 2 + fraction(self.retry / 2, random);
        self.next_attempt = (now + wait).max(rested);
        self.retry = (self.retry * 2).min(RETRY_MAX);
    }
}

/// Returns the time over which clients spread their first attempts.
fn span(within: Duration) -> Duration {
    within.saturating_sub((within / MARGIN_DIVISOR).clamp(MARGIN_MIN, MARGIN_MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Mono = Mono::from_nanos(1_000_000_000_000);

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn first_attempts_are_spread_and_leave_time_before_the_deadline() {
        for (within, last) in [
            (0, 0),
            (400, 0),
            (2_000, 1_500),
            (12_000, 9_000),
            (60_000, 55_000),
        ] {
            let within = Duration::from_millis(within);
            let latest = Move::new(within, NOW, u32::MAX).next_attempt;
            assert_eq!(latest.since(NOW).as_millis(), last, "{within:?}");
            assert_eq!(Move::new(within, NOW, 0).next_attempt, NOW);
        }
    }

    #[test]
    fn attempts_are_spaced_ever_more_until_the_deadline() {
        let mut plan = Move::new(secs(20), NOW, 0);
        let (mut now, mut waits) = (NOW, Vec::new());
        while let Some(at) = plan.next_attempt() {
            waits.push(at.since(now).as_millis());
            now = at;
            plan.handle_failure(now, now, u32::MAX);
        }
        assert_eq!(waits, [0, 500, 1_000, 2_000, 4_000, 4_000, 4_000, 4_000]);
        // An address that rests is not tried before.
        let mut plan = Move::new(secs(20), NOW, 0);
        plan.handle_failure(NOW + secs(9), NOW, u32::MAX);
        assert_eq!(plan.next_attempt(), Some(NOW + secs(9)));
        plan.handle_failure(NOW + secs(60), NOW, u32::MAX);
        assert_eq!(plan.next_attempt(), None);
    }

    #[test]
    fn the_last_deadline_holds() {
        let mut plan = Move::new(secs(60), NOW, u32::MAX);
        plan.handle_again(secs(8), NOW, u32::MAX);
        assert_eq!(plan.next_attempt(), Some(NOW + secs(6)));
        plan.handle_again(secs(600), NOW, u32::MAX);
        assert_eq!(plan.next_attempt(), Some(NOW + secs(6)), "as planned");
        plan.handle_failure(NOW + secs(9), NOW + secs(6), u32::MAX);
        assert_eq!(plan.next_attempt(), Some(NOW + secs(9)), "600 s hold");
        plan.handle_again(secs(1), NOW + secs(6), u32::MAX);
        let soon = NOW + Duration::from_millis(6_500);
        assert_eq!(plan.next_attempt(), Some(soon), "7 s hold");
        plan.handle_failure(NOW + secs(8), soon, u32::MAX);
        assert_eq!(plan.next_attempt(), None, "7 s are over");
    }

    #[test]
    fn after_the_deadline_a_request_begins_a_new_plan() {
        let mut plan = Move::new(secs(8), NOW, 0);
        for second in 1..8 {
            plan.handle_failure(NOW, NOW + secs(second), u32::MAX);
        }
        assert_eq!(plan.next_attempt(), None);
        plan.handle_again(secs(20), NOW + secs(9), 0);
        assert_eq!(plan.next_attempt(), Some(NOW + secs(9)));
        plan.handle_failure(NOW, NOW + secs(9), u32::MAX);
        let again = NOW + Duration::from_millis(9_500);
        assert_eq!(plan.next_attempt(), Some(again), "the waits begin again");
    }

    proptest! {
        #[test]
        fn no_first_attempt_is_after_the_deadline(within_ms: u32, random: u32) {
            let within = Duration::from_millis(within_ms.into());
            let plan = Move::new(within, NOW, random);
            prop_assert!(plan.next_attempt.since(NOW) <= within);
        }
    }
}
