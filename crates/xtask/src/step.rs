//! A task's steps and its end, as they are told to whoever runs it.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::stopwatch::Stopwatch;

/// Does one step, and says how long it took.
pub(crate) fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    eprintln!("==> {name}");
    let stopwatch = Stopwatch::start();
    work().with_context(|| name.to_owned())?;
    eprintln!("<== {name} passed in {}", stopwatch.seconds());
    Ok(())
}

/// Does all of a task, and says how it went.
pub(crate) fn task(name: &str, work: impl FnOnce() -> Result<()>) -> ExitCode {
    let stopwatch = Stopwatch::start();
    match work() {
        Ok(()) => {
            eprintln!("xtask: {name} passed in {}", stopwatch.seconds());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!(
                "\nxtask: {name} failed after {}: {error:#}",
                stopwatch.seconds()
            );
            ExitCode::FAILURE
        }
    }
}
