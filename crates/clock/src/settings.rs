//! The declarations of the clock's settings. The module `config` converts their values.

use std::time::Duration;

use tickstorm_service::env::{Setting, Settings, Span, host_label};
use tickstorm_timebase::ClockId;

/// The clock's defaults for settings that it shares with other programs.
pub const DEFAULTS: [(&str, &str); 1] = [("ADMIN_ADDR", "127.0.0.1:8082")];

tickstorm_service::settings! {
    /// Settings of the clock.
    CLOCK;
    /// This clock's name, unique among the clocks. Its NATS login may publish under this name only.
    CLOCK_ID: ClockId = Setting::derived(
        (),
        "host name up to its first dot",
        |_| host_label(),
        "Unique if host names are",
    );
    /// This clock's rank. Edges follow the accepted clock with the lowest rank.
    CLOCK_RANK: u32 = Setting::derived(
        0..=1_000,
        "the one or two digits after the last - in CLOCK_ID, else 0",
        |settings| rank(settings).to_string(),
        "Ranks the pods of a StatefulSet without any configuration",
    );
    /// The time from the announcement of a tick to the tick itself.
    TICK_LEAD_MS: Duration = Setting::new(
        Span::millis(500, 10_000),
        "1500",
        "Leaves time to replace a lost announcement; edges drop announcements more than 11 s ahead",
    );
    /// Keeps the clock silent while the kernel reports that the host's clock is not disciplined.
    REQUIRE_SYNC: bool = Setting::new(
        (),
        "false",
        "In containers and virtual machines, the kernel often cannot tell",
    );
    /// Milliseconds added to the host's clock, for tests and drills.
    CLOCK_SKEW_MS: i64 = Setting::new(
        -86_400_000..=86_400_000,
        "0",
        "The clock tells the true time; drills may shift it by up to a day either way",
    );
}

fn rank(settings: &Settings) -> u32 {
    let id = settings.look_up(&CLOCK_ID);
    match id.as_ref().and_then(|id| id.as_str().rsplit_once('-')) {
        Some((_, digits)) if digits.len() <= 2 && digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().unwrap_or(0)
        }
        _ => 0,
    }
}
