//! Tests of the machinery of settings, with the settings of a shop as the example. TickStorm's own
//! settings are tested by the crates that obey them.

use std::{
    env,
    ffi::OsString,
    fs,
    net::SocketAddr,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    time::Duration,
};

use proptest::{collection::vec, prelude::*};
use secrecy::{ExposeSecret, SecretString};
use tickstorm_service::{
    env::{
        FileError, Findings, GoneEffect, GoneName, Origin, Row, SECRET_FILE_BYTES_MAX, Section,
        Setting, Settings, Span, Text, host_id, read_secret_file,
    },
    logging::{Level, Levels, LogFormat},
    settings::{ADMIN_ADDR, COMMON, LOG_FORMAT, LOG_LEVEL},
};

use crate::temp_file::TempFile;

tickstorm_service::settings! {
    /// Settings of a shop.
    SHOP, checked by check;
    /// The address of the shop.
    SHOP_ADDR: SocketAddr = Setting::new((), "0.0.0.0:8080", "On the main street")
        .formerly_host_and_port("SHOP_STREET", "SHOP_NUMBER");
    /// The name of the shop.
    SHOP_ID: String = Setting::derived(
        Text::ID,
        "host name",
        |_| host_id(),
        "Unique if host names are",
    );
    /// The length of the shop's name.
    SHOP_ID_LENGTH: usize = Setting::derived(
        0..=64,
        "the length of SHOP_ID",
        |settings| settings.look_up(&SHOP_ID).unwrap_or_default().len().to_string(),
        "Counting it is tedious",
    );
    /// Other shops.
    FRIENDS: Vec<String> = Setting::unset(Text::ID, "A new shop has none");
    /// The number of tills.
    TILLS: usize = Setting::new(1..=256, "2", "Two customers can pay at once");
    /// The maximum number of customers that wait.
    QUEUE_MAX: u32 = Setting::new(1..=1_000_000, "100000", "It is a popular shop");
    /// The maximum number of customers that enter per second.
    ENTRY_RATE_MAX: u32 = Setting::new(1..=10_000, "10", "The door is narrow");
    /// The temperature.
    COLD: i64 = Setting::new(-50..=50, "0", "The shop sells fresh food");
    /// The time for which the shop is open.
    OPEN_TIME: Duration =
        Setting::new(Span::units(100, 3_600_000), "15s", "There is no more to sell")
            .formerly_millis("OPEN_TIME_MS");
    /// The time for which the shop is closed.
    CLOSE_TIME: Duration =
        Setting::new(Span::units(200, 7_200_000), "20s", "Even shopkeepers sleep")
            .formerly_millis("CLOSE_TIME_MS");
    /// The length of a greeting.
    GREETING_MS: Duration = Setting::new(
        Span::millis(200, 5_000).never_multiple_of(1_000),
        "800",
        "A full second looks rehearsed",
    )
    .formerly_units("GREETING");
    /// Whether the shop is clean.
    CLEAN: bool = Setting::new((), "true", "Customers like it");
    /// The shopkeeper.
    KEEPER: Option<String> = Setting::unset(Text::CREDENTIAL, "Anybody may keep it")
        .or_file()
        .formerly("SHOPKEEPER");
    /// The password that opens the shop.
    SHOP_PASS: Option<SecretString> =
        Setting::unset(Text::CREDENTIAL, "A default password protects nothing")
            .secret()
            .or_file()
            .formerly("SHOP_SECRET");
    /// The previous password.
    SHOP_PASS_PREVIOUS: Option<SecretString> =
        Setting::unset(Text::CREDENTIAL, "Only a change of password needs it").secret().or_file();
    /// The file with the floor plan.
    PLAN_FILE: Option<PathBuf> = Setting::unset((), "The shop has one room");
    /// Whether there is an alarm.
    ALARM: bool = Setting::new((), "false", "An alarm needs a siren").not_built();
    /// The file with the siren's sound.
    SIREN_FILE: Option<PathBuf> = Setting::unset((), "Only an alarm needs it")
        .formerly("SIREN_PATH")
        .not_built();
    /// The password that ends an alarm.
    SIREN_PASS: Option<SecretString> =
        Setting::unset(Text::CREDENTIAL, "Only an alarm needs it")
            .secret()
            .or_file()
            .not_built();
}

fn check(settings: &Settings, findings: &mut Findings) {
    findings.refuse_unreadable(settings, &PLAN_FILE);
    let open = settings.look_up(&OPEN_TIME);
    if let (Some(open), Some(close)) = (open, settings.look_up(&CLOSE_TIME)) {
        if open > close {
            findings.refuse("OPEN_TIME is greater than CLOSE_TIME");
        } else if open == close {
            findings.warn("OPEN_TIME equals CLOSE_TIME");
        }
    }
}

