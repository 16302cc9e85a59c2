//! The point from which a subscription continues over a new connection, and the classification of
//! the ticks that arrive then: the next tick, a tick after a gap, or a repeated tick. This module
//! does no I/O.

#[cfg(test)]
mod vectors;

use tickstorm_protocol::code::Return;
use tickstorm_timebase::{Epoch, Mode};

/// The relation of a tick to the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Continuity {
    /// The tick is the successor of the last one.
    Next,
    /// The tick is later than the last one's successor; the ticks in between cannot be obtained.
    AfterGap {
        /// The last tick before the gap, or the point at which the subscription started.
        after: Epoch,
    },
    /// The tick is not later than the last one.
    Again,
}

/// The subscription's position, which outlives its connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resume {
    mode: Mode,
    /// The last tick, or the point at which the subscription started.
    point: Option<Epoch>,
    /// The last tick of the other mode that the program has received, if the mode was changed.
    other: Option<Epoch>,
    /// The last tick of this mode that the program had received before the mode was changed.
    floor: Option<Epoch>,
    /// Whether the point has been refused once and is being tried a second time.
    refused_once: bool,
}

impl Resume {
    pub(crate) fn new(mode: Mode, point: Option<Epoch>) -> Self {
        Self {
            mode,
            point,
            other: None,
            floor: None,
            refused_once: false,
        }
    }

    /// Returns the position after a change to `mode`, if the time is `present` as far as is known.
    /// After SECOND ticks, the MINUTE ticks after the last of them follow. After MINUTE ticks, the
    /// SECOND ticks from the present on follow, and not those of the minute before. No tick is
    /// repeated that the program has received before, in an earlier use of that mode.
    pub(crate) fn changed_to(self, mode: Mode, present: Option<Epoch>) -> Self {
        if mode == self.mode {
            return self;
        }
        let (point, other) = if self.is_coarser_than(mode) {
            let earlier = |epoch: Epoch| Epoch::from_ms(epoch.as_ms().saturating_sub(1));
            // The present millisecond has begun, but a tick at its very start may not have come.
            let present = present.map(earlier);
            // A tick of this mode may be due that has not arrived. The SECOND tick of the same
            // moment takes its place.
            let start = self.point.zip(present).map(|(point, present)| {
                let due = self.mode.floor(present);
                if due > point { earlier(due) } else { present }
            });
            // Ticks that are held until their time are dropped, so they were not received.
            (start, self.point.min(present.or(self.point)))
        } else {
            (self.point, self.point)
        };
        Self {
            mode,
            point: point.max(point.and(self.other)),
            floor: self.other,
            other,
            refused_once: false,
        }
    }

    /// Continues as `changed`, which [`Resume::changed_to`] has returned. Ticks of the old mode may
    /// have been received since.
    pub(crate) fn change(&mut self, changed: Self) {
        if changed.mode == self.mode {
            return;
        }
        let (point, other) = if self.is_coarser_than(changed.mode) {
            (changed.point, changed.other)
        } else {
            (changed.point.max(self.point), self.point)
        };
        *self = Self {
            point,
            other,
            ..changed
        };
    }

