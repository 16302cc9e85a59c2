//! A timer of nanoseconds on CLOCK_MONOTONIC that tokio can wait for: tokio's own sleep is 0.9 to 2.3 ms late.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A timer that is set anew for each wait.
pub(crate) struct Timer {
    timer: AsyncFd<Readable>,
}

/// [`TimerFd`] as tokio wants to hold it.
struct Readable(TimerFd);

impl std::os::fd::AsRawFd for Readable {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        use std::os::fd::AsFd;
        self.0.as_fd().as_raw_fd()
    }
}

impl Timer {
    /// A timer of the runtime it is made in.
    #[expect(
        deprecated,
        reason = "its successor is unsafe; here the descriptor is owned and lives as long as its registration"
    )]
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = Readable(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?);
        Ok(Self {
            timer: AsyncFd::with_interest(timer, Interest::READABLE)?,
        })
    }

    /// Waits for `duration`; at once where it is zero. Dropped before its end it leaves nothing behind.
    pub(crate) async fn sleep(&self, duration: Duration) -> io::Result<()> {
        if duration.is_zero() {
            return Ok(());
        }
        let timer = &self.timer.get_ref().0;
        // Setting it takes back an expiration that nobody has read.
        timer.set(
            Expiration::OneShot(TimeSpec::from(duration)),
            TimerSetTimeFlags::empty(),
        )?;
        loop {
            let mut ready = self.timer.readable().await?;
            match timer.wait() {
                Ok(()) => return Ok(()),
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
