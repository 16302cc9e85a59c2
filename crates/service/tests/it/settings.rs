use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use proptest::{collection::vec, prelude::*};
use tickstorm_service::{
    env::{FileError, Group, SECRET_FILE_BYTES_MAX, Settings, Source, read_secret_file, table::*},
    logging::{Format, Level},
};

const ALL: &[Group] = &[
    Group::Common,
    Group::Nats,
    Group::Clock,
    Group::Edge,
    Group::Client,
];
const EDGE: &[Group] = &[Group::Common, Group::Edge];
const CLOCK: &[Group] = &[Group::Common, Group::Clock];
const CLOCK_ON_NATS: &[Group] = &[Group::Common, Group::Nats, Group::Clock];

/// What must never be printed.
const CANARY: &str = "canary-hunter2";

/// Loads an edge's settings with a login and `vars`.
fn edge(vars: &[(&str, &str)]) -> Settings {
    try_edge(vars).unwrap()
}

fn try_edge(vars: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
    let login = [("STREAM_USER", "user"), ("STREAM_PASS", "pass")];
    try_load(EDGE, &[&login, vars].concat())
}

fn clock(vars: &[(&str, &str)]) -> Settings {
    try_load(CLOCK, vars).unwrap()
}

/// Loads settings; errors as the lines that are printed.
fn try_load(groups: &[Group], vars: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
    Settings::from_vars(vars.iter().copied(), groups, &[])
        .map_err(|errors| errors.to_string().lines().map(Into::into).collect())
}

/// The one error that there is.
fn only_error(outcome: Result<Settings, Vec<String>>) -> String {
    let lines = outcome.unwrap_err();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    lines.concat()
}

/// A file that is removed when the test ends.
struct TempFile(PathBuf);

