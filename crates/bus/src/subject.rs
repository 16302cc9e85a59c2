//! The subjects that the messages travel on.

use tickstorm_timebase::Mode;

/// What every subject for answers begins with.
pub(crate) const INBOX: &str = "_INBOX.";

/// Subjects of one cluster; version 1 of the cluster protocol.
#[derive(Clone, Debug)]
pub struct Subjects {
    second: String,
    minute: String,
    time: String,
}

impl Subjects {
    /// Subjects that begin with `prefix`, so that several clusters can share a NATS.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self {
            second: format!("{prefix}.v1.tick.second"),
            minute: format!("{prefix}.v1.tick.minute"),
            time: format!("{prefix}.v1.time"),
        }
    }

    /// Where a mode's ticks are announced.
    #[must_use]
    pub fn tick(&self, mode: Mode) -> &str {
        match mode {
            Mode::Second => &self.second,
            Mode::Minute => &self.minute,
        }
    }

    /// Where the time is asked for.
    #[must_use]
    pub fn time(&self) -> &str {
        &self.time
    }
}
