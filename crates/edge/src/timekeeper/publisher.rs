//! Publishes authority time to the shards: sends each new [`Authority`] through a watch channel.

use tickstorm_timebase::{Authority, Mono, Timekeeper};
use tokio::sync::watch;

/// The sending side of the channel.
pub(crate) struct AuthorityPublisher {
    authority: watch::Sender<Option<Authority>>,
}

/// A change in whether the time is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeChange {
    /// The time was unknown, and is known now.
    BecameKnown,
    /// The time was known, and is unknown now.
    BecameUnknown,
}

impl AuthorityPublisher {
    pub(crate) const fn new(authority: watch::Sender<Option<Authority>>) -> Self {
        Self { authority }
    }

    /// Publishes the timekeeper's authority, if it has changed. An authority that is no longer
    /// valid at `now` is published as `None`. Returns whether the time became known or unknown.
    pub(super) fn publish(&self, timekeeper: &Timekeeper, now: Mono) -> Option<TimeChange> {
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
            (false, true) => Some(TimeChange::BecameKnown),
            (true, false) => Some(TimeChange::BecameUnknown),
            (true, true) | (false, false) => None,
        }
    }

    /// Returns the authority that was published last.
    pub(super) fn published(&self) -> Option<Authority> {
        *self.authority.borrow()
    }
}
