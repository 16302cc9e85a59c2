//! The programs that check configuration: promtool of Prometheus, and amtool of Alertmanager.
//! Debian's packages of these start services when they are installed, so they are only unpacked.

use anyhow::{Context, Result};

use crate::{
    command::{Call, in_workspace, program, shell},
    preflight::Missing,
};

/// The directory into which the packages are unpacked, relative to the workspace's root.
const DIRECTORY: &str = "target/monitoring-tools";

const SCRIPT: &str = include_str!("../monitoring-by-apt.sh");

/// A program that checks configuration.
pub(super) struct Checker {
    name: &'static str,
}

pub(super) const PROMTOOL: Checker = Checker { name: "promtool" };
pub(super) const AMTOOL: Checker = Checker { name: "amtool" };

const ALL: [Checker; 2] = [PROMTOOL, AMTOOL];

/// Returns what this machine is missing, unless it has the programs or can get them.
pub(crate) fn missing() -> Option<Missing> {
    let has_apt = ["apt-get", "dpkg-deb"]
        .iter()
        .all(|name| program(name, &["--version"]).probe().is_some());
    (!has_apt && !are_available()).then(|| {
        let remedy = "install Prometheus and Alertmanager, 2.42 and 0.25 or later";
        Missing::new("promtool and amtool", remedy)
    })
}

/// Unpacks the packages unless the programs are available.
pub(super) fn provide() -> Result<()> {
    if are_available() {
        return Ok(());
    }
    eprintln!("    promtool and amtool are not installed: unpacking them into {DIRECTORY}");
    let directory = in_workspace(DIRECTORY).display().to_string();
    shell(SCRIPT, "monitoring-by-apt.sh", &directory)
        .run()
        .context("could not get promtool and amtool from the archive that apt is configured for")
}

fn are_available() -> bool {
    ALL.iter().all(|checker| checker.executable().is_some())
}

impl Checker {
    /// Returns a call of the program.
    pub(super) fn call(&self, arguments: &[&str]) -> Result<Call> {
        let executable = self
            .executable()
            .with_context(|| format!("{} is not installed", self.name))?;
        Ok(program(&executable, arguments))
    }

    /// Returns the path of the unpacked program, or its name if this machine has it.
    fn executable(&self) -> Option<String> {
        let unpacked = in_workspace(DIRECTORY).join("usr/bin").join(self.name);
        if unpacked.exists() {
            return Some(unpacked.display().to_string());
        }
        let is_installed = program(self.name, &["--version"]).probe().is_some();
        is_installed.then(|| self.name.to_owned())
    }
}
