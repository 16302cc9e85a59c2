//! Third-party programs that tests run.

use std::path::{Path, PathBuf};

/// The directory in which `cargo xtask test` installs programs that the machine does not have,
/// relative to this crate.
const INSTALLED: &str = "../../target/python-tools/bin";

/// Returns the path of a program that tests need: the one installed by `cargo xtask test`, or else
/// its name, to be looked up in PATH.
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
