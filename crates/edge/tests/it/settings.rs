//! The edge's settings, as read from the environment.

use std::time::Duration;

use secrecy::ExposeSecret;
use tickstorm_edge::settings::*;
use tickstorm_service::env::{Origin, Row, Section, Settings};
use tickstorm_service::nats::NATS;
use tickstorm_service::settings::{ADMIN_ADDR, COMMON};

/// A secret value, which must never be printed.
const CANARY: &str = "canary-hunter2";

/// A file that exists.
const A_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");

fn sections() -> Vec<Section> {
    [&[COMMON][..], &SECTIONS].concat()
}

fn rows() -> impl Iterator<Item = Row> {
    SECTIONS.iter().flat_map(Section::rows)
}

/// Loads an edge's settings with a login and `vars`.
fn edge(vars: &[(&str, &str)]) -> Settings {
    try_edge(vars).unwrap()
}

fn try_edge(vars: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
    let login = [("STREAM_USER", "user"), ("STREAM_PASS", "pass")];
    try_load(&[&login, vars].concat())
}

/// Loads settings; errors are returned as the lines that are printed.
fn try_load(vars: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
    Settings::from_vars(vars.iter().copied(), &sections(), &DEFAULTS)
        .map_err(|errors| errors.to_string().lines().map(Into::into).collect())
}

/// Returns the only error; panics if there are more.
fn only_error(outcome: Result<Settings, Vec<String>>) -> String {
    let lines = outcome.unwrap_err();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    lines.concat()
}

#[test]
fn an_edge_must_know_its_clocks_unless_nats_is_on_its_own_host() {
    let load = |vars: &[(&str, &str)]| {
        let login = [("STREAM_USER", "user"), ("STREAM_PASS", "pass")];
        let vars = [&login, vars].concat();
        let sections = [&[COMMON, NATS][..], &SECTIONS].concat();
        Settings::from_vars(vars, &sections, &DEFAULTS)
            .map_err(|errors| errors.to_string().lines().map(Into::into).collect())
    };
    for url in [
        "nats://127.0.0.1:4222",
        "nats://localhost",
        "nats://[::1]:4222",
        "nats://127.0.0.1:4222,nats://localhost:4223",
    ] {
        let loaded = load(&[("NATS_URL", url)]);
        assert!(loaded.is_ok(), "{url}: {loaded:?}");
    }
    for (url, host) in [
        ("tls://nats.example.org", "nats.example.org"),
        ("tls://10.0.0.1:4222", "10.0.0.1"),
        ("nats://127.0.0.1,tls://nats-1", "nats-1"),
    ] {
        let error = only_error(load(&[("NATS_URL", url)]));
        assert!(error.contains("CLOCKS must name"), "{error}");
        assert!(error.contains(host), "{error}");
        let loaded = load(&[("NATS_URL", url), ("CLOCKS", "clock-0")]);
        assert!(loaded.is_ok(), "{url}: {loaded:?}");
    }
}

#[test]
fn an_unset_setting_has_its_default() {
    let settings = edge(&[]);
    assert_eq!(settings.get(&LISTEN_ADDR), "0.0.0.0:8080".parse().unwrap());
    assert_eq!(settings.get(&ADMIN_ADDR), "127.0.0.1:8081".parse().unwrap());
    assert_eq!(settings.get(&MAX_CONNECTIONS), 100_000);
    assert_eq!(settings.get(&HEARTBEAT_INTERVAL), Duration::from_secs(15));
    assert_eq!(settings.get(&HEARTBEAT_TIMEOUT), Duration::from_secs(20));
    assert_eq!(settings.get(&AUTH_TIMEOUT_MS), Duration::from_secs(5));
    assert_eq!(settings.get(&CLOCKS), []);
    assert_eq!(settings.get(&STREAM_TOKENS_FILE), None);
    assert!((1..=256).contains(&settings.get(&SHARDS)));
    assert!(!settings.get(&EDGE_ID).is_empty());
    assert_eq!(settings.origin_of(&EDGE_ID), &Origin::Default);
    assert!(settings.warnings().is_empty(), "{:?}", settings.warnings());
}

