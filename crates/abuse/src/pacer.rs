//! [`Pacer`]: when the next connection may be opened, or the next message sent.

use std::time::Duration;

use tickstorm_timebase::Mono;

/// Spreads the opening of connections over time.
pub(crate) struct Pacer {
    interval: Duration,
    next: Mono,
}

impl Pacer {
    /// The most time that is made up for.
    const SLACK: Duration = Duration::from_millis(100);

    pub(crate) fn new(per_second: u32, now: Mono) -> Self {
        Self {
            interval: Duration::from_secs(1) / per_second.max(1),
            next: now,
        }
    }

    /// Returns whether one more may be opened now.
    pub(crate) fn take(&mut self, now: Mono) -> bool {
        if self.next > now {
            return false;
        }
        self.next = self.next.max(now.saturating_sub(Self::SLACK)) + self.interval;
        true
    }

    /// Returns how long to wait until one more may be opened.
    pub(crate) fn wait(&self, now: Mono) -> Duration {
        self.next.since(now)
    }
}
