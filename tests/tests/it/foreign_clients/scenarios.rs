//! The clients in other languages against `tickstorm dev --scenario`, which says what a client does
//! wrong.

use std::process::Stdio;

use tickstorm_testkit::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::timeout;

use super::{Language, languages, replace};
use crate::tickstorm::tickstorm;
use std::time::Duration;

/// All scenarios, which run side by side, so that they take as long as the longest of them.
const SCENARIOS: [&str; 12] = [
    "drain",
    "going-away",
    "no-time",
    "step-forward",
    "step-back",
    "bad-checksum",
    "splits",
    "slow",
    "cut",
    "unknown",
    "hints",
    "wrong-password",
];
/// A scenario takes up to 40 s, or more on a machine under load.
const SCENARIO_MAX: Duration = Duration::from_secs(150);

#[tokio::test]
async fn clients_in_other_languages_pass_every_scenario() {
    let secrets = TempDir::new("foreign-scenarios");
    let password_file = secrets.path().join("password");
    replace(&password_file, "stream_pass");
    let mut running = tokio::task::JoinSet::new();
    for language in languages() {
        for scenario in SCENARIOS {
            running.spawn(play(language.clone(), scenario, password_file.clone()));
        }
    }
    for (name, is_passed, output) in running.join_all().await {
        assert!(is_passed, "{name}:\n{output}");
    }
}

/// Plays a scenario. Returns its name, whether the client made no mistake, and what was printed.
async fn play(
    language: Language,
    scenario: &'static str,
    password_file: std::path::PathBuf,
) -> (String, bool, String) {
    let name = format!("{} in {scenario}", language.name);
    let mut command = tickstorm(&["dev", "--scenario", scenario]);
    command.env("LISTEN_ADDR", "127.0.0.1:0");
    let mut server = command.spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let first = lines.next_line().await.unwrap().expect("an address");
    let address = first.strip_prefix("listening on ").expect("an address");
    let mut client = language
        .command(address, "stream_user", &password_file)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut output = String::new();
    let read = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            output.push_str(&line);
            output.push('\n');
        }
        server.wait().await.unwrap()
    };
    let status = timeout(SCENARIO_MAX, read).await;
    client.kill().await.unwrap();
    let is_passed = status.is_ok_and(|status| status.success());
    (name, is_passed, output)
}
