//! The container engine, by its command.

use std::process::{Command as StdCommand, Output, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// What all that is made here bears, so that `cargo xtask rollout-test` finds what an interrupted run has left.
pub(crate) const LABEL: &str = "tickstorm.rollout-test";

/// For a command that waits for nothing, on a machine under load.
const BOUND: Duration = Duration::from_secs(60);

/// What a command wrote to its standard output.
///
/// # Panics
/// Where it fails.
pub(crate) async fn docker(arguments: &[&str]) -> String {
    let (succeeded, said) = outcome(arguments, BOUND).await;
    assert!(succeeded, "docker {}: {said}", arguments.join(" "));
    said.trim().to_owned()
}

/// Whether a command succeeded within `bound`, and what it said.
pub(crate) async fn outcome(arguments: &[&str], bound: Duration) -> (bool, String) {
    let mut command = Command::new("docker");
    let command = command
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    match timeout(bound, command.output()).await {
        Ok(Ok(output)) => (output.status.success(), text(&output)),
        Ok(Err(error)) => panic!("these tests run containers: install Docker: {error}"),
        Err(_) => (false, format!("no answer within {bound:?}")),
    }
}

/// The same where nothing can be waited for: while something is dropped.
pub(crate) fn docker_now(arguments: &[&str]) -> String {
    StdCommand::new("docker")
        .args(arguments)
        .output()
        .map_or_else(|error| error.to_string(), |output| text(&output))
}

fn text(output: &Output) -> String {
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    format!("{out}{err}")
}
