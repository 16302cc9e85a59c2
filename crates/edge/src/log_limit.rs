//! [`LogLimit`]: limits how often an event is logged that anyone can cause.

use std::time::Duration;

use tickstorm_timebase::Mono;

/// The most events that are logged in a [`PERIOD`] by default.
const LOGGED_MAX: u32 = 10;
const PERIOD: Duration = Duration::from_secs(60);

/// The events of one kind in the current period.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogLimit {
    /// The most events that are logged in a period.
    max: u32,
    started: Option<Mono>,
    logged: u32,
    /// The number of events that were not logged.
    skipped: u64,
}

impl Default for LogLimit {
    fn default() -> Self {
        Self::new()
    }
}

impl LogLimit {
    pub(crate) const fn new() -> Self {
        Self::of(LOGGED_MAX)
    }

    /// Creates a limit of `max` events a minute.
    pub(crate) const fn of(max: u32) -> Self {
        Self {
            max,
            started: None,
            logged: 0,
            skipped: 0,
        }
    }

    /// Notes an event. If it may be logged, returns the number of earlier ones that were not.
    pub(crate) fn note(&mut self, now: Mono) -> Option<u64> {
        if self
            .started
            .is_none_or(|started| now.since(started) >= PERIOD)
        {
            self.started = Some(now);
            self.logged = 0;
        }
        if self.logged == self.max {
            self.skipped += 1;
            return None;
        }
        self.logged += 1;
        Some(std::mem::take(&mut self.skipped))
    }
}
