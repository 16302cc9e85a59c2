//! Runs cargo at the workspace's root, so that a task works from any directory, and shows each command line, so that
//! anybody can repeat it by hand.

use std::{
    env,
    ffi::OsString,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

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

/// A call of a shell with a script of ours, which is shown as `name`, and its one argument. The script ends with what fails.
pub(crate) fn shell(script: &str, name: &str, argument: &str) -> Call {
    let mut call = call(OsString::from("sh"), name, "-eu -c");
    call.command.args([script, name, argument]);
    call.shown = format!("sh -eu {name} {argument}");
    call
}

fn call(program: OsString, name: &str, arguments: &str) -> Call {
    let mut command = Command::new(program);
    command
        .args(arguments.split_whitespace())
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
    Call {
        command,
        shown: format!("{name} {arguments}"),
    }
}

impl Call {
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