impl TempFile {
    fn with(bytes: impl AsRef<[u8]>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "tickstorm-{}-{}",
            process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = env::temp_dir().join(name);
        fs::write(&path, bytes).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn what_is_not_set_has_its_default() {
    let settings = edge(&[]);
    assert_eq!(settings.get(&LISTEN_ADDR), "0.0.0.0:8080".parse().unwrap());
    assert_eq!(settings.get(&ADMIN_ADDR), "127.0.0.1:8081".parse().unwrap());
    assert_eq!(settings.get(&LOG_LEVEL), Level::Info);
    assert_eq!(settings.get(&LOG_FORMAT), Format::Json);
    assert_eq!(settings.get(&MAX_CONNECTIONS), 100_000);
    assert_eq!(settings.get(&HEARTBEAT_INTERVAL), Duration::from_secs(15));
    assert_eq!(settings.get(&HEARTBEAT_TIMEOUT), Duration::from_secs(20));
    assert_eq!(settings.get(&AUTH_TIMEOUT_MS), Duration::from_secs(5));
    assert_eq!(settings.get(&CLOCKS), Vec::<String>::new());
    assert_eq!(settings.get(&STREAM_TOKENS_FILE), None);
    assert!((1..=256).contains(&settings.get(&SHARDS)));
    assert!(!settings.get(&EDGE_ID).is_empty());
    assert_eq!(settings.source_of(&EDGE_ID), &Source::Default);
    assert!(settings.warnings().is_empty(), "{:?}", settings.warnings());
}

#[test]
fn what_is_set_is_taken_and_empty_counts_as_unset() {
    let settings = edge(&[
        ("LISTEN_ADDR", "[::1]:9"),
        ("CLOCKS", "clock-0, clock-1"),
        ("STREAM_TOKENS_FILE", A_FILE),
        ("MAX_CONNECTIONS", "5"),
        ("FRAME_RATE_LIMIT", ""),
    ]);
    assert_eq!(settings.get(&LISTEN_ADDR), "[::1]:9".parse().unwrap());
    assert_eq!(settings.get(&CLOCKS), ["clock-0", "clock-1"]);
    assert_eq!(
        settings.get(&STREAM_TOKENS_FILE).as_deref(),
        Some(Path::new(A_FILE))
    );
    assert_eq!(settings.get(&MAX_CONNECTIONS), 5);
    assert_eq!(settings.get(&FRAME_RATE_LIMIT), 10);
    assert_eq!(settings.source_of(&MAX_CONNECTIONS), &Source::Env);
    assert_eq!(settings.source_of(&FRAME_RATE_LIMIT), &Source::Default);
}

#[test]
fn the_environment_of_the_process_is_what_load_reads() {
    let loaded = Settings::load(CLOCK, &[]).map_err(|errors| errors.to_string());
    let given =
        Settings::from_vars(env::vars_os(), CLOCK, &[]).map_err(|errors| errors.to_string());
    assert_eq!(
        loaded.map(|s| s.check_config()),
        given.map(|s| s.check_config())
    );
}

#[test]
fn the_admin_port_is_the_clocks_only_where_there_is_no_edge() {
    assert_eq!(clock(&[]).get(&ADMIN_ADDR).port(), 8_082);
    let vars = [("STREAM_USER", "u"), ("STREAM_PASS", "p")];
    assert_eq!(try_load(ALL, &vars).unwrap().get(&ADMIN_ADDR).port(), 8_081);
}

#[test]
fn a_clocks_rank_is_the_one_or_two_digits_at_its_ids_end() {
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
fn a_program_can_replace_defaults_and_is_held_to_the_rules_by_it() {
    let defaults = [
        ("STREAM_USER", "stream_user"),
        ("STREAM_PASS", CANARY),
        ("LISTEN_ADDR", "127.0.0.1:8080"),
    ];
    let settings = Settings::from_vars([("STREAM_USER", "mine")], EDGE, &defaults).unwrap();
    assert_eq!(settings.get(&STREAM_USER).as_deref(), Some("mine"));
    assert_eq!(settings.get(&STREAM_PASS).unwrap().expose(), CANARY);
    assert_eq!(settings.source_of(&STREAM_PASS), &Source::Default);
    assert_eq!(settings.get(&LISTEN_ADDR).to_string(), "127.0.0.1:8080");
    let errors = Settings::from_vars([("STREAM_USER", "mine")], EDGE, &[("SHARDS", "0")]);
    assert!(errors.unwrap_err().to_string().contains("SHARDS=0 "));
}

#[test]
fn an_error_names_the_variable_the_value_and_what_is_allowed() {
    for (name, value, allowed) in [
        (
            "MAX_CONNECTIONS",
            "many",
            "a whole number from 1 to 1000000",
        ),
        (
            "HEARTBEAT_INTERVAL",
            "15",
            "a duration from 100ms to 1h, a whole number with ms, s, m or h (250ms, 15s, 2m)",
        ),
        (
            "AHEAD_MS",
            "1000",
            "a whole number of milliseconds from 200 to 5000, no multiple of 1000",
        ),
        ("LOG_LEVEL", "loud", "error, warn, info, debug or trace"),
        ("LOG_FORMAT", "xml", "json or text"),
        (
            "LISTEN_ADDR",
            ":8080",
            "an IP address and a port, as in 0.0.0.0:8080",
        ),
        ("ADMIN_ADDR", "localhost:8081", "no host name"),
        (
            "EDGE_ID",
            "edge 0",
            "1 to 64 characters of A-Z a-z 0-9 . _ -",
        ),
        (
            "CLOCKS",
            "a,a",
            "at most 64 different names, separated by commas",
        ),
    ] {
        let error = only_error(try_edge(&[(name, value)]));
        assert!(
            error.starts_with(&format!("{name}={value} is not allowed: it takes ")),
            "{error}"
        );
        assert!(error.contains(allowed), "{error}");
    }
}

#[test]
fn all_errors_are_told_at_once_a_line_each() {
    let vars = [
        ("SHARDS", "0"),
        ("LOG_LEVEL", "loud"),
        ("TLS_ENABLED", "true"),
        ("STREAM_PASS_FILE", "/nowhere"),
    ];
    let lines = try_load(EDGE, &vars).unwrap_err();
    for name in [
        "SHARDS=0",
        "LOG_LEVEL=loud",
        "TLS_ENABLED=true",
        "STREAM_PASS_FILE=/nowhere",
    ] {
        assert_eq!(
            lines.iter().filter(|line| line.starts_with(name)).count(),
            1,
            "{name}: {lines:#?}"
        );
    }
    assert_eq!(lines.len(), 4, "{lines:#?}");
}

#[test]
fn a_value_can_neither_break_the_line_nor_fill_the_screen() {
    let error = only_error(try_edge(&[("EDGE_ID", "a\nSHARDS=9\u{1b}[2J")]));
    assert!(error.contains(r"EDGE_ID=a\nSHARDS=9\u{1b}[2J"), "{error}");
    let error = only_error(try_edge(&[("EDGE_ID", &"x".repeat(100_000))]));
    assert!(error.len() < 2_000, "{}", error.len());
}

#[test]
fn a_setting_that_is_not_built_is_refused_unless_at_its_default() {
    for row in rows().filter(|row| !row.built) {
        let groups = &[&[Group::Edge], row.groups].concat();
        let load = |vars: &[(&str, &str)]| {
            try_load(
                groups,
                &[&[("STREAM_USER", "u"), ("STREAM_PASS", "p")], vars].concat(),
            )
        };
        let error = only_error(load(&[(row.name, "other")]));
        assert!(error.starts_with(&format!("{}=", row.name)), "{error}");
        assert!(
            error.contains("not built yet in this version: leave it unset"),
            "{error}"
        );
        assert!(error.ends_with(row.default), "{error}");
        load(&[(row.name, row.default)]).unwrap();
        for other in [row.file.as_deref(), row.older].into_iter().flatten() {
            let error = only_error(load(&[(other, "/nowhere")]));
            assert!(error.starts_with(&format!("{other}=")), "{error}");
        }
    }
}

#[test]
fn exactly_the_parts_that_exist_are_built() {
    let unbuilt = |name: &str| name.starts_with("TLS_");
    let others = [
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "MAX_CONNECTIONS_PER_IP",
        "MAX_CONNECT_RATE_PER_IP",
        "PROXY_PROTOCOL",
        "PROXY_TRUSTED",
        "IP_ALLOWLIST",
        "IP_BLOCKLIST",
    ];
    for row in rows() {
        assert_eq!(
            row.built,
            !unbuilt(row.name) && !others.contains(&row.name),
            "{}",
            row.name
        );
    }
}

#[test]
fn a_program_without_nats_refuses_its_settings_and_shows_their_defaults() {
    let nats = || rows().filter(|row| row.groups.contains(&Group::Nats));
    assert!(nats().count() > 0);
    for row in nats() {
        let error = only_error(try_load(CLOCK, &[(row.name, "nats://elsewhere")]));
        assert!(error.starts_with(&format!("{}=", row.name)), "{error}");
        assert!(
            error.contains("this program has no NATS: leave it unset"),
            "{error}"
        );
        let shown = clock(&[(row.name, row.default)]).check_config();
        assert!(
            shown.contains(&format!("{}={} (default)", row.name, row.default)),
            "{shown}"
        );
    }
    let settings = try_load(CLOCK_ON_NATS, &[("NATS_URL", "nats://elsewhere")]).unwrap();
    assert_eq!(settings.get(&NATS_URL), "nats://elsewhere");
}

#[test]
fn nats_takes_one_login_and_whole_pairs() {
    for (vars, why) in [
        (
            &["NATS_USER"][..],
            "NATS_USER and NATS_PASSWORD go together",
        ),
        (
            &["NATS_PASSWORD"],
            "NATS_USER and NATS_PASSWORD go together",
        ),
        (
            &["NATS_USER", "NATS_PASSWORD", "NATS_TOKEN"],
            "set one of them",
        ),
        (&["NATS_TOKEN", "NATS_CREDS_FILE"], "set one of them"),
        (
            &["NATS_CERT_FILE"],
            "NATS_CERT_FILE and NATS_KEY_FILE go together",
        ),
        (
            &["NATS_KEY_FILE"],
            "NATS_CERT_FILE and NATS_KEY_FILE go together",
        ),
    ] {
        let vars: Vec<_> = vars.iter().map(|name| (*name, readable(name))).collect();
        let error = only_error(try_load(CLOCK_ON_NATS, &vars));
        assert!(error.contains(why) && !error.contains(CANARY), "{error}");
    }
    for vars in [
        &["NATS_USER", "NATS_PASSWORD"][..],
        &["NATS_TOKEN"],
        &["NATS_CREDS_FILE", "NATS_CA_FILE"],
        &["NATS_CERT_FILE", "NATS_KEY_FILE"],
    ] {
        let vars: Vec<_> = vars.iter().map(|name| (*name, readable(name))).collect();
        try_load(CLOCK_ON_NATS, &vars).unwrap();
    }
}

/// A file that is there.
const A_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");

/// A value that `name` can have by itself.
fn readable(name: &str) -> &'static str {
    if name.ends_with("_FILE") {
        A_FILE
    } else {
        CANARY
    }
}

#[test]
fn what_is_no_server_of_nats_is_refused() {
    for url in [
        "http://nats:4222",
        "nats:4222",
        "nats://",
        "nats://:4222",
        "nats://nats:0",
        "nats://nats:99999",
        "nats://[::1",
        "nats://nats/subject",
        "nats://a,,nats://b",
        "nats://a,b",
    ] {
        let error = only_error(try_load(CLOCK_ON_NATS, &[("NATS_URL", url)]));
        assert!(
            error.starts_with(&format!("NATS_URL={url} is not allowed: it takes nats://")),
            "{error}"
        );
    }
    for url in [
        "nats://nats",
        "tls://ada:secret@nats.example:4333",
        "nats://token@[::1]:4222/",
        "nats://a:1, nats://b",
    ] {
        try_load(CLOCK_ON_NATS, &[("NATS_URL", url)]).unwrap();
    }
}

#[test]
fn a_file_that_cant_be_read_is_named_with_its_variable() {
    for name in [
        "NATS_CREDS_FILE",
        "NATS_CA_FILE",
        "NATS_CERT_FILE",
        "NATS_KEY_FILE",
        "STREAM_TOKENS_FILE",
    ] {
        let mut vars = vec![(name, "/nowhere/x")];
        match name {
            "NATS_CERT_FILE" => vars.push(("NATS_KEY_FILE", A_FILE)),
            "NATS_KEY_FILE" => vars.push(("NATS_CERT_FILE", A_FILE)),
            _ => {}
        }
        let groups = if name.starts_with("NATS") {
            CLOCK_ON_NATS
        } else {
            EDGE
        };
        let error = only_error(try_load(groups, &vars));
        assert!(
            error.starts_with(&format!("{name}=/nowhere/x: the file can't be read: ")),
            "{error}"
        );
    }
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
        let error = only_error(try_load(EDGE, vars));
        assert!(error.contains(why), "{error}");
    }
    try_load(EDGE, &[("STREAM_TOKENS_FILE", A_FILE)]).unwrap();
    try_load(&[Group::Client], &[("STREAM_PASS", "p")]).unwrap();
    clock(&[]);
}

#[test]
fn a_client_is_silent_for_longer_than_it_is_told_to_speak() {
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
    // A value that is wrong alone is one mistake, not two.
    let error = only_error(try_edge(&[("HEARTBEAT_TIMEOUT", "1ms")]));
    assert!(
        error.starts_with("HEARTBEAT_TIMEOUT=1ms is not allowed"),
        "{error}"
    );
}

#[test]
fn ahead_feeds_that_outrun_the_announcements_are_warned_of() {
    let vars = [
        ("STREAM_USER", "u"),
        ("STREAM_PASS", "p"),
        ("AHEAD_MS", "1500"),
    ];
    let settings = try_load(ALL, &vars).unwrap();
    assert!(settings.warnings()[0].contains("AHEAD_MS=1500 is not below TICK_LEAD_MS=1500"));
    assert!(edge(&[("AHEAD_MS", "1500")]).warnings().is_empty());
}

#[test]
fn a_holdover_shorter_than_three_rounds_is_warned_of() {
    let settings = edge(&[("HOLDOVER_MAX", "2s")]);
    assert!(settings.warnings()[0].contains("HOLDOVER_MAX=2s is shorter than three rounds"));
    assert!(edge(&[("HOLDOVER_MAX", "3s")]).warnings().is_empty());
}

#[test]
fn a_frame_rate_that_has_no_room_for_what_clients_are_told_to_send_is_warned_of() {
    for (rate, interval, warning) in [
        (
            "3",
            "15s",
            Some("the eight heartbeats that open a connection"),
        ),
        ("4", "15s", None),
        (
            "10",
            "150ms",
            Some("clients that send their heartbeats in time are closed"),
        ),
        ("10", "200ms", None),
    ] {
        let settings = edge(&[("FRAME_RATE_LIMIT", rate), ("HEARTBEAT_INTERVAL", interval)]);
        let warnings = settings.warnings();
        assert_eq!(
            warnings.len(),
            usize::from(warning.is_some()),
            "{warnings:?}"
        );
        assert!(
            warning.is_none_or(|text| warnings[0].contains(text)),
            "{warnings:?}"
        );
    }
}

#[test]
fn older_names_are_taken_with_one_warning_that_names_the_new_one() {
    let vars = [
        ("AUTH_USERNAME", "u"),
        ("AUTH_PASSWORD", CANARY),
        ("HEARTBEAT_INTERVAL_MS", "5000"),
        ("HEARTBEAT_TIMEOUT_MS", "7000"),
    ];
    let settings = try_load(EDGE, &vars).unwrap();
    assert_eq!(settings.get(&STREAM_USER).as_deref(), Some("u"));
    assert_eq!(settings.get(&STREAM_PASS).unwrap().expose(), CANARY);
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
        let warning = format!("{older} is an older name: use {newer}");
        assert!(warnings.contains(&warning), "{warnings:#?}");
    }
}

