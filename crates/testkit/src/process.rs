//! The test process: its resident memory, and temporary directories.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the resident memory of this process in bytes, from /proc/self/status (which, unlike
/// statm, needs no page size).
///
/// # Panics
/// Panics if the kernel does not report it.
#[must_use]
pub fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has /proc/self/status");
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))
        .and_then(|kilobytes| kilobytes.parse::<u64>().ok());
    kilobytes.unwrap_or_else(|| panic!("no VmRSS in {status}")) * 1_024
}

/// A new, empty directory, which is removed with its contents when this is dropped.
#[derive(Debug)]
pub struct TempDir(tempfile::TempDir);

impl TempDir {
    /// Creates a directory whose name contains `label`.
    ///
    /// # Panics
    /// Panics if the system's temporary directory is not writable.
    #[must_use]
    pub fn new(label: &str) -> Self {
        let prefix = format!("tickstorm-{label}-");
        let made = tempfile::Builder::new().prefix(&prefix).tempdir();
        Self(
            made.unwrap_or_else(|error| {
                panic!("can't create a temporary directory {label}: {error}")
            }),
        )
    }

    /// Returns the path of the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file into the directory and returns its path.
    ///
    /// # Panics
    /// Panics if the file can't be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, content)
            .unwrap_or_else(|error| panic!("can't write {}: {error}", path.display()));
        path
    }
}
