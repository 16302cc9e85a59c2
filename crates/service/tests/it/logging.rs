//! Panics: the message appears on standard error after the logged events, and the process ends
//! whether or not standard error is read. The process that panics is this test executable, started
//! again with [`EVENTS`] in its environment.

use std::env;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use tickstorm_service::logging::{Level, LogFormat, Logs, init};

/// The variable with the number of events that the child process logs before it panics.
const EVENTS: &str = "TICKSTORM_TEST_EVENTS";
/// Far longer than any step takes: only a bug exceeds it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Logs and panics if this is the child process.
fn panic_in_child() {
    if let Some(_logs) = log_in_child() {
        panic!("on purpose");
    }
}

/// Logs the requested events if this is the child process.
fn log_in_child() -> Option<Logs> {
    let events = env::var(EVENTS).ok()?;
    let logs = init(Level::Info, LogFormat::Text).unwrap();
    for number in 0..events.parse::<u32>().unwrap() {
        tracing::info!(number, "an event before the panic");
    }
    Some(logs)
}

/// Returns the command that runs `test` as the child process.
fn child(test: &str, events: u32) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture"])
        .env(EVENTS, events.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

#[test]
fn a_panic_message_follows_the_logged_events() {
    panic_in_child();
    let test = "logging::a_panic_message_follows_the_logged_events";
    let output = child(test, 3).output().unwrap();
    let shown = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{shown}");
    assert!(
        shown.contains("an event before the panic number=2"),
        "{shown}"
    );
    assert!(shown.contains("tests/it/logging.rs:"), "{shown}");
    assert!(shown.contains("on purpose"), "{shown}");
}

#[tokio::test]
async fn a_process_that_panics_ends_even_if_standard_error_is_not_read() {
    panic_in_child();
    let test = "logging::a_process_that_panics_ends_even_if_standard_error_is_not_read";
    let mut process = tokio::process::Command::from(child(test, 20_000))
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    assert_fails(&mut process).await;
}

#[tokio::test]
async fn a_panic_in_a_detached_task_ends_the_process() {
    if let Some(_logs) = log_in_child() {
        drop(tokio::spawn(async { panic!("on purpose") }));
        return std::future::pending().await;
    }
    let test = "logging::a_panic_in_a_detached_task_ends_the_process";
    let mut process = tokio::process::Command::from(child(test, 3))
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
