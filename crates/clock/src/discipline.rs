//! The kernel's own word on the host's clock. Holds the only unsafe code of what TickStorm ships: no crate that is kept well wraps
//! adjtimex, and nothing else tells whether chrony, PTP or anybody disciplines this clock.

use std::mem::MaybeUninit;

/// What the kernel says of an undisciplined clock: 16 s, its NTP_PHASE_LIMIT.
const UNDISCIPLINED_ERROR_US: u32 = 16_000_000;

/// How far the host's clock can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discipline {
    /// Whether something disciplines the host's clock.
    pub synchronized: bool,
    /// How far the host's clock may be from UTC, in microseconds.
    pub clock_error_us: u32,
}

impl Discipline {
    /// Asks the kernel. One system call.
    #[must_use]
    pub fn of_kernel() -> Self {
        match adjtimex() {
            Some(kernel) => Self {
                synchronized: kernel.status & libc::STA_UNSYNC == 0,
                clock_error_us: u32::try_from(kernel.maxerror).unwrap_or(u32::MAX),
            },
            // A sandbox that forbids the call knows nothing of its host's clock, and that is what is said.
            None => Self {
                synchronized: false,
                clock_error_us: UNDISCIPLINED_ERROR_US,
            },
        }
    }
}

#[expect(unsafe_code, reason = "a system call that nothing else wraps")]
fn adjtimex() -> Option<libc::timex> {
    let mut timex = MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: the pointer is to a whole `timex` that is ours alone and lives through the call; the kernel keeps no pointer to it. All
    // its fields are integers, for which zero is a value, so it is initialised before the call and whatever the call does.
    // `modes` is zero: the kernel only tells, which any process may ask, and changes nothing.
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