/// The sections of a program that runs a shop.
const SHOPS: &[Section] = &[COMMON, SHOP.without(&GONE).beside(&["OTHER_"])];
/// The names of a shop that closed.
const GONE: [GoneName; 3] = [
    GoneName::refused("CASH_PASS", "cash is no longer accepted"),
    GoneName::refused_unless("false", "HAGGLING", "prices are fixed"),
    GoneName::warned_of("WEATHER", "the shop has a roof"),
];
/// The default that COMMON leaves to the program.
const DEFAULTS: &[(&str, &str)] = &[("ADMIN_ADDR", "127.0.0.1:8081")];

/// A secret, which must never be printed.
const CANARY: &str = "canary-hunter2";

/// A file that exists.
const A_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");

/// Loads the settings of a shop from a login and `vars`.
fn shop(vars: &[(&str, &str)]) -> Settings {
    try_shop(vars).unwrap()
}

fn try_shop(vars: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
    let login = [("KEEPER", "user"), ("SHOP_PASS", "pass")];
    try_load(SHOPS, &[&login, vars].concat())
}

/// Loads settings. The error contains the printed lines.
fn try_load(sections: &[Section], vars: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
    Settings::from_vars(vars.iter().copied(), sections, DEFAULTS)
        .map_err(|errors| errors.to_string().lines().map(Into::into).collect())
}

fn rows() -> impl Iterator<Item = Row> {
    SHOPS.iter().flat_map(Section::rows)
}

/// Returns the error, of which there must be exactly one.
fn only_error(outcome: Result<Settings, Vec<String>>) -> String {
    let lines = outcome.unwrap_err();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    lines.concat()
}

#[test]
fn unset_settings_have_their_defaults() {
    let settings = shop(&[]);
    assert_eq!(settings.get(&SHOP_ADDR), "0.0.0.0:8080".parse().unwrap());
    assert_eq!(settings.get(&ADMIN_ADDR), "127.0.0.1:8081".parse().unwrap());
    assert_eq!(settings.get(&LOG_LEVEL), Levels::from(Level::Info));
    assert_eq!(settings.get(&LOG_FORMAT), LogFormat::Json);
    assert_eq!(settings.get(&QUEUE_MAX), 100_000);
    assert_eq!(settings.get(&OPEN_TIME), Duration::from_secs(15));
    assert_eq!(settings.get(&GREETING_MS), Duration::from_millis(800));
    assert_eq!(settings.get(&FRIENDS), Vec::<String>::new());
    assert_eq!(settings.get(&PLAN_FILE), None);
    assert!(!settings.get(&SHOP_ID).is_empty());
    assert_eq!(
        settings.get(&SHOP_ID_LENGTH),
        settings.get(&SHOP_ID).len(),
        "derived from another setting"
    );
    assert_eq!(settings.origin_of(&SHOP_ID), &Origin::Default);
    assert!(settings.warnings().is_empty(), "{:?}", settings.warnings());
}

#[test]
fn a_setting_without_any_default_is_an_error() {
    let errors = Settings::from_vars([("", ""); 0], SHOPS, &[]).unwrap_err();
    let text = errors.to_string();
    assert!(
        text.starts_with("ADMIN_ADDR= is invalid: expected an IP address"),
        "{text}"
    );
}

#[test]
fn set_values_are_used_and_empty_ones_count_as_unset() {
    let settings = shop(&[
        ("SHOP_ADDR", "[::1]:9"),
        ("FRIENDS", "shop-0, shop-1"),
        ("PLAN_FILE", A_FILE),
        ("QUEUE_MAX", "5"),
        ("ENTRY_RATE_MAX", ""),
    ]);
    assert_eq!(settings.get(&SHOP_ADDR), "[::1]:9".parse().unwrap());
    assert_eq!(settings.get(&FRIENDS), ["shop-0", "shop-1"]);
    assert_eq!(settings.get(&PLAN_FILE).as_deref(), Some(Path::new(A_FILE)));
    assert_eq!(settings.get(&QUEUE_MAX), 5);
    assert_eq!(settings.get(&ENTRY_RATE_MAX), 10);
    assert_eq!(settings.origin_of(&QUEUE_MAX), &Origin::Env);
    assert_eq!(settings.origin_of(&ENTRY_RATE_MAX), &Origin::Default);
}

#[test]
fn load_reads_the_environment_of_the_process() {
    let loaded = Settings::load(SHOPS, DEFAULTS).map_err(|errors| errors.to_string());
    let given =
        Settings::from_vars(env::vars_os(), SHOPS, DEFAULTS).map_err(|errors| errors.to_string());
    assert_eq!(
        loaded.map(|s| s.check_config()),
        given.map(|s| s.check_config())
    );
}

