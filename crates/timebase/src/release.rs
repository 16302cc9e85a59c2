//! [`Schedule`]: which ticks of one feed are due. It never gives a tick twice, and leaves one out only where the window has passed
//! over it or a new generation begins. It sends nothing and is asked at every wake of a shard, so it only does arithmetic.

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
    /// The generation that `released` is of; none before the first poll.
    generation: Option<u32>,
    released: Epoch,
}

impl Schedule {
    /// The schedule of a feed that sends each tick `lead` before its authority time (0: at its time), and missed ones as long as
    /// they are no older than `resume_window`. A tick that is at most 1 s late is no missed one, however small the window.
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

    /// The grid on which the feed's ticks are.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// When the next tick is to be released; [`Mono::NEVER`] where the authority's validity ends before.
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

    /// Appends to `out` the ticks that have become due by `now`, in order. What became due while the authority was valid comes
    /// also where that has ended meanwhile.
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

    /// The last tick released; before the first one of the authority's generation, the last grid tick at or before its origin.
    #[must_use]
    pub fn last(&self, authority: &Authority) -> Epoch {
        if self.generation == Some(authority.generation()) {
            self.released
        } else {
            self.mode.last_at(authority.origin())
        }
    }

    /// The last tick that is too old to be sent at `now`.
    fn beyond_window(&self, authority: &Authority, now: Mono) -> Epoch {
        let oldest = authority.time_at(now).saturating_sub(self.window);
        self.mode
            .last_at(UnixTime::from_nanos(oldest.as_nanos().saturating_sub(1)))
    }
}
