//! [`HandshakeBudget`]: how many handshakes of one kind a shard may trace. In a reconnect storm
//! there are thousands per second, which say no more than ten of them do.

use std::cell::Cell;
use std::time::Duration;

use tickstorm_timebase::Mono;

/// The most handshakes of one kind that a shard traces in a [`PERIOD`].
const HANDSHAKES_MAX: u32 = 10;

const PERIOD: Duration = Duration::from_secs(1);

/// The handshakes in the current period.
#[derive(Default)]
pub(super) struct HandshakeBudget {
    period: Cell<Option<(Mono, u32)>>,
}

impl HandshakeBudget {
    /// Returns whether a handshake that ends at `now` may be traced, and counts it if it may.
    pub(super) fn take(&self, now: Mono) -> bool {
        let current = self.period.get();
        let current = current.filter(|(started, _)| now.since(*started) < PERIOD);
        let (started, taken) = current.unwrap_or((now, 0));
        let is_left = taken < HANDSHAKES_MAX;
        self.period.set(Some((started, taken + u32::from(is_left))));
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_of_a_thousand_handshakes_in_a_second_are_traced() {
        let budget = HandshakeBudget::default();
        let taken_at = |second: u64| {
            let at = |ms: u64| Mono::from_nanos((second * 1_000 + ms) * 1_000_000);
            (0..1_000).filter(|ms| budget.take(at(*ms))).count()
        };
        assert_eq!([5, 6, 60].map(taken_at), [10; 3]);
    }
}