#[test]
fn a_program_can_replace_defaults_within_the_rules() {
    let defaults = [
        ("KEEPER", "anybody"),
        ("SHOP_PASS", CANARY),
        ("SHOP_ADDR", "127.0.0.1:8080"),
        ("ADMIN_ADDR", "127.0.0.1:8081"),
    ];
    let settings = Settings::from_vars([("KEEPER", "mine")], SHOPS, &defaults).unwrap();
    assert_eq!(settings.get(&KEEPER).as_deref(), Some("mine"));
    assert_eq!(settings.get(&SHOP_PASS).unwrap().expose_secret(), CANARY);
    assert_eq!(settings.origin_of(&SHOP_PASS), &Origin::Default);
    assert_eq!(settings.get(&SHOP_ADDR).to_string(), "127.0.0.1:8080");
    let errors = Settings::from_vars([("KEEPER", "mine")], SHOPS, &[("TILLS", "0")]);
    assert!(errors.unwrap_err().to_string().contains("TILLS=0 "));
}

#[test]
fn an_error_names_the_variable_the_value_and_what_is_allowed() {
    for (name, value, allowed) in [
        ("QUEUE_MAX", "many", "a whole number from 1 to 1000000"),
        (
            "OPEN_TIME",
            "15",
            "a duration from 100ms to 1h, in whole numbers with units h, m, s or ms, \
             largest unit first (500ms, 15s, 1m30s)",
        ),
        (
            "GREETING_MS",
            "1000",
            "a whole number of milliseconds from 200 to 5000, but not a multiple of 1000",
        ),
        ("LOG_LEVEL", "loud", "error, warn, info, debug or trace"),
        (
            "LOG_LEVEL",
            "info,tickstorm_edge::shard=loud",
            "as in info,tickstorm_edge::shard=debug: `loud` is not a level",
        ),
        ("LOG_FORMAT", "xml", "json or text"),
        (
            "SHOP_ADDR",
            ":8080",
            "an IP address and port, such as 0.0.0.0:8080",
        ),
        ("ADMIN_ADDR", "localhost:8081", "not a host name"),
        (
            "SHOP_ID",
            "shop 0",
            "1 to 64 characters (A-Z a-z 0-9 . _ -)",
        ),
        (
            "FRIENDS",
            "a,a",
            "at most 64 different names, separated by commas",
        ),
    ] {
        let error = only_error(try_shop(&[(name, value)]));
        assert!(
            error.starts_with(&format!("{name}={value} is invalid: expected ")),
            "{error}"
        );
        assert!(error.contains(allowed), "{error}");
    }
}

