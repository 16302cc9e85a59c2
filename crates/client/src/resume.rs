//! From where a subscription goes on over a new connection, and what that makes of the ticks which then come: the next one, one
//! after a gap, or one that was there before. Without I/O.

use tickstorm_protocol::code::Return;
use tickstorm_timebase::{Epoch, Mode};

/// How a tick goes on from the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Continuity {
    /// The one after the last.
    Next,
    /// Later than that one: what lies between can't be had.
    AfterGap {
        /// The last tick before the gap, or the point where the subscription began.
        after: Epoch,
    },
    /// Not later than the last.
    Again,
}

/// The subscription's position, which outlives its connections.
#[derive(Debug)]
pub(crate) struct Resume {
    mode: Mode,
    /// The last tick, or where the subscription began.
    point: Option<Epoch>,
    /// The point was refused, and is tried once more.
    once_more: bool,
}

impl Resume {
    pub(crate) fn new(mode: Mode, point: Option<Epoch>) -> Self {
        Self {
            mode,
            point,
            once_more: false,
        }
    }

    /// What the next SUBSCRIBE names.
    pub(crate) fn point(&self) -> Option<Epoch> {
        self.point
    }

    /// An edge begins after `start`.
    pub(crate) fn handle_start(&mut self, start: Epoch) {
        self.once_more = false;
        self.point.get_or_insert(start);
    }

    /// A tick came.
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

    /// A connection ended, or did not come about. What its end says about coming back depends on whether there was a resume point;
    /// [`Return::AtOnceWithoutResume`] says that there is none any more.
    pub(crate) fn handle_end(&mut self, come_back: Return) -> Return {
        match come_back {
            Return::OnceMoreWithResume if self.point.is_none() => Return::No,
            Return::OnceMoreWithResume if !self.once_more => {
                self.once_more = true;
                Return::AtOnce
            }
            Return::OnceMoreWithResume | Return::AtOnceWithoutResume => {
                self.point = None;
                self.once_more = false;
                Return::AtOnceWithoutResume
            }
            Return::No | Return::AtOnce | Return::Later | Return::Elsewhere => come_back,
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
    fn where_no_tick_came_it_goes_on_from_the_start() {
        let mut resume = Resume::new(Mode::Minute, None);
        assert_eq!(resume.point(), None);
        resume.handle_start(epoch(60));
        assert_eq!(resume.handle_end(Return::AtOnce), Return::AtOnce);
        assert_eq!(resume.point(), Some(epoch(60)));
        // The next edge may have begun later; what was missed there is still wanted.
        resume.handle_start(epoch(120));
        assert_eq!(resume.point(), Some(epoch(60)));
        assert_eq!(resume.handle_tick(epoch(120)), Continuity::Next);
        assert_eq!(resume.point(), Some(epoch(120)));
    }

    #[test]
    fn repetitions_and_gaps_are_told_from_the_next_tick() {
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
        let refused = Return::OnceMoreWithResume;
        assert_eq!(resume.handle_end(refused), Return::AtOnce);
        assert_eq!(resume.point(), Some(epoch(5)));
        // What has nothing to do with the point doesn't use up its second trial.
        assert_eq!(resume.handle_end(Return::Elsewhere), Return::Elsewhere);
        assert_eq!(resume.point(), Some(epoch(5)));
        assert_eq!(resume.handle_end(refused), Return::AtOnceWithoutResume);
        assert_eq!(resume.point(), None);
        // Then it was the mode.
        assert_eq!(resume.handle_end(refused), Return::No);
    }

    #[test]
    fn a_point_that_was_accepted_has_all_trials_again() {
        let mut resume = Resume::new(Mode::Second, Some(epoch(5)));
        assert_eq!(
            resume.handle_end(Return::OnceMoreWithResume),
            Return::AtOnce
        );
        resume.handle_start(epoch(5));
        assert_eq!(
            resume.handle_end(Return::OnceMoreWithResume),
            Return::AtOnce
        );
    }

    #[test]
    fn after_a_step_back_ticks_of_before_are_no_repetitions() {
        let mut resume = Resume::new(Mode::Second, None);
        resume.handle_start(epoch(99));
        assert_eq!(resume.handle_tick(epoch(100)), Continuity::Next);
        let stepped = Return::AtOnceWithoutResume;
        assert_eq!(resume.handle_end(stepped), stepped);
        assert_eq!(resume.point(), None);
        resume.handle_start(epoch(50));
        assert_eq!(resume.handle_tick(epoch(51)), Continuity::Next);
    }

    /// Any epoch, and often one at either end of what there is.
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
        fn whatever_an_edge_says_ticks_go_forward_and_gaps_lie_between_them(
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
