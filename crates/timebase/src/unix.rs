//! [`UnixTime`]: a moment in Unix time. On an edge this is always authority time.

use std::time::Duration;

/// A moment in nanoseconds since 1970-01-01T00:00:00Z, not counting leap seconds. The range ends in
/// the year 2262.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(i64);

impl UnixTime {
    /// Creates the moment `nanos` nanoseconds after the start of 1970.
    #[must_use]
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Creates the moment `micros` microseconds after the start of 1970; `None` if it is out of the
    /// range of nanoseconds.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Option<Self> {
        match micros.checked_mul(1_000) {
            Some(nanos) => Some(Self(nanos)),
            None => None,
        }
    }

    /// Returns the nanoseconds since the start of 1970.
    #[must_use]
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// Returns the whole microseconds since the start of 1970, rounded down.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// Returns the whole milliseconds since the start of 1970, rounded down.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// Returns the moment `duration` later, saturating at the latest representable one.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(signed_nanos(duration)))
    }

    /// Returns the moment `duration` earlier, saturating at the earliest representable one.
    #[must_use]
    pub fn saturating_sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(signed_nanos(duration)))
    }
}

fn signed_nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn extreme_times_and_durations_do_not_overflow(
            ns in prop_oneof![any::<i64>(), Just(i64::MIN), Just(i64::MAX)],
            duration in (any::<u64>(), 0..1_000_000_000_u32),
        ) {
            let time = UnixTime::from_nanos(ns);
            let duration = Duration::new(duration.0, duration.1);
            prop_assert!(time.saturating_add(duration) >= time);
            prop_assert!(time.saturating_sub(duration) <= time);
            let whole_micros = i128::from(ns).div_euclid(1_000);
            prop_assert_eq!(i128::from(time.as_micros()), whole_micros);
            prop_assert_eq!(time.as_millis(), time.as_micros().div_euclid(1_000));
        }

        #[test]
        fn micros_out_of_the_range_of_nanoseconds_are_rejected(us in any::<i64>()) {
            let time = UnixTime::from_micros(us);
            prop_assert_eq!(time.is_some(), us.checked_mul(1_000).is_some());
            prop_assert!(time.is_none_or(|time| time.as_micros() == us));
        }
    }
}
