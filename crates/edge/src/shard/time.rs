//! A shard's own time, in which deadlines are kept: the machine's time minus all the time for which
//! the edge itself was stalled. So a stall of the edge costs no client its connection, and shifting
//! 100,000 deadlines takes one addition.

use std::time::Duration;

use tickstorm_timebase::{Clock, Mono};

/// The gap between two clock readings above which the edge counts as having been stalled. The wheel
/// advances every [`super::wheel::WHEEL_INTERVAL`], so the clock is read at least that often.
pub(super) const STALL: Duration = Duration::from_millis(500);

/// How far a shard's time is ahead of the machine's at first. A session subtracts stalls from
/// moments, and the edge may have been started only seconds after the machine: no stall is so long
/// that this would be before zero.
const AHEAD: Duration = Duration::from_secs(400 * 86_400);

/// One clock reading.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// The machine's time, from which authority time is computed.
    pub(super) mono: Mono,
    /// The shard's time, for deadlines.
    pub(super) now: Mono,
}

impl Moment {
    /// Returns the time for which the edge has been stalled in all.
    pub(super) fn stalled(self) -> Duration {
        (self.mono + AHEAD).since(self.now)
    }
}

/// The clock of one shard.
pub(super) struct ShardTime<C> {
    clock: C,
    last: Mono,
    /// The sum of all stalls.
    stalled: Duration,
}

impl<C: Clock> ShardTime<C> {
    pub(super) fn new(clock: C) -> Self {
        let last = clock.now();
        Self {
            clock,
            last,
            stalled: Duration::ZERO,
        }
    }

    /// Returns for how long the machine has been suspended.
    pub(super) fn suspended(&self) -> Duration {
        self.clock.suspended()
    }

    /// Reads the clock.
    pub(super) fn read_clock(&mut self) -> Moment {
        let mono = self.clock.now();
        let gap = mono.since(std::mem::replace(&mut self.last, mono));
        if gap > STALL {
            self.stalled += gap;
        }
        let now = (mono + AHEAD).saturating_sub(self.stalled);
        Moment { mono, now }
    }
}

#[cfg(test)]
mod tests {
    use tickstorm_timebase::ManualClock;

    use super::*;

    #[test]
    fn a_stall_of_over_half_a_second_does_not_count_in_shard_time() {
        let clock = ManualClock::new(Mono::from_nanos(5_000_000_000));
        let mut time = ShardTime::new(clock.clone());
        let before = time.read_clock();
        let mut since = |advance_ms| {
            clock.advance(Duration::from_millis(advance_ms));
            let at = time.read_clock();
            (at.now.since(before.now), at.mono.since(before.mono))
        };
        let ms = Duration::from_millis;
        assert_eq!(since(400), (ms(400), ms(400)));
        assert_eq!(since(30_000), (ms(400), ms(30_400)));
        assert_eq!(since(100), (ms(500), ms(30_500)));
    }
}
