//! docs/migration.md against the code: every variable of the earlier Go server, and what the edge
//! answers if it is started with the environments of that server's documents.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::LazyLock;

use tickstorm_edge::settings::SECTIONS;
use tickstorm_service::env::{GoneEffect, Row, Section};
use tickstorm_service::settings::COMMON;

/// The variables in the documents of the Go server, including those that only some of them name.
/// Variables of its build, such as `CGO_ENABLED`, have no effect on a running program.
const DOCUMENTED: [&str; 43] = [
    "AUTH_MAX_ATTEMPTS",
    "AUTH_PASSWORD",
    "AUTH_USERNAME",
    "BATCH_WINDOW",
    "BATCH_WINDOW_MS",
    "BUFFER_POOL_SIZE",
    "CIRCUIT_BREAKER_THRESHOLD",
    "CONNECTION_POOL_SIZE",
    "CONNECTION_TIMEOUT",
    "GOMAXPROCS",
    "HEARTBEAT_INTERVAL",
    "HEARTBEAT_INTERVAL_MS",
    "HEARTBEAT_TIMEOUT",
    "HEARTBEAT_TIMEOUT_MS",
    "KEEPALIVE_INTERVAL",
    "LISTEN_ADDR",
    "LISTEN_HOST",
    "LISTEN_PORT",
    "MAX_BUFFER_SIZE",
    "MAX_CONNECTIONS",
    "MAX_MSG_SIZE",
    "MAX_RETRIES",
    "MAX_WRITE_QUEUE_SIZE",
    "MONITOR_MAX_CONN_PER_SEC",
    "MONITOR_MAX_FAILURE_RATE",
    "MONITOR_MAX_PORT_SCANS_PER_MIN",
    "PROTOCOL_DEBUG",
    "RETRY_BACKOFF",
    "STREAM_PASS",
    "STREAM_USER",
    "TCP_KEEPALIVE_INTVL",
    "TCP_KEEPALIVE_PROBES",
    "TCP_KEEPALIVE_TIME",
    "TCP_READ_BUFFER_SIZE",
    "TCP_WRITE_BUFFER_SIZE",
    "TLS_CA_FILE",
    "TLS_CERT_FILE",
    "TLS_CERT_PATH",
    "TLS_CLIENT_AUTH",
    "TLS_ENABLED",
    "TLS_KEY_FILE",
    "TLS_KEY_PATH",
    "WRITE_DEADLINE_MS",
];

static DOCUMENT: LazyLock<String> = LazyLock::new(|| read("migration.md"));

fn read(name: &str) -> String {
    let path = format!("{}/../../docs/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn rows() -> impl Iterator<Item = Row> {
    SECTIONS.iter().flat_map(Section::rows)
}

/// Returns the text between a heading and the next one, starting with the heading's newline.
fn section(heading: &str) -> &'static str {
    let start = DOCUMENT.find(&format!("\n{heading}\n"));
    let start = start.unwrap_or_else(|| panic!("docs/migration.md has no {heading}"));
    let after = &DOCUMENT[start + 1 + heading.len()..];
    after.split("\n#").next().unwrap()
}

/// Returns the rows of the table in a section, without its head, as cells.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let lines = section(heading)
        .lines()
        .filter(|line| line.starts_with('|'));
    let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim).collect();
    lines.skip(2).map(cells).collect()
}

/// Returns the words of a cell that are marked as code.
fn codes(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// Returns the code blocks of a section.
fn blocks(heading: &str) -> Vec<Vec<&'static str>> {
    let parts = section(heading).split("\n```").skip(1).step_by(2);
    parts.map(|block| block.lines().skip(1).collect()).collect()
}

#[test]
fn names_that_are_the_same_are_settings() {
    for cells in table("### The same name") {
        for name in codes(cells[0]) {
            let is_setting = rows().chain(COMMON.rows()).any(|row| row.name == name);
            assert!(is_setting, "{name} is no setting");
        }
    }
}

