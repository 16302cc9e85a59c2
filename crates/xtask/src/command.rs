//! Runs cargo, and whatever else a task calls, at the workspace's root, so that a task works from
//! any directory, and shows each command line, so that anybody can repeat it by hand.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{process_tree::kill_tree, stopwatch::Stopwatch};

/// How often a program that may take only so long is asked whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// One call of a program, with its arguments in a single string: none of ours contains a space.
pub(crate) struct Call {
    command: Command,
    shown: String,
}

/// A call of the cargo that runs this task.
pub(crate) fn cargo(arguments: &str) -> Call {
    let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    call(program, "cargo", arguments)
}

/// A call of the tool that adds components to the toolchain.
pub(crate) fn rustup(arguments: &str) -> Call {
    call(OsString::from("rustup"), "rustup", arguments)
}

/// A call of the container engine's client.
pub(crate) fn docker(arguments: &str) -> Call {
    call(OsString::from("docker"), "docker", arguments)
}

/// A call of Compose, by its command line: version 1 is a program, version 2 a plugin of the
/// engine's client.
pub(crate) fn compose(line: &str) -> Call {
    let (program, arguments) = line.split_once(' ').unwrap_or((line, ""));
    call(OsString::from(program), program, arguments)
}

/// A call of a shell with a script of ours, which is shown as `name`, and its one argument. The
/// script ends with what fails.
pub(crate) fn shell(script: &str, name: &str, argument: &str) -> Call {
    let mut call = call(OsString::from("sh"), name, "-eu -c");
    call.command.args([script, name, argument]);
    call.shown = format!("sh -eu {name} {argument}");
    call
}

/// A path from the workspace's root.
pub(crate) fn in_workspace(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

/// A call of the compiler that cargo uses.
pub(crate) fn rustc(arguments: &str) -> Call {
    let program = env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    call(program, "rustc", arguments)
}

/// A call of any other program, with arguments that may contain spaces.
pub(crate) fn program(name: &str, arguments: &[&str]) -> Call {
    let mut call = call(OsString::from(name), name, "");
    call.command.args(arguments);
    call.shown = format!("{name} {}", arguments.join(" "));
    call
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
    /// With these arguments more, which may contain spaces.
    pub(crate) fn args(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self.shown = format!("{} {}", self.shown, arguments.join(" "));
        self
    }

    /// With these files more, which are counted instead of shown.
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

    /// Runs it with this process's terminal; anything but success is an error.
    pub(crate) fn run(mut self) -> Result<()> {
        eprintln!("    $ {}", self.shown);
        let status = self
            .command
            .status()
            .with_context(|| format!("`{}` could not be started", self.shown))?;
        ensure!(status.success(), "`{}` ended with {status}", self.shown);
        Ok(())
    }

    /// As [`run`](Self::run), but if it takes longer than that, kills it and all that it has
    /// started.
    pub(crate) fn run_within(mut self, time_max: Duration) -> Result<()> {
        eprintln!("    $ {}", self.shown);
        let stopwatch = Stopwatch::start();
        let mut child = self
            .command
            .spawn()
            .with_context(|| format!("`{}` could not be started", self.shown))?;
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
            thread::sleep(LOOK_EVERY);
        };
        ensure!(status.success(), "`{}` ended with {status}", self.shown);
        Ok(())
    }

    /// Runs it and gives what it wrote to its standard output; anything but success is an error.
    pub(crate) fn output(mut self) -> Result<Vec<u8>> {
        let output = self
            .command
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("`{}` could not be started", self.shown))?;
        ensure!(
            output.status.success(),
            "`{}` ended with {}",
            self.shown,
            output.status
        );
        Ok(output.stdout)
    }

    /// Runs it quietly: what it wrote, or nothing where it failed or does not exist.
    pub(crate) fn probe(mut self) -> Option<String> {
        let output = self.command.output().ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