#[test]
fn an_edge_needs_a_login_or_tokens() {
    for (vars, why) in [
        (
            &[][..],
            "STREAM_USER and STREAM_PASS, or STREAM_TOKENS_FILE, must be set",
        ),
        (
            &[("STREAM_USER", "u")],
            "STREAM_USER is set without STREAM_PASS",
        ),
        (
            &[("STREAM_PASS", "p")],
            "STREAM_PASS is set without STREAM_USER",
        ),
        (
            &[("STREAM_USER", "u"), ("STREAM_TOKENS_FILE", A_FILE)],
            "STREAM_USER is set without STREAM_PASS",
        ),
        (
            &[
                ("STREAM_PASS_PREVIOUS", "p"),
                ("STREAM_TOKENS_FILE", A_FILE),
            ],
            "STREAM_PASS_PREVIOUS is set without STREAM_PASS",
        ),
    ] {
        let error = only_error(try_load(vars));
        assert!(error.contains(why), "{error}");
    }
    try_load(&[("STREAM_TOKENS_FILE", A_FILE)]).unwrap();
    // A client alone needs no user, since it may have a token.
    Settings::from_vars([("STREAM_PASS", "p")], &[LOGIN], &[]).unwrap();
}

#[test]
fn the_heartbeat_timeout_must_be_greater_than_the_interval() {
    for (interval, timeout) in [("20s", "20s"), ("1h", "20s"), ("200ms", "200ms")] {
        let error = only_error(try_edge(&[
            ("HEARTBEAT_INTERVAL", interval),
            ("HEARTBEAT_TIMEOUT", timeout),
        ]));
        assert!(
            error.contains("must be greater than HEARTBEAT_INTERVAL"),
            "{error}"
        );
    }
    edge(&[("HEARTBEAT_INTERVAL", "19999ms")]);
    // A value that is invalid on its own causes one error, not two.
    let error = only_error(try_edge(&[("HEARTBEAT_TIMEOUT", "1ms")]));
    assert!(
        error.starts_with("HEARTBEAT_TIMEOUT=1ms is invalid"),
        "{error}"
    );
}

#[test]
fn a_holdover_shorter_than_three_rounds_causes_a_warning() {
    let settings = edge(&[("HOLDOVER_MAX", "2s")]);
    assert!(settings.warnings()[0].contains("HOLDOVER_MAX=2s is shorter than three rounds"));
    assert!(edge(&[("HOLDOVER_MAX", "3s")]).warnings().is_empty());
}

/// The client's schedule against these settings is tested in the protocol's crate.
#[test]
fn an_interval_so_short_that_clients_exceed_the_frame_rate_is_refused_with_what_is_allowed() {
    for (rate, interval, allowed) in [
        ("10", "199ms", Some(("200ms", 11))),
        ("10", "200ms", None),
        ("10", "100ms", Some(("200ms", 20))),
        ("20", "100ms", None),
        ("3", "666ms", Some(("667ms", 4))),
        ("3", "667ms", None),
        ("1", "1s", Some(("2s", 2))),
        ("2", "1s", None),
        ("10000", "100ms", None),
    ] {
        let vars = [("FRAME_RATE_LIMIT", rate), ("HEARTBEAT_INTERVAL", interval)];
        let Some((interval_min, rate_min)) = allowed else {
            assert!(edge(&vars).warnings().is_empty(), "{vars:?}");
            continue;
        };
        let lines = try_edge(&vars).unwrap_err();
        for part in [
            &format!("HEARTBEAT_INTERVAL={interval} is too short for FRAME_RATE_LIMIT={rate}:"),
            "closed with RATE_LIMITED",
            "at least two frames per interval",
            &format!("set HEARTBEAT_INTERVAL to {interval_min} or more"),
            "and HEARTBEAT_TIMEOUT above it",
            &format!("or FRAME_RATE_LIMIT to {rate_min} or more"),
        ] {
            assert!(lines[0].contains(part), "{part}: {lines:#?}");
        }
    }
    // What the error names is accepted.
    let rate = ("FRAME_RATE_LIMIT", "11");
    assert!(
        edge(&[rate, ("HEARTBEAT_INTERVAL", "199ms")])
            .warnings()
            .is_empty()
    );
    // A value that is invalid on its own causes one error, not two.
    only_error(try_edge(&[
        ("FRAME_RATE_LIMIT", "0"),
        ("HEARTBEAT_INTERVAL", "100ms"),
    ]));
}