#[test]
fn an_older_name_must_say_the_same_as_the_new_one() {
    let same = edge(&[
        ("AUTH_USERNAME", "user"),
        ("HEARTBEAT_INTERVAL", "5s"),
        ("HEARTBEAT_INTERVAL_MS", "5000"),
    ]);
    assert_eq!(same.get(&HEARTBEAT_INTERVAL), Duration::from_secs(5));
    assert_eq!(same.warnings().len(), 2);
    for (name, value) in [("AUTH_PASSWORD", CANARY), ("HEARTBEAT_INTERVAL_MS", "5000")] {
        let lines = try_edge(&[(name, value), ("HEARTBEAT_INTERVAL", "6s")]).unwrap_err();
        assert!(
            lines[0].contains(&format!("{name} are both set, and differ")),
            "{lines:#?}"
        );
        assert!(!lines.concat().contains(CANARY), "{lines:#?}");
    }
}

#[test]
fn milliseconds_under_an_older_name_are_a_plain_number_in_the_settings_range() {
    for value in ["5s", "5000ms", "-5", "50", "x", "3600001"] {
        let lines = try_edge(&[("HEARTBEAT_INTERVAL_MS", value)]).unwrap_err();
        let error = format!(
            "HEARTBEAT_INTERVAL_MS={value} is not allowed: it takes a plain number of milliseconds; HEARTBEAT_INTERVAL takes a duration from 100ms to 1h"
        );
        assert!(lines[0].starts_with(&error), "{lines:#?}");
    }
}

