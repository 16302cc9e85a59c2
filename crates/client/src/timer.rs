//! [`Timer`]: a clock that one can wait by, to within microseconds; tokio's own sleep is 0.9 to 2.3 ms late.

use std::future::Future;
use std::hint;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tickstorm_timebase::{Clock, Mono, SystemClock};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How long before the moment sleeping ends and spinning begins: what a timerfd is late by, as measured.
const SPIN: Duration = Duration::from_micros(150);
/// The system's timer runs on CLOCK_MONOTONIC, which chrony may slew by up to 8 % against CLOCK_MONOTONIC_RAW: it is set this
/// share of the way short, and RAW looked at on each waking. From 800 ms ahead that makes five wakings.
const SHORT_OF: u32 = 8;
/// A wait that is shorter is slept in one go: in it that slewing makes less than [`SPIN`].
const SHORT: Duration = Duration::from_millis(2);

/// A clock that one can wait by.
pub trait Timer: Clock + Send + Sync + 'static {
    /// Waits until the clock shows `at`, as exactly as it can. Dropped before its end it leaves nothing behind.
    fn wait_until(&self, at: Mono) -> impl Future<Output = ()> + Send;
}

impl Timer for SystemClock {
    /// Sleeps until 150 µs before `at` and spins the rest.
    async fn wait_until(&self, at: Mono) {
        let spin_from = at.saturating_sub(SPIN);
        loop {
            let left = spin_from.since(self.now());
            if left.is_zero() {
                break;
            }
            let short = if left <= SHORT {
                left
            } else {
                left - left / SHORT_OF
            };
            // Without a descriptor to be had, what is left is a timer that is late.
            if sleep(short).await.is_err() {
                tokio::time::sleep(short).await;
            }
        }
        while self.now() < at {
            hint::spin_loop();
        }
    }
}

/// [`TimerFd`] as tokio wants to hold it.
struct Readable(TimerFd);

impl AsRawFd for Readable {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe; here the descriptor is owned and lives as long as its registration"
)]
async fn sleep(duration: Duration) -> io::Result<()> {
    let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
    let timer = Readable(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?);
    timer.0.set(
        Expiration::OneShot(TimeSpec::from(duration)),
        TimerSetTimeFlags::empty(),
    )?;
    let timer = AsyncFd::with_interest(timer, Interest::READABLE)?;
    loop {
        let mut ready = timer.readable().await?;
        match timer.get_ref().0.wait() {
            Ok(()) => return Ok(()),
            Err(Errno::EAGAIN) => ready.clear_ready(),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_never_rings_early_and_at_once_for_what_has_been() {
        let clock = SystemClock;
        for wait_us in [0, 10, 200, 3_000, 30_000] {
            let at = clock.now() + Duration::from_micros(wait_us);
            clock.wait_until(at).await;
            assert!(clock.now() >= at, "{wait_us}");
        }
        clock.wait_until(Mono::ZERO).await;
    }
}
