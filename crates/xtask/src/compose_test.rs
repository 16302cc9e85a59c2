//! `cargo xtask compose-test`: builds the images, and runs the tests of a complete cluster that
//! Compose brings up: first as it is, then with monitoring, and then with TLS. The tests start and
//! stop the cluster themselves. This task removes it at the end, whatever happens to the tests.

mod fast_monitoring;
mod image;
#[cfg(test)]
mod tests;

use std::{fs, io, process::ExitCode, time::Duration};

use anyhow::{Context, Result};

use self::image::Image;
use crate::{
    command::{Call, cargo, compose, in_workspace, program},
    monitoring::dashboards,
    nats::missing_engine,
    preflight::{Missing, Preflight},
    stand_in::{
        self, ALERTMANAGER, DISTROLESS, GRAFANA, HAPROXY, NATS, NATS_EXPORTER, PROMETHEUS, RUST,
        StandIn,
    },
    step::{step, task},
    tool::NEXTEST,
};

/// Compose's options. A separate project keeps the test's cluster apart from one that is already
/// running.
const PROJECT: &str =
    "-p tickstorm-test -f compose/docker-compose.yml --env-file compose/.env.example";

/// More of Compose's options, for the cluster with TLS.
const TLS: &str = "-f compose/tls.yml";

/// More of Compose's options, for monitoring as it is shipped. The tests run it with other
/// durations, but Compose must accept it.
const MONITORING: &str = "-f compose/monitoring.yml";

/// The environment variable with the directory for the secrets of the cluster with TLS.
const SECRETS_VARIABLE: &str = "SECRETS_DIR";
const SECRETS: &str = "target/compose-test-secrets";

/// The environment variable that passes tests the Compose command line up to the subcommand. It is
/// valid in the workspace's root.
const COMMAND: &str = "TICKSTORM_COMPOSE";

/// The environment variable with the directory for targets that tests add to Prometheus.
const TARGETS_VARIABLE: &str = "TICKSTORM_TARGETS";

/// The environment variable with the file of the dashboards' queries, and the file.
const QUERIES_VARIABLE: &str = "TICKSTORM_DASHBOARD_QUERIES";
const QUERIES: &str = "target/dashboard-queries.jsonl";

/// The images that only the cluster with monitoring needs.
const MONITORING_IMAGES: [&StandIn; 4] = [&PROMETHEUS, &ALERTMANAGER, &GRAFANA, &NATS_EXPORTER];

const IMAGES: &[Image] = &[Image::new("tickstorm-clock"), Image::new("tickstorm-edge")];

/// Building all dependencies and both binaries takes about five minutes on two cores.
const BUILD_TIME_MAX: Duration = Duration::from_secs(20 * 60);

/// Each test has its own time limit, and a test that hangs is reported by name. This limit is for
/// everything else that may hang.
const TESTS_TIME_MAX: Duration = Duration::from_secs(20 * 60);

/// Compose's commands take seconds, and removing containers also takes their grace periods.
const COMPOSE_TIME_MAX: Duration = Duration::from_secs(180);

/// Runs the task and reports its result.
pub(crate) fn run() -> ExitCode {
    task("compose-test", || {
        let cluster = ComposedCluster::find();
        let mut preflight = Preflight::start();
        preflight.need(missing_engine());
        preflight.need(cluster.is_none().then(|| {
            let remedy = "install version 1.29 (`docker-compose`) or 2 (`docker compose`)";
            Missing::new("Docker Compose", remedy)
        }));
        let has_openssl = program("openssl", &["version"]).probe().is_some();
        preflight.need((!has_openssl).then(|| {
            let remedy = "install version 1.1.1 or later, which makes the certificates";
            Missing::new("openssl", remedy)
        }));
        preflight.finish()?;
        cluster.map_or(Ok(()), |cluster| cluster.test())
    })
}

/// The cluster that this machine's Compose runs.
struct ComposedCluster {
    /// The Compose command line up to the subcommand.
    command: String,
}

impl ComposedCluster {
    /// Returns a cluster if Compose is installed, and prefers version 2.
    fn find() -> Option<Self> {
        let command = ["docker compose", "docker-compose"]
            .into_iter()
            .find(|command| compose(&format!("{command} version")).probe().is_some())?;
        Some(Self {
            command: format!("{command} {PROJECT}"),
        })
    }

    fn test(&self) -> Result<()> {
        step("configuration", || {
            let with_tls = format!("{TLS} {MONITORING}");
            [MONITORING, &with_tls].iter().try_for_each(|files| {
                self.compose(&format!("{files} config --quiet"))
                    .run_within(COMPOSE_TIME_MAX)
            })
        })?;
        step("stand-ins", || {
            stand_in::provide(&[&RUST, &DISTROLESS, &HAPROXY, &NATS])?;
            stand_in::provide(&MONITORING_IMAGES)
        })?;
        step("images", || {
            let build = format!("build {}", stand_in::build_arguments());
            self.compose(&build).run_within(BUILD_TIME_MAX)?;
            IMAGES.iter().try_for_each(Image::check)
        })?;
        step("test program", || {
            NEXTEST.provide()?;
            tests("cluster --no-run").run_within(BUILD_TIME_MAX)
        })?;
        self.run_tests("tests", "cluster")?;
        step("monitoring", || {
            fast_monitoring::write()?;
            dashboards::write_queries(&in_workspace(QUERIES))
        })?;
        let monitored = self.with(&fast_monitoring::options());
        monitored.run_tests("tests with monitoring", "cluster-monitoring")?;
        let secured = self.with(TLS);
        secured.run_tests("tests with TLS", "cluster-tls")
    }

    /// Returns the cluster with more of Compose's options.
    fn with(&self, options: &str) -> Self {
        Self {
            command: format!("{} {options}", self.command),
        }
    }

    /// Runs the tests of a profile, and removes the cluster that they bring up.
    fn run_tests(&self, name: &str, profile: &str) -> Result<()> {
        // An interrupted run may have left these behind.
        self.remove()?;
        remove_secrets()?;
        let path = |path| in_workspace(path).display().to_string();
        let tested = step(name, || {
            tests(profile)
                .env(COMMAND, &self.command)
                .env(SECRETS_VARIABLE, &path(SECRETS))
                .env(TARGETS_VARIABLE, &fast_monitoring::targets())
                .env(QUERIES_VARIABLE, &path(QUERIES))
                .run_within(TESTS_TIME_MAX)
        });
        if tested.is_err() {
            self.show_logs();
        }
        let removed = step("removal", || {
            self.remove()?;
            remove_secrets()
        });
        tested.and(removed)
    }

    fn compose(&self, arguments: &str) -> Call {
        compose(&format!("{} {arguments}", self.command))
    }

    fn remove(&self) -> Result<()> {
        self.compose("down --volumes --remove-orphans")
            .run_within(COMPOSE_TIME_MAX)
    }

    /// Prints the containers' logs, which show why a test failed.
    fn show_logs(&self) {
        let shown = self
            .compose("logs --no-color --timestamps --tail=500")
            .run_within(COMPOSE_TIME_MAX);
        if let Err(error) = shown {
            eprintln!("    could not show the containers' logs: {error:#}");
        }
    }
}

/// Removes the directory of secrets, if there is one.
fn remove_secrets() -> Result<()> {
    let path = in_workspace(SECRETS);
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Returns a call of the tests of a profile. It builds the entire workspace: for the tests' package
/// alone, the libraries would be built again with fewer features.
fn tests(profile: &str) -> Call {
    cargo(&format!(
        "nextest run --locked --workspace --profile {profile}"
    ))
}
