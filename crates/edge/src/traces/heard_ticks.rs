//! [`HeardTicks`]: the places in traces that ticks have, as far as they were announced lately. A
//! tick that the edge releases is a part of the trace in which the clock that it follows has
//! announced it.

use std::collections::BTreeMap;

use tickstorm_service::traces::SpanContext;
use tickstorm_timebase::{Epoch, Mode};

/// The most ticks that are remembered: four times those of both modes that can be announced at the
/// same time. Beyond it, the oldest is forgotten.
const TICKS_MAX: usize = 64;

/// The most announcements of a tick by other clocks that are remembered.
const OTHERS_MAX: usize = 8;

/// The place of a tick in a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing is decided yet.
    #[default]
    Open,
    /// The tick is not traced.
    NotSampled,
    /// It is a part of the span with this place.
    PartOf(SpanContext),
}

impl From<Option<SpanContext>> for Place {
    fn from(context: Option<SpanContext>) -> Self {
        context.map_or(Self::NotSampled, Self::PartOf)
    }
}

/// What is known of a tick.
#[derive(Clone, Debug, Default)]
pub(super) struct HeardTick {
    pub(super) place: Place,
    /// The places of announcements by clocks that the edge does not follow.
    pub(super) others: Vec<SpanContext>,
}

/// The ticks that were announced or sent lately.
#[derive(Debug, Default)]
pub(super) struct HeardTicks(BTreeMap<(Epoch, u8), HeardTick>);

impl HeardTicks {
    /// Returns what is known of a tick, which is remembered afterwards.
    pub(super) fn tick(&mut self, mode: Mode, epoch: Epoch) -> &mut HeardTick {
        let mode = match mode {
            Mode::Second => 0,
            Mode::Minute => 1,
        };
        let key = (epoch, mode);
        if self.0.len() >= TICKS_MAX && !self.0.contains_key(&key) {
            self.0.pop_first();
        }
        self.0.entry(key).or_default()
    }
}

impl HeardTick {
    /// Notes an announcement by a clock that the edge does not follow.
    pub(super) fn add_other(&mut self, context: SpanContext) {
        if self.others.len() < OTHERS_MAX {
            self.others.push(context);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_ticks_are_forgotten_and_modes_are_told_apart() {
        let mut ticks = HeardTicks::default();
        let epoch = |second: i64| Epoch::from_ms(second * 1_000);
        for second in 0..1_000 {
            ticks.tick(Mode::Second, epoch(second)).place = Place::NotSampled;
            assert!(ticks.0.len() <= TICKS_MAX);
        }
        assert_eq!(
            ticks.tick(Mode::Second, epoch(999)).place,
            Place::NotSampled
        );
        assert_eq!(ticks.tick(Mode::Minute, epoch(999)).place, Place::Open);
        assert_eq!(ticks.tick(Mode::Second, epoch(3)).place, Place::Open);
    }

    #[test]
    fn the_announcements_of_a_tick_are_bounded() {
        let mut tick = HeardTick::default();
        for _ in 0..100 {
            tick.add_other(SpanContext::empty_context());
        }
        assert_eq!(tick.others.len(), OTHERS_MAX);
    }
}