#[test]
fn a_value_can_stand_in_a_file_and_loses_one_newline_at_its_end() {
    for (bytes, expected) in [
        ("pass", "pass"),
        ("pass\n", "pass"),
        ("pass\r\n", "pass"),
        ("pass\n\n", "pass\n"),
        (" pass\r", " pass\r"),
    ] {
        let file = TempFile::with(bytes);
        let settings = try_load(
            EDGE,
            &[("STREAM_USER", "u"), ("STREAM_PASS_FILE", file.path())],
        )
        .unwrap();
        assert_eq!(
            settings.get(&STREAM_PASS).unwrap().expose(),
            expected,
            "{bytes:?}"
        );
        assert_eq!(settings.file_of(&STREAM_PASS), Some(&*file.0));
        assert_eq!(settings.file_of(&STREAM_USER), None);
        let line = format!("STREAM_PASS=*** (file {})", file.path());
        assert!(
            settings.check_config().lines().any(|l| l == line),
            "{settings}"
        );
    }
}

#[test]
fn every_twin_of_a_built_setting_is_read() {
    let file = TempFile::with("from the file\n");
    for row in rows().filter(|row| row.built) {
        let Some(twin) = row.file else { continue };
        let partner = match row.name {
            "NATS_USER" => Some(("NATS_PASSWORD", "p")),
            "NATS_PASSWORD" => Some(("NATS_USER", "u")),
            _ => None,
        };
        let rest: Vec<_> = [("STREAM_USER", "u"), ("STREAM_PASS", "p")]
            .into_iter()
            .filter(|(name, _)| *name != row.name)
            .chain(partner)
            .collect();
        let settings = try_load(ALL, &[&[(&*twin, file.path())], &rest[..]].concat()).unwrap();
        let shown = if row.secret { "***" } else { "from the file" };
        let line = format!("{}={shown} (file {})", row.name, file.path());
        assert!(
            settings.check_config().lines().any(|l| l == line),
            "{settings}"
        );
    }
}

