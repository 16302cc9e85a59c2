//! The real `tickstorm` as a child process: where its binary is, what it printed, how it ended.

use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// So long that only a defect takes it, on any machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A `tickstorm` with these arguments, and nothing in its environment but what the test sets.
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

/// How a `tickstorm` that ended by itself did so.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs it to its end.
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

/// A `tickstorm` that runs until it is told to end, or is dropped.
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

    /// The next line of its standard output.
    pub(crate) async fn line(&mut self) -> String {
        match timeout(PATIENCE, self.lines.next_line()).await {
            Ok(Ok(Some(line))) => line,
            other => panic!(
                "{other:?} instead of a line; standard error: {}",
                self.stderr().await
            ),
        }
    }

    /// The first line that holds `text`.
    pub(crate) async fn line_with(&mut self, text: &str) -> String {
        loop {
            let line = self.line().await;
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Sends it a signal and waits for its end.
    pub(crate) async fn end_with(&mut self, signal: Signal) -> ExitStatus {
        let pid = self.child.id().expect("it is still running");
        kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
        timeout(PATIENCE, self.child.wait())
            .await
            .unwrap_or_else(|_| panic!("still running after {signal}"))
            .unwrap()
    }

    /// Waits until it ends by itself, and tells what it wrote to its standard error.
    pub(crate) async fn ended(&mut self) -> (ExitStatus, String) {
        let status = timeout(PATIENCE, self.child.wait()).await;
        let status = status.expect("it ends by itself").unwrap();
        (status, self.stderr().await)
    }

    /// What it wrote to its standard error, once it has ended; it is made to.
    pub(crate) async fn stderr(&mut self) -> String {
        let _ = self.child.start_kill();
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut text).await.unwrap();
        }
        text
    }
}

/// A binary, built from what is checked out, beside this test's own: same target directory, same profile.
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
            None => panic!("{} is in no profile's directory", test.display()),
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
        assert!(built.success(), "the binaries can't be built");
        profile_dir.to_owned()
    });
    profile_dir.join(name)
}