#[test]
fn a_frame_rate_too_low_for_an_edge_without_time_causes_a_warning() {
    let settings = edge(&[("FRAME_RATE_LIMIT", "1")]);
    let [warning] = settings.warnings() else {
        panic!("{:?}", settings.warnings());
    };
    assert!(
        warning.contains("while an edge does not know the time"),
        "{warning}"
    );
    assert!(edge(&[("FRAME_RATE_LIMIT", "2")]).warnings().is_empty());
}

#[test]
fn older_names_are_accepted_with_one_warning_that_names_the_new_one() {
    let vars = [
        ("AUTH_USERNAME", "u"),
        ("AUTH_PASSWORD", CANARY),
        ("HEARTBEAT_INTERVAL_MS", "5000"),
        ("HEARTBEAT_TIMEOUT_MS", "7000"),
    ];
    let settings = try_load(&vars).unwrap();
    assert_eq!(settings.get(&STREAM_USER).as_deref(), Some("u"));
    assert_eq!(settings.get(&STREAM_PASS).unwrap().expose_secret(), CANARY);
    assert_eq!(settings.get(&HEARTBEAT_INTERVAL), Duration::from_secs(5));
    assert_eq!(settings.get(&HEARTBEAT_TIMEOUT), Duration::from_secs(7));
    let warnings = settings.warnings();
    assert_eq!(warnings.len(), 4, "{warnings:#?}");
    for (older, newer) in [
        ("AUTH_USERNAME", "STREAM_USER"),
        ("AUTH_PASSWORD", "STREAM_PASS"),
        ("HEARTBEAT_INTERVAL_MS", "HEARTBEAT_INTERVAL"),
        ("HEARTBEAT_TIMEOUT_MS", "HEARTBEAT_TIMEOUT"),
    ] {
        let warning = format!("{older} is deprecated; use {newer} instead");
        assert!(warnings.contains(&warning), "{warnings:#?}");
    }
}

#[test]
fn the_error_about_an_unreadable_tokens_file_names_it_and_its_variable() {
    let error = only_error(try_load(&[("STREAM_TOKENS_FILE", "/nowhere/x")]));
    assert!(
        error.starts_with("STREAM_TOKENS_FILE=/nowhere/x: the file can't be read: "),
        "{error}"
    );
}

#[test]
fn a_list_that_is_not_of_networks_is_refused_with_what_is_allowed() {
    for (name, value) in [("IP_ALLOWLIST", "10.0.0.1"), ("IP_BLOCKLIST", "10.0.0.1/8")] {
        let error = only_error(try_edge(&[(name, value)]));
        assert!(
            error.starts_with(&format!("{name}={value} is invalid")),
            "{error}"
        );
        assert!(error.contains("10.0.0.0/8 or 2001:db8::/32"), "{error}");
    }
    let error = only_error(try_edge(&[("IP_BLOCKLIST_FILE", "/nowhere/x")]));
    assert!(error.starts_with("IP_BLOCKLIST_FILE=/nowhere/x"), "{error}");
    let settings = edge(&[("IP_ALLOWLIST", "10.0.0.0/8, fd00::/8")]);
    let allowed = settings.get(&IP_ALLOWLIST).unwrap();
    assert!(allowed.contain("fd00::1".parse().unwrap()));
}

