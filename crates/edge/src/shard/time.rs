//! A shard's own time, in which deadlines are kept: the machine's, less all the time that the edge itself stood still. So an
//! edge's pause costs no client its connection, and shifting 100,000 deadlines is one addition.

use std::cell::Cell;
use std::time::Duration;

use tickstorm_timebase::{Clock, Mono};

/// From this gap between two looks at the clock on, the edge stood still. The wheel looks every [`super::wheel::TURN`].
const STALL: Duration = Duration::from_millis(500);

/// Clock of one shard.
pub(crate) struct ShardTime<C> {
    clock: C,
    last: Cell<Mono>,
    stalled: Cell<Duration>,
}

impl<C: Clock> ShardTime<C> {
    pub(crate) fn new(clock: C) -> Self {
        let last = Cell::new(clock.now());
        Self {
            clock,
            last,
            stalled: Cell::new(Duration::ZERO),
        }
    }

    /// The machine's time, which authority time is reckoned from.
    pub(crate) fn mono(&self) -> Mono {
        self.clock.now()
    }

    /// Time for deadlines. It stands still where the edge did.
    pub(crate) fn now(&self) -> Mono {
        let mono = self.clock.now();
        let gap = mono.since(self.last.replace(mono));
        if gap > STALL {
            self.stalled.set(self.stalled.get() + gap);
        }
        mono.saturating_sub(self.stalled.get())
    }
}

#[cfg(test)]
mod tests {
    use tickstorm_timebase::ManualClock;

    use super::*;

    #[test]
    fn a_stall_of_over_half_a_second_does_not_count() {
        let clock = ManualClock::new(Mono::from_nanos(5_000_000_000));
        let time = ShardTime::new(clock.clone());
        let before = time.now();
        clock.advance(Duration::from_millis(400));
        assert_eq!(time.now().since(before), Duration::from_millis(400));
        clock.advance(Duration::from_secs(30));
        assert_eq!(time.now().since(before), Duration::from_millis(400));
        clock.advance(Duration::from_millis(100));
        assert_eq!(time.now().since(before), Duration::from_millis(500));
        assert_eq!(time.mono().since(before), Duration::from_millis(30_500));
    }
}
