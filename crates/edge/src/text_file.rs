//! Reads files that settings name and that hold one entry on each line: whole, so that a change can
//! be noticed, but never more than a bound.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Returns the text of a file; `None` if it has more than `bytes_max` bytes.
pub(crate) fn read(path: &Path, bytes_max: u64) -> io::Result<Option<String>> {
    let mut text = String::new();
    File::open(path)?
        .take(bytes_max + 1)
        .read_to_string(&mut text)?;
    Ok((text.len() as u64 <= bytes_max).then_some(text))
}
