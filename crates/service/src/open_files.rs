//! Counts the open files in a file descriptor table of this process.

use std::{fs, io, path::Path};

/// The table of the process's first thread, which all threads share that have no table of their
/// own.
pub const OF_PROCESS: &str = "/proc/self/fd";

/// Returns the number of open files in a table, such as [`OF_PROCESS`]. Any thread can ask for the
/// table of any other.
///
/// # Errors
/// Returns an error if the table no longer exists, because its thread has ended.
pub fn count(table: &Path) -> io::Result<u64> {
    let reported = fs::metadata(table)?.len();
    if reported > 0 {
        return Ok(reported);
    }
    // Kernels before 6.2 do not report the number, so the entries are counted.
    fs::read_dir(table)?.try_fold(0, |count, entry| entry.map(|_| count + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_counts_as_long_as_it_is_open() {
        let table = Path::new(OF_PROCESS);
        let least = count(table).unwrap();
        let files: Vec<_> = (0..100)
            .map(|_| fs::File::open("/dev/null").unwrap())
            .collect();
        // Other tests in this process also open and close files.
        assert!(count(table).unwrap() >= least + 50);
        drop(files);
    }
}