#[test]
fn a_value_and_its_file_together_are_an_error() {
    let error = only_error(try_edge(&[("STREAM_PASS_FILE", "/run/pass")]));
    assert_eq!(
        error,
        "STREAM_PASS and STREAM_PASS_FILE are both set: set only one of them"
    );
}

#[test]
fn a_file_that_gives_no_value_is_named_with_its_variable() {
    let (long, binary) = (
        TempFile::with(vec![b'x'; SECRET_FILE_BYTES_MAX + 1]),
        TempFile::with([0xff]),
    );
    let refused = TempFile::with(CANARY.repeat(1_000));
    for (path, why) in [
        ("/nowhere/pass", "can't be read: No such file"),
        ("/", "can't be read: "),
        ("/dev/zero", "longer than"),
        (long.path(), "longer than 65536 bytes"),
        (binary.path(), "not UTF-8"),
        (refused.path(), "it takes 1 to 1024 bytes"),
    ] {
        let error = only_error(try_load(
            EDGE,
            &[("STREAM_USER", "u"), ("STREAM_PASS_FILE", path)],
        ));
        assert!(
            error.starts_with(&format!("STREAM_PASS_FILE={path}")),
            "{error}"
        );
        assert!(error.contains(why) && !error.contains(CANARY), "{error}");
    }
}

