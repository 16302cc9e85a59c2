//! [`Hearing`]: whether the edge hears any clocks at all, listed in CLOCKS or not. A listed clock
//! that is never heard while others are is down, or its name is misspelt.

use std::time::Duration;

use crate::mono::Mono;

/// The time for which nothing must be heard of a clock, while others are heard, before the clock
/// counts as unheard.
const UNHEARD_AFTER: Duration = Duration::from_secs(10);

/// When the edge heard any clocks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hearing {
    first: Option<Mono>,
    last_listed: Option<Mono>,
    last_unlisted: Option<Mono>,
}

impl Hearing {
    /// Notes a message from a clock that CLOCKS lists, or from any clock if CLOCKS is not set.
    pub(crate) fn note_listed(&mut self, now: Mono) {
        self.first.get_or_insert(now);
        self.last_listed = Some(now);
    }

    /// Notes a message from a clock that CLOCKS does not list.
    pub(crate) fn note_unlisted(&mut self, now: Mono) {
        self.first.get_or_insert(now);
        self.last_unlisted = Some(now);
    }

    /// Returns whether a listed clock that was last heard at `last` counts as unheard. A clock that
    /// was heard before is only silent, unless its messages may be those of an unlisted clock.
    pub(crate) fn is_unheard(&self, last: Option<Mono>, now: Mono) -> bool {
        let is_recent = |at: Option<Mono>| at.is_some_and(|at| now.since(at) < UNHEARD_AFTER);
        let are_unlisted_heard = is_recent(self.last_unlisted);
        let are_others_heard = are_unlisted_heard || is_recent(self.last_listed);
        let has_listened = self
            .first
            .is_some_and(|first| now.since(first) >= UNHEARD_AFTER);
        let is_unknown = last.is_none() || are_unlisted_heard;
        has_listened && are_others_heard && is_unknown && !is_recent(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Mono {
        Mono::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn a_clock_is_unheard_after_10_s_in_which_only_others_were_heard() {
        let mut hearing = Hearing::default();
        assert!(!hearing.is_unheard(None, at(60)), "nothing is heard at all");
        hearing.note_listed(at(60));
        assert!(!hearing.is_unheard(None, at(69)));
        hearing.note_listed(at(69));
        assert!(hearing.is_unheard(None, at(70)));
        assert!(!hearing.is_unheard(Some(at(69)), at(70)));
        assert!(!hearing.is_unheard(None, at(79)), "an outage");
    }

    #[test]
    fn a_clock_that_fell_silent_is_unheard_only_if_an_unlisted_one_is_heard() {
        let mut hearing = Hearing::default();
        (0..60).for_each(|second| hearing.note_listed(at(second)));
        assert!(!hearing.is_unheard(Some(at(30)), at(60)));
        hearing.note_unlisted(at(60));
        assert!(hearing.is_unheard(Some(at(30)), at(60)));
        assert!(!hearing.is_unheard(Some(at(51)), at(60)));
    }
}
