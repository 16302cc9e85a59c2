//! [`TimerFd`]: a timer with nanosecond resolution that an epoll can wait for.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::io::{Errno, read, retry_on_intr};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// A one-shot timer on CLOCK_MONOTONIC. Its descriptor is readable from the moment the timer fires
/// until it is set again or [`TimerFd::take_expiration`] is called.
#[derive(Debug)]
pub struct TimerFd(OwnedFd);

impl TimerFd {
    /// Creates a timer that is not set.
    ///
    /// # Errors
    /// No file descriptor is available.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self(timerfd_create(TimerfdClockId::Monotonic, flags)?))
    }

    /// Sets the timer to fire `after` from now, immediately for zero. Discards an earlier
    /// expiration.
    ///
    /// # Errors
    /// None are known: the descriptor and the time are valid.
    pub fn set(&self, after: Duration) -> io::Result<()> {
        // A value of zero would disarm the timer.
        let after = after.max(Duration::from_nanos(1));
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: after.subsec_nanos().into(),
            },
        };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    /// Returns whether the timer has fired since it was set or this was last called. Afterwards the
    /// descriptor is not readable.
    ///
    /// # Errors
    /// None are known: the descriptor is valid.
    pub fn take_expiration(&self) -> io::Result<bool> {
        let mut expirations = [0; size_of::<u64>()];
        match retry_on_intr(|| read(&self.0, &mut expirations)) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for TimerFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for TimerFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn fires_within(timer: &TimerFd, timeout: Duration) -> bool {
        let mut fds = [PollFd::new(timer, PollFlags::IN)];
        let timeout = Timespec::try_from(timeout).unwrap();
        retry_on_intr(|| poll(&mut fds, Some(&timeout))).unwrap() == 1
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn it_fires_once_and_immediately_for_zero() {
        let timer = TimerFd::new().unwrap();
        assert!(!timer.take_expiration().unwrap());
        for after in [Duration::ZERO, Duration::from_micros(300)] {
            timer.set(after).unwrap();
            assert!(fires_within(&timer, LONG), "{after:?}");
            assert!(timer.take_expiration().unwrap());
            assert!(!timer.take_expiration().unwrap());
        }
    }

    #[test]
    fn setting_it_discards_an_expiration_that_was_not_taken() {
        let timer = TimerFd::new().unwrap();
        timer.set(Duration::ZERO).unwrap();
        assert!(fires_within(&timer, LONG));
        timer.set(LONG).unwrap();
        assert!(!timer.take_expiration().unwrap());
        assert!(!fires_within(&timer, Duration::ZERO));
    }

    #[test]
    fn the_longest_wait_is_accepted() {
        let timer = TimerFd::new().unwrap();
        timer.set(Duration::MAX).unwrap();
        assert!(!fires_within(&timer, Duration::ZERO));
    }
}
