//! The tools that checks need beyond the basic toolchain and that cargo or rustup can install, with
//! their versions and their installation.

use anyhow::{Context, Result};

use crate::{
    command::{cargo, rustup},
    preflight::Missing,
};

/// A cargo subcommand that is installed as a separate package.
pub(crate) struct Tool {
    subcommand: &'static str,
    /// The version to install if none is installed. The workspace's configuration files are written
    /// for it.
    version: &'static str,
}

pub(crate) const NEXTEST: Tool = Tool {
    subcommand: "nextest",
    version: "0.9.143",
};
pub(crate) const DENY: Tool = Tool {
    subcommand: "deny",
    version: "0.20.2",
};

impl Tool {
    /// Installs the tool unless a version that understands the workspace's configuration is
    /// installed.
    pub(crate) fn provide(&self) -> Result<()> {
        let Self {
            subcommand,
            version,
        } = self;
        let installed = cargo(&format!("{subcommand} --version")).probe();
        if installed.is_some_and(|answer| suffices(&answer, version)) {
            return Ok(());
        }
        eprintln!("    cargo-{subcommand} {version} is not installed yet: installing it");
        cargo(&format!(
            "install --locked --version {version} cargo-{subcommand}"
        ))
        .run()
        .with_context(|| format!("could not install cargo-{subcommand}"))
    }
}

/// Installs a component of the toolchain unless its cargo subcommand works already.
pub(crate) fn provide_component(component: &str, subcommand: &str) -> Result<()> {
    if cargo(&format!("{subcommand} --version")).probe().is_some() {
        return Ok(());
    }
    rustup(&format!("component add {component}"))
        .run()
        .with_context(|| format!("could not add {component} to the toolchain"))
}

/// Returns `component` as missing if it is not installed and rustup is not there to add it.
pub(crate) fn missing_component(component: &str, subcommand: &str) -> Option<Missing> {
    let is_here = cargo(&format!("{subcommand} --version")).probe().is_some();
    let can_come = is_here || rustup("--version").probe().is_some();
    (!can_come).then(|| {
        let remedy = "install your distribution's package of it, or install Rust with rustup";
        Missing::new(component, remedy)
    })
}

/// Returns whether a tool that answered this to `--version` can replace version `wanted`. It must
/// be of the same major version and no older minor version, since the workspace's configuration may
/// use features of that minor version.
fn suffices(answer: &str, wanted: &str) -> bool {
    let installed = answer.split_whitespace().nth(1).and_then(major_and_minor);
    match (installed, major_and_minor(wanted)) {
        (Some(installed), Some(wanted)) => installed.0 == wanted.0 && installed.1 >= wanted.1,
        (None, _) | (_, None) => false,
    }
}

pub(crate) fn major_and_minor(version: &str) -> Option<(u64, u64)> {
    let mut numbers = version.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_patch_and_a_newer_minor_version_suffice() {
        for answer in [
            "cargo-nextest 0.9.100 (60fa45f63 2026-08-04)\nrelease: 0.9.100\n",
            "cargo-nextest 0.9.143",
            "cargo-nextest 0.10.0",
        ] {
            assert!(suffices(answer, "0.9.143"), "{answer}");
        }
    }

    #[test]
    fn an_older_minor_another_major_and_an_unreadable_version_do_not() {
        for answer in [
            "cargo-deny 0.19.9",
            "cargo-deny 1.20.0",
            "cargo-deny",
            "x y",
        ] {
            assert!(!suffices(answer, "0.20.2"), "{answer}");
        }
    }

    #[test]
    fn the_pinned_versions_suffice_themselves() {
        for tool in [NEXTEST, DENY] {
            assert!(suffices(&format!("tool {}", tool.version), tool.version));
        }
    }
}
