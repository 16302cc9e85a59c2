//! Tests of all settings of TickStorm together: properties that hold for each of them, whichever
//! crate obeys it, and the tables of settings in docs/operations.md.

use std::collections::HashSet;
use std::fs;

use proptest::{collection::vec, prelude::*};
use tickstorm_service::env::{Origin, Row};
use tickstorm_service::settings::ADMIN_ADDR;
use tickstorm_testkit::TempDir;

use super::*;
use crate::credentials::STREAM_TOKEN;

mod misspellings;

/// The settings without which an edge does not start.
const LOGIN: [(&str, &str); 2] = [("STREAM_USER", "u"), ("STREAM_PASS", "p")];

/// Returns [`SECTIONS`] with the settings of traces and NATS obeyed, as in daemons.
fn as_in_daemons() -> Vec<Section> {
    let mut sections = SECTIONS.to_vec();
    sections[1] = TRACES;
    sections[2] = NATS;
    sections
}

fn rows() -> impl Iterator<Item = Row> {
    SECTIONS.iter().flat_map(Section::rows)
}

/// Returns all variables that can hold a setting.
fn names_of(row: Row) -> impl Iterator<Item = String> {
    let former = row.former_names.into_iter().map(Into::into);
    [row.name.to_owned()]
        .into_iter()
        .chain(row.file)
        .chain(former)
}

/// Loads the settings of `sections` from `vars`. The error contains the printed lines.
fn try_load(sections: &[Section], vars: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
    let defaults = tickstorm_edge::settings::DEFAULTS;
    Settings::from_vars(vars.iter().copied(), sections, &defaults)
        .map_err(|errors| errors.to_string().lines().map(Into::into).collect())
}

#[test]
fn only_a_login_is_required() {
    let settings = try_load(&SECTIONS, &LOGIN).unwrap();
    assert_eq!(settings.check_config().lines().count(), rows().count());
    assert_eq!(settings.get(&ADMIN_ADDR).port(), 8_081);
    assert_eq!(settings.origin_of(&ADMIN_ADDR), &Origin::Default);
    assert!(settings.warnings().is_empty(), "{:?}", settings.warnings());
}

/// Scripts and people rely on the order of the lines.
#[test]
fn the_order_of_printed_settings_is_stable() {
    let names: Vec<_> = rows().map(|row| row.name).collect();
    let expected = "ADMIN_ADDR ADMIN_TLS_CERT_FILE ADMIN_TLS_KEY_FILE ADMIN_TOKEN_FILE \
         LOG_LEVEL LOG_FORMAT \
         OTEL_SDK_DISABLED OTEL_EXPORTER_OTLP_ENDPOINT OTEL_EXPORTER_OTLP_TRACES_ENDPOINT \
         OTEL_EXPORTER_OTLP_PROTOCOL OTEL_EXPORTER_OTLP_TRACES_PROTOCOL \
         OTEL_EXPORTER_OTLP_HEADERS OTEL_EXPORTER_OTLP_TRACES_HEADERS \
         OTEL_EXPORTER_OTLP_TIMEOUT OTEL_EXPORTER_OTLP_TRACES_TIMEOUT \
         OTEL_EXPORTER_OTLP_CERTIFICATE OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE \
         OTEL_EXPORTER_OTLP_COMPRESSION OTEL_EXPORTER_OTLP_TRACES_COMPRESSION \
         OTEL_TRACES_EXPORTER OTEL_METRICS_EXPORTER OTEL_LOGS_EXPORTER OTEL_PROPAGATORS \
         OTEL_SERVICE_NAME OTEL_RESOURCE_ATTRIBUTES OTEL_TRACES_SAMPLER OTEL_TRACES_SAMPLER_ARG \
         OTEL_BSP_SCHEDULE_DELAY OTEL_BSP_MAX_QUEUE_SIZE OTEL_BSP_MAX_EXPORT_BATCH_SIZE \
         OTEL_BSP_EXPORT_TIMEOUT \
         NATS_URL NATS_USER NATS_PASSWORD NATS_TOKEN NATS_CREDS_FILE NATS_CA_FILE \
         NATS_CERT_FILE NATS_KEY_FILE NATS_SUBJECT_PREFIX \
         CLOCK_ID CLOCK_RANK TICK_LEAD_MS REQUIRE_SYNC CLOCK_SKEW_MS \
         LISTEN_ADDR PROXY_PROTOCOL PROXY_TRUSTED EDGE_ID CLOCKS CLOCK_TOLERANCE_MS \
         TIME_ERROR_MAX_MS AHEAD_MS \
         HOLDOVER_MAX RESUME_WINDOW DRAIN_DELAY DRAIN_TIMEOUT \
         STREAM_USER STREAM_PASS STREAM_PASS_PREVIOUS STREAM_TOKENS_FILE COOKIE_KEY_FILE \
         STREAM_TOKEN MAX_CONNECTIONS MAX_HANDSHAKES MAX_CONNECTIONS_PER_IP \
         MAX_CONNECT_RATE_PER_IP \
         IP_ALLOWLIST IP_ALLOWLIST_FILE IP_BLOCKLIST IP_BLOCKLIST_FILE";
    let expected: Vec<_> = expected.split_whitespace().collect();
    assert_eq!(names[..expected.len()], expected);
}

