//! [`PauseWatch`]: for how long this process did not read its connection, because it or the machine
//! was stopped. What piled up meanwhile is then read at once, and must not be judged as if it had
//! been sent at once.

use std::time::Duration;

use tickstorm_timebase::{Clock, Mono, was_suspended};

use crate::silence::LOOK_INTERVAL;

/// The gap between two looks above which the process counts as having been stalled. Less is within
/// every burst.
const STALL_MIN: Duration = LOOK_INTERVAL.saturating_mul(2);

/// A time for which nothing was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pause {
    /// For how long the process was stopped, while the machine's time continued.
    pub(crate) stalled: Duration,
    /// For how long the machine was suspended, which also stopped its time.
    pub(crate) suspended: Duration,
}

impl Pause {
    /// Returns for how long nothing was read.
    pub(crate) const fn total(self) -> Duration {
        self.stalled.saturating_add(self.suspended)
    }
}

/// Looks for pauses.
pub(crate) struct PauseWatch {
    clock: Box<dyn Clock + Send>,
    last: Mono,
    last_suspended: Duration,
}

impl PauseWatch {
    /// Starts to watch.
    pub(crate) fn new(clock: impl Clock + Send + 'static) -> Self {
        Self {
            last: clock.now(),
            last_suspended: clock.suspended(),
            clock: Box::new(clock),
        }
    }

    /// Returns the pause since the last look, if there was one. It must be called at least at each
    /// [`LOOK_INTERVAL`], and before anything that was received is judged.
    pub(crate) fn look(&mut self) -> Option<Pause> {
        let (now, suspended) = (self.clock.now(), self.clock.suspended());
        let gap = now.since(self.last);
        let mut pause = Pause::default();
        if gap > STALL_MIN {
            pause.stalled = gap;
        }
        if was_suspended(self.last_suspended, suspended) {
            pause.suspended = suspended.saturating_sub(self.last_suspended);
        }
        (self.last, self.last_suspended) = (now, suspended);
        (!pause.total().is_zero()).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use tickstorm_timebase::ManualClock;

    use super::*;

    #[test]
    fn a_pause_is_a_gap_between_looks_or_a_suspension() {
        let clock = ManualClock::new(Mono::from_nanos(5_000_000_000));
        let mut watch = PauseWatch::new(clock.clone());
        let seconds = Duration::from_secs;
        clock.advance(LOOK_INTERVAL);
        assert_eq!(watch.look(), None);
        clock.advance(seconds(150));
        let stalled = Pause {
            stalled: seconds(150),
            suspended: Duration::ZERO,
        };
        assert_eq!(watch.look(), Some(stalled));
        assert_eq!(watch.look(), None);
        clock.suspend(seconds(150));
        clock.advance(LOOK_INTERVAL);
        let suspended = Pause {
            stalled: Duration::ZERO,
            suspended: seconds(150),
        };
        assert_eq!(watch.look(), Some(suspended));
        clock.suspend(seconds(3));
        clock.advance(seconds(2));
        assert_eq!(watch.look().map(Pause::total), Some(seconds(5)));
        assert_eq!(watch.look(), None);
    }
}