#[test]
fn the_documented_translations_are_those_of_the_code() {
    let documented: BTreeSet<_> = table("### Another name")
        .iter()
        .map(|cells| (codes(cells[0]).collect(), codes(cells[1]).next().unwrap()))
        .collect();
    let translated: BTreeSet<(Vec<_>, _)> = rows()
        .filter(|row| !row.former_names.is_empty())
        .map(|row| (row.former_names, row.name))
        .collect();
    assert_eq!(documented, translated);
}

#[test]
fn the_documented_names_without_a_counterpart_are_those_of_the_code() {
    let documented: Vec<_> = table("### No counterpart")
        .iter()
        .map(|cells| format!("| {} |", cells.join(" | ")))
        .collect();
    let gone = SECTIONS.iter().flat_map(Section::gone_names);
    let expected: Vec<_> = gone
        .map(|gone| {
            let effect = match gone.effect() {
                GoneEffect::Refused { unless: "" } => "refused".to_owned(),
                GoneEffect::Refused { unless } => format!("refused, except `{unless}`"),
                GoneEffect::Warning => "a warning".to_owned(),
            };
            format!("| `{}` | {effect} | {} |", gone.name(), gone.why())
        })
        .collect();
    assert!(
        documented == expected,
        "the table in docs/migration.md should be:\n{}",
        expected.join("\n")
    );
}

#[test]
fn every_variable_of_the_go_servers_documents_is_in_one_table() {
    let tables = [
        "### The same name",
        "### Another name",
        "### No counterpart",
    ];
    let mut listed = Vec::new();
    for cells in tables.into_iter().flat_map(table) {
        listed.extend(codes(cells[0]).map(str::to_owned));
    }
    for name in DOCUMENTED {
        let count = listed.iter().filter(|listed| *listed == name).count();
        assert_eq!(count, 1, "{name}");
    }
    let different: BTreeSet<_> = listed.iter().collect();
    assert_eq!(different.len(), listed.len(), "{listed:?}");
}

#[test]
fn every_metric_that_takes_the_place_of_an_old_one_exists() {
    let operations = read("operations.md");
    let mut names = 0;
    for cells in table("## Metrics") {
        for name in codes(cells[1]) {
            let name = name.split('{').next().unwrap();
            assert!(operations.contains(&format!("\n| `{name}` | ")), "{name}");
            names += 1;
        }
    }
    assert!(names > 15, "{names}");
}

/// Runs the edge as the document shows it: the first block has the environment, and the second what
/// the edge answers, without the settings that have their defaults.
fn check(heading: &str, expected_code: i32) {
    let blocks = blocks(heading);
    let [environment, answer] = &blocks[..] else {
        panic!("{heading}: {blocks:?}");
    };
    let variables = environment.iter().map(|line| line.split_once('=').unwrap());
    let output = Command::new(env!("CARGO_BIN_EXE_tickstorm-edge"))
        .arg("--check-config")
        .env_clear()
        .envs(variables)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(expected_code), "{output:?}");
    let [stderr, stdout] =
        [output.stderr, output.stdout].map(|text| String::from_utf8(text).unwrap());
    let set = stdout.lines().filter(|line| !line.ends_with(" (default)"));
    let answered: Vec<_> = stderr.lines().chain(set).collect();
    assert_eq!(
        &answered,
        answer,
        "docs/migration.md should show:\n{}",
        answered.join("\n")
    );
}

#[test]
fn the_edge_starts_with_the_environment_of_the_readme() {
    check("### The environment of its README", 0);
}

#[test]
fn the_edge_starts_with_the_environment_of_the_runbook() {
    check("### The environment of its runbook", 0);
}

#[test]
fn the_edge_refuses_what_it_could_not_obey_in_the_compose_file() {
    check("### The environment of its Compose file", 78);
}