#[test]
fn an_empty_file_counts_as_unset_and_is_still_watched() {
    let file = TempFile::with("\n");
    let settings = edge(&[("STREAM_PASS_PREVIOUS_FILE", file.path())]);
    assert!(settings.get(&STREAM_PASS_PREVIOUS).is_none());
    assert_eq!(settings.file_of(&STREAM_PASS_PREVIOUS), Some(&*file.0));
    fs::write(&file.0, "old\n").unwrap();
    assert_eq!(read_secret_file(&file.0).unwrap().unwrap().expose(), "old");
    fs::remove_file(&file.0).unwrap();
    assert!(matches!(
        read_secret_file(&file.0),
        Err(FileError::Unreadable(_))
    ));
}

#[test]
fn other_peoples_variables_may_hold_anything() {
    let foreign = |name: &[u8]| {
        (
            OsString::from_vec(name.into()),
            OsString::from_vec(vec![0xff, 0xfe]),
        )
    };
    Settings::from_vars([foreign(b"LS_COLORS"), foreign(b"\xff")], CLOCK, &[]).unwrap();
    // Those of another part of TickStorm are not this one's business.
    Settings::from_vars([foreign(b"SHARDS"), foreign(b"STREAM_PASS")], CLOCK, &[]).unwrap();
}

#[test]
fn a_value_of_ours_that_is_no_text_is_named_once() {
    for name in ["SHARDS", "STREAM_USER_FILE", "AUTH_USERNAME", "STREAM_PASS"] {
        let mut vars = vec![(name.into(), OsString::from_vec(b"canary\xff".to_vec()))];
        if !name.contains("USER") {
            vars.push(("STREAM_USER".into(), "u".into()));
        }
        if name != "STREAM_PASS" {
            vars.push((OsString::from("STREAM_PASS"), "p".into()));
        }
        let errors = Settings::from_vars(vars, EDGE, &[])
            .unwrap_err()
            .to_string();
        assert!(
            errors.starts_with(&format!("{name} is not UTF-8 text: it takes ")),
            "{errors}"
        );
        assert!(
            !errors.contains("canary") && errors.lines().count() == 1,
            "{errors}"
        );
    }
}

#[test]
fn a_name_one_keystroke_off_is_warned_of() {
    for (typo, meant) in [
        ("MAX_CONNECTION", "MAX_CONNECTIONS"),
        ("SHARDZ", "SHARDS"),
        ("LOG_LEVELS", "LOG_LEVEL"),
    ] {
        let settings = edge(&[(typo, "1")]);
        assert_eq!(
            settings.warnings(),
            [format!("{typo} is no setting: is {meant} meant?")]
        );
    }
    let lines = try_load(EDGE, &[("STREAM_USERS", "u"), ("STREAM_PASS", "p")]).unwrap_err();
    assert_eq!(
        lines[1],
        "warning: STREAM_USERS is no setting: is STREAM_USER meant?"
    );
    for other in ["PATH", "HOME", "SHARDS_", "MAX_CONN", "CLOCK_RANK"] {
        let expected = usize::from(other == "SHARDS_");
        assert_eq!(edge(&[(other, "1")]).warnings().len(), expected, "{other}");
    }
}

