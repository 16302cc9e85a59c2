//! Keeps the memory of this process, which holds passwords and keys, from other processes: no core
//! dump is written, and other processes of the same user can neither trace this one nor read its
//! memory or its environment. Only root can.

use std::io;

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};

/// What a program warns of if its memory can't be protected.
pub const UNPROTECTED: &str = "core dumps can't be turned off: one would contain passwords and \
    keys; allow prctl(2) and setrlimit(2)";

/// Protects the memory of this process, and that of all programs that it starts from core dumps.
///
/// The files of the process in /proc then belong to root. The process itself can still read those
/// that it needs for its metrics, such as `status`, `fd` and `cgroup`.
///
/// # Errors
/// Returns an error if the system refuses, as a seccomp profile may make it.
pub fn protect() -> io::Result<()> {
    // The attribute alone prevents core dumps, even if they are piped to a program, for which a
    // limit of 0 does not count. The limit also shows in /proc/PID/limits.
    // If one of them is refused, the other still helps.
    let dumpable = set_dumpable(false);
    let limit = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    dumpable.and(limit)?;
    Ok(())
}
