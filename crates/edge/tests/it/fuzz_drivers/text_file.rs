//! [`TextFile`]: an unnamed file for code that takes a path. It vanishes when it is dropped,
//! however the process ends.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

pub(crate) struct TextFile(File);

impl TextFile {
    pub(crate) fn new(content: &[u8]) -> Self {
        let mut file = tempfile::tempfile().expect("a folder for temporary files");
        file.write_all(content).expect("room for a small file");
        Self(file)
    }

    /// Returns a path at which this process can open the file.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}
