//! Local stand-ins for the images that tests run, for machines that reach no registry of images.
//! They are made only on request: nobody is to test against something else than what runs in
//! production without knowing it.

#[cfg(test)]
mod tests;

use std::env;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command::{docker, shell};
use crate::preflight::Lack;
use crate::python_tool::{self, NATS_SERVER, PythonTool};

/// Asks for stand-ins where it is `1`.
const REQUEST: &str = "TICKSTORM_STAND_INS";

/// Until one is made: a minimal Debian is fetched and unpacked in half a minute.
const TIME_MAX: Duration = Duration::from_secs(600);

/// An image that others provide, and the script that makes its stand-in.
pub(crate) struct StandIn {
    /// The name by which it is pulled, and which the stand-in gets.
    pub(crate) image: &'static str,
    /// The one that the script starts from.
    base: Option<&'static StandIn>,
    script: &'static str,
    script_name: &'static str,
    /// The commands that the script needs on this host.
    takes: &'static str,
    /// A program that it puts into the image.
    holds: Option<&'static PythonTool>,
}

/// The NATS that tests and the cluster run; testkit names it too.
pub(crate) const NATS: StandIn = StandIn {
    image: "nats:2.15-alpine",
    base: None,
    script: include_str!("stand-in-nats.sh"),
    script_name: "stand-in-nats.sh",
    holds: Some(&NATS_SERVER),
    takes: "docker, apt-get, and what installs nats-server",
};

/// What the stand-ins after it are made from.
const DEBIAN: StandIn = StandIn {
    image: "debian:bookworm-slim",
    base: None,
    script: include_str!("stand-in-debian.sh"),
    script_name: "stand-in-debian.sh",
    holds: None,
    takes: "root's rights, docker, debootstrap or apt-get to install it",
};

/// What our images are built in.
pub(crate) const RUST: StandIn = StandIn {
    image: "rust:1.95-bookworm",
    base: Some(&DEBIAN),
    script: include_str!("stand-in-rust.sh"),
    script_name: "stand-in-rust.sh",
    holds: None,
    takes: "docker, and rustc and cargo of that version",
};

/// What our images run on.
pub(crate) const DISTROLESS: StandIn = StandIn {
    image: "gcr.io/distroless/cc-debian12:nonroot",
    base: Some(&DEBIAN),
    script: include_str!("stand-in-distroless.sh"),
    script_name: "stand-in-distroless.sh",
    holds: None,
    takes: "docker",
};

/// The cluster's balancer.
pub(crate) const HAPROXY: StandIn = StandIn {
    image: "haproxy:3.2-alpine",
    base: Some(&DEBIAN),
    script: include_str!("stand-in-haproxy.sh"),
    script_name: "stand-in-haproxy.sh",
    holds: None,
    takes: "docker",
};

/// Where stand-ins are asked for, makes those of these images that are neither here nor can be
/// pulled.
pub(crate) fn provide(images: &[&StandIn]) -> Result<()> {
    if is_requested() {
        images.iter().try_for_each(|image| image.provide())
    } else {
        Ok(())
    }
}

/// What this machine lacks for tests that run this image, and what else can be done about it.
pub(crate) fn lack(image: &StandIn, otherwise: &str) -> Option<Lack> {
    if image.is_here_or_pulled() || !has_client() {
        return None;
    }
    if is_requested() {
        return image.holds.and_then(|tool| python_tool::lack(&[tool]));
    }
    let remedy =
        format!("let the engine pull it, set {REQUEST}=1 for a local stand-in, {otherwise}");
    Some(Lack::new(format!("the image {}", image.image), remedy))
}

fn is_requested() -> bool {
    env::var(REQUEST).is_ok_and(|value| value == "1")
}

/// Without it, only the tests themselves can see what images there are.
fn has_client() -> bool {
    docker("--version").probe().is_some()
}

impl StandIn {
    fn is_here_or_pulled(&self) -> bool {
        let image = self.image;
        let is_here = docker(&format!("image inspect {image}")).probe().is_some();
        is_here || docker(&format!("pull --quiet {image}")).probe().is_some()
    }

    fn provide(&self) -> Result<()> {
        let Self { image, takes, .. } = self;
        if self.is_here_or_pulled() {
            return Ok(());
        }
        if let Some(base) = self.base {
            base.provide()?;
        }
        eprintln!("    {image} can't be pulled: making a local stand-in, since {REQUEST}=1");
        let mut script = shell(self.script, self.script_name, image);
        if let Some(tool) = self.holds {
            script = script.env("HELD", &tool.installed()?.display().to_string());
        }
        script
            .run_within(TIME_MAX)
            .with_context(|| format!("no stand-in for {image}; it takes {takes}"))
    }
}
