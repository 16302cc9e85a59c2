//! A clock's settings in the form that the library uses.

use std::time::Duration;

use tickstorm_service::env::Settings;
use tickstorm_timebase::ClockId;

use crate::settings::{CLOCK_ID, CLOCK_RANK, CLOCK_SKEW_MS, REQUIRE_SYNC, TICK_LEAD_MS};

/// The configuration of one clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The clock's name, unique among the clocks.
    pub id: ClockId,
    /// The clock's rank. Edges follow the accepted clock with the lowest rank.
    pub rank: u32,
    /// The time from the announcement of a tick to the tick itself.
    pub lead: Duration,
    /// Whether the clock stays silent while the kernel reports that the host's clock is not
    /// disciplined.
    pub require_sync: bool,
    /// Milliseconds added to the host's clock, for tests and drills.
    pub skew_ms: i64,
}

impl Config {
    /// Extracts the clock's configuration from `settings`.
    ///
    /// # Panics
    /// Panics if the clock's section of settings was not loaded.
    #[must_use]
    pub fn from_settings(settings: &Settings) -> Self {
        Self {
            id: settings.get(&CLOCK_ID),
            rank: settings.get(&CLOCK_RANK),
            lead: settings.get(&TICK_LEAD_MS),
            require_sync: settings.get(&REQUIRE_SYNC),
            skew_ms: settings.get(&CLOCK_SKEW_MS),
        }
    }
}
