//! Runs cargo and the other programs that tasks call. Every program runs in the workspace's root,
//! so that a task works from any directory. Every command line is printed, so that it can be
//! repeated by hand.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{process_tree::kill_tree, stopwatch::Stopwatch};

/// The interval at which a program with a time limit is checked for having exited.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// One call of a program.
pub(crate) struct Call {
    command: Command,
    /// The command line to print.
    shown: String,
}

/// Returns a call of the cargo that runs this task. As in all functions here that take arguments as
/// one string, no argument may contain a space.
pub(crate) fn cargo(arguments: &str) -> Call {
    let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    call(program, "cargo", arguments)
}

/// Returns a call of rustup.
pub(crate) fn rustup(arguments: &str) -> Call {
    call(OsString::from("rustup"), "rustup", arguments)
}

/// Returns a call of the container engine's client.
pub(crate) fn docker(arguments: &str) -> Call {
    call(OsString::from("docker"), "docker", arguments)
}

/// Returns a call of Compose by its complete command line: version 1 is a program, version 2 a
/// plugin of the container engine's client.
pub(crate) fn compose(line: &str) -> Call {
    let (program, arguments) = line.split_once(' ').unwrap_or((line, ""));
    call(OsString::from(program), program, arguments)
}

/// Returns a call of a shell with `script` and one argument for it. The script stops at the first
/// command that fails. The printed command line shows `name` in place of the script's text.
pub(crate) fn shell(script: &str, name: &str, argument: &str) -> Call {
    let mut call = call(OsString::from("sh"), name, "-eu -c");
    call.command.args([script, name, argument]);
    call.shown = format!("sh -eu {name} {argument}");
    call
}

/// Returns `path`, which is relative to the workspace's root, as an absolute path.
pub(crate) fn in_workspace(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

/// Returns a call of the compiler that cargo uses.
pub(crate) fn rustc(arguments: &str) -> Call {
    let program = env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    call(program, "rustc", arguments)
}

/// Returns a call of any other program, with arguments that may contain spaces.
pub(crate) fn program(name: &str, arguments: &[&str]) -> Call {
    let mut call = call(OsString::from(name), name, "");
    call.command.args(arguments);
    call.shown = format!("{name} {}", arguments.join(" "));
    call
}

/// Builds the program of the package `name`, which has the same name, with the release profile and
/// returns the path of its executable. Those of `others` are put beside it. One build of all is
/// faster than several: each would choose features of the libraries for its packages alone.
pub(crate) fn release_build(name: &str, others: &[&str]) -> Result<PathBuf> {
    let packages = [&[name], others].concat().join(" --package ");
    build(&format!("--release --package {packages}"), name)
}

/// Builds the programs that end-to-end tests start, exactly as those tests would, and returns the
/// path of the executable of one of them.
pub(crate) fn debug_build(name: &str) -> Result<PathBuf> {
    build(
        "--bins --package tickstorm-cli --package tickstorm-clock --package tickstorm-edge",
        name,
    )
}

fn build(arguments: &str, name: &str) -> Result<PathBuf> {
    let built = cargo(&format!(
        "build --locked {arguments} --message-format json-render-diagnostics"
    ))
    .output()?;
    let artifacts = serde_json::Deserializer::from_slice(&built).into_iter::<serde_json::Value>();
    for artifact in artifacts {
        let artifact = artifact.context("could not parse cargo's messages")?;
        if artifact["target"]["name"] == name
            && let Some(executable) = artifact["executable"].as_str()
        {
            return Ok(executable.into());
        }
    }
    bail!("cargo reported no executable of {name}")
}

fn call(program: OsString, name: &str, arguments: &str) -> Call {
    let mut command = Command::new(program);
    command
        .args(arguments.split_whitespace())
        .current_dir(in_workspace(""));
    Call {
        command,
        shown: format!("{name} {arguments}"),
    }
}

impl Call {
    /// Appends arguments, which may contain spaces.
    pub(crate) fn args(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self.shown = format!("{} {}", self.shown, arguments.join(" "));
        self
    }

    /// Appends the names of files. The printed command line shows only their number.
    pub(crate) fn with_files(mut self, files: &[String]) -> Self {
        self.command.args(files);
        self.shown = format!("{} ({} files)", self.shown, files.len());
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self.shown = format!("{name}='{value}' {}", self.shown);
        self
    }

    /// Runs the program with this process's standard streams. Fails unless the program succeeds.
    pub(crate) fn run(mut self) -> Result<()> {
        eprintln!("    $ {}", self.shown);
        let status = self
            .command
            .status()
            .with_context(|| format!("could not start `{}`", self.shown))?;
        self.ensure_success(status)
    }

    /// Does the same as [`run`](Self::run), but prints what the program prints only once it has
    /// ended, so that it does not mix with what others print meanwhile.
    pub(crate) fn run_beside(mut self) -> Result<()> {
        let output = self
            .command
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("could not start `{}`", self.shown))?;
        let (printed, errors) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        eprint!("    $ {}\n{printed}{errors}", self.shown);
        self.ensure_success(output.status)
    }

    /// Does the same as [`run`](Self::run), but kills the program and all of its descendants if it
    /// takes longer than `time_max`.
    pub(crate) fn run_within(mut self, time_max: Duration) -> Result<()> {
        eprintln!("    $ {}", self.shown);
        let stopwatch = Stopwatch::start();
        let mut child = self
            .command
            .spawn()
            .with_context(|| format!("could not start `{}`", self.shown))?;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if stopwatch.elapsed() > time_max {
                kill_tree(child.id());
                child.wait()?;
                bail!(
                    "`{}` took more than {time_max:?} and was killed",
                    self.shown
                );
            }
            thread::sleep(POLL_INTERVAL);
        };
        self.ensure_success(status)
    }

    /// Runs the program and returns its standard output. Fails unless the program succeeds.
    pub(crate) fn output(mut self) -> Result<Vec<u8>> {
        let output = self
            .command
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("could not start `{}`", self.shown))?;
        self.ensure_success(output.status)?;
        Ok(output.stdout)
    }

    fn ensure_success(&self, status: ExitStatus) -> Result<()> {
        ensure!(status.success(), "`{}` failed: {status}", self.shown);
        Ok(())
    }

    /// Runs the program without printing anything and returns its standard output, or `None` if it
    /// failed or does not exist.
    pub(crate) fn probe(mut self) -> Option<String> {
        let output = self.command.output().ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
