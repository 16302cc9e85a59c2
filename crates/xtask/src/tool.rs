//! The tools that tests need beyond a plain toolchain: which, in which version, and their installation.

use anyhow::{Context, Result, ensure};

use crate::command::{cargo, in_workspace, program, python, rustup};

/// A cargo subcommand that is a package of its own.
pub(crate) struct Tool {
    subcommand: &'static str,
    /// What is installed where none is there, and what our configuration files were written for.
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

/// What tells whether manifests are valid, field by field: Kubernetes' own schemas are in it.
const KUBERNETES_VALIDATE: &str = "kubernetes-validate==1.32.0";
/// Where it is installed, whatever this host's Python has.
const PYTHON_TOOLS: &str = "target/python-tools";

/// Makes sure that kubernetes-validate can be called, and tells by what path from the workspace's root.
pub(crate) fn provide_kubernetes_validate() -> Result<String> {
    let program = format!("{PYTHON_TOOLS}/bin/kubernetes-validate");
    if !in_workspace(&program).exists() {
        eprintln!("    {KUBERNETES_VALIDATE} is missing: installing it, once");
        python(&format!("-m venv {PYTHON_TOOLS}"))
            .run()
            .and_then(|()| {
                let install =
                    format!("install --quiet --disable-pip-version-check {KUBERNETES_VALIDATE}");
                python(&format!(
                    "-m pip --python {PYTHON_TOOLS}/bin/python {install}"
                ))
                .run()
            })
            .context(
                "kubernetes-validate could not be installed; it takes python3 with venv and pip",
            )?;
    }
    Ok(in_workspace(&program).display().to_string())
}

impl Tool {
    /// Makes sure that the tool can be called, in a version that understands our configuration.
    pub(crate) fn provide(&self) -> Result<()> {
        let Self {
            subcommand,
            version,
        } = self;
        let installed = cargo(&format!("{subcommand} --version")).probe();
        if installed.is_some_and(|answer| suffices(&answer, version)) {
            return Ok(());
        }
        eprintln!("    cargo-{subcommand} {version} is missing: installing it, once");
        cargo(&format!(
            "install --locked --version {version} cargo-{subcommand}"
        ))
        .run()
        .with_context(|| format!("cargo-{subcommand} could not be installed"))
    }
}

/// Makes sure that a component of the toolchain is there, by a cargo subcommand that it brings.
pub(crate) fn provide_component(component: &str, subcommand: &str) -> Result<()> {
    if cargo(&format!("{subcommand} --version")).probe().is_some() {
        return Ok(());
    }
    rustup(&format!("component add {component}"))
        .run()
        .with_context(|| format!("the toolchain lacks {component}"))
}

/// Makes sure that valgrind is there; only root can install it.
pub(crate) fn provide_valgrind() -> Result<()> {
    if program("valgrind", &["--version"]).probe().is_some() {
        return Ok(());
    }
    let is_root = program("id", &["-u"])
        .probe()
        .is_some_and(|id| id.trim() == "0");
    ensure!(
        is_root,
        "valgrind is missing: apt-get install valgrind, or what your system has instead"
    );
    eprintln!("    valgrind is missing: installing it, once");
    program("apt-get", &["update", "--quiet"]).run()?;
    let install = [
        "install",
        "--quiet",
        "--yes",
        "--no-install-recommends",
        "valgrind",
    ];
    program("apt-get", &install)
        .run()
        .context("valgrind could not be installed")
}

/// Whether a tool that answered this to `--version` may stand in for `wanted`: the same major version, and no older
/// minor one, since our configuration may use what that brought.
fn suffices(answer: &str, wanted: &str) -> bool {
    let installed = answer.split_whitespace().nth(1).and_then(major_and_minor);
    match (installed, major_and_minor(wanted)) {
        (Some(installed), Some(wanted)) => installed.0 == wanted.0 && installed.1 >= wanted.1,
        (None, _) | (_, None) => false,
    }
}

fn major_and_minor(version: &str) -> Option<(u64, u64)> {
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
