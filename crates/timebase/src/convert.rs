//! Conversions to and from the times of the standard library and, with the feature `jiff`, of jiff.
//! They only convert values: none of them reads a clock.

use std::time::{Duration, SystemTime};

use crate::grid::Epoch;
use crate::unix::UnixTime;

impl From<UnixTime> for SystemTime {
    fn from(time: UnixTime) -> Self {
        let since = Duration::from_nanos(time.as_nanos().unsigned_abs());
        if time.as_nanos() < 0 {
            Self::UNIX_EPOCH - since
        } else {
            Self::UNIX_EPOCH + since
        }
    }
}

impl From<SystemTime> for UnixTime {
    /// Converts a time of the system, saturating at the limits of `UnixTime`.
    fn from(time: SystemTime) -> Self {
        let nanos = match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
            // The earliest nanosecond is one further from 1970 than the latest.
            Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
        };
        Self::from_nanos(nanos)
    }
}

impl From<Epoch> for SystemTime {
    /// Converts an epoch, saturating at the limits of [`UnixTime`].
    fn from(epoch: Epoch) -> Self {
        epoch.time().into()
    }
}

impl From<SystemTime> for Epoch {
    /// Converts a time of the system, rounded down to a millisecond, and saturating at the limits
    /// of [`UnixTime`].
    fn from(time: SystemTime) -> Self {
        Self::from_ms(UnixTime::from(time).as_millis())
    }
}

#[cfg(feature = "jiff")]
impl From<UnixTime> for jiff::Timestamp {
    fn from(time: UnixTime) -> Self {
        // Always succeeds: jiff's range ends in the year 9999, and that of `UnixTime` in 2262.
        Self::from_nanosecond(time.as_nanos().into()).unwrap_or(Self::UNIX_EPOCH)
    }
}

#[cfg(feature = "jiff")]
impl From<jiff::Timestamp> for UnixTime {
    /// Converts a timestamp, saturating at the limits of `UnixTime`.
    fn from(time: jiff::Timestamp) -> Self {
        let limit = if time.as_second() < 0 {
            i64::MIN
        } else {
            i64::MAX
        };
        Self::from_nanos(i64::try_from(time.as_nanosecond()).unwrap_or(limit))
    }
}

#[cfg(feature = "jiff")]
impl From<Epoch> for jiff::Timestamp {
    /// Converts an epoch, saturating at the limits of [`UnixTime`].
    fn from(epoch: Epoch) -> Self {
        epoch.time().into()
    }
}

#[cfg(feature = "jiff")]
impl From<jiff::Timestamp> for Epoch {
    /// Converts a timestamp, rounded down to a millisecond, and saturating at the limits of
    /// [`UnixTime`].
    fn from(time: jiff::Timestamp) -> Self {
        Self::from_ms(UnixTime::from(time).as_millis())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nanos() -> impl Strategy<Value = i64> {
        prop_oneof![
            any::<i64>(),
            Just(i64::MIN),
            Just(i64::MAX),
            -2_000..2_000_i64
        ]
    }

    #[test]
    fn an_epoch_is_the_same_moment_for_the_system() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_001_000);
        assert_eq!(SystemTime::from(Epoch::from_ms(1_800_000_001_000)), time);
        let later = time + Duration::from_nanos(999_999);
        assert_eq!(Epoch::from(later), Epoch::from_ms(1_800_000_001_000));
        let before = SystemTime::UNIX_EPOCH - Duration::from_nanos(1);
        assert_eq!(Epoch::from(before), Epoch::from_ms(-1));
    }

    // Elsewhere, times of the system are less exact than a nanosecond.
    #[cfg(target_os = "linux")]
    proptest! {
        #[test]
        fn times_of_the_system_lose_nothing(nanos in nanos()) {
            let time = UnixTime::from_nanos(nanos);
            prop_assert_eq!(UnixTime::from(SystemTime::from(time)), time);
        }
    }

    #[test]
    fn times_out_of_range_saturate() {
        let far = Duration::from_secs(1 << 40);
        let latest = UnixTime::from_nanos(i64::MAX);
        assert_eq!(UnixTime::from(SystemTime::UNIX_EPOCH + far), latest);
        let earliest = UnixTime::from_nanos(i64::MIN);
        assert_eq!(UnixTime::from(SystemTime::UNIX_EPOCH - far), earliest);
        assert_eq!(SystemTime::from(Epoch::from_ms(i64::MAX)), latest.into());
    }

    #[cfg(feature = "jiff")]
    proptest! {
        #[test]
        fn timestamps_lose_nothing(nanos in nanos()) {
            let time = UnixTime::from_nanos(nanos);
            let timestamp = jiff::Timestamp::from(time);
            prop_assert_eq!(timestamp.as_nanosecond(), i128::from(nanos));
            prop_assert_eq!(UnixTime::from(timestamp), time);
        }
    }

    #[cfg(feature = "jiff")]
    #[test]
    fn timestamps_out_of_range_saturate() {
        let (latest, earliest) = (jiff::Timestamp::MAX, jiff::Timestamp::MIN);
        assert_eq!(UnixTime::from(latest), UnixTime::from_nanos(i64::MAX));
        assert_eq!(UnixTime::from(earliest), UnixTime::from_nanos(i64::MIN));
        let minute: jiff::Timestamp = "2026-11-28T12:01:00Z".parse().unwrap();
        assert_eq!(jiff::Timestamp::from(Epoch::from(minute)), minute);
    }
}
