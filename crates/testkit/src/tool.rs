//! Programs that tests run and that are none of ours.

use std::path::{Path, PathBuf};

/// Where `cargo xtask test` installs what this machine lacks, from the workspace's root.
const INSTALLED: &str = "../../target/python-tools/bin";

/// How to call a program that tests need: as `cargo xtask test` has installed it, or else by its name, as this machine has it.
#[must_use]
pub fn tool(name: &str) -> PathBuf {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join(INSTALLED);
    let installed = installed.join(name);
    if installed.exists() {
        installed
    } else {
        name.into()
    }
}