#[test]
fn all_errors_are_reported_together_one_per_line() {
    let vars = [
        ("TILLS", "0"),
        ("LOG_LEVEL", "loud"),
        ("ALARM", "true"),
        ("SHOP_PASS_FILE", "/nowhere"),
    ];
    let lines = try_load(SHOPS, &vars).unwrap_err();
    for name in [
        "TILLS=0",
        "LOG_LEVEL=loud",
        "ALARM=true",
        "SHOP_PASS_FILE=/nowhere",
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
fn a_printed_value_stays_on_one_line_and_is_bounded() {
    let error = only_error(try_shop(&[("SHOP_ID", "a\nTILLS=9\u{1b}[2J")]));
    assert!(error.contains(r"SHOP_ID=a\nTILLS=9\u{1b}[2J"), "{error}");
    let error = only_error(try_shop(&[(
        "SHOP_PASS_PREVIOUS_FILE",
        "a\nTILLS=9\u{1b}[2J",
    )]));
    assert!(
        error.contains(r"SHOP_PASS_PREVIOUS_FILE=a\nTILLS=9\u{1b}[2J"),
        "{error}"
    );
    let settings = shop(&[("TILLS\n", "9")]);
    let [warning] = settings.warnings() else {
        panic!("{:?}", settings.warnings());
    };
    assert!(
        warning.starts_with(r"TILLS\n is not a setting"),
        "{warning}"
    );
    let error = only_error(try_shop(&[("SHOP_ID", &"x".repeat(100_000))]));
    assert!(error.len() < 2_000, "{}", error.len());
}

#[test]
fn a_setting_that_is_not_built_is_refused_unless_it_has_its_default() {
    for row in rows().filter(|row| !row.built) {
        let error = only_error(try_shop(&[(row.name, "other")]));
        assert!(error.starts_with(&format!("{}=", row.name)), "{error}");
        assert!(
            error.contains("this version does not implement it yet; leave it unset"),
            "{error}"
        );
        assert!(error.ends_with(row.default), "{error}");
        shop(&[(row.name, row.default)]);
        for other in row.file.as_deref().into_iter().chain(row.former_names) {
            let error = only_error(try_shop(&[(other, "/nowhere")]));
            assert!(error.starts_with(&format!("{other}=")), "{error}");
        }
    }
}

#[test]
fn an_unreadable_file_is_named_with_its_variable() {
    let error = only_error(try_shop(&[("PLAN_FILE", "/nowhere/x")]));
    assert!(
        error.starts_with("PLAN_FILE=/nowhere/x: the file can't be read: No such file"),
        "{error}"
    );
}

#[test]
fn a_check_sees_all_settings_that_are_valid_on_their_own() {
    let error = only_error(try_shop(&[("OPEN_TIME", "1m")]));
    assert_eq!(error, "OPEN_TIME is greater than CLOSE_TIME");
    assert_eq!(
        shop(&[("OPEN_TIME", "20s")]).warnings(),
        ["OPEN_TIME equals CLOSE_TIME"]
    );
    // A value that is invalid on its own causes one error, not two.
    let error = only_error(try_shop(&[("CLOSE_TIME", "1ms")]));
    assert!(error.starts_with("CLOSE_TIME=1ms is invalid"), "{error}");
}

#[test]
fn a_section_that_a_program_does_not_obey_is_refused_and_its_defaults_are_printed() {
    let sections = [COMMON, SHOP.refused("this program is not a shop")];
    for row in SHOP.rows().filter(|row| row.built) {
        let error = only_error(try_load(&sections, &[(row.name, "other")]));
        assert!(error.starts_with(&format!("{}=", row.name)), "{error}");
        assert!(
            error.contains("this program is not a shop; leave it unset"),
            "{error}"
        );
    }
    let shown = try_load(&sections, &[("TILLS", "2")]).unwrap();
    let shown = shown.check_config();
    assert!(shown.contains("\nTILLS=2 (default)\n"), "{shown}");
}

#[test]
fn every_range_has_the_bounds_in_its_row() {
    for (name, inside, outside) in [
        ("TILLS", ["1", "256"], ["0", "257"]),
        ("COLD", ["-50", "50"], ["-51", "51"]),
        ("OPEN_TIME", ["100ms", "1h"], ["99ms", "1h1ms"]),
        ("GREETING_MS", ["200", "4999"], ["199", "5001"]),
        ("GREETING_MS", ["999", "1001"], ["1000", "5000"]),
        ("CLEAN", ["true", "false"], ["TRUE", "1"]),
        ("LOG_LEVEL", ["error", "trace"], ["INFO", "off"]),
        (
            "LOG_LEVEL",
            ["a::b=debug", "warn,a=error"],
            ["a::b", "warn,error"],
        ),
        ("LOG_FORMAT", ["json", "text"], ["xml", "JSON"]),
        (
            "SHOP_ADDR",
            ["0.0.0.0:0", "[::]:8080"],
            [":8080", "localhost:8080"],
        ),
        ("FRIENDS", ["clock-0", "a, b"], ["a,,b", "a,a"]),
    ] {
        let row = rows().find(|row| row.name == name).unwrap();
        for text in inside {
            assert!(row.accepts(text), "{name}={text} is refused");
        }
        for text in outside {
            assert!(!row.accepts(text), "{name}={text} is accepted");
        }
    }
}

#[test]
fn every_other_form_of_numbers_and_durations_is_rejected() {
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
        assert!(ENTRY_RATE_MAX.parse(text).is_none(), "{text:?}");
        assert!(GREETING_MS.parse(text).is_none(), "{text:?}");
    }
    for text in ["15", "15 s", "1.5s", "900000us", "1s1m"] {
        assert!(OPEN_TIME.parse(text).is_none(), "{text:?}");
    }
    assert_eq!(OPEN_TIME.parse("1m30s"), Some(Duration::from_secs(90)));
}

#[test]
fn ids_consist_of_characters_that_subjects_and_labels_allow() {
    let long = "x".repeat(65);
    assert!(SHOP_ID.parse("Clock_0.eu-1").is_some());
    assert!(SHOP_ID.parse(&long[..64]).is_some());
    for text in ["", &long, "a b", "a*", "ü", "a/b"] {
        assert!(SHOP_ID.parse(text).is_none(), "{text:?}");
    }
}

#[test]
fn a_former_name_is_accepted_with_one_warning_that_names_the_current_one() {
    let vars = [
        ("SHOPKEEPER", "u"),
        ("SHOP_SECRET", CANARY),
        ("OPEN_TIME_MS", "5000"),
        ("CLOSE_TIME_MS", "7000"),
    ];
    let settings = try_load(SHOPS, &vars).unwrap();
    assert_eq!(settings.get(&KEEPER).as_deref(), Some("u"));
    assert_eq!(settings.get(&SHOP_PASS).unwrap().expose_secret(), CANARY);
    assert_eq!(settings.get(&OPEN_TIME), Duration::from_secs(5));
    assert_eq!(settings.get(&CLOSE_TIME), Duration::from_secs(7));
    let warnings = settings.warnings();
    assert_eq!(warnings.len(), 4, "{warnings:#?}");
    for (former, current) in [
        ("SHOPKEEPER", "KEEPER"),
        ("SHOP_SECRET", "SHOP_PASS"),
        ("OPEN_TIME_MS", "OPEN_TIME"),
        ("CLOSE_TIME_MS", "CLOSE_TIME"),
    ] {
        let warning = format!("{former} is deprecated; use {current} instead");
        assert!(warnings.contains(&warning), "{warnings:#?}");
    }
}

#[test]
fn a_former_name_must_have_the_same_value_as_the_current_one() {
    let same = shop(&[
        ("SHOPKEEPER", "user"),
        ("OPEN_TIME", "5s"),
        ("OPEN_TIME_MS", "5000"),
    ]);
    assert_eq!(same.get(&OPEN_TIME), Duration::from_secs(5));
    assert_eq!(same.warnings().len(), 2);
    for (name, value) in [("SHOP_SECRET", CANARY), ("OPEN_TIME_MS", "5000")] {
        let lines = try_shop(&[(name, value), ("OPEN_TIME", "6s")]).unwrap_err();
        assert!(
            lines[0].contains(&format!("{name} are set to different values")),
            "{lines:#?}"
        );
        assert!(!lines.concat().contains(CANARY), "{lines:#?}");
    }
}

#[test]
fn milliseconds_under_a_former_name_are_a_plain_number_in_the_range_of_the_setting() {
    for value in ["5s", "5000ms", "-5", "50", "x", "3600001"] {
        let lines = try_shop(&[("OPEN_TIME_MS", value)]).unwrap_err();
        let error = format!(
            "OPEN_TIME_MS={value} is invalid: expected a plain number of milliseconds; \
             OPEN_TIME expects a duration from 100ms to 1h"
        );
        assert!(lines[0].starts_with(&error), "{lines:#?}");
    }
}

#[test]
fn a_value_from_a_file_loses_one_trailing_newline() {
    for (bytes, expected) in [
        ("pass", "pass"),
        ("pass\n", "pass"),
        ("pass\r\n", "pass"),
        (" pass", " pass"),
    ] {
        let file = TempFile::with(bytes);
        let settings =
            try_load(SHOPS, &[("KEEPER", "u"), ("SHOP_PASS_FILE", file.path())]).unwrap();
        assert_eq!(
            settings.get(&SHOP_PASS).unwrap().expose_secret(),
            expected,
            "{bytes:?}"
        );
        assert_eq!(settings.file_of(&SHOP_PASS), Some(Path::new(file.path())));
        assert_eq!(settings.file_of(&KEEPER), None);
        let line = format!("SHOP_PASS=*** (file {})", file.path());
        assert!(
            settings.check_config().lines().any(|l| l == line),
            "{settings}"
        );
    }
}

#[test]
fn a_value_and_its_file_together_are_an_error() {
    let error = only_error(try_shop(&[("SHOP_PASS_FILE", "/run/pass")]));
    assert_eq!(
        error,
        "SHOP_PASS and SHOP_PASS_FILE are both set; set only one of them"
    );
}

#[test]
fn a_file_without_a_valid_value_is_named_with_its_variable() {
    let (long, binary) = (
        TempFile::with(vec![b'x'; SECRET_FILE_BYTES_MAX + 1]),
        TempFile::with([0xff]),
    );
    let refused = TempFile::with(CANARY.repeat(1_000));
    let marked = TempFile::with(format!("\u{feff}{CANARY}"));
    let [lines, cut, nul, utf16] = [
        format!("{CANARY}\n\n"),
        format!("{CANARY}\r"),
        format!("{CANARY}\0"),
        CANARY.chars().map(|c| format!("{c}\0")).collect(),
    ]
    .map(TempFile::with);
    for (path, why) in [
        ("/nowhere/pass", "can't be read: No such file"),
        ("/", "can't be read: "),
        ("/dev/zero", "longer than"),
        (long.path(), "longer than 65536 bytes"),
        (binary.path(), "not UTF-8"),
        (refused.path(), "expected 1 to 1024 bytes"),
        (marked.path(), "starts with a byte-order mark"),
        (
            lines.path(),
            "line 1 of the file contains a control character",
        ),
        (cut.path(), "allowed is only one newline at its end"),
        (nul.path(), "control character"),
        (utf16.path(), "control character"),
    ] {
        let error = only_error(try_load(
            SHOPS,
            &[("KEEPER", "u"), ("SHOP_PASS_FILE", path)],
        ));
        assert!(
            error.starts_with(&format!("SHOP_PASS_FILE={path}")),
            "{error}"
        );
        assert!(error.contains(why) && !error.contains(CANARY), "{error}");
    }
}

#[test]
fn an_empty_file_counts_as_unset_but_is_read_again() {
    let file = TempFile::with("\n");
    let settings = shop(&[("SHOP_PASS_PREVIOUS_FILE", file.path())]);
    assert!(settings.get(&SHOP_PASS_PREVIOUS).is_none());
    assert_eq!(
        settings.file_of(&SHOP_PASS_PREVIOUS),
        Some(Path::new(file.path()))
    );
    file.write("old\n");
    assert_eq!(
        read_secret_file(file.path().as_ref())
            .unwrap()
            .unwrap()
            .expose_secret(),
        "old"
    );
    fs::remove_file(file.path()).unwrap();
    assert!(matches!(
        read_secret_file(file.path().as_ref()),
        Err(FileError::Unreadable(_))
    ));
}

#[test]
fn foreign_variables_may_hold_anything() {
    let foreign = |name: &[u8]| {
        (
            OsString::from_vec(name.into()),
            OsString::from_vec(vec![0xff, 0xfe]),
        )
    };
    Settings::from_vars([foreign(b"LS_COLORS"), foreign(b"\xff")], SHOPS, DEFAULTS).unwrap();
    // That includes the settings of other TickStorm programs.
    let others = [foreign(b"TILLS"), foreign(b"SHOP_PASS")];
    Settings::from_vars(others, &[COMMON], DEFAULTS).unwrap();
}

#[test]
fn a_setting_that_is_not_utf8_is_reported_once() {
    for name in ["TILLS", "KEEPER_FILE", "SHOPKEEPER", "SHOP_PASS"] {
        let mut vars = vec![(name.into(), OsString::from_vec(b"canary\xff".to_vec()))];
        if !name.contains("USER") {
            vars.push(("KEEPER".into(), "u".into()));
        }
        if name != "SHOP_PASS" {
            vars.push((OsString::from("SHOP_PASS"), "p".into()));
        }
        let errors = Settings::from_vars(vars, SHOPS, DEFAULTS)
            .unwrap_err()
            .to_string();
        assert!(
            errors.starts_with(&format!("{name} is not UTF-8 text: expected ")),
            "{errors}"
        );
        assert!(
            !errors.contains("canary") && errors.lines().count() == 1,
            "{errors}"
        );
    }
}

#[test]
fn a_duration_under_a_former_name_becomes_a_plain_number() {
    let settings = shop(&[("GREETING", "1s500ms")]);
    assert_eq!(settings.get(&GREETING_MS), Duration::from_millis(1_500));
    assert_eq!(
        settings.warnings(),
        ["GREETING is deprecated; use GREETING_MS=1500 instead"]
    );
    let same = shop(&[("GREETING", "1s500ms"), ("GREETING_MS", "1500")]);
    assert_eq!(
        same.warnings(),
        ["GREETING is deprecated; use GREETING_MS instead"]
    );
    for value in ["1500", "1s", "0.5s", "500us", "-1ms"] {
        let lines = try_shop(&[("GREETING", value)]).unwrap_err();
        let error = format!(
            "GREETING={value} is invalid: expected a duration with a unit, such as 5ms; \
             GREETING_MS expects a whole number of milliseconds from 200 to 5000"
        );
        assert!(lines[0].starts_with(&error), "{lines:#?}");
    }
    let lines = try_shop(&[("GREETING", "1s500ms"), ("GREETING_MS", "1501")]).unwrap_err();
    assert!(
        lines[0].starts_with("GREETING_MS and GREETING are set to different values"),
        "{lines:#?}"
    );
}

#[test]
fn the_parts_of_an_address_under_former_names_are_joined() {
    let (street, number) = ("SHOP_STREET", "SHOP_NUMBER");
    for (vars, expected, names) in [
        (
            &[(street, "127.0.0.1")][..],
            "127.0.0.1:8080",
            "SHOP_STREET is",
        ),
        (&[(number, "9")], "0.0.0.0:9", "SHOP_NUMBER is"),
        (
            &[(number, "0"), (street, "::1")],
            "[::1]:0",
            "SHOP_STREET and SHOP_NUMBER are",
        ),
    ] {
        let settings = shop(vars);
        assert_eq!(settings.get(&SHOP_ADDR).to_string(), expected);
        assert_eq!(settings.origin_of(&SHOP_ADDR), &Origin::Env);
        let warning = format!("{names} deprecated; use SHOP_ADDR={expected} instead");
        assert_eq!(settings.warnings(), [warning]);
        // A part must be that of the address, if both are set.
        let both = [vars, &[("SHOP_ADDR", expected)]].concat();
        assert_eq!(shop(&both).get(&SHOP_ADDR).to_string(), expected);
        let both = [vars, &[("SHOP_ADDR", "10.0.0.1:10")]].concat();
        let lines = try_shop(&both).unwrap_err();
        assert!(
            lines[0].starts_with("SHOP_ADDR and SHOP_")
                && lines[0].ends_with("are set to different values; set only SHOP_ADDR"),
            "{lines:#?}"
        );
    }
    let defaults = [("ADMIN_ADDR", "127.0.0.1:1"), ("SHOP_ADDR", "127.0.0.1:5")];
    let settings = Settings::from_vars([(number, "9")], SHOPS, &defaults).unwrap();
    assert_eq!(settings.get(&SHOP_ADDR).to_string(), "127.0.0.1:9");
    for (name, value, allowed) in [
        (street, "localhost", "an IP address, such as"),
        (street, "0.0.0.0:80", "an IP address, such as"),
        (number, "65536", "a port number from 0 to 65535"),
        (number, "+1", "a port number from 0 to 65535"),
        (number, "http", "a port number from 0 to 65535"),
    ] {
        let lines = try_shop(&[(name, value)]).unwrap_err();
        let error = format!("{name}={value} is invalid: expected {allowed}");
        assert!(lines[0].starts_with(&error), "{lines:#?}");
    }
}

#[test]
fn a_name_without_a_counterpart_is_refused_or_warned_of_with_the_reason() {
    let error = only_error(try_shop(&[("CASH_PASS", CANARY)]));
    assert_eq!(
        error,
        "CASH_PASS=*** is not supported: cash is no longer accepted; leave it unset"
    );
    let error = only_error(try_shop(&[("HAGGLING", "true")]));
    assert_eq!(
        error,
        "HAGGLING=true is not supported: prices are fixed; leave it unset or set it to false"
    );
    let settings = shop(&[
        ("HAGGLING", "false"),
        ("CASH_PASS", ""),
        ("WEATHER", "rain"),
    ]);
    assert_eq!(
        settings.warnings(),
        ["WEATHER has no effect: the shop has a roof"]
    );
    assert_eq!(
        SHOPS[1].gone_names()[1].effect(),
        GoneEffect::Refused { unless: "false" }
    );
    // Another program does not know these names.
    let others = GONE.map(|gone| (gone.name(), "x"));
    let settings = try_load(&[COMMON], &others).unwrap();
    assert!(settings.warnings().is_empty(), "{:?}", settings.warnings());
}

#[test]
fn a_name_that_is_two_letters_off_causes_a_warning() {
    for (typo, meant) in [
        ("QUEUE_MA", "QUEUE_MAX"),
        ("UQEUE_MAX", "QUEUE_MAX"),
        ("KUEUE_MAXX", "QUEUE_MAX"),
        ("QUEUEMAX", "QUEUE_MAX"),
        ("queue_max", "QUEUE_MAX"),
        ("TILLZ", "TILLS"),
        ("ILLS", "TILLS"),
        ("LOG_LEVELS", "LOG_LEVEL"),
        ("LGO_LEVLE", "LOG_LEVEL"),
        ("SHOP_PAS_FILES", "SHOP_PASS_FILE"),
        ("SHOP_PASS_FLIE", "SHOP_PASS_FILE"),
        // The nearest name is meant, by its current name.
        ("OPEN_TIMES", "OPEN_TIME"),
        ("OPEN_TIME_MSS", "OPEN_TIME"),
        ("SHOPKEEPR", "KEEPER"),
        ("SHOP_STRET", "SHOP_ADDR"),
        // So is one that is gone.
        ("CASH_PAS", "CASH_PASS, which is not supported"),
        ("haggling", "HAGGLING, which is not supported"),
    ] {
        let settings = shop(&[(typo, "1")]);
        assert_eq!(
            settings.warnings(),
            [format!("{typo} is not a setting; did you mean {meant}?")]
        );
    }
    let lines = try_shop(&[("KEEPERS", "u"), ("TILLS", "0")]).unwrap_err();
    assert_eq!(
        lines[1],
        "warning: KEEPERS is not a setting; did you mean KEEPER?"
    );
    for other in [
        "PATH",
        "HOME",
        "QUEUE",
        "CLOCK_RANK",
        "MY_QUEUE_MAX",
        "PILLZ",
        "TIL",
        "GULLS",
        // Almost one that is only warned of.
        "WEATHERS",
        "GRIENDSS",
        "OTHER_",
        "OTHER_FRIENDS",
    ] {
        assert!(shop(&[(other, "1")]).warnings().is_empty(), "{other}");
    }
}

/// Kubernetes and Docker set variables in each container for each service, whatever its name.
#[test]
fn the_variables_of_services_are_left_alone() {
    for (name, value) in [
        ("SHOP_ADD_SERVICE_HOST", "10.0.0.1"),
        ("TILLS_SERVICE_PORT", "80"),
        ("TILLS_SERVICE_PORT_HTTP", "80"),
        ("SHOP_PORT", "tcp://10.0.0.1:80"),
        ("SHOP_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("SHOP_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("SHOP_PORT_53_UDP_PROTO", "udp"),
    ] {
        assert!(shop(&[(name, value)]).warnings().is_empty(), "{name}");
    }
    tickstorm_service::settings! {
        /// Settings of a harbour.
        HARBOUR;
        /// The port.
        HARBOUR_PIER: SocketAddr = Setting::new((), "0.0.0.0:1", "Ships need water")
            .formerly_host_and_port("PIER_HOST", "PIER_PORT");
    }
    let load = |vars: &[(&str, &str)]| try_load(&[HARBOUR], vars).unwrap();
    // A service called `pier`, a variable that resembles its name, and the former name itself.
    let settings = load(&[
        ("PIER_PORT", "tcp://10.0.0.1:80"),
        ("PIERS_PORT", "udp://10.0.0.1:80"),
    ]);
    assert!(settings.warnings().is_empty(), "{:?}", settings.warnings());
    assert_eq!(load(&[("PIER_PORT", "80")]).get(&HARBOUR_PIER).port(), 80);
    assert_eq!(load(&[("PIERS_PORT", "80")]).warnings().len(), 1);
}

#[test]
fn check_config_prints_a_line_for_each_setting() {
    let settings = shop(&[("TILLS", "3"), ("SHOPKEEPER", "user")]);
    let printed = settings.check_config();
    let names: Vec<_> = printed
        .lines()
        .map(|line| line.split_once('=').unwrap().0)
        .collect();
    assert_eq!(names, rows().map(|row| row.name).collect::<Vec<_>>());
    for line in [
        "TILLS=3 (env)",
        "KEEPER=user (env)",
        "SHOP_PASS=*** (env)",
        "SHOP_PASS_PREVIOUS= (default)",
        "CLOSE_TIME=20s (default)",
        "FRIENDS= (default)",
    ] {
        assert!(
            printed.lines().any(|printed| printed == line),
            "{line}: {printed}"
        );
    }
}

/// Checks every secret, from each possible source, in everything that can be printed.
#[test]
fn no_secret_is_ever_printed() {
    let file = TempFile::with(CANARY);
    for row in rows().filter(|row| row.secret) {
        let canaries = [
            CANARY.to_owned(),
            format!("{CANARY}\n{}", "x".repeat(2_000)),
        ];
        for (name, value) in [row.name]
            .into_iter()
            .chain(row.former_names)
            .flat_map(|name| canaries.iter().map(move |value| (name, value.as_str())))
            .chain(row.file.as_deref().map(|name| (name, file.path())))
        {
            let vars = [(name, value), ("KEEPER", "u"), ("LOG_LEVEL", "loud")];
            let errors = Settings::from_vars(vars, SHOPS, DEFAULTS).unwrap_err();
            for printed in [
                format!("{errors}"),
                format!("{errors:?}"),
                format!("{errors:#?}"),
            ] {
                assert!(!printed.contains(CANARY), "{name}: {printed}");
            }
            if let Ok(settings) =
                try_load(SHOPS, &[(name, value), ("KEEPER", "u"), ("SHOP_PASS", "p")])
            {
                let printed = format!(
                    "{settings}{settings:?}{:?}",
                    settings.get(&SHOP_PASS_PREVIOUS)
                );
                assert!(
                    !printed.contains(CANARY) && printed.contains("***"),
                    "{name}: {printed}"
                );
            }
        }
    }
    let settings = shop(&[("SHOP_PASS_PREVIOUS", CANARY)]);
    let secret = settings.get(&SHOP_PASS_PREVIOUS).unwrap();
    assert_eq!(secret.expose_secret(), CANARY);
    assert!(!format!("{secret:?} {:?}", secret.clone()).contains(CANARY));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Two edits of a name that is not short are warned of, unless they make another name. A name
    /// that is far from all others is not.
    #[test]
    fn two_edits_of_a_name_cause_a_warning(
        index: prop::sample::Index,
        edits in vec((0..4_u8, any::<prop::sample::Index>(), "[A-Z_]"), 1..3),
    ) {
        let names = rows().map(|row| row.name).filter(|name| name.len() >= 6);
        let name = *index.get(&names.collect::<Vec<_>>());
        let mut typo: Vec<char> = name.chars().collect();
        for (kind, at, letter) in edits {
            let (at, letter) = (at.index(typo.len() - 1) + 1, letter.chars().next().unwrap());
            match kind {
                0 => typo.insert(at, letter),
                1 => drop(typo.remove(at)),
                2 => typo[at] = letter,
                _ if at > 1 => typo.swap(at - 1, at),
                _ => {}
            }
        }
        let typo: String = typo.into_iter().collect();
        let is_known = rows().any(|row| {
            let is_file = row.file.as_deref() == Some(&*typo);
            row.name == typo || row.former_names.contains(&&*typo) || is_file
        });
        prop_assume!(!is_known && !typo.is_empty());
        let settings = shop(&[(&typo, "1")]);
        let warnings = settings.warnings();
        prop_assert_eq!(warnings.len(), 1, "{} for {}", typo, name);
        let start = format!("{typo} is not a setting; did you mean ");
        let starts_well = warnings[0].starts_with(&start);
        prop_assert!(starts_well, "{}", warnings[0]);
        let far: String = typo.chars().rev().collect::<String>() + "_ELSEWHERE";
        prop_assert!(shop(&[(&far, "1")]).warnings().is_empty(), "{}", far);
    }

    /// Whatever the environment holds, loading returns settings or errors that name variables.
    #[test]
    fn no_environment_makes_loading_panic(
        values in vec((0..70_usize, "\\PC{0,20}|[0-9]{1,25}(ms|s|m|h)?"), 0..8),
    ) {
        let names: Vec<_> = rows().map(|row| row.name).collect();
        let vars = values
            .iter()
            .map(|(i, value)| (names[i % names.len()], value.as_str()));
        if let Err(errors) = Settings::from_vars(vars, SHOPS, DEFAULTS) {
            prop_assert!(errors.iter().count() > 0);
        }
    }
}
