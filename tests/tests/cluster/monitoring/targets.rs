//! Containers beside the cluster that Prometheus scrapes as if they were part of it. In the copy of
//! its configuration that tests use, each job reads further targets from a file. This module writes
//! these files.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Mutex;

use serde_json::json;

use crate::engine::{Container, wait_until};
use crate::extra::{Extra, ExtraContainer};

/// The environment variable with the directory of the files.
const DIRECTORY: &str = "TICKSTORM_TARGETS";

/// The addresses of the targets by job, and by the label `instance` that they get.
static TARGETS: Mutex<BTreeMap<Job, BTreeMap<String, String>>> = Mutex::new(BTreeMap::new());

/// A job that has further targets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Job {
    Edge,
    Clock,
}

/// A container that runs and is scraped. Dropping it ends both.
pub(super) struct Scraped {
    job: Job,
    // Declared before the container, so that Prometheus forgets it first.
    target: Target,
    container: ExtraContainer,
}

/// A target, which is removed when it is dropped.
struct Target {
    job: Job,
    instance: String,
}

impl Job {
    fn name(self) -> &'static str {
        match self {
            Self::Edge => "tickstorm-edge",
            Self::Clock => "tickstorm-clock",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Edge => 8081,
            Self::Clock => 8082,
        }
    }
}

impl Scraped {
    /// Runs an edge. Its label `instance` is its name.
    pub(super) fn edge(edge: Extra) -> Self {
        Self::start(Job::Edge, edge)
    }

    /// Runs a clock. Its label `instance` is its name.
    pub(super) fn clock(clock: Extra) -> Self {
        Self::start(Job::Clock, clock)
    }

    fn start(job: Job, extra: Extra) -> Self {
        let container = extra.run();
        let instance = container.service.clone();
        let addr = format!("{}:{}", container.ip(), job.port());
        change(job, |targets| targets.insert(instance.clone(), addr));
        let target = Target { job, instance };
        Self {
            job,
            target,
            container,
        }
    }

    /// Replaces the container by another one with the same `instance`.
    pub(super) fn replace(&mut self, extra: Extra) {
        let container = extra.run();
        let addr = format!("{}:{}", container.ip(), self.job.port());
        let instance = self.target.instance.clone();
        change(self.job, |targets| targets.insert(instance, addr));
        self.container = container;
    }

    /// Waits until the edge is ready.
    pub(super) fn await_ready_edge(&self) {
        wait_until(&format!("{} is ready", self.container.service), || {
            self.program_reports_ready("/tickstorm-edge")
        });
    }

    /// Returns the label `instance` of its series.
    pub(super) fn instance(&self) -> &str {
        &self.target.instance
    }
}

impl Deref for Scraped {
    type Target = Container;

    fn deref(&self) -> &Container {
        &self.container
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        change(self.job, |targets| targets.remove(&self.instance));
    }
}

/// Removes the targets that an interrupted test has left behind.
pub(super) fn clear() {
    for job in [Job::Edge, Job::Clock] {
        change(job, |targets| {
            targets.clear();
            None
        });
    }
}

fn change(job: Job, change: impl FnOnce(&mut BTreeMap<String, String>) -> Option<String>) {
    let mut jobs = TARGETS.lock().unwrap();
    let targets = jobs.entry(job).or_default();
    change(targets);
    let groups: Vec<_> = targets
        .iter()
        .map(|(instance, addr)| json!({ "targets": [addr], "labels": { "instance": instance } }))
        .collect();
    let directory = std::env::var_os(DIRECTORY);
    let directory = directory.unwrap_or_else(|| panic!("{DIRECTORY} is not set"));
    let path = PathBuf::from(directory).join(format!("{}.json", job.name()));
    // Prometheus must never read half a file.
    let unfinished = path.with_extension("new");
    fs::write(&unfinished, serde_json::to_vec(&groups).unwrap()).unwrap();
    fs::rename(&unfinished, &path).unwrap();
}
