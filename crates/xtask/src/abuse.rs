//! `cargo xtask abuse`: builds `tickstorm-abuse` and what its attacks need, and runs it. That
//! program owns the options, the measurements and the verdicts.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    command::{program, release_build},
    preflight::{Missing, Preflight},
    python_tool::{self, NATS_SERVER},
    step::task,
};

/// The programs that attacks on the bus start, from the directory of `tickstorm-abuse`.
const DAEMONS: [&str; 2] = ["tickstorm-clock", "tickstorm-edge"];

/// Runs the program with these arguments, and reports its result.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    task("abuse", || {
        let mut preflight = Preflight::start();
        preflight.need(missing());
        preflight.finish()?;
        attack(&arguments)
    })
}

/// Returns what this machine is missing for the NATS server that some attacks need.
pub(crate) fn missing() -> Option<Missing> {
    python_tool::missing(&[&NATS_SERVER])
}

/// Runs each attack for a few seconds. Latencies are not judged: a CI machine that is busy must not
/// fail the check.
pub(crate) fn check() -> Result<()> {
    attack(&["--short"])
}

fn attack(arguments: &[&str]) -> Result<()> {
    python_tool::provide(&[&NATS_SERVER])?;
    let built = release_build("tickstorm-abuse", &DAEMONS)?;
    program(&built.to_string_lossy(), &["run"])
        .args(arguments)
        .run()
}
