//! The subjects of the bus's messages.

use tickstorm_timebase::Mode;

/// The prefix of all subjects for answers.
pub(crate) const INBOX: &str = "_INBOX.";

/// The subjects of one cluster, in version 1 of the cluster protocol.
#[derive(Clone, Debug)]
pub struct Subjects {
    second: String,
    minute: String,
    time: String,
}

impl Subjects {
    /// Creates subjects that start with `prefix`, so that several clusters can share one NATS.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self {
            second: format!("{prefix}.v1.tick.second"),
            minute: format!("{prefix}.v1.tick.minute"),
            time: format!("{prefix}.v1.time"),
        }
    }

    /// Returns the subject on which a mode's ticks are announced.
    #[must_use]
    pub fn tick(&self, mode: Mode) -> &str {
        match mode {
            Mode::Second => &self.second,
            Mode::Minute => &self.minute,
        }
    }

    /// Returns the subject of time requests.
    #[must_use]
    pub fn time(&self) -> &str {
        &self.time
    }
}
