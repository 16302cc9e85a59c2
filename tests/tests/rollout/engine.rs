//! Runs commands of the container engine's client.

use std::process::{Command as StdCommand, Output, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// The label of every container and network that the tests create. `cargo xtask rollout-test` uses
/// it to find and remove the remains of an interrupted run.
pub(crate) const LABEL: &str = "tickstorm.rollout-test";

/// The time limit for a command that waits for nothing, on a machine under load.
const TIME_MAX: Duration = Duration::from_secs(60);

/// Runs a command and returns its output.
///
/// # Panics
/// Panics if it fails.
pub(crate) async fn docker(arguments: &[&str]) -> String {
    let (succeeded, printed) = outcome(arguments, TIME_MAX).await;
    assert!(succeeded, "docker {}: {printed}", arguments.join(" "));
    printed.trim().to_owned()
}

/// Runs a command and returns whether it succeeded within `time_max`, with its output.
pub(crate) async fn outcome(arguments: &[&str], time_max: Duration) -> (bool, String) {
    let mut command = Command::new("docker");
    let command = command
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    match timeout(time_max, command.output()).await {
        Ok(Ok(output)) => (output.status.success(), text(&output)),
        Ok(Err(error)) => panic!("could not run docker, which these tests require: {error}"),
        Err(_) => (false, format!("not finished within {time_max:?}")),
    }
}

/// Runs a command and blocks until it ends, for `drop`, which can't await. Returns its output.
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
