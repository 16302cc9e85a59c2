//! [`UnixTime`]: a moment as the world counts it; on an edge that is always authority time.

use std::time::Duration;

/// Nanoseconds since 1970-01-01T00:00:00Z, leap seconds not counted. Reaches to the year 2262.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(i64);

impl UnixTime {
    /// The moment `nanos` nanoseconds after the beginning of 1970.
    #[must_use]
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// The moment `micros` microseconds after the beginning of 1970; none where nanoseconds can't hold it.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Option<Self> {
        match micros.checked_mul(1_000) {
            Some(nanos) => Some(Self(nanos)),
            None => None,
        }
    }

    /// Nanoseconds since the beginning of 1970.
    #[must_use]
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// Whole microseconds since the beginning of 1970, rounded down.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// Whole milliseconds since the beginning of 1970, rounded down.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// The moment `duration` later, at most the last there is.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(signed_nanos(duration)))
    }

    /// The moment `duration` earlier, at least the first there is.
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
        fn no_time_and_no_duration_is_too_extreme(
            ns in prop_oneof![any::<i64>(), Just(i64::MIN), Just(i64::MAX)],
            duration in (any::<u64>(), 0..1_000_000_000_u32),
        ) {
            let (time, duration) = (UnixTime::from_nanos(ns), Duration::new(duration.0, duration.1));
            prop_assert!(time.saturating_add(duration) >= time);
            prop_assert!(time.saturating_sub(duration) <= time);
            prop_assert_eq!(time.as_micros(), i64::try_from(i128::from(ns).div_euclid(1_000)).unwrap());
            prop_assert_eq!(time.as_millis(), time.as_micros().div_euclid(1_000));
        }

        #[test]
        fn micros_that_nanoseconds_can_not_hold_are_no_time(us in any::<i64>()) {
            let time = UnixTime::from_micros(us);
            prop_assert_eq!(time.is_some(), us.checked_mul(1_000).is_some());
            prop_assert!(time.is_none_or(|time| time.as_micros() == us));
        }
    }
}