    fn is_coarser_than(&self, mode: Mode) -> bool {
        self.mode.period_ms() > mode.period_ms()
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// Returns the resume point of the next SUBSCRIBE.
    pub(crate) fn point(&self) -> Option<Epoch> {
        self.point
    }

    /// Records that an edge accepted the subscription and sends the ticks after `start`.
    pub(crate) fn handle_start(&mut self, start: Epoch) {
        self.refused_once = false;
        let start = self.floor.map_or(start, |floor| floor.max(start));
        self.point.get_or_insert(start);
    }

    /// Records a tick, and returns how it relates to the last one.
    pub(crate) fn handle_tick(&mut self, epoch: Epoch) -> Continuity {
        let continuity = match self.point {
            Some(point) if epoch <= point => return Continuity::Again,
            Some(point) if epoch > self.mode.next_after(point) => {
                Continuity::AfterGap { after: point }
            }
            Some(_) | None => Continuity::Next,
        };
        self.point = Some(epoch);
        continuity
    }

    /// Returns how to come back after a connection ended or could not be made, considering whether
    /// there was a resume point.
    pub(crate) fn classify(&self, come_back: Return) -> Return {
        match come_back {
            Return::RetryResumeOnce if self.point.is_none() => Return::No,
            Return::RetryResumeOnce
            | Return::No
            | Return::AtOnce
            | Return::AtOnceWithoutResume
            | Return::Later
            | Return::Elsewhere => come_back,
        }
    }

    /// Records that a connection ended or could not be made. Returns how to come back, which also
    /// depends on whether there was a resume point; [`Return::AtOnceWithoutResume`] means that
    /// there no longer is one.
    pub(crate) fn handle_end(&mut self, come_back: Return) -> Return {
        match self.classify(come_back) {
            Return::RetryResumeOnce if !self.refused_once => {
                self.refused_once = true;
                Return::AtOnce
            }
            Return::RetryResumeOnce | Return::AtOnceWithoutResume => {
                self.point = None;
                (self.other, self.floor) = (None, None);
                self.refused_once = false;
                Return::AtOnceWithoutResume
            }
            class @ (Return::No | Return::AtOnce | Return::Later | Return::Elsewhere) => class,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn epoch(secs: i64) -> Epoch {
        Epoch::from_ms(secs * 1_000)
    }

    #[test]
    fn without_a_tick_it_resumes_from_the_start() {
        let mut resume = Resume::new(Mode::Minute, None);
        assert_eq!(resume.point(), None);
        resume.handle_start(epoch(60));
        assert_eq!(resume.handle_end(Return::AtOnce), Return::AtOnce);
        assert_eq!(resume.point(), Some(epoch(60)));
        // A later start in the next ACK does not move the resume point.
        resume.handle_start(epoch(120));
        assert_eq!(resume.point(), Some(epoch(60)));
        assert_eq!(resume.handle_tick(epoch(120)), Continuity::Next);
        assert_eq!(resume.point(), Some(epoch(120)));
    }

    #[test]
    fn repeated_ticks_and_gaps_are_distinguished_from_the_next_tick() {
        let mut resume = Resume::new(Mode::Second, Some(Epoch::from_ms(4_500)));
        assert_eq!(resume.handle_tick(epoch(4)), Continuity::Again);
        assert_eq!(resume.handle_tick(epoch(5)), Continuity::Next);
        assert_eq!(resume.handle_tick(epoch(5)), Continuity::Again);
        assert_eq!(resume.handle_tick(epoch(6)), Continuity::Next);
        let gap = Continuity::AfterGap { after: epoch(6) };
        assert_eq!(resume.handle_tick(epoch(8)), gap);
        assert_eq!(resume.handle_tick(epoch(9)), Continuity::Next);
        assert_eq!(resume.handle_tick(epoch(7)), Continuity::Again);
    }

    #[test]
    fn a_refused_point_is_tried_once_more_and_then_given_up() {
        let mut resume = Resume::new(Mode::Second, Some(epoch(5)));
        let refused = Return::RetryResumeOnce;
        assert_eq!(resume.handle_end(refused), Return::AtOnce);
        assert_eq!(resume.point(), Some(epoch(5)));
        // An unrelated failure does not use up the point's second attempt.
        assert_eq!(resume.handle_end(Return::Elsewhere), Return::Elsewhere);
        assert_eq!(resume.point(), Some(epoch(5)));
        assert_eq!(resume.handle_end(refused), Return::AtOnceWithoutResume);
        assert_eq!(resume.point(), None);
        // The resume point was not the reason, so the mode must be.
        assert_eq!(resume.handle_end(refused), Return::No);
    }

    #[test]
    fn a_point_that_was_accepted_has_both_attempts_again() {
        let mut resume = Resume::new(Mode::Second, Some(epoch(5)));
        assert_eq!(resume.handle_end(Return::RetryResumeOnce), Return::AtOnce);
        resume.handle_start(epoch(5));
        assert_eq!(resume.handle_end(Return::RetryResumeOnce), Return::AtOnce);
    }

    #[test]
    fn after_a_step_back_earlier_ticks_are_not_repetitions() {
        let mut resume = Resume::new(Mode::Second, None);
        resume.handle_start(epoch(99));
        assert_eq!(resume.handle_tick(epoch(100)), Continuity::Next);
        let stepped = Return::AtOnceWithoutResume;
        assert_eq!(resume.handle_end(stepped), stepped);
        assert_eq!(resume.point(), None);
        resume.handle_start(epoch(50));
        assert_eq!(resume.handle_tick(epoch(51)), Continuity::Next);
    }

    #[test]
    fn a_change_of_mode_continues_where_the_old_mode_ended() {
        let mut resume = Resume::new(Mode::Second, Some(epoch(100)));
        assert_eq!(resume.handle_tick(epoch(101)), Continuity::Next);
        // The present does not matter: the next minute follows.
        for present in [None, Some(epoch(101)), Some(epoch(300))] {
            let minutes = resume.changed_to(Mode::Minute, present);
            assert_eq!(
                (minutes.mode(), minutes.point()),
                (Mode::Minute, Some(epoch(101)))
            );
        }
        let mut minutes = resume.changed_to(Mode::Minute, None);
        assert_eq!(minutes.handle_tick(epoch(120)), Continuity::Next);
        assert_eq!(
            minutes.handle_tick(epoch(240)),
            Continuity::AfterGap { after: epoch(120) }
        );
        // Seconds start at the present. If it is not known, the edge determines it.
        let seconds = minutes.changed_to(Mode::Second, Some(epoch(250)));
        assert_eq!(seconds.point(), Some(Epoch::from_ms(249_999)));
        assert_eq!(minutes.changed_to(Mode::Second, None).point(), None);
        // A minute has begun whose tick has not arrived.
        let seconds = minutes.changed_to(Mode::Second, Some(Epoch::from_ms(300_003)));
        assert_eq!(seconds.point(), Some(Epoch::from_ms(299_999)));
        assert_eq!(
            minutes.changed_to(Mode::Minute, None).point(),
            minutes.point()
        );
    }

    #[test]
    fn ticks_between_the_request_and_its_answer_are_not_repeated() {
        let mut resume = Resume::new(Mode::Second, Some(epoch(119)));
        let changed = resume.changed_to(Mode::Minute, Some(epoch(119)));
        assert_eq!(resume.handle_tick(epoch(120)), Continuity::Next);
        resume.change(changed);
        assert_eq!(resume.handle_tick(epoch(120)), Continuity::Again);
        assert_eq!(resume.handle_tick(epoch(180)), Continuity::Next);
    }

    #[test]
    fn seconds_are_not_repeated_although_the_time_is_not_known() {
        let mut resume = Resume::new(Mode::Second, Some(epoch(105)));
        resume.change(resume.changed_to(Mode::Minute, None));
        resume.change(resume.changed_to(Mode::Second, None));
        assert_eq!(resume.point(), None);
        resume.handle_start(epoch(104));
        assert_eq!(resume.handle_tick(epoch(105)), Continuity::Again);
        assert_eq!(resume.handle_tick(epoch(106)), Continuity::Next);
    }

    #[test]
    fn two_changes_of_mode_repeat_and_lose_no_tick() {
        // Ahead, seconds up to 105 have arrived at 100.
        let seconds = Resume::new(Mode::Second, Some(epoch(105)));
        let minutes = seconds.changed_to(Mode::Minute, Some(epoch(100)));
        let again = minutes.changed_to(Mode::Second, Some(epoch(101)));
        assert_eq!(
            again.point(),
            Some(epoch(105)),
            "the last one is not repeated"
        );
        // A minute that is held until its time is dropped.
        let minutes = Resume::new(Mode::Minute, Some(epoch(120)));
        let seconds = minutes.changed_to(Mode::Second, Some(epoch(116)));
        let mut again = seconds.changed_to(Mode::Minute, Some(epoch(117)));
        assert_eq!(again.handle_tick(epoch(120)), Continuity::Next);
    }

    #[test]
    fn a_step_of_time_makes_all_positions_void() {
        let mut resume = Resume::new(Mode::Second, Some(epoch(1_000)));
        resume = resume.changed_to(Mode::Minute, None);
        resume.handle_end(Return::AtOnceWithoutResume);
        resume.handle_start(epoch(60));
        let again = resume.changed_to(Mode::Second, Some(epoch(70)));
        assert_eq!(again.point(), Some(Epoch::from_ms(69_999)));
    }

    /// Any epoch, and often one near either end of the range.
    fn epochs() -> impl Strategy<Value = Epoch> {
        prop_oneof![
            any::<i64>(),
            (0..120_000_i64).prop_map(|ms| i64::MIN + ms),
            (0..120_000_i64).prop_map(|ms| i64::MAX - ms),
            -120_000..120_000_i64,
        ]
        .prop_map(Epoch::from_ms)
    }

    proptest! {
        #[test]
        fn whatever_an_edge_sends_ticks_increase_and_gaps_are_between_them(
            mode in prop_oneof![Just(Mode::Second), Just(Mode::Minute)],
            point in prop::option::of(epochs()),
            start in epochs(),
            ticks in prop::collection::vec(epochs(), 1..20),
        ) {
            let mut resume = Resume::new(mode, point);
            resume.handle_start(start);
            for tick in ticks {
                let before = resume.point();
                match resume.handle_tick(tick) {
                    Continuity::Next => prop_assert!(before < Some(tick)),
                    Continuity::AfterGap { after } => {
                        prop_assert_eq!(Some(after), before);
                        prop_assert!(mode.next_after(after) < tick);
                    }
                    Continuity::Again => prop_assert!(before >= Some(tick)),
                }
                prop_assert_eq!(resume.point(), before.max(Some(tick)));
            }
        }
    }
}
