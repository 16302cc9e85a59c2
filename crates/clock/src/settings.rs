//! The clock's settings: what there is. What they become, `config` says.

use std::time::Duration;

use tickstorm_service::env::{Setting, Settings, Span, Text, host_id};

/// The clock's defaults of settings that are not its own alone.
pub const DEFAULTS: [(&str, &str); 1] = [("ADMIN_ADDR", "127.0.0.1:8082")];

tickstorm_service::settings! {
    /// Settings of the clock.
    CLOCK;
    /// This clock's name among the clocks.
    CLOCK_ID: String = Setting::derived(Text::ID, "host name", |_| host_id(), "unique where hosts are");
    /// Which clock edges follow among those they believe: the one with the lowest rank.
    CLOCK_RANK: u32 = Setting::derived(
        0..=1_000,
        "the digits after a final - in CLOCK_ID if they are one or two, else 0",
        |settings| rank(settings).to_string(),
        "a StatefulSet's pods are ranked without a setting",
    );
    /// How long before a tick's time it is announced.
    TICK_LEAD_MS: Duration = Setting::new(
        Span::millis(500, 10_000),
        "1500",
        "time for a lost announcement's next one; edges drop those more than 11 s ahead",
    );
    /// Whether the clock is silent while the kernel says that the host's clock is not disciplined.
    REQUIRE_SYNC: bool =
        Setting::new((), "false", "hosts in containers and virtual machines often can't tell");
    /// Added to the host's clock, for tests and drills.
    CLOCK_SKEW_MS: i64 =
        Setting::new(-86_400_000..=86_400_000, "0", "the truth; up to a day either way for a drill");
}

fn rank(settings: &Settings) -> u32 {
    let id = settings.look_up(&CLOCK_ID).unwrap_or_default();
    match id.rsplit_once('-') {
        Some((_, digits)) if digits.len() <= 2 && digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().unwrap_or(0)
        }
        _ => 0,
    }
}