#[test]
fn every_row_is_complete() {
    for row in rows() {
        assert!(!row.allowed.is_empty() && !row.why.is_empty(), "{row:?}");
        assert!(
            !row.why.starts_with(char::is_lowercase) && !row.why.ends_with('.'),
            "the reason starts with a capital letter and has no final full stop: {row:?}"
        );
        assert!(
            row.help.ends_with('.') && !row.help.starts_with(' '),
            "{row:?}"
        );
        assert!(
            row.name.ends_with("_MS") == row.allowed.contains("milliseconds")
                || row.name == "CLOCK_SKEW_MS"
                // The names are OpenTelemetry's.
                || row.name.starts_with("OTEL_"),
            "{row:?}"
        );
    }
}

#[test]
fn no_variable_belongs_to_two_settings() {
    let mut seen = HashSet::new();
    for row in rows() {
        for name in names_of(row) {
            assert!(seen.insert(name.clone()), "{name} belongs to two settings");
        }
    }
}

#[test]
fn every_password_and_token_is_secret_and_accepted_from_a_file() {
    for row in rows() {
        let is_secret = ["PASS", "TOKEN", "HEADERS"]
            .iter()
            .any(|word| row.name.contains(word))
            && !row.name.ends_with("_FILE");
        assert_eq!(row.secret, is_secret, "{}", row.name);
        let has_file = is_secret || ["STREAM_USER", "NATS_USER"].contains(&row.name);
        assert_eq!(row.file.is_some(), has_file, "{}", row.name);
    }
}

#[test]
fn every_setting_is_obeyed() {
    for row in rows() {
        assert!(row.built, "{}", row.name);
    }
}

#[test]
fn commands_with_a_pair_refuse_to_send_traces() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
    let lines = try_load(&SECTIONS, &[&LOGIN[..], &[endpoint]].concat()).unwrap_err();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("this program sends no traces"),
        "{lines:?}"
    );
}

#[test]
fn ahead_feeds_that_are_sent_before_the_announcements_cause_a_warning() {
    let vars = [&LOGIN[..], &[("AHEAD_MS", "1500")]].concat();
    let settings = try_load(&SECTIONS, &vars).unwrap();
    assert_eq!(
        settings.warnings(),
        ["AHEAD_MS=1500 is not below TICK_LEAD_MS=1500: \
             ticks that are sent ahead will have quality HOLDOVER"]
    );
}

#[test]
fn every_file_variable_of_a_built_setting_is_read() {
    let dir = TempDir::new("file_variables");
    let files = [
        ("value", "from the file\n"),
        ("pairs", "name=from the file\n"),
    ];
    let [file, pairs] = files.map(|(name, content)| dir.write(name, content));
    for row in rows().filter(|row| row.built) {
        let Some(file_variable) = row.file else {
            continue;
        };
        let has_pairs = row.name.ends_with("_HEADERS");
        let file = if has_pairs { &pairs } else { &file };
        let file = file.to_str().unwrap();
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
        let vars = [&[(&*file_variable, file)], &rest[..]].concat();
        let settings = try_load(&as_in_daemons(), &vars).unwrap();
        let shown = if row.secret { "***" } else { "from the file" };
        let line = format!("{}={shown} (file {file})", row.name);
        assert!(
            settings.check_config().lines().any(|l| l == line),
            "{settings:?}"
        );
    }
}

