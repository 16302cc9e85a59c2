//! Local stand-ins for the images that tests run, for machines that can't reach an image registry.
//! They are built only on request, so that nobody unknowingly tests against images other than those
//! used in production.

#[cfg(test)]
mod tests;

use std::env;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command::{docker, shell};
use crate::preflight::Missing;
use crate::python_tool::{self, NATS_SERVER, PythonTool};

/// The environment variable that requests stand-ins if its value is `1`.
const REQUEST: &str = "TICKSTORM_STAND_INS";

/// The time limit for building one stand-in. Fetching and unpacking a minimal Debian takes half a
/// minute.
const TIME_MAX: Duration = Duration::from_secs(600);

/// The text in which the Dockerfiles name the images to start from. It is the same in both.
const DOCKERFILE: &str = include_str!("../../../Dockerfile.edge");

/// A third party's image, and the script that builds a stand-in for it.
pub(crate) struct StandIn {
    /// The name of the image, which is also the name of the stand-in.
    pub(crate) image: &'static str,
    /// The argument of the Dockerfiles whose default is this image with its digest, if they start
    /// from it.
    argument: Option<&'static str>,
    /// The image that the script starts from.
    base: Option<&'static StandIn>,
    script: &'static str,
    script_name: &'static str,
    /// The requirements of the script on this host.
    requires: &'static str,
    /// A program that the script puts into the image.
    contains: Option<&'static PythonTool>,
}

/// The NATS server that tests and the cluster run. testkit also has the name of this image.
pub(crate) const NATS: StandIn = StandIn {
    image: "nats:2.15-alpine",
    argument: None,
    base: None,
    script: include_str!("stand-in-nats.sh"),
    script_name: "stand-in-nats.sh",
    contains: Some(&NATS_SERVER),
    requires: "docker, apt-get, and pip to install nats-server",
};

/// The base of the stand-ins below.
const DEBIAN: StandIn = StandIn {
    image: "debian:bookworm-slim",
    argument: None,
    base: None,
    script: include_str!("stand-in-debian.sh"),
    script_name: "stand-in-debian.sh",
    contains: None,
    requires: "root, docker, and debootstrap or apt-get to install it",
};

/// The image that TickStorm's images are built in.
pub(crate) const RUST: StandIn = StandIn {
    image: "rust:1.95-bookworm",
    argument: Some("RUST_IMAGE"),
    base: Some(&DEBIAN),
    script: include_str!("stand-in-rust.sh"),
    script_name: "stand-in-rust.sh",
    contains: None,
    requires: "docker, and rustc and cargo of that version",
};

/// The base of TickStorm's images.
pub(crate) const DISTROLESS: StandIn = StandIn {
    image: "gcr.io/distroless/cc-debian12:nonroot",
    argument: Some("RUNTIME_IMAGE"),
    base: Some(&DEBIAN),
    script: include_str!("stand-in-distroless.sh"),
    script_name: "stand-in-distroless.sh",
    contains: None,
    requires: "docker",
};

/// The cluster's load balancer.
pub(crate) const HAPROXY: StandIn = StandIn {
    image: "haproxy:3.2-alpine",
    argument: None,
    base: Some(&DEBIAN),
    script: include_str!("stand-in-haproxy.sh"),
    script_name: "stand-in-haproxy.sh",
    contains: None,
    requires: "docker",
};

/// The monitoring of the cluster.
pub(crate) const PROMETHEUS: StandIn = StandIn {
    image: "prom/prometheus:v3.14.0",
    argument: None,
    base: Some(&DEBIAN),
    script: include_str!("stand-in-prometheus.sh"),
    script_name: "stand-in-prometheus.sh",
    contains: None,
    requires: "docker",
};

/// Sends notifications of alerts.
pub(crate) const ALERTMANAGER: StandIn = StandIn {
    image: "prom/alertmanager:v0.28.1",
    argument: None,
    base: Some(&DEBIAN),
    script: include_str!("stand-in-alertmanager.sh"),
    script_name: "stand-in-alertmanager.sh",
    contains: None,
    requires: "docker",
};

