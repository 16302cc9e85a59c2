//! [`Authority`]: one small value that defines the current time. The timekeeper makes it; shards
//! copy it and query it. It makes no decisions and never changes by itself.

use std::time::Duration;

use crate::clock::was_suspended;
use crate::grid::{Epoch, Quality};
use crate::mono::Mono;
use crate::unix::UnixTime;

/// The assumed drift of an offset without new samples: 200 ppm. Crystals are within 50 ppm, and
/// chrony on clock hosts slews by at most 100 ppm (`maxslewrate`).
pub(crate) const ASSUMED_PPB: u64 = 200_000;

/// The time in nanoseconds in which an offset drifts by one nanosecond, by that assumption.
pub(crate) const DRIFT_DIVISOR: u64 = 1_000_000_000 / ASSUMED_PPB;

/// The lateness beyond which a tick is a replay.
pub(crate) const PUNCTUAL_FOR: Duration = Duration::from_secs(1);

/// Authority time as an edge holds it between two choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Authority time minus the machine's own, in nanoseconds.
    pub(crate) offset_ns: i64,
    /// The error bound of the offset at `bound_from`, in nanoseconds.
    pub(crate) bound_ns: u64,
    pub(crate) bound_from: Mono,
    /// The time in nanoseconds in which the offset may drift by one nanosecond.
    pub(crate) drift_divisor: u64,
    /// For how long the machine had been suspended when the offset was measured or, if that drifts
    /// without a suspension, since then.
    pub(crate) suspended: Duration,
    pub(crate) clock_error_us: u32,
    pub(crate) vouched_until: Option<Epoch>,
    pub(crate) valid_until: Mono,
    pub(crate) generation: u32,
    pub(crate) origin: UnixTime,
}

impl Authority {
    /// Returns authority time at `now`.
    #[must_use]
    pub const fn time_at(&self, now: Mono) -> UnixTime {
        UnixTime::from_nanos(self.offset_ns.saturating_add_unsigned(now.as_nanos()))
    }

    /// Returns the moment at which authority time is `time`, or [`Mono::ZERO`] if it was before the
    /// machine's zero.
    #[must_use]
    pub const fn mono_at(&self, time: UnixTime) -> Mono {
        if time.as_nanos() < self.offset_ns {
            return Mono::ZERO;
        }
        Mono::from_nanos(time.as_nanos().abs_diff(self.offset_ns))
    }

    /// Returns the error bound of authority time against the followed clock, in microseconds,
    /// rounded.
    #[must_use]
    pub fn bound_us(&self, now: Mono) -> u32 {
        micros(self.bound_ns_at(now))
    }

    pub(crate) fn bound_ns_at(&self, now: Mono) -> u64 {
        let age_ns = now.as_nanos().saturating_sub(self.bound_from.as_nanos());
        self.bound_ns.saturating_add(age_ns / self.drift_divisor)
    }

    /// Returns the maximum error against UTC that the followed clock's kernel reports, in
    /// microseconds.
    #[must_use]
    pub const fn clock_error_us(&self) -> u32 {
        self.clock_error_us
    }

    /// Returns whether the offset may still be used at `now`.
    #[must_use]
    pub fn is_valid(&self, now: Mono) -> bool {
        now < self.valid_until
    }

    /// Returns whether the offset may still be used on a machine that has been suspended for
    /// `suspended` in all ([`Clock::suspended`]). It is wrong by the time of any suspension since
    /// it was measured.
    ///
    /// [`Clock::suspended`]: crate::Clock::suspended
    #[must_use]
    pub fn outlasts(&self, suspended: Duration) -> bool {
        !was_suspended(self.suspended, suspended)
    }

    /// Returns whether an accepted clock has announced the tick at `epoch` or a later one.
    #[must_use]
    pub fn vouches_for(&self, epoch: Epoch) -> bool {
        self.vouched_until.is_some_and(|until| epoch <= until)
    }

