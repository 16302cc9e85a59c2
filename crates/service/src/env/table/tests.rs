use std::collections::HashSet;

use super::*;
use crate::env::{Group, Settings, setting::Preset};

const GROUPS: [Group; 5] = [
    Group::Common,
    Group::Nats,
    Group::Clock,
    Group::Edge,
    Group::Client,
];

/// What the edge does not start without.
const LOGIN: [(&str, &str); 2] = [("STREAM_USER", "u"), ("STREAM_PASS", "p")];

fn setting(name: &str) -> &'static dyn AnySetting {
    all()
        .find(|setting| setting.about().name == name)
        .unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn every_default_is_allowed() {
    // Those that are found at start are checked by loading them: a default is held to the same rule as a given value.
    let settings = Settings::from_vars(LOGIN, &GROUPS, &[]).unwrap();
    assert_eq!(settings.check_config().lines().count(), all().count());
    for setting in all() {
        if let Preset::Text(text) = setting.about().preset {
            assert!(
                setting.accepts(Some(text)),
                "{}={text}",
                setting.about().name
            );
        }
    }
}

#[test]
fn every_row_says_what_there_is_to_say() {
    for row in rows() {
        assert!(
            !row.groups.is_empty() && !row.allowed.is_empty() && !row.why.is_empty(),
            "{row:?}"
        );
        assert!(
            row.help.ends_with('.') && !row.help.starts_with(' '),
            "{row:?}"
        );
        assert!(
            row.name.ends_with("_MS") == row.allowed.contains("milliseconds")
                || row.name == "CLOCK_SKEW_MS",
            "{row:?}"
        );
    }
}

#[test]
fn no_variable_means_two_settings() {
    let mut seen = HashSet::new();
    for row in rows() {
        let names = [
            Some(row.name.to_owned()),
            row.file,
            row.older.map(Into::into),
        ];
        for name in names.into_iter().flatten() {
            assert!(seen.insert(name.clone()), "{name}");
        }
    }
}

#[test]
fn every_password_and_token_is_secret_and_may_stand_in_a_file() {
    for row in rows() {
        let is_secret = ["PASS", "TOKEN"].iter().any(|word| row.name.contains(word))
            && !row.name.ends_with("_FILE");
        assert_eq!(row.secret, is_secret, "{}", row.name);
        let has_file = is_secret || ["STREAM_USER", "NATS_USER"].contains(&row.name);
        assert_eq!(row.file.is_some(), has_file, "{}", row.name);
    }
}

