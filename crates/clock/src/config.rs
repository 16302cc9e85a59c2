//! A clock's own settings as its library needs them.

use std::time::Duration;

use tickstorm_service::env::Settings;
use tickstorm_timebase::{ClockId, InvalidClockId};

use crate::settings::{CLOCK_ID, CLOCK_RANK, CLOCK_SKEW_MS, REQUIRE_SYNC, TICK_LEAD_MS};

/// What makes this clock the one that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its name among the clocks.
    pub id: ClockId,
    /// Of the clocks that edges believe they follow the one with the lowest rank.
    pub rank: u32,
    /// How long before a tick's time it is announced.
    pub lead: Duration,
    /// Whether the clock is silent while the kernel says that the host's clock is not disciplined.
    pub require_sync: bool,
    /// Milliseconds added to the host's clock, for tests and drills.
    pub skew_ms: i64,
}

impl Config {
    /// The clock's part of `settings`.
    ///
    /// # Errors
    /// Where CLOCK_ID is none.
    ///
    /// # Panics
    /// Where the settings of the clock were not loaded.
    pub fn from_settings(settings: &Settings) -> Result<Self, InvalidClockId> {
        Ok(Self {
            id: settings.get(&CLOCK_ID).parse()?,
            rank: settings.get(&CLOCK_RANK),
            lead: settings.get(&TICK_LEAD_MS),
            require_sync: settings.get(&REQUIRE_SYNC),
            skew_ms: settings.get(&CLOCK_SKEW_MS),
        })
    }
}