#[test]
fn check_config_has_a_line_for_each_setting_of_the_groups() {
    let settings = edge(&[("SHARDS", "3"), ("AUTH_USERNAME", "user")]);
    let printed = settings.check_config();
    let names: Vec<_> = printed
        .lines()
        .map(|line| line.split_once('=').unwrap().0)
        .collect();
    let rows = rows().filter(|row| row.groups.iter().any(|group| EDGE.contains(group)));
    assert_eq!(names, rows.map(|row| row.name).collect::<Vec<_>>());
    for line in [
        "SHARDS=3 (env)",
        "STREAM_USER=user (env)",
        "STREAM_PASS=*** (env)",
        "STREAM_PASS_PREVIOUS= (default)",
        "HEARTBEAT_TIMEOUT=20s (default)",
        "CLOCKS= (default)",
    ] {
        assert!(
            printed.lines().any(|printed| printed == line),
            "{line}: {printed}"
        );
    }
}

/// Every secret of the table, wherever it stands, in everything that can be printed.
#[test]
fn no_secret_is_ever_printed() {
    let file = TempFile::with(CANARY);
    for row in rows().filter(|row| row.secret) {
        let canaries = [
            CANARY.to_owned(),
            format!("{CANARY}\n{}", "x".repeat(2_000)),
        ];
        for (name, value) in [Some(row.name), row.older]
            .into_iter()
            .flatten()
            .flat_map(|name| canaries.iter().map(move |value| (name, value.as_str())))
            .chain(row.file.as_deref().map(|name| (name, file.path())))
        {
            let vars = [(name, value), ("STREAM_USER", "u"), ("LOG_LEVEL", "loud")];
            let errors = Settings::from_vars(vars, ALL, &[]).unwrap_err();
            for printed in [
                format!("{errors}"),
                format!("{errors:?}"),
                format!("{errors:#?}"),
            ] {
                assert!(!printed.contains(CANARY), "{name}: {printed}");
            }
            if let Ok(settings) = try_load(
                ALL,
                &[(name, value), ("STREAM_USER", "u"), ("STREAM_PASS", "p")],
            ) {
                let printed = format!("{settings}{settings:?}{:?}", settings.get(&STREAM_TOKEN));
                assert!(
                    !printed.contains(CANARY) && printed.contains("***"),
                    "{name}: {printed}"
                );
            }
        }
    }
    let settings = edge(&[("STREAM_PASS_PREVIOUS", CANARY)]);
    let secret = settings.get(&STREAM_PASS_PREVIOUS).unwrap();
    assert_eq!(secret.expose(), CANARY);
    assert_eq!(
        format!("{secret} {secret:?} {:?}", secret.clone()),
        "*** *** ***"
    );
}

#[test]
fn a_password_in_a_url_is_not_printed() {
    for url in [
        format!("nats://user:{CANARY}@nats:4222"),
        format!("nats://a:{CANARY}@x,nats://b:{CANARY}@y:1"),
        format!("user:{CANARY}@y:1"),
    ] {
        for name in ["NATS_URL", "OTEL_EXPORTER_OTLP_ENDPOINT"] {
            let error = only_error(try_load(CLOCK, &[(name, &url)]));
            assert!(
                !error.contains(CANARY) && error.starts_with(&format!("{name}=***@")),
                "{error}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the environment holds, loading ends with settings or with errors that name variables.
    #[test]
    fn no_environment_makes_loading_panic(values in vec((0..70_usize, "\\PC{0,20}|[0-9]{1,25}(ms|s|m|h)?"), 0..8)) {
        let names: Vec<_> = rows().map(|row| row.name).collect();
        let vars = values.iter().map(|(i, value)| (names[i % names.len()], value.as_str()));
        if let Err(errors) = Settings::from_vars(vars, ALL, &[]) {
            prop_assert!(errors.iter().count() > 0);
        }
    }
}
