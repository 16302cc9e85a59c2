//! All settings of TickStorm together: what holds for each of them, whichever crate obeys it.

use std::collections::HashSet;
use std::fs;

use proptest::{collection::vec, prelude::*};
use tickstorm_service::env::{Origin, Row};
use tickstorm_service::settings::ADMIN_ADDR;
use tickstorm_testkit::TempDir;

use super::*;
use crate::credentials::{self, STREAM_TOKEN};

/// What an edge does not start without.
const LOGIN: [(&str, &str); 2] = [("STREAM_USER", "u"), ("STREAM_PASS", "p")];

/// The same sections in a program that has NATS.
fn with_nats() -> Vec<Section> {
    let mut sections = SECTIONS.to_vec();
    sections[1] = NATS;
    sections
}

fn rows() -> impl Iterator<Item = Row> {
    SECTIONS.iter().flat_map(Section::rows)
}

/// Loads all settings from `vars`; errors as the lines that are printed.
fn try_load(sections: &[Section], vars: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
    let defaults = tickstorm_edge::settings::DEFAULTS;
    Settings::from_vars(vars.iter().copied(), sections, &defaults)
        .map_err(|errors| errors.to_string().lines().map(Into::into).collect())
}

#[test]
fn a_login_is_all_that_must_be_set() {
    let settings = try_load(&SECTIONS, &LOGIN).unwrap();
    assert_eq!(settings.check_config().lines().count(), rows().count());
    assert_eq!(settings.get(&ADMIN_ADDR).port(), 8_081);
    assert_eq!(settings.origin_of(&ADMIN_ADDR), &Origin::Default);
    assert!(settings.warnings().is_empty(), "{:?}", settings.warnings());
}

/// Scripts and people read it by its lines.
#[test]
fn settings_are_printed_in_an_order_that_stays() {
    let names: Vec<_> = rows().map(|row| row.name).collect();
    let expected = "ADMIN_ADDR LOG_LEVEL LOG_FORMAT OTEL_EXPORTER_OTLP_ENDPOINT NATS_URL NATS_USER NATS_PASSWORD NATS_TOKEN \
         NATS_CREDS_FILE NATS_CA_FILE NATS_CERT_FILE NATS_KEY_FILE NATS_SUBJECT_PREFIX CLOCK_ID CLOCK_RANK TICK_LEAD_MS REQUIRE_SYNC \
         CLOCK_SKEW_MS LISTEN_ADDR EDGE_ID CLOCKS CLOCK_TOLERANCE_MS TIME_ERROR_MAX_MS AHEAD_MS HOLDOVER_MAX RESUME_WINDOW DRAIN_DELAY \
         DRAIN_TIMEOUT STREAM_USER STREAM_PASS STREAM_PASS_PREVIOUS STREAM_TOKENS_FILE STREAM_TOKEN MAX_CONNECTIONS MAX_HANDSHAKES";
    let expected: Vec<_> = expected.split_whitespace().collect();
    assert_eq!(names[..expected.len()], expected);
}

