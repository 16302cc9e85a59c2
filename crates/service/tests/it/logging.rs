//! A process that panics: shown on standard error after what was logged, and ended whether somebody reads that or not. The
//! process is this test once more, told by its environment to be it.

use std::env;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use tickstorm_service::logging::{Level, LogFormat, Logs, init};

/// How many events the process logs before it panics.
const EVENTS: &str = "TICKSTORM_TEST_EVENTS";
/// So long that only a defect takes it.
const PATIENCE: Duration = Duration::from_secs(30);

/// The process itself, where this is it.
fn panic_where_told() {
    if let Some(_logs) = log_where_told() {
        panic!("on purpose");
    }
}

fn log_where_told() -> Option<Logs> {
    let events = env::var(EVENTS).ok()?;
    let logs = init(Level::Info, LogFormat::Text).unwrap();
    for number in 0..events.parse::<u32>().unwrap() {
        tracing::info!(number, "an event before it");
    }
    Some(logs)
}

fn process(test: &str, events: u32) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture"])
        .env(EVENTS, events.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

#[test]
fn a_panic_is_shown_beside_what_was_logged() {
    panic_where_told();
    let test = "logging::a_panic_is_shown_beside_what_was_logged";
    let output = process(test, 3).output().unwrap();
    let shown = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{shown}");
    assert!(shown.contains("an event before it number=2"), "{shown}");
    assert!(shown.contains("tests/it/logging.rs:"), "{shown}");
    assert!(shown.contains("on purpose"), "{shown}");
}

#[tokio::test]
async fn a_process_that_panics_ends_though_nobody_reads_what_it_shows() {
    panic_where_told();
    let test = "logging::a_process_that_panics_ends_though_nobody_reads_what_it_shows";
    let mut process = tokio::process::Command::from(process(test, 20_000))
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    assert_fails(&mut process).await;
}

#[tokio::test]
async fn a_panic_of_a_task_that_nobody_waits_for_ends_the_process() {
    if let Some(_logs) = log_where_told() {
        drop(tokio::spawn(async { panic!("on purpose") }));
        return std::future::pending().await;
    }
    let test = "logging::a_panic_of_a_task_that_nobody_waits_for_ends_the_process";
    let mut process = tokio::process::Command::from(process(test, 3))
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    assert_fails(&mut process).await;
}

async fn assert_fails(process: &mut tokio::process::Child) {
    let ended = tokio::time::timeout(PATIENCE, process.wait()).await;
    let status: Option<ExitStatus> = ended.ok().map(Result::unwrap);
    assert!(status.is_some_and(|status| !status.success()), "{status:?}");
}