#[test]
fn shards_whose_tables_have_no_room_for_all_connections_are_refused() {
    let vars = [
        ("FD_TABLES", "per-shard"),
        ("SHARDS", "1"),
        ("MAX_CONNECTIONS", "1000000"),
    ];
    let hard = tickstorm_service::fd_limit::hard().unwrap();
    match try_edge(&vars) {
        Err(lines) => assert!(
            lines.len() == 1 && lines[0].starts_with("SHARDS=1 is too few for FD_TABLES=per-shard"),
            "{lines:#?}"
        ),
        Ok(_) => assert!(hard > 1_030_000, "a table of {hard} is accepted"),
    }
}

#[test]
fn durations_are_parsed_with_their_units() {
    for (text, ms) in [
        ("250ms", 250),
        ("15s", 15_000),
        ("2m", 120_000),
        ("1m30s", 90_000),
        ("1h", 3_600_000),
    ] {
        let interval = HEARTBEAT_INTERVAL
            .parse(text)
            .map(|interval| interval.as_millis());
        assert_eq!(interval, Some(ms), "{text}");
    }
}

#[test]
fn proxy_protocol_and_the_networks_that_it_trusts_need_each_other() {
    let on = ("PROXY_PROTOCOL", "on");
    let trusted = ("PROXY_TRUSTED", "10.0.0.0/24, 192.0.2.7/32,fd00::/64");
    edge(&[on, trusted]);
    edge(&[("PROXY_PROTOCOL", "off")]);
    for (vars, expected) in [
        (&[on][..], "PROXY_PROTOCOL=on needs PROXY_TRUSTED"),
        (&[on, ("PROXY_TRUSTED", "")], "needs PROXY_TRUSTED"),
        (&[trusted], "PROXY_TRUSTED is set without PROXY_PROTOCOL=on"),
        (&[on, ("PROXY_TRUSTED", "haproxy")], "PROXY_TRUSTED=haproxy"),
        (
            &[on, ("PROXY_TRUSTED", "10.0.0.5/24")],
            "PROXY_TRUSTED=10.0.0.5/24",
        ),
        (&[("PROXY_PROTOCOL", "v2")], "expected off or on"),
    ] {
        let error = only_error(try_edge(vars));
        assert!(error.contains(expected), "{vars:?}: {error}");
    }
    let settings = try_edge(&[on, ("PROXY_TRUSTED", "10.0.0.0/8,0.0.0.0/0")]).unwrap();
    let warnings = settings.warnings();
    assert!(
        warnings.len() == 1 && warnings[0].starts_with("PROXY_TRUSTED contains 0.0.0.0/0"),
        "{warnings:?}"
    );
}

/// For each setting: its lowest and highest allowed values, and the values just outside.
const RANGE_LIMITS: [(&str, [&str; 2], [&str; 2]); 27] = [
    ("CLOCK_TOLERANCE_MS", ["1", "1000"], ["0", "1001"]),
    ("TIME_ERROR_MAX_MS", ["1", "10000"], ["0", "10001"]),
    ("AHEAD_MS", ["200", "4999"], ["199", "5001"]),
    ("AHEAD_MS", ["999", "1001"], ["1000", "5000"]),
    ("HOLDOVER_MAX", ["1s", "1h"], ["999ms", "3601s"]),
    ("RESUME_WINDOW", ["0s", "60m"], ["0", "61m"]),
    ("MAX_CONNECTIONS", ["1", "1000000"], ["0", "1000001"]),
    ("MAX_HANDSHAKES", ["1", "1000000"], ["0", "1000001"]),
    ("AUTH_TIMEOUT_MS", ["100", "60000"], ["99", "60001"]),
    ("HEARTBEAT_INTERVAL", ["100ms", "59m60s"], ["99ms", "1h1ms"]),
    ("HEARTBEAT_TIMEOUT", ["200ms", "2h"], ["199ms", "7200001ms"]),
    ("FRAME_RATE_LIMIT", ["1", "10000"], ["0", "10001"]),
    ("BATCH_WINDOW_MS", ["0", "100"], ["-1", "101"]),
    ("MAX_MSG_SIZE", ["4096", "65536"], ["4095", "65537"]),
    (
        "MAX_BUFFERED_BYTES",
        ["1MiB", "1024GiB"],
        ["1048575", "1025GiB"],
    ),
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
    (
        "LISTEN_ADDR",
        ["0.0.0.0:0", "[::]:8080"],
        [":8080", "localhost:8080"],
    ),
    ("CLOCKS", ["clock-0", "a, b"], ["a,,b", "a.b"]),
];

