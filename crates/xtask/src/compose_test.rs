//! `cargo xtask compose-test`: builds the images, and runs the tests of the whole cluster as
//! Compose brings it up. The tests start and stop it themselves; whatever happens to them, it is
//! gone at the end.

mod image;
#[cfg(test)]
mod tests;

use std::{process::ExitCode, time::Duration};

use anyhow::Result;

use self::image::Image;
use crate::{
    command::{Call, cargo, compose},
    nats::engine_lack,
    preflight::{Lack, Preflight},
    stand_in::{self, DISTROLESS, HAPROXY, NATS, RUST},
    step::{step, task},
    tool::NEXTEST,
};

/// The cluster is a project of its own beside one that somebody may have up for themselves.
const PROJECT: &str =
    "-p tickstorm-test -f compose/docker-compose.yml --env-file compose/.env.example";

/// The tests find here what they put before Compose's subcommands, in a directory at the
/// workspace's root.
const COMMAND: &str = "TICKSTORM_COMPOSE";

const IMAGES: &[Image] = &[Image::new("tickstorm-clock"), Image::new("tickstorm-edge")];

/// All dependencies and both binaries take about five minutes on two cores.
const BUILD_TIME_MAX: Duration = Duration::from_secs(20 * 60);

/// The tests have bounds of their own, which name the one that hangs; this is for what they don't
/// reach.
const TESTS_TIME_MAX: Duration = Duration::from_secs(20 * 60);

/// For commands that take seconds: containers have a grace period at their end.
const COMPOSE_TIME_MAX: Duration = Duration::from_secs(180);

/// Runs it all, and tells how it went.
pub(crate) fn run() -> ExitCode {
    task("compose-test", || {
        let cluster = ComposedCluster::find();
        let mut preflight = Preflight::start();
        preflight.need(engine_lack());
        preflight.need(cluster.is_none().then(|| {
            let remedy = "install it, 1.29 (`docker-compose`) or 2 (`docker compose`)";
            Lack::new("Docker Compose", remedy)
        }));
        preflight.finish()?;
        cluster.map_or(Ok(()), |cluster| cluster.test())
    })
}

/// The cluster, by the Compose that this machine has.
struct ComposedCluster {
    /// What stands before Compose's subcommands.
    command: String,
}

impl ComposedCluster {
    /// Version 2 if there are both.
    fn find() -> Option<Self> {
        let command = ["docker compose", "docker-compose"]
            .into_iter()
            .find(|command| compose(&format!("{command} version")).probe().is_some())?;
        Some(Self {
            command: format!("{command} {PROJECT}"),
        })
    }

    fn test(&self) -> Result<()> {
        step("stand-ins", || {
            stand_in::provide(&[&RUST, &DISTROLESS, &HAPROXY, &NATS])
        })?;
        step("images", || {
            self.compose("build").run_within(BUILD_TIME_MAX)?;
            IMAGES.iter().try_for_each(Image::check)
        })?;
        step("test program", || {
            NEXTEST.provide()?;
            tests("--no-run").run_within(BUILD_TIME_MAX)
        })?;
        // One that was interrupted may have left its cluster behind.
        self.remove()?;
        let tested = step("tests", || {
            tests("")
                .env(COMMAND, &self.command)
                .run_within(TESTS_TIME_MAX)
        });
        if tested.is_err() {
            self.show_logs();
        }
        let removed = step("removal", || self.remove());
        tested.and(removed)
    }

    fn compose(&self, arguments: &str) -> Call {
        compose(&format!("{} {arguments}", self.command))
    }

    fn remove(&self) -> Result<()> {
        self.compose("down --volumes --remove-orphans")
            .run_within(COMPOSE_TIME_MAX)
    }

    /// What the containers wrote: without it nobody sees why a test failed.
    fn show_logs(&self) {
        let shown = self
            .compose("logs --no-color --timestamps --tail=500")
            .run_within(COMPOSE_TIME_MAX);
        if let Err(error) = shown {
            eprintln!("    no logs: {error:#}");
        }
    }
}

/// Of the whole workspace: built by itself, the package would have its libraries built once more,
/// with fewer features.
fn tests(arguments: &str) -> Call {
    cargo(&format!(
        "nextest run --locked --workspace --profile cluster {arguments}"
    ))
}
