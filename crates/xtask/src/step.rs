//! Reports the progress and the result of a task on standard error.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::stopwatch::Stopwatch;

/// Runs one step of a task and prints how long it took.
pub(crate) fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    eprintln!("==> {name}");
    let stopwatch = Stopwatch::start();
    work().with_context(|| name.to_owned())?;
    eprintln!("<== {name} passed in {}", stopwatch.seconds());
    Ok(())
}

/// Runs a task and prints its result.
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
