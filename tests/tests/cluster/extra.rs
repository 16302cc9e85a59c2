//! Containers that a test runs beside the cluster, in its network and with its images.

use std::ops::Deref;
use std::path::Path;

use crate::engine::{Container, NATS, container, docker};

/// The images of edges and of clocks.
pub(crate) const EDGE: &str = "tickstorm-edge:local";
pub(crate) const CLOCK: &str = "tickstorm-clock:local";

/// A container to run.
#[must_use]
pub(crate) struct Extra {
    service: String,
    image: &'static str,
    /// The options of `docker run`.
    options: Vec<String>,
}

impl Extra {
    /// Describes a container without settings. `service` is its name in the output.
    pub(crate) fn new(service: &str, image: &'static str) -> Self {
        Self {
            service: service.to_owned(),
            image,
            options: Vec::new(),
        }
    }

    /// Describes an edge with the settings that the cluster's edges have for NATS and for clients.
    pub(crate) fn edge(name: &str) -> Self {
        let model = container("edge");
        [
            "NATS_URL",
            "NATS_USER",
            "NATS_PASSWORD",
            "STREAM_USER",
            "STREAM_PASS",
            "CLOCKS",
        ]
        .into_iter()
        .fold(Self::new(name, EDGE), |edge, setting| {
            edge.setting(setting, &model.env(setting))
        })
        .setting("EDGE_ID", name)
        .setting("SHARDS", "1")
    }

    /// Describes a clock with the settings of a clock of the cluster, including its id and login.
    pub(crate) fn clock(name: &str, model: &str) -> Self {
        let model = container(model);
        ["NATS_URL", "NATS_USER", "NATS_PASSWORD", "CLOCK_ID"]
            .into_iter()
            .fold(Self::new(name, CLOCK), |clock, setting| {
                clock.setting(setting, &model.env(setting))
            })
    }

    /// Sets a setting. The last value counts.
    pub(crate) fn setting(self, name: &str, value: &str) -> Self {
        self.option(&format!("--env={name}={value}"))
    }

    /// Mounts a directory at `/etc/tickstorm`.
    pub(crate) fn files(self, directory: &Path) -> Self {
        self.option(&format!(
            "--volume={}:/etc/tickstorm:ro",
            directory.display()
        ))
    }

    /// Adds an option of `docker run`.
    pub(crate) fn option(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    /// Starts the container.
    pub(crate) fn run(self) -> ExtraContainer {
        let network = format!("--network={}", container(NATS[0]).network());
        let mut arguments = vec!["run", "--detach", &network];
        arguments.extend(self.options.iter().map(String::as_str));
        arguments.push(self.image);
        let id = docker(&arguments);
        ExtraContainer(Container {
            id: id.trim().to_owned(),
            service: self.service,
        })
    }
}

/// A container that does not belong to the cluster, and is removed when it is dropped.
pub(crate) struct ExtraContainer(Container);

impl Deref for ExtraContainer {
    type Target = Container;

    fn deref(&self) -> &Container {
        &self.0
    }
}

impl Drop for ExtraContainer {
    fn drop(&mut self) {
        docker(&["rm", "--force", &self.0.id]);
    }
}
