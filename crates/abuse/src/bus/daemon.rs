//! [`Daemon`]: `tickstorm-clock` or `tickstorm-edge` as a process.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde_json::Value;
use tickstorm_command::private_dir::PrivateDir;
use tickstorm_testkit::ReservedAddr;

use super::server::{NatsLogin, sibling};
use crate::http;
use crate::process::Watched;

/// The time that the admin port may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// A daemon, which is killed when this is dropped.
pub(super) struct Daemon {
    name: String,
    child: Child,
    admin: ReservedAddr,
    log: PathBuf,
}

impl Daemon {
    /// Starts a daemon with these settings and no others, on these CPUs.
    pub(super) fn start(
        program: &str,
        name: &str,
        dir: &PrivateDir,
        nats: (SocketAddr, &NatsLogin),
        settings: &[(&str, String)],
        cpus: &[usize],
    ) -> anyhow::Result<Self> {
        let path = sibling(program)?;
        let mut command = if cpus.is_empty() {
            Command::new(path)
        } else {
            let list: Vec<_> = cpus.iter().map(ToString::to_string).collect();
            let mut command = Command::new("taskset");
            command.args(["--cpu-list", &list.join(",")]).arg(path);
            command
        };
        let admin = ReservedAddr::reserve();
        let log = dir.path().join(format!("{name}.log"));
        let (addr, login) = nats;
        let child = command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("NATS_URL", format!("nats://{addr}"))
            .env("NATS_USER", &login.user)
            .env("NATS_PASSWORD", &login.password)
            .env("ADMIN_ADDR", admin.addr().to_string())
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| {
                format!("can't start {program}; is taskset of util-linux installed?")
            })?;
        Ok(Self {
            name: name.to_owned(),
            child,
            admin,
            log,
        })
    }

    pub(super) fn admin(&self) -> SocketAddr {
        self.admin.addr()
    }

    pub(super) fn watched(&self) -> Watched {
        Watched::new(self.child.id())
    }

    /// Returns the body of an answer of the admin port.
    pub(super) fn get(&self, path: &str) -> anyhow::Result<String> {
        let what = || format!("{} does not answer {path}", self.name);
        let answer = http::get(self.admin(), path, ANSWERS_WITHIN).with_context(what)?;
        anyhow::ensure!(answer.status == 200, "{}: {}", what(), answer.status);
        Ok(answer.body)
    }

    pub(super) fn status(&self) -> anyhow::Result<Value> {
        let body = self.get("/status")?;
        serde_json::from_str(&body).with_context(|| format!("the status of {}", self.name))
    }

    pub(super) fn is_ready(&self) -> bool {
        self.get("/health/ready").is_ok()
    }

    /// Returns everything that the daemon has logged.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Returns how the daemon has ended; `None` if it runs.
    pub(super) fn end(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(format!("{}: {status}", self.name))
    }

    /// Returns why the daemon is not ready yet, with the end of its log.
    pub(super) fn complaint(&self) -> anyhow::Error {
        let log = self.log();
        let last: Vec<_> = log.lines().rev().take(3).collect();
        let last = last.join(" ");
        anyhow!("{} is not ready; its last lines: {last}", self.name)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It has no state to save.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