#[test]
fn every_row_says_what_there_is_to_say() {
    for row in rows() {
        assert!(!row.allowed.is_empty() && !row.why.is_empty(), "{row:?}");
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

/// Each program knows only its own settings, and an environment may hold those of all.
#[test]
fn no_program_takes_another_ones_setting_for_a_misspelt_one_of_its_own() {
    let clock = [COMMON, NATS, CLOCK];
    let edge = [&[COMMON, NATS][..], &tickstorm_edge::settings::SECTIONS].concat();
    // At an edge it is more likely to be that mistake than a client's.
    let mistake = ["STREAM_TOKEN_FILE is no setting: is STREAM_TOKENS_FILE meant?"];
    for (sections, expected) in [
        (&clock[..], &[][..]),
        (&edge, &mistake),
        (&credentials::SECTIONS, &[]),
    ] {
        let own = sections.iter().flat_map(Section::rows).map(|row| row.name);
        let own: HashSet<_> = own.collect();
        let others = rows()
            .filter(|row| !own.contains(row.name))
            .flat_map(|row| {
                let names = [
                    Some(row.name.to_owned()),
                    row.file,
                    row.older.map(Into::into),
                ];
                names.into_iter().flatten()
            });
        let login = LOGIN.map(|(name, _)| name.to_owned());
        let vars = others.chain(login).map(|name| (name, "value"));
        let defaults = [("ADMIN_ADDR", "127.0.0.1:0")];
        let settings = Settings::from_vars(vars, sections, &defaults).unwrap();
        assert_eq!(settings.warnings(), expected);
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
fn what_is_not_built_is_refused_unless_at_its_default() {
    for row in rows().filter(|row| !row.built) {
        let load = |name, value| try_load(&SECTIONS, &[&LOGIN[..], &[(name, value)]].concat());
        let names = [Some(row.name), row.file.as_deref(), row.older];
        for name in names.into_iter().flatten() {
            let lines = load(name, "/nowhere").unwrap_err();
            let error = format!("{name}=/nowhere: not built yet in this version: leave it unset");
            assert!(
                lines.len() == 1 && lines[0].starts_with(&error),
                "{lines:#?}"
            );
        }
        load(row.name, row.default).unwrap();
    }
}

#[test]
fn ahead_feeds_that_outrun_the_announcements_are_warned_of() {
    let vars = [&LOGIN[..], &[("AHEAD_MS", "1500")]].concat();
    let settings = try_load(&SECTIONS, &vars).unwrap();
    assert_eq!(
        settings.warnings(),
        [
            "AHEAD_MS=1500 is not below TICK_LEAD_MS=1500: ticks sent ahead will carry quality HOLDOVER"
        ]
    );
}

#[test]
fn every_twin_of_a_built_setting_is_read() {
    let dir = TempDir::new("twins");
    let file = dir.write("value", "from the file\n");
    let file = file.to_str().unwrap();
    for row in rows().filter(|row| row.built) {
        let Some(twin) = row.file else { continue };
        let partner = match row.name {
            "NATS_USER" => Some(("NATS_PASSWORD", "p")),
            "NATS_PASSWORD" => Some(("NATS_USER", "u")),
            _ => None,
        };
        let rest: Vec<_> = LOGIN
            .into_iter()
            .filter(|(name, _)| *name != row.name)
            .chain(partner)
            .collect();
        let vars = [&[(&*twin, file)], &rest[..]].concat();
        let settings = try_load(&with_nats(), &vars).unwrap();
        let shown = if row.secret { "***" } else { "from the file" };
        let line = format!("{}={shown} (file {file})", row.name);
        assert!(
            settings.check_config().lines().any(|l| l == line),
            "{settings:?}"
        );
    }
}

/// Every secret, wherever it stands, in everything that can be printed.
#[test]
fn no_secret_is_ever_printed() {
    const CANARY: &str = "canary-hunter2";
    let dir = TempDir::new("secrets");
    let file = dir.write("value", CANARY);
    let file = file.to_str().unwrap();
    let too_long = format!("{CANARY}\n{}", "x".repeat(2_000));
    let user = ("STREAM_USER", "u");
    for row in rows().filter(|row| row.secret) {
        let values = |name| [(name, CANARY), (name, &*too_long)];
        let names = [Some(row.name), row.older];
        let by_file = row.file.as_deref().map(|name| (name, file));
        for var in names.into_iter().flatten().flat_map(values).chain(by_file) {
            let defaults = tickstorm_edge::settings::DEFAULTS;
            let wrong = [var, user, ("LOG_LEVEL", "loud")];
            let errors = Settings::from_vars(wrong, &with_nats(), &defaults).unwrap_err();
            let printed = format!("{errors} {errors:?} {errors:#?}");
            assert!(!printed.contains(CANARY), "{var:?}: {printed}");
            if let Ok(settings) = try_load(&with_nats(), &[var, user, ("STREAM_PASS", "p")]) {
                let token = settings.get(&STREAM_TOKEN);
                let printed = format!("{settings} {settings:?} {token:?}");
                assert!(
                    !printed.contains(CANARY) && printed.contains("***"),
                    "{var:?}: {printed}"
                );
            }
        }
    }
}

/// A setting's row in docs/operations.md.
fn documented(row: &Row) -> String {
    let file = row.file.as_ref();
    let file = file.map_or_else(String::new, |file| format!(" Or `{file}`."));
    let older = row.older;
    let older = older.map_or_else(String::new, |older| format!(" Once `{older}`."));
    let default = match row.name {
        "ADMIN_ADDR" => {
            let [(_, edge)] = tickstorm_edge::settings::DEFAULTS;
            let [(_, clock)] = tickstorm_clock::settings::DEFAULTS;
            format!("{edge} (edge), {clock} (clock)")
        }
        _ => row.default.into(),
    };
    format!(
        "| `{}` | {default} | {}{file}{older} Takes {}. The default's reason: {}. |",
        row.name, row.help, row.allowed, row.why
    )
}

#[test]
fn the_documented_settings_are_those_that_are_obeyed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");
    let document = fs::read_to_string(path).unwrap();
    for (heading, sections) in [
        ("### Clock and edge", &[COMMON, NATS][..]),
        ("### Clock", &[CLOCK]),
        ("### Edge", &tickstorm_edge::settings::SECTIONS),
    ] {
        let expected: Vec<_> = sections
            .iter()
            .flat_map(Section::rows)
            .filter(|row| row.built)
            .map(|row| documented(&row))
            .collect();
        let documented: Vec<_> = document
            .lines()
            .skip_while(|line| *line != heading)
            .skip(1)
            .take_while(|line| !line.starts_with('#'))
            .filter(|line| line.starts_with("| `"))
            .collect();
        assert_eq!(
            documented,
            expected,
            "under {heading} there should be:\n{}",
            expected.join("\n")
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the environment holds, loading ends with settings or with errors that name variables.
    #[test]
    fn no_environment_makes_loading_panic(values in vec((0..70_usize, "\\PC{0,20}|[0-9]{1,25}(ms|s|m|h)?"), 0..8)) {
        let names: Vec<_> = rows().map(|row| row.name).collect();
        let vars = values.iter().map(|(i, value)| (names[i % names.len()], value.as_str()));
        if let Err(errors) = Settings::from_vars(vars, &with_nats(), &tickstorm_edge::settings::DEFAULTS) {
            prop_assert!(errors.iter().count() > 0);
        }
    }
}
