//! The open-file limit of this process (`RLIMIT_NOFILE`), which applies to each of its file
//! descriptor tables separately.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The soft limit, before and after it was raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdLimit {
    /// The soft limit with which the process was started.
    pub before: u64,
    /// The soft limit now, which equals the hard limit.
    pub after: u64,
}

/// Raises the soft limit to the hard limit. An edge does this before anything else, since the limit
/// determines the sizes of everything else.
///
/// # Errors
/// Returns an error if the system refuses, which it has no reason to do.
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

/// Returns the hard limit, to which [`raise`] sets the soft limit.
///
/// # Errors
/// Returns an error if the system does not report it, for which it has no reason.
pub fn hard() -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(hard)
}

/// Returns how many open files the process may have beyond `needed`, by its soft limit.
///
/// # Errors
/// Returns an error if the system does not report the limit, for which it has no reason.
pub fn spare(needed: u64) -> io::Result<usize> {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(usize::try_from(soft.saturating_sub(needed)).unwrap_or(usize::MAX))
}
