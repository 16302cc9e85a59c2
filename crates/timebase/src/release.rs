//! [`Schedule`]: which ticks of one feed are due. It returns no tick twice, and skips a tick only
//! if the tick is older than the resume window or a new generation starts. It sends nothing and
//! does only arithmetic, because a shard polls it at every wake-up.

use std::time::Duration;

use crate::authority::{Authority, PUNCTUAL_FOR};
use crate::grid::{Epoch, Mode, Tick};
use crate::mono::Mono;
use crate::unix::UnixTime;

/// One feed's position on the grid.
#[derive(Clone, Debug)]
pub struct Schedule {
    mode: Mode,
    lead: Duration,
    window: Duration,
    /// The generation that `released` belongs to; `None` before the first poll.
    generation: Option<u32>,
    released: Epoch,
}

impl Schedule {
    /// Creates the schedule of a feed that sends each tick `lead` before its authority time (zero:
    /// at that time), and sends missed ticks if they are no older than `resume_window`. A tick that
    /// is at most 1 s late does not count as missed, however small the window.
    #[must_use]
    pub fn new(mode: Mode, lead: Duration, resume_window: Duration) -> Self {
        Self {
            mode,
            lead,
            window: resume_window.max(PUNCTUAL_FOR),
            generation: None,
            released: Epoch::default(),
        }
    }

    /// Returns the mode of the feed's ticks.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Returns when the next tick must be released, or [`Mono::NEVER`] if the authority ceases to
    /// be valid before then.
    #[must_use]
    pub fn next_due(&self, authority: &Authority) -> Mono {
        let next = self.mode.next_after(self.last(authority)).time();
        let due = authority.mono_at(next.saturating_sub(self.lead));
        if due < authority.valid_until {
            due
        } else {
            Mono::NEVER
        }
    }

    /// Appends to `out` the ticks that have become due by `now`, in order. If the authority is no
    /// longer valid, these are the ticks that became due while it was.
    pub fn poll(&mut self, authority: &Authority, now: Mono, out: &mut Vec<Tick>) {
        if self.next_due(authority) > now {
            return;
        }
        let horizon = now.min(
            authority
                .valid_until
                .saturating_sub(Duration::from_nanos(1)),
        );
        let until = self
            .mode
            .last_at(authority.time_at(horizon).saturating_add(self.lead));
        let mut epoch = self
            .mode
            .next_after(self.last(authority).max(self.beyond_window(authority, now)));
        while epoch <= until {
            out.push(Tick {
                epoch,
                quality: authority.quality(epoch, now),
            });
            epoch = self.mode.next_after(epoch);
        }
        self.generation = Some(authority.generation());
        self.released = until;
    }

    /// Returns the last tick released, or, before the first release in the authority's generation,
    /// the last grid tick at or before the generation's origin.
    #[must_use]
    pub fn last(&self, authority: &Authority) -> Epoch {
        if self.generation == Some(authority.generation()) {
            self.released
        } else {
            self.mode.last_at(authority.origin())
        }
    }

