//! Writes a program's notices to standard error.
//!
//! `eprintln!` panics if nobody can read standard error any more, and a panic ends the process.
//! What the program was asked to do is worth more than a notice.

use std::fmt;
use std::io::{self, Write as _};

/// Writes a line to standard error, or nothing if that fails.
pub fn notice(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{text}");
}
