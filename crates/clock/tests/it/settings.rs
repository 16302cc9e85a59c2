use std::time::Duration;

use tickstorm_clock::Config;
use tickstorm_service::env::{Group, Settings};

#[test]
fn settings_become_the_clocks_configuration() {
    let vars = [
        ("CLOCK_ID", "clock-2"),
        ("TICK_LEAD_MS", "700"),
        ("CLOCK_SKEW_MS", "-40"),
        ("REQUIRE_SYNC", "true"),
    ];
    let settings = Settings::from_vars(vars, &[Group::Common, Group::Clock], &[]).unwrap();
    let expected = Config {
        id: "clock-2".parse().unwrap(),
        rank: 2,
        lead: Duration::from_millis(700),
        require_sync: true,
        skew_ms: -40,
    };
    assert_eq!(Config::from_settings(&settings), Ok(expected));
}