/// Checks every secret, from each possible source, in everything that can be printed.
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
        let names = [row.name].into_iter().chain(row.former_names);
        let by_file = row.file.as_deref().map(|name| (name, file));
        for var in names.flat_map(values).chain(by_file) {
            let defaults = tickstorm_edge::settings::DEFAULTS;
            let invalid = [var, user, ("LOG_LEVEL", "loud")];
            let errors = Settings::from_vars(invalid, &as_in_daemons(), &defaults).unwrap_err();
            let printed = format!("{errors} {errors:?} {errors:#?}");
            assert!(!printed.contains(CANARY), "{var:?}: {printed}");
            if let Ok(settings) = try_load(&as_in_daemons(), &[var, user, ("STREAM_PASS", "p")]) {
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

/// The head of each table of settings in docs/operations.md.
const TABLE_HEAD: [&str; 2] = [
    "| Setting | Default | What it does | Allowed | Why this default |",
    "|---|---|---|---|---|",
];

/// Returns the row of a setting in docs/operations.md.
fn table_row(row: &Row) -> String {
    let default = match row.name {
        "ADMIN_ADDR" => {
            let [(_, edge)] = tickstorm_edge::settings::DEFAULTS;
            let [(_, clock)] = tickstorm_clock::settings::DEFAULTS;
            format!("{edge} (edge), {clock} (clock)")
        }
        _ => row.default.into(),
    };
    let mut help = row.help.to_owned();
    if let Some(file) = &row.file {
        help.push_str(&format!(" Also as `{file}`."));
    }
    if !row.former_names.is_empty() {
        help.push_str(&format!(
            " Formerly `{}`.",
            row.former_names.join("` and `")
        ));
    }
    format!(
        "| `{}` | {default} | {help} | {} | {} |",
        row.name, row.allowed, row.why
    )
}

/// To regenerate the tables, paste the output of
/// `cargo test -p tickstorm-command the_documented_settings`.
#[test]
fn the_documented_settings_are_those_that_are_obeyed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");
    let document = fs::read_to_string(path).unwrap();
    let mut outdated = String::new();
    for (heading, sections) in [
        ("### Clock and edge", &[COMMON, NATS][..]),
        ("### Variables of traces", &[TRACES]),
        ("### Clock", &[CLOCK]),
        ("### Edge", &tickstorm_edge::settings::SECTIONS),
    ] {
        let rows = sections
            .iter()
            .flat_map(Section::rows)
            .filter(|row| row.built)
            .map(|row| table_row(&row));
        let expected: Vec<_> = TABLE_HEAD.map(Into::into).into_iter().chain(rows).collect();
        let documented: Vec<_> = document
            .lines()
            .skip_while(|line| *line != heading)
            .skip(1)
            .take_while(|line| !line.starts_with('#'))
            .filter(|line| line.starts_with('|'))
            .collect();
        if documented != expected {
            outdated.push_str(&format!("\n{heading}\n{}\n", expected.join("\n")));
        }
    }
    assert!(
        outdated.is_empty(),
        "these tables in docs/operations.md are outdated; they should be:\n{outdated}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the environment holds, loading returns settings or errors that name variables.
    #[test]
    fn no_environment_makes_loading_panic(
        values in vec((0..70_usize, "\\PC{0,20}|[0-9]{1,25}(ms|s|m|h)?"), 0..8),
    ) {
        let names: Vec<_> = rows().map(|row| row.name).collect();
        let vars = values
            .iter()
            .map(|(i, value)| (names[i % names.len()], value.as_str()));
        let defaults = tickstorm_edge::settings::DEFAULTS;
        if let Err(errors) = Settings::from_vars(vars, &as_in_daemons(), &defaults) {
            prop_assert!(errors.iter().count() > 0);
        }
    }
}
