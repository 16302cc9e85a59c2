//! Compiles the client with the oldest compiler that it supports, which its manifest names.

use std::{fs, process::Command};

use anyhow::{Context, Result};
use toml::Table;

use crate::{
    command::{in_workspace, program},
    preflight::Missing,
};

const CLIENT: &str = "crates/client/Cargo.toml";
/// The directory for what is built, apart from what the current compiler builds.
const TARGET_DIR: &str = "target/oldest-compiler";

/// Returns what is missing if the compiler is not installed. It is not installed automatically: not
/// every machine can reach the server of the toolchains.
pub(crate) fn missing() -> Option<Missing> {
    let version = version().ok()?;
    let listed = Command::new("rustup").args(["toolchain", "list"]).output();
    let installed = listed.map_or(Vec::new(), |listed| listed.stdout);
    let installed = String::from_utf8_lossy(&installed);
    let is_installed = installed.lines().any(|line| {
        let rest = line.strip_prefix(&version);
        rest.is_some_and(|rest| rest.starts_with(['-', '.']))
    });
    (!is_installed).then(|| {
        Missing::new(
            format!("Rust {version}"),
            format!("rustup toolchain install {version} --profile minimal"),
        )
    })
}

/// Fails if the client, with or without its optional features, needs a later compiler. Its tests
/// and examples may.
pub(crate) fn check() -> Result<()> {
    let version = version()?;
    for features in ["--no-default-features", "--all-features"] {
        program("rustup", &["run", &version, "cargo", "check", "--locked"])
            .args(&["--package", "tickstorm-client", features])
            .args(&["--target-dir", TARGET_DIR])
            .run()?;
    }
    Ok(())
}

/// Returns the oldest version of Rust with which the client must compile.
fn version() -> Result<String> {
    let manifest: Table = fs::read_to_string(in_workspace(CLIENT))?.parse()?;
    let version = manifest.get("package").and_then(|package| {
        let version = package.get("rust-version")?;
        version.as_str().map(str::to_owned)
    });
    version.with_context(|| format!("{CLIENT} has no rust-version"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crates_that_the_client_needs_have_its_rust_version() {
        let expected = version().unwrap();
        for name in ["timebase", "timer", "protocol"] {
            let path = in_workspace(&format!("crates/{name}/Cargo.toml"));
            let manifest: Table = fs::read_to_string(path).unwrap().parse().unwrap();
            let found = manifest["package"]["rust-version"].as_str();
            assert_eq!(found, Some(expected.as_str()), "{name}");
        }
    }
}
