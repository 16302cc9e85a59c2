//! `cargo xtask rollout-test`: builds the images, and runs the pods of the Kubernetes manifests on
//! this machine's container engine, where tests replace them while clients watch. The tests start
//! and stop everything themselves. This task removes what is left at the end, whatever happens to
//! the tests.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;

use crate::{
    command::{Call, cargo, docker},
    nats::missing_engine,
    preflight::Preflight,
    python_tool::{self, KUBECTL},
    stand_in::{self, DISTROLESS, NATS, RUST},
    step::{step, task},
    tool::NEXTEST,
};

/// The label of all containers and networks that the tests create.
const LABEL: &str = "tickstorm.rollout-test";

/// Building all dependencies and both binaries takes about five minutes on two cores.
const BUILD_TIME_MAX: Duration = Duration::from_secs(20 * 60);

/// Each test has its own time limit, and a test that hangs is reported by name. This limit is for
/// everything else that may hang.
const TESTS_TIME_MAX: Duration = Duration::from_secs(15 * 60);

/// Runs the task and reports its result.
pub(crate) fn run() -> ExitCode {
    task("rollout-test", test)
}

fn test() -> Result<()> {
    let mut preflight = Preflight::start();
    preflight.need(missing_engine());
    preflight.need(python_tool::missing(&[&KUBECTL]));
    preflight.finish()?;
    step("stand-ins", || {
        stand_in::provide(&[&RUST, &DISTROLESS, &NATS])
    })?;
    step("images", || {
        ["clock", "edge"].iter().try_for_each(|name| {
            let bases = stand_in::build_arguments();
            let build =
                format!("build {bases} --file Dockerfile.{name} --tag tickstorm-{name}:local .");
            docker(&build).run_within(BUILD_TIME_MAX)
        })
    })?;
    step("test program", || {
        NEXTEST.provide()?;
        python_tool::provide(&[&KUBECTL])?;
        tests("--no-run").run_within(BUILD_TIME_MAX)
    })?;
    // An interrupted run may have left containers and networks behind.
    remove()?;
    let tested = step("tests", || tests("").run_within(TESTS_TIME_MAX));
    let removed = step("removal", remove);
    tested.and(removed)
}

/// Returns a call of the tests. It builds the entire workspace: for the tests' package alone, the
/// libraries would be built again with fewer features.
fn tests(arguments: &str) -> Call {
    cargo(&format!(
        "nextest run --locked --workspace --profile rollout {arguments}"
    ))
}

/// Removes containers and networks that the tests have left behind, which happens only if the tests
/// were killed.
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
