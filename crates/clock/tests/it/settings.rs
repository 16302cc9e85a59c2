use std::time::Duration;

use tickstorm_clock::Config;
use tickstorm_clock::settings::{CLOCK, CLOCK_ID, CLOCK_RANK, DEFAULTS};
use tickstorm_service::env::Settings;
use tickstorm_service::settings::{ADMIN_ADDR, COMMON};

/// Loads a clock's settings.
fn clock(vars: &[(&str, &str)]) -> Settings {
    Settings::from_vars(vars.iter().copied(), &[COMMON, CLOCK], &DEFAULTS).expect("valid settings")
}

#[test]
fn settings_become_the_clocks_configuration() {
    let vars = [
        ("CLOCK_ID", "clock-2"),
        ("TICK_LEAD_MS", "700"),
        ("CLOCK_SKEW_MS", "-40"),
        ("REQUIRE_SYNC", "true"),
    ];
    let settings = clock(&vars);
    let expected = Config {
        id: "clock-2".parse().unwrap(),
        rank: 2,
        lead: Duration::from_millis(700),
        require_sync: true,
        skew_ms: -40,
    };
    assert_eq!(Config::from_settings(&settings), expected);
}

#[test]
fn a_clock_needs_no_setting() {
    let settings = clock(&[]);
    assert_eq!(settings.get(&ADMIN_ADDR).port(), 8_082);
    assert!(!settings.get(&CLOCK_ID).as_str().is_empty());
    assert!(settings.warnings().is_empty(), "{:?}", settings.warnings());
}

#[test]
fn a_clocks_rank_is_the_one_or_two_digits_at_the_end_of_its_id() {
    for (id, rank) in [
        ("clock-0", 0),
        ("clock-2", 2),
        ("a-b-17", 17),
        ("clock-007", 0),
        ("clock", 0),
        ("clock-", 0),
        ("clock-2a", 0),
        ("7", 0),
    ] {
        assert_eq!(clock(&[("CLOCK_ID", id)]).get(&CLOCK_RANK), rank, "{id}");
    }
    assert_eq!(
        clock(&[("CLOCK_ID", "clock-2"), ("CLOCK_RANK", "5")]).get(&CLOCK_RANK),
        5
    );
}

#[test]
fn a_clocks_id_is_1_to_64_letters_digits_hyphens_and_underscores() {
    let row = CLOCK.rows().find(|row| row.name == "CLOCK_ID").unwrap();
    for id in ["a", "clock-0", "Clock_1", &"x".repeat(64)] {
        assert!(row.accepts(id), "{id}");
    }
    for id in [
        "",
        "clock.0",
        "clock 0",
        "clock*",
        ">",
        "bü",
        &"x".repeat(65),
    ] {
        assert!(!row.accepts(id), "{id}");
    }
}

/// The name of each setting with a range, its lowest and highest value, and the values just
/// outside.
const LIMITS: [(&str, [&str; 2], [&str; 2]); 3] = [
    ("CLOCK_RANK", ["0", "1000"], ["-1", "1001"]),
    ("TICK_LEAD_MS", ["500", "10000"], ["499", "10001"]),
    (
        "CLOCK_SKEW_MS",
        ["-86400000", "86400000"],
        ["-86400001", "86400001"],
    ),
];

#[test]
fn every_range_has_the_limits_in_its_row() {
    for row in CLOCK.rows().filter(|row| row.allowed.contains(" from ")) {
        let limits: Vec<_> = LIMITS
            .iter()
            .filter(|(name, ..)| *name == row.name)
            .collect();
        assert!(!limits.is_empty(), "{} has no limits here", row.name);
        for (name, inside, outside) in limits {
            assert!(inside.iter().all(|text| row.accepts(text)), "{name}");
            assert!(!outside.iter().any(|text| row.accepts(text)), "{name}");
        }
    }
}
