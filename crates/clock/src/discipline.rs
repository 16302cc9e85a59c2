//! The kernel's report on the host's clock. This file has the clock's only unsafe code:
//! no well-maintained crate wraps adjtimex, and nothing else reveals whether chrony, PTP or another
//! service disciplines the clock.

use std::mem::MaybeUninit;

/// The error that the kernel reports for an undisciplined clock: 16 s, its NTP_PHASE_LIMIT.
const UNDISCIPLINED_ERROR_US: u32 = 16_000_000;

/// The trustworthiness of the host's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discipline {
    /// Whether the host's clock is disciplined.
    pub synchronized: bool,
    /// The maximum error of the host's clock against UTC, in microseconds.
    pub clock_error_us: u32,
}

impl Discipline {
    /// Queries the kernel, with one system call.
    #[must_use]
    pub fn of_kernel() -> Self {
        match adjtimex() {
            Some(kernel) => Self {
                synchronized: kernel.status & libc::STA_UNSYNC == 0,
                clock_error_us: u32::try_from(kernel.maxerror).unwrap_or(u32::MAX),
            },
            // In a sandbox that forbids the call, the host's clock cannot be vouched for, so it is
            // reported as undisciplined.
            None => Self {
                synchronized: false,
                clock_error_us: UNDISCIPLINED_ERROR_US,
            },
        }
    }
}

#[expect(unsafe_code, reason = "no crate wraps this system call")]
fn adjtimex() -> Option<libc::timex> {
    let mut timex = MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: the pointer is to a complete `timex` that is exclusively ours and outlives the call;
    // the kernel keeps no pointer to it. All of its fields are integers, for which zero is a valid
    // value, so it is initialised before the call and remains so whatever the call does. `modes` is
    // zero: the call only reads, which any process may do, and changes nothing.
    unsafe {
        let outcome = libc::adjtimex(timex.as_mut_ptr());
        (outcome != -1).then(|| timex.assume_init())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_at_most_that_of_an_undisciplined_clock() {
        let discipline = Discipline::of_kernel();
        assert!(
            discipline.clock_error_us <= UNDISCIPLINED_ERROR_US,
            "{discipline:?}"
        );
    }
}
