//! The grid: which moments are ticks. A tick is a pure function of time, which is why nothing about ticks is ever stored.

use crate::unix::UnixTime;

/// Which grid a tick belongs to. The only `Mode` there is: what comes off a wire is converted where it is decoded.
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

    /// Milliseconds from one tick to the next.
    #[must_use]
    pub const fn period_ms(self) -> i64 {
        match self {
            Self::Second => 1_000,
            Self::Minute => 60_000,
        }
    }

    /// `second` or `minute`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
        }
    }

    /// The last grid tick at or before `time`.
    #[must_use]
    pub const fn last_at(self, time: UnixTime) -> Epoch {
        self.floor(Epoch::from_ms(time.as_millis()))
    }

    /// The last grid tick at or before `epoch`, which need not be on the grid; the least epoch there is if no tick is.
    #[must_use]
    pub const fn floor(self, epoch: Epoch) -> Epoch {
        Epoch(epoch.0.saturating_sub(self.past_tick_ms(epoch)))
    }

    /// The first grid tick after `epoch`, which need not be on the grid; the greatest epoch there is if no tick is.
    #[must_use]
    pub const fn next_after(self, epoch: Epoch) -> Epoch {
        Epoch(
            epoch
                .0
                .saturating_add(self.period_ms() - self.past_tick_ms(epoch)),
        )
    }

    /// Whether `epoch` is a tick of this mode.
    #[must_use]
    pub const fn is_tick(self, epoch: Epoch) -> bool {
        self.past_tick_ms(epoch) == 0
    }

    /// How many milliseconds the last tick was before `epoch`: less than a period.
    const fn past_tick_ms(self, epoch: Epoch) -> i64 {
        epoch.0.rem_euclid(self.period_ms())
    }
}

/// Unix time of a tick in milliseconds, or of a point between ticks (a resume point).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(i64);

impl Epoch {
    /// The epoch `ms` milliseconds after the beginning of 1970.
    #[must_use]
    pub const fn from_ms(ms: i64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the beginning of 1970.
    #[must_use]
    pub const fn as_ms(self) -> i64 {
        self.0
    }

    /// The moment itself; saturates beyond what nanoseconds can hold (the year 2262).
    #[must_use]
    pub const fn time(self) -> UnixTime {
        UnixTime::from_nanos(self.0.saturating_mul(1_000_000))
    }
}

/// How an edge came to release a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quality {
    /// Announced by a clock that the edge believes.
    Normal,
    /// No such announcement was heard; the edge carried on from its disciplined time.
    Holdover,
    /// Sent more than 1 s after its time, or because the client resumed.
    Replay,
}

/// One SECOND or MINUTE event; its mode is that of the feed it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tick {
    /// Unix time of the tick.
    pub epoch: Epoch,
    /// How the edge came to release it.
    pub quality: Quality,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any epoch, and often one at either end of what there is.
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
        fn every_epoch_lies_between_two_ticks_or_beyond_the_last_one(
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