/// Shows dashboards. The stand-in only looks for their files.
pub(crate) const GRAFANA: StandIn = StandIn {
    image: "grafana/grafana:12.4.0",
    argument: None,
    base: Some(&DEBIAN),
    script: include_str!("stand-in-grafana.sh"),
    script_name: "stand-in-grafana.sh",
    contains: None,
    requires: "docker",
};

/// Makes metrics of what a NATS server reports.
pub(crate) const NATS_EXPORTER: StandIn = StandIn {
    image: "natsio/prometheus-nats-exporter:0.20.2",
    argument: None,
    base: Some(&DEBIAN),
    script: include_str!("stand-in-nats-exporter.sh"),
    script_name: "stand-in-nats-exporter.sh",
    contains: None,
    requires: "docker",
};

/// If stand-ins are requested, builds one for each image that is not here and can't be pulled.
pub(crate) fn provide(images: &[&StandIn]) -> Result<()> {
    if is_requested() {
        images.iter().try_for_each(|image| image.provide())
    } else {
        Ok(())
    }
}

/// Returns the options of `build` with which the Dockerfiles start from stand-ins. A stand-in has
/// no digest that could be named in advance, so it can't take the place of an image by itself.
pub(crate) fn build_arguments() -> String {
    let bases = [&RUST, &DISTROLESS].into_iter();
    let options: Vec<_> = bases.filter_map(StandIn::build_argument).collect();
    options.join(" ")
}

/// Returns what this machine is missing for tests that run `image`. The remedy names `alternative`
/// as another way to make the tests run.
pub(crate) fn missing(image: &StandIn, alternative: &str) -> Option<Missing> {
    if image.is_here_or_pulled() || !has_client() {
        return None;
    }
    if is_requested() {
        return image
            .contains
            .and_then(|tool| python_tool::missing(&[tool]));
    }
    let remedy = format!(
        "make it available to the engine, set {REQUEST}=1 to build a local stand-in, \
         or {alternative}"
    );
    Some(Missing::new(format!("the image {}", image.image), remedy))
}

fn is_requested() -> bool {
    env::var(REQUEST).is_ok_and(|value| value == "1")
}

/// Returns whether the engine's client is installed. Without it, only the tests themselves find out
/// whether an image is available.
fn has_client() -> bool {
    docker("--version").probe().is_some()
}

fn is_here(image: &str) -> bool {
    docker(&format!("image inspect {image}")).probe().is_some()
}

impl StandIn {
    /// Returns the name by which the project refers to the image, with its digest if it has one.
    fn reference(&self) -> &'static str {
        let default = self.argument.and_then(|argument| {
            // The value is in the next line, because of its width.
            let mut lines = DOCKERFILE.lines();
            let wanted = format!("ARG {argument}=\\");
            lines.find(|line| *line == wanted)?;
            lines.next()
        });
        default.unwrap_or(self.image)
    }

    fn is_here_or_pulled(&self) -> bool {
        let reference = self.reference();
        is_here(reference)
            || docker(&format!("pull --quiet {reference}"))
                .probe()
                .is_some()
    }

    /// Returns the option for the Dockerfiles if the image is not here, but a stand-in for it is.
    fn build_argument(&self) -> Option<String> {
        let argument = self.argument?;
        let is_stand_in = is_requested() && !is_here(self.reference()) && is_here(self.image);
        is_stand_in.then(|| format!("--build-arg {argument}={}", self.image))
    }

    fn provide(&self) -> Result<()> {
        let Self {
            image, requires, ..
        } = self;
        // With a digest, `reference` never leads to a stand-in.
        if self.is_here_or_pulled() || is_here(image) {
            return Ok(());
        }
        if let Some(base) = self.base {
            base.provide()?;
        }
        eprintln!("    {image} can't be pulled: building a local stand-in, since {REQUEST}=1");
        let mut script = shell(self.script, self.script_name, image);
        if let Some(tool) = self.contains {
            script = script.env("BINARY", &tool.installed()?.display().to_string());
        }
        script.run_within(TIME_MAX).with_context(|| {
            format!("could not build the stand-in for {image}, which requires {requires}")
        })
    }
}
