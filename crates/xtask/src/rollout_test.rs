//! `cargo xtask rollout-test`: builds the images, and runs the pods of the Kubernetes manifests on
//! this machine's container engine, where they are replaced under the eyes of clients. The tests
//! start and stop all of it; whatever happens to them, it is gone at the end.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;

use crate::{
    command::{Call, cargo, docker},
    nats::engine_lack,
    preflight::Preflight,
    python_tool::{self, KUBECTL},
    stand_in::{self, DISTROLESS, NATS, RUST},
    step::{step, task},
    tool::NEXTEST,
};

/// What the tests label all that they make with.
const LABEL: &str = "tickstorm.rollout-test";

/// All dependencies and both binaries take about five minutes on two cores.
const BUILD_TIME_MAX: Duration = Duration::from_secs(20 * 60);

/// The tests have bounds of their own, which name the one that hangs; this is for what they don't
/// reach.
const TESTS_TIME_MAX: Duration = Duration::from_secs(15 * 60);

/// Runs it all, and tells how it went.
pub(crate) fn run() -> ExitCode {
    task("rollout-test", test)
}

fn test() -> Result<()> {
    let mut preflight = Preflight::start();
    preflight.need(engine_lack());
    preflight.need(python_tool::lack(&[&KUBECTL]));
    preflight.finish()?;
    step("stand-ins", || {
        stand_in::provide(&[&RUST, &DISTROLESS, &NATS])
    })?;
    step("images", || {
        ["clock", "edge"].iter().try_for_each(|name| {
            let build = format!("build --file Dockerfile.{name} --tag tickstorm-{name}:local .");
            docker(&build).run_within(BUILD_TIME_MAX)
        })
    })?;
    step("test program", || {
        NEXTEST.provide()?;
        python_tool::provide(&[&KUBECTL])?;
        tests("--no-run").run_within(BUILD_TIME_MAX)
    })?;
    // One that was interrupted may have left something behind.
    remove()?;
    let tested = step("tests", || tests("").run_within(TESTS_TIME_MAX));
    let removed = step("removal", remove);
    tested.and(removed)
}

/// Of the whole workspace: built by itself, the package would have its libraries built once more,
/// with fewer features.
fn tests(arguments: &str) -> Call {
    cargo(&format!(
        "nextest run --locked --workspace --profile rollout {arguments}"
    ))
}

/// Removes what the tests have left, which is something only where they were killed.
fn remove() -> Result<()> {
    for (list, remove) in [
        ("ps --all --quiet", "rm --force --volumes"),
        ("network ls --quiet", "network rm"),
    ] {
        let left = docker(&format!("{list} --filter label={LABEL}")).output()?;
        let left = String::from_utf8(left)?;
        let left: Vec<_> = left.split_whitespace().collect();
        if !left.is_empty() {
            docker(&format!("{remove} {}", left.join(" "))).run()?;
        }
    }
    Ok(())
}
