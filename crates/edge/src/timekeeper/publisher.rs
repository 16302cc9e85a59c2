//! Tells the shards what time it is: as an [`Authority`], by a watch channel, whenever it has changed.

use tickstorm_timebase::{Authority, Mono, Timekeeper};
use tokio::sync::watch;

/// The end of the channel that is written.
pub(crate) struct AuthorityPublisher {
    authority: watch::Sender<Option<Authority>>,
}

/// What became of the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeTurn {
    /// It is known, and was not before.
    Known,
    /// It is unknown, and was known before.
    Unknown,
}

impl AuthorityPublisher {
    pub(crate) const fn new(authority: watch::Sender<Option<Authority>>) -> Self {
        Self { authority }
    }

    /// Publishes what `timekeeper` holds for the time at `now`, if that has changed, and says whether the time became known or
    /// unknown.
    pub(super) fn publish(&self, timekeeper: &Timekeeper, now: Mono) -> Option<TimeTurn> {
        let new = timekeeper
            .authority()
            .filter(|authority| authority.is_valid(now));
        let was_known = self.published().is_some();
        self.authority.send_if_modified(|old| {
            let changed = *old != new;
            *old = new;
            changed
        });
        match (was_known, new.is_some()) {
            (false, true) => Some(TimeTurn::Known),
            (true, false) => Some(TimeTurn::Unknown),
            (true, true) | (false, false) => None,
        }
    }

    /// What was published last.
    pub(super) fn published(&self) -> Option<Authority> {
        *self.authority.borrow()
    }
}
