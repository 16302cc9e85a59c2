//! Builds `tickstorm` and the daemons, and runs `tickstorm` as a child process.

use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// A time limit that only a defect exceeds, on any machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Returns a command that runs `tickstorm` with these arguments and an empty environment.
pub(crate) fn tickstorm(args: &[&str]) -> Command {
    let mut command = Command::new(binary("tickstorm"));
    command
        .args(args)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// The exit code and the output of a program that has exited by itself.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command until it exits.
pub(crate) async fn run(mut command: Command) -> Ended {
    let output = timeout(PATIENCE, command.output())
        .await
        .unwrap_or_else(|_| panic!("still running: {command:?}"))
        .unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A `tickstorm` that runs until it gets a signal or is dropped.
pub(crate) struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Returns the next line of standard output.
    pub(crate) async fn line(&mut self) -> String {
        match timeout(PATIENCE, self.lines.next_line()).await {
            Ok(Ok(Some(line))) => line,
            other => panic!(
                "no further line, but {other:?}; standard error: {}",
                self.stderr().await
            ),
        }
    }

    /// Returns the next line of standard output that contains `text`.
    pub(crate) async fn line_with(&mut self, text: &str) -> String {
        loop {
            let line = self.line().await;
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Sends a signal.
    pub(crate) fn send(&self, signal: Signal) {
        let pid = self.child.id().expect("the process is still running");
        kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
    }

    /// Sends a signal and waits until the process exits.
    pub(crate) async fn end_with(&mut self, signal: Signal) -> ExitStatus {
        self.send(signal);
        timeout(PATIENCE, self.child.wait())
            .await
            .unwrap_or_else(|_| panic!("still running after {signal}"))
            .unwrap()
    }

    /// Waits until the process exits by itself, and returns its status and its standard error.
    pub(crate) async fn ended(&mut self) -> (ExitStatus, String) {
        let status = timeout(PATIENCE, self.child.wait()).await;
        let status = status.expect("the process exits by itself").unwrap();
        (status, self.stderr().await)
    }

    /// Kills the process if it is still running, and returns its standard error.
    pub(crate) async fn stderr(&mut self) -> String {
        let _ = self.child.start_kill();
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut text).await.unwrap();
        }
        text
    }
}

/// Returns the path of a program, which is built from the current sources with the profile and in
/// the target directory of this test.
pub(crate) fn binary(name: &str) -> PathBuf {
    static PROFILE_DIR: OnceLock<PathBuf> = OnceLock::new();
    let profile_dir = PROFILE_DIR.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let profile_dir = test
            .parent()
            .and_then(Path::parent)
            .expect("…/PROFILE/deps/TEST");
        let target_dir = profile_dir.parent().expect("…/PROFILE");
        let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
            Some("debug") => "dev",
            Some(other) => other,
            None => panic!("{} is not in a profile's directory", test.display()),
        };
        let built = StdCommand::new(env!("CARGO"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["build", "--quiet", "--bins", "--profile", profile])
            .args(["--package", "tickstorm-cli"])
            .args(["--package", "tickstorm-clock"])
            .args(["--package", "tickstorm-edge"])
            .arg("--target-dir")
            .arg(target_dir)
            .status()
            .unwrap();
        assert!(built.success(), "could not build the programs");
        profile_dir.to_owned()
    });
    profile_dir.join(name)
}