    /// Returns the quality of the tick at `epoch` if it is sent at `now`.
    #[must_use]
    pub fn quality(&self, epoch: Epoch, now: Mono) -> Quality {
        if epoch.time().saturating_add(PUNCTUAL_FOR) < self.time_at(now) {
            Quality::Replay
        } else if self.vouches_for(epoch) {
            Quality::Normal
        } else {
            Quality::Holdover
        }
    }

    /// Returns a number that changes if and only if all subscriptions end with TIME_STEPPED.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// Returns the authority time at which this generation started. The generation's ticks are
    /// those after that time.
    #[must_use]
    pub const fn origin(&self) -> UnixTime {
        self.origin
    }
}

/// Converts nanoseconds to microseconds, rounding, and saturating after 71 minutes, which no useful
/// bound reaches.
pub(crate) fn micros(nanos: u64) -> u32 {
    u32::try_from(nanos.saturating_add(500) / 1_000).unwrap_or(u32::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Creates an authority that is `offset_ns` ahead of the machine's own time, is valid
    /// indefinitely, and has no announcement from any clock.
    pub(crate) fn authority(offset_ns: i64) -> Authority {
        Authority {
            offset_ns,
            bound_ns: 0,
            bound_from: Mono::ZERO,
            drift_divisor: DRIFT_DIVISOR,
            suspended: Duration::ZERO,
            clock_error_us: 0,
            vouched_until: None,
            valid_until: Mono::NEVER,
            generation: 1,
            origin: UnixTime::from_nanos(offset_ns),
        }
    }

    #[test]
    fn the_bound_grows_by_200_ppm() {
        let authority = Authority {
            bound_ns: 207_900,
            ..authority(0)
        };
        assert_eq!(authority.bound_us(Mono::ZERO), 208);
        assert_eq!(
            authority.bound_us(Mono::ZERO + Duration::from_secs(60)),
            208 + 12_000
        );
        assert_eq!(authority.bound_us(Mono::NEVER), u32::MAX);
    }

    #[test]
    fn an_offset_does_not_outlast_a_suspension() {
        let authority = Authority {
            suspended: Duration::from_secs(7),
            ..authority(0)
        };
        assert!(authority.outlasts(Duration::from_millis(7_009)));
        assert!(authority.outlasts(Duration::from_millis(6_991)));
        assert!(!authority.outlasts(Duration::from_millis(7_010)));
        assert!(!authority.outlasts(Duration::from_secs(3_600)));
    }

    #[test]
    fn a_tick_is_a_replay_once_it_is_more_than_a_second_late() {
        let authority = Authority {
            vouched_until: Some(Epoch::from_ms(5_000)),
            ..authority(0)
        };
        let quality =
            |epoch_ms, at_ns| authority.quality(Epoch::from_ms(epoch_ms), Mono::from_nanos(at_ns));
        assert_eq!(quality(5_000, 6_000_000_000), Quality::Normal);
        assert_eq!(quality(5_000, 6_000_000_001), Quality::Replay);
        assert_eq!(quality(6_000, 6_000_000_000), Quality::Holdover);
        assert_eq!(quality(6_000, 7_000_000_001), Quality::Replay);
    }

    proptest! {
        #[test]
        fn time_at_and_mono_at_are_inverse(
            offset_ns in -4_000_000_000_000_000_000_i64..7_000_000_000_000_000_000,
            now_ns in 0_u64..2_000_000_000_000_000_000,
        ) {
            let authority = authority(offset_ns);
            let now = Mono::from_nanos(now_ns);
            prop_assert_eq!(authority.mono_at(authority.time_at(now)), now);
        }

        #[test]
        fn extreme_offsets_and_times_do_not_overflow(
            offset_ns: i64, now_ns: u64, time_ns: i64, epoch_ms: i64,
        ) {
            let (authority, now) = (authority(offset_ns), Mono::from_nanos(now_ns));
            let time = UnixTime::from_nanos(time_ns);
            prop_assert!(authority.mono_at(time) <= Mono::NEVER);
            prop_assert!(authority.time_at(now) >= UnixTime::from_nanos(offset_ns));
            prop_assert_ne!(authority.quality(Epoch::from_ms(epoch_ms), now), Quality::Normal);
        }
    }
}