/// Name, lowest and highest, what lies just outside.
const EDGES: [(&str, [&str; 2], [&str; 2]); 32] = [
    ("CLOCK_RANK", ["0", "1000"], ["-1", "1001"]),
    ("TICK_LEAD_MS", ["500", "10000"], ["499", "10001"]),
    (
        "CLOCK_SKEW_MS",
        ["-86400000", "86400000"],
        ["-86400001", "86400001"],
    ),
    ("CLOCK_TOLERANCE_MS", ["1", "1000"], ["0", "1001"]),
    ("TIME_ERROR_MAX_MS", ["1", "10000"], ["0", "10001"]),
    ("AHEAD_MS", ["200", "4999"], ["199", "5001"]),
    ("AHEAD_MS", ["999", "1001"], ["1000", "5000"]),
    ("HOLDOVER_MAX", ["1s", "1h"], ["999ms", "3601s"]),
    ("RESUME_WINDOW", ["0s", "60m"], ["0", "61m"]),
    ("MAX_CONNECTIONS", ["1", "1000000"], ["0", "1000001"]),
    ("MAX_HANDSHAKES", ["1", "1000000"], ["0", "1000001"]),
    ("AUTH_TIMEOUT_MS", ["100", "60000"], ["99", "60001"]),
    ("HEARTBEAT_INTERVAL", ["100ms", "1h"], ["99ms", "3600001ms"]),
    ("HEARTBEAT_TIMEOUT", ["200ms", "2h"], ["199ms", "7200001ms"]),
    ("FRAME_RATE_LIMIT", ["1", "10000"], ["0", "10001"]),
    ("BATCH_WINDOW_MS", ["0", "100"], ["-1", "101"]),
    ("MAX_MSG_SIZE", ["4096", "65536"], ["4095", "65537"]),
    ("MAX_WRITE_QUEUE_SIZE", ["2", "100000"], ["1", "100001"]),
    ("WRITE_DEADLINE_MS", ["100", "60000"], ["99", "60001"]),
    (
        "TCP_READ_BUFFER_SIZE",
        ["0", "16777216"],
        ["-1", "16777217"],
    ),
    (
        "TCP_WRITE_BUFFER_SIZE",
        ["0", "16777216"],
        ["-1", "16777217"],
    ),
    ("SHARDS", ["1", "256"], ["0", "257"]),
    (
        "MAX_CONNECTIONS_PER_IP",
        ["0", "1000000"],
        ["-1", "1000001"],
    ),
    ("AUTH_RATE_LIMIT", ["0", "100000"], ["-1", "100001"]),
    (
        "MAX_CONNECT_RATE_PER_IP",
        ["0", "1000000"],
        ["-1", "1000001"],
    ),
    ("DRAIN_DELAY", ["0s", "10m"], ["0", "601s"]),
    ("DRAIN_TIMEOUT", ["0ms", "600s"], ["s", "11m"]),
    ("REQUIRE_SYNC", ["true", "false"], ["TRUE", "1"]),
    ("LOG_LEVEL", ["error", "trace"], ["INFO", "off"]),
    ("LOG_FORMAT", ["json", "text"], ["xml", "JSON"]),
    (
        "LISTEN_ADDR",
        ["0.0.0.0:0", "[::]:8080"],
        [":8080", "localhost:8080"],
    ),
    ("CLOCKS", ["clock-0", "a, b"], ["a,,b", "a,a"]),
];

#[test]
fn every_range_ends_where_the_table_says() {
    for (name, inside, outside) in EDGES {
        let setting = setting(name);
        for text in inside {
            assert!(setting.accepts(Some(text)), "{name}={text} is refused");
        }
        for text in outside {
            assert!(!setting.accepts(Some(text)), "{name}={text} is accepted");
        }
    }
    for row in rows().filter(|row| row.allowed.contains(" from ")) {
        assert!(
            EDGES.iter().any(|(name, ..)| *name == row.name),
            "{} has no edges here",
            row.name
        );
    }
}

#[test]
fn numbers_and_durations_take_no_other_form() {
    for text in [
        "",
        " 5",
        "5 ",
        "+5",
        "0x5",
        "5.0",
        "5s",
        "1_000",
        "99999999999999999999",
    ] {
        assert!(!setting("FRAME_RATE_LIMIT").accepts(Some(text)), "{text:?}");
        assert!(!setting("BATCH_WINDOW_MS").accepts(Some(text)), "{text:?}");
    }
    for text in [
        "15",
        "15 s",
        "+15s",
        "1.5s",
        "15S",
        "15sec",
        "1m30s",
        "ms",
        "",
        "s15",
        "900000us",
        "99999999999999999h",
    ] {
        assert!(
            !setting("HEARTBEAT_INTERVAL").accepts(Some(text)),
            "{text:?}"
        );
    }
}

#[test]
fn a_duration_is_what_its_unit_says() {
    for (text, ms) in [
        ("250ms", 250),
        ("15s", 15_000),
        ("2m", 120_000),
        ("1h", 3_600_000),
    ] {
        let interval = HEARTBEAT_INTERVAL
            .parse(text)
            .map(|interval| interval.as_millis());
        assert_eq!(interval, Some(ms), "{text}");
    }
}

#[test]
fn ids_take_what_can_stand_in_a_subject_and_a_label() {
    let long = "x".repeat(65);
    assert!(CLOCK_ID.parse("Clock_0.eu-1").is_some());
    assert!(CLOCK_ID.parse(&long[..64]).is_some());
    for text in ["", &long, "a b", "a*", "ü", "a/b"] {
        assert!(CLOCK_ID.parse(text).is_none(), "{text:?}");
    }
}