    /// Returns the last tick that is too old to be sent at `now`.
    fn beyond_window(&self, authority: &Authority, now: Mono) -> Epoch {
        let oldest = authority.time_at(now).saturating_sub(self.window);
        self.mode
            .last_at(UnixTime::from_nanos(oldest.as_nanos().saturating_sub(1)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::authority::tests::authority;
    use crate::grid::Quality;

    const WINDOW: Duration = Duration::from_secs(600);
    const SECOND_NS: i64 = 1_000_000_000;

    fn at(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    fn poll(schedule: &mut Schedule, authority: &Authority, now: Mono) -> Vec<i64> {
        let mut ticks = Vec::new();
        schedule.poll(authority, now, &mut ticks);
        ticks.into_iter().map(|tick| tick.epoch.as_ms()).collect()
    }

    #[test]
    fn a_tick_is_due_at_its_exact_nanosecond_and_only_once() {
        let mut schedule = Schedule::new(Mode::Second, Duration::ZERO, WINDOW);
        let authority = authority(250_000_001);
        let due = Mono::from_nanos(749_999_999);
        assert_eq!(schedule.next_due(&authority), due);
        assert_eq!(
            poll(&mut schedule, &authority, Mono::from_nanos(749_999_998)),
            []
        );
        assert_eq!(poll(&mut schedule, &authority, due), [1_000]);
        assert_eq!(poll(&mut schedule, &authority, due), []);
        assert_eq!(
            schedule.next_due(&authority),
            Mono::from_nanos(1_749_999_999)
        );
    }

    #[test]
    fn the_tick_at_the_origin_does_not_belong_to_the_generation() {
        let mut schedule = Schedule::new(Mode::Second, Duration::ZERO, WINDOW);
        let authority = authority(5 * SECOND_NS);
        assert_eq!(schedule.last(&authority), Epoch::from_ms(5_000));
        assert_eq!(poll(&mut schedule, &authority, Mono::ZERO), []);
        assert_eq!(poll(&mut schedule, &authority, at(1_000)), [6_000]);
    }

    #[test]
    fn a_new_generation_starts_after_its_origin() {
        let mut schedule = Schedule::new(Mode::Second, Duration::ZERO, WINDOW);
        let before = authority(100 * SECOND_NS);
        poll(&mut schedule, &before, at(20_000));
        let origin = UnixTime::from_nanos(30 * SECOND_NS);
        let after = Authority {
            generation: 2,
            origin,
            ..authority(10 * SECOND_NS)
        };
        assert_eq!(schedule.last(&after), Epoch::from_ms(30_000));
        assert_eq!(schedule.next_due(&after), at(21_000));
        assert_eq!(poll(&mut schedule, &after, at(21_500)), [31_000]);
    }

    #[test]
    fn nothing_becomes_due_once_the_authority_is_invalid() {
        let mut schedule = Schedule::new(Mode::Second, Duration::ZERO, WINDOW);
        let ending = Authority {
            valid_until: at(3_000),
            ..authority(0)
        };
        // A tick that became due before then is released even if the poll is late, so that a shard
        // that waited for the tick still gets it.
        assert_eq!(schedule.next_due(&ending), at(1_000));
        assert_eq!(poll(&mut schedule, &ending, at(10_000)), [1_000, 2_000]);
        assert_eq!(schedule.next_due(&ending), Mono::NEVER);
        assert_eq!(poll(&mut schedule, &ending, at(10_000)), []);
        assert_eq!(
            poll(&mut schedule, &authority(0), at(4_000)),
            [3_000, 4_000]
        );
    }

    #[test]
    fn a_late_wake_releases_its_ticks_even_with_a_zero_window() {
        let mut schedule = Schedule::new(Mode::Second, Duration::ZERO, Duration::ZERO);
        assert_eq!(poll(&mut schedule, &authority(0), at(3_400)), [3_000]);
        assert_eq!(
            poll(&mut schedule, &authority(0), at(5_000)),
            [4_000, 5_000]
        );
    }

    #[test]
    fn ticks_older_than_the_window_are_not_waited_for() {
        let mut schedule = Schedule::new(Mode::Minute, Duration::ZERO, Duration::from_secs(10));
        assert_eq!(poll(&mut schedule, &authority(0), at(90_000)), []);
        assert_eq!(schedule.next_due(&authority(0)), at(120_000));
        assert_eq!(schedule.last(&authority(0)), Epoch::from_ms(60_000));
    }

    #[test]
    fn an_ahead_feed_releases_its_lead_before_the_tick() {
        let mut schedule = Schedule::new(Mode::Minute, Duration::from_millis(800), WINDOW);
        assert_eq!(schedule.next_due(&authority(0)), at(59_200));
        let mut ticks = Vec::new();
        schedule.poll(&authority(0), at(59_200), &mut ticks);
        assert_eq!(
            ticks,
            [Tick {
                epoch: Epoch::from_ms(60_000),
                quality: Quality::Holdover
            }]
        );
    }

    proptest! {
        /// Offsets wander by up to 10 s and the machine stalls for up to 100 s, yet within a
        /// generation no tick is duplicated or lost.
        #[test]
        fn ticks_follow_one_another_whatever_the_authority_does(
            lead_ms in prop_oneof![Just(0), 200_u64..5_000],
            mode in prop_oneof![Just(Mode::Second), Just(Mode::Minute)],
            steps in prop::collection::vec(
                (0_u64..100_000, -10_000_i64..10_000, prop::option::of(0_u64..2_000)),
                1..50,
            ),
        ) {
            let mut schedule = Schedule::new(mode, Duration::from_millis(lead_ms), WINDOW);
            let base = authority(1_700_000_000 * SECOND_NS);
            let mut last = schedule.last(&base);
            let mut now = Mono::ZERO;
            for (stall_ms, offset_ms, valid_for_ms) in steps {
                now = now + Duration::from_millis(stall_ms);
                let valid_for = valid_for_ms.map(Duration::from_millis);
                let valid_until = valid_for.map_or(Mono::NEVER, |valid_for| now + valid_for);
                let offset_ns = base.offset_ns + offset_ms * 1_000_000;
                let authority = Authority { offset_ns, valid_until, ..base };
                let mut ticks = Vec::new();
                schedule.poll(&authority, now, &mut ticks);
                for tick in ticks {
                    prop_assert_eq!(tick.epoch, mode.next_after(last));
                    let early = Duration::from_millis(lead_ms);
                    prop_assert!(authority.time_at(now).saturating_add(early) >= tick.epoch.time());
                    last = tick.epoch;
                }
                prop_assert_eq!(schedule.last(&authority), last);
                prop_assert!(schedule.next_due(&authority) > now);
            }
        }

        /// Real authorities are between 1970 and 2200, but nothing breaks outside that range.
        #[test]
        fn extreme_offsets_leads_and_windows_do_not_overflow(
            offset_ns: i64,
            now_ns: u64,
            valid_until_ns: u64,
            lead_ms in 0..10_000_u64,
            window in 0..=3_600_u64,
            mode in prop_oneof![Just(Mode::Second), Just(Mode::Minute)],
        ) {
            let window = Duration::from_secs(window);
            let mut schedule = Schedule::new(mode, Duration::from_millis(lead_ms), window);
            let valid_until = Mono::from_nanos(valid_until_ns);
            let authority = Authority { valid_until, ..authority(offset_ns) };
            let before = schedule.last(&authority);
            let mut ticks = Vec::new();
            schedule.poll(&authority, Mono::from_nanos(now_ns), &mut ticks);
            prop_assert!(ticks.len() <= 3_611);
            prop_assert!(ticks.first().is_none_or(|tick| tick.epoch > before));
            prop_assert!(ticks.is_sorted_by(|one, next| one.epoch < next.epoch));
        }
    }
}
