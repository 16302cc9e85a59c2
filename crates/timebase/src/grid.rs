//! The grid: which moments are ticks. Ticks are a pure function of time, so nothing about them is
//! ever stored.

use crate::unix::UnixTime;

/// The grid that a tick belongs to. This is the only `Mode` in the workspace: the modes of wire
/// formats are converted to it when they are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Every whole second.
    Second,
    /// Every whole minute.
    Minute,
}

impl Mode {
    /// Both modes.
    pub const ALL: [Self; 2] = [Self::Second, Self::Minute];

    /// Returns the milliseconds from one tick to the next.
    #[must_use]
    pub const fn period_ms(self) -> i64 {
        match self {
            Self::Second => 1_000,
            Self::Minute => 60_000,
        }
    }

    /// Returns `second` or `minute`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
        }
    }

    /// Returns the last grid tick at or before `time`.
    #[must_use]
    pub const fn last_at(self, time: UnixTime) -> Epoch {
        self.floor(Epoch::from_ms(time.as_millis()))
    }

    /// Returns the last grid tick at or before `epoch`, or the least representable epoch if there
    /// is none. `epoch` need not be on the grid.
    #[must_use]
    pub const fn floor(self, epoch: Epoch) -> Epoch {
        Epoch(epoch.0.saturating_sub(self.past_tick_ms(epoch)))
    }

    /// Returns the first grid tick after `epoch`, or the greatest representable epoch if there is
    /// none. `epoch` need not be on the grid.
    #[must_use]
    pub const fn next_after(self, epoch: Epoch) -> Epoch {
        Epoch(
            epoch
                .0
                .saturating_add(self.period_ms() - self.past_tick_ms(epoch)),
        )
    }

    /// Returns whether `epoch` is a tick of this mode.
    #[must_use]
    pub const fn is_tick(self, epoch: Epoch) -> bool {
        self.past_tick_ms(epoch) == 0
    }

    /// Returns the milliseconds from the last tick to `epoch`, which are less than a period.
    const fn past_tick_ms(self, epoch: Epoch) -> i64 {
        epoch.0.rem_euclid(self.period_ms())
    }
}

/// The Unix time of a tick, or of a point between ticks (a resume point), in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(i64);

impl Epoch {
    /// Creates the epoch `ms` milliseconds after the start of 1970.
    #[must_use]
    pub const fn from_ms(ms: i64) -> Self {
        Self(ms)
    }

    /// Returns the milliseconds since the start of 1970.
    #[must_use]
    pub const fn as_ms(self) -> i64 {
        self.0
    }

    /// Returns the epoch as a moment, saturating at the limits of [`UnixTime`] (the latest is in
    /// the year 2262).
    #[must_use]
    pub const fn time(self) -> UnixTime {
        UnixTime::from_nanos(self.0.saturating_mul(1_000_000))
    }
}

/// The quality of a tick at its release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quality {
    /// Announced by an accepted clock.
    Normal,
    /// Announced by no accepted clock: the edge relies on its own disciplined time.
    Holdover,
    /// Sent more than 1 s after its time, or because the client resumed.
    Replay,
}

/// One SECOND or MINUTE event. Its mode is that of its feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tick {
    /// The Unix time of the tick.
    pub epoch: Epoch,
    /// The quality at its release.
    pub quality: Quality,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Generates any epoch, biased towards both ends of the range and zero.
    fn epochs() -> impl Strategy<Value = i64> {
        prop_oneof![
            any::<i64>(),
            (0..120_000_i64).prop_map(|ms| i64::MIN + ms),
            (0..120_000_i64).prop_map(|ms| i64::MAX - ms),
            -120_000..120_000_i64,
        ]
    }

    fn modes() -> impl Strategy<Value = Mode> {
        prop_oneof![Just(Mode::Second), Just(Mode::Minute)]
    }

    proptest! {
        #[test]
        fn every_epoch_is_between_two_ticks_or_beyond_the_last_one(
            mode in modes(),
            ms in epochs(),
        ) {
            let epoch = Epoch::from_ms(ms);
            let (before, after) = (mode.floor(epoch), mode.next_after(epoch));
            let period_ms = i128::from(mode.period_ms());
            prop_assert!(before <= epoch && epoch <= after);
            prop_assert!(mode.is_tick(before) || before.as_ms() == i64::MIN);
            prop_assert!(mode.is_tick(after) || after.as_ms() == i64::MAX);
            prop_assert_eq!(mode.is_tick(epoch), before == epoch && mode.is_tick(before));
            let apart_ms = i128::from(after.as_ms()) - i128::from(before.as_ms());
            prop_assert!(apart_ms <= period_ms);
            if mode.is_tick(before) && mode.is_tick(after) {
                prop_assert_eq!(apart_ms, period_ms);
            }
        }

        #[test]
        fn a_time_is_never_before_its_last_tick(mode in modes(), ns: i64) {
            let time = UnixTime::from_nanos(ns);
            prop_assert!(mode.last_at(time).time() <= time || ns < i64::MIN + 60_000_000_000);
            prop_assert!(mode.next_after(mode.last_at(time)).time() >= time);
        }
    }
}