#[test]
fn each_setting_accepts_exactly_its_range() {
    for (name, inside, outside) in RANGE_LIMITS {
        let row = rows().find(|row| row.name == name);
        let row = row.unwrap_or_else(|| panic!("no {name}"));
        for text in inside {
            assert!(row.accepts(text), "{name}={text} is refused");
        }
        for text in outside {
            assert!(!row.accepts(text), "{name}={text} is accepted");
        }
    }
    for row in rows().filter(|row| row.allowed.contains(" from ")) {
        assert!(
            RANGE_LIMITS.iter().any(|(name, ..)| *name == row.name),
            "{} is missing from RANGE_LIMITS",
            row.name
        );
    }
}

#[test]
fn each_shard_must_have_its_share_of_the_buffers() {
    edge(&[("MAX_BUFFERED_BYTES", "1MiB"), ("SHARDS", "4")]);
    edge(&[("SHARDS", "256")]);
    let error = only_error(try_edge(&[("MAX_BUFFERED_BYTES", "1MiB"), ("SHARDS", "5")]));
    let expected = "MAX_BUFFERED_BYTES=1MiB divided among SHARDS=5 leaves less than 256KiB";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn files_of_tls_are_needed_with_tls_and_refused_without_it() {
    let enabled = ("TLS_ENABLED", "true");
    let pair = [("TLS_CERT_FILE", A_FILE), ("TLS_KEY_FILE", A_FILE)];
    let verify = ("TLS_CLIENT_AUTH", "require_verify");
    let ca = ("TLS_CA_FILE", A_FILE);
    edge(&[enabled, pair[0], pair[1]]);
    edge(&[
        enabled,
        pair[0],
        pair[1],
        verify,
        ca,
        ("TLS_CRL_FILE", A_FILE),
    ]);
    let cases: [(&[(&str, &str)], &str); 7] = [
        (&[enabled, pair[0]], "TLS_ENABLED=true needs TLS_KEY_FILE"),
        (&[enabled, pair[1]], "TLS_ENABLED=true needs TLS_CERT_FILE"),
        (&[pair[0]], "TLS_CERT_FILE is set without TLS_ENABLED=true"),
        (
            &[verify, ca],
            "TLS_CLIENT_AUTH=require_verify needs TLS_ENABLED=true",
        ),
        (
            &[enabled, pair[0], pair[1], verify],
            "TLS_CLIENT_AUTH=require_verify needs TLS_CA_FILE",
        ),
        (
            &[enabled, pair[0], pair[1], ca],
            "TLS_CA_FILE is set without TLS_CLIENT_AUTH=require_verify",
        ),
        (
            &[enabled, pair[0], ("TLS_KEY_FILE", "/nowhere")],
            "TLS_KEY_FILE=/nowhere",
        ),
    ];
    for (vars, expected) in cases {
        let error = only_error(try_edge(vars));
        assert!(error.contains(expected), "{vars:?}: {error}");
    }
}
