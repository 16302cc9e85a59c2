//! The limit of open files that the system gives this process, as one of its tables of open files has it.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The limit, before and after it was raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdLimit {
    /// The soft limit that the process was started with.
    pub before: u64,
    /// The soft limit now, which is the hard one.
    pub after: u64,
}

/// Raises the soft limit to the hard one. It comes first in an edge's life, since all else is sized by it.
///
/// # Errors
/// If the system refuses, which it has no reason to.
pub fn raise() -> io::Result<FdLimit> {
    let (before, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if before < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(FdLimit {
        before,
        after: hard,
    })
}

/// The hard limit, to which [`raise`] takes the soft one.
///
/// # Errors
/// If the system does not say, which it has no reason for.
pub fn hard() -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(hard)
}
