//! The test process itself: its resident memory, and directories of its own.

use std::fs;
use std::path::{Path, PathBuf};

/// Resident memory of this process in bytes, as /proc/self/status tells it (which, unlike statm, needs no page size).
///
/// # Panics
/// Where the kernel doesn't say.
#[must_use]
pub fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has /proc/self/status");
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))
        .and_then(|kilobytes| kilobytes.parse::<u64>().ok());
    kilobytes.unwrap_or_else(|| panic!("no VmRSS in {status}")) * 1_024
}

/// A new, empty directory, removed with all that is in it when this is dropped.
#[derive(Debug)]
pub struct TempDir(tempfile::TempDir);

impl TempDir {
    /// Makes one; `label` becomes a part of its name.
    ///
    /// # Panics
    /// Where the system's directory for such things can't be written to.
    #[must_use]
    pub fn new(label: &str) -> Self {
        let prefix = format!("tickstorm-{label}-");
        let made = tempfile::Builder::new().prefix(&prefix).tempdir();
        Self(made.unwrap_or_else(|error| panic!("{label}: {error}")))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file in it and tells its path.
    ///
    /// # Panics
    /// Where that fails.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }
}
