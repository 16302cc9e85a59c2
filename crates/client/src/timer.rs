//! [`Timer`]: a clock that one can wait by, to within microseconds; tokio's own sleep is 0.9 to 2.3 ms late.

use std::future::Future;
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
    /// What whoever waits keeps from one wait to the next.
    type Alarm: Default + Send;

    /// Waits until the clock shows `at`, as exactly as it can. Dropped before its end it leaves nothing behind but in `alarm`, which the
    /// next wait sets anew.
    fn wait_until(&self, alarm: &mut Self::Alarm, at: Mono) -> impl Future<Output = ()> + Send;
}

impl Timer for SystemClock {
    type Alarm = Alarm;

    /// Sleeps until 150 µs before `at`, and is asked again and again for the rest, between which the thread's other tasks have their turns.
    async fn wait_until(&self, alarm: &mut Alarm, at: Mono) {
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
            if alarm.sleep(short).await.is_err() {
                tokio::time::sleep(short).await;
            }
        }
        while self.now() < at {
            tokio::task::yield_now().await;
        }
    }
}

/// A timer of the system, of the runtime that it was first waited by in.
#[derive(Debug, Default)]
pub struct Alarm {
    timer: Option<AsyncFd<Readable>>,
}

/// [`TimerFd`] as tokio wants to hold it.
#[derive(Debug)]
struct Readable(TimerFd);

impl AsRawFd for Readable {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Alarm {
    async fn sleep(&mut self, duration: Duration) -> io::Result<()> {
        let registered = match &self.timer {
            Some(registered) => registered,
            None => self.timer.insert(Self::register()?),
        };
        // Setting it takes back an expiration that nobody has read.
        registered.get_ref().0.set(
            Expiration::OneShot(TimeSpec::from(duration)),
            TimerSetTimeFlags::empty(),
        )?;
        loop {
            let mut ready = registered.readable().await?;
            match registered.get_ref().0.wait() {
                Ok(()) => {
                    ready.clear_ready();
                    return Ok(());
                }
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    #[expect(
        deprecated,
        reason = "its successor is unsafe; here the descriptor is owned and lives as long as its registration"
    )]
    fn register() -> io::Result<AsyncFd<Readable>> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = Readable(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?);
        AsyncFd::with_interest(timer, Interest::READABLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_never_rings_early_and_at_once_for_what_has_been() {
        let (clock, mut alarm) = (SystemClock, Alarm::default());
        for wait_us in [0, 10, 200, 3_000, 30_000] {
            let at = clock.now() + Duration::from_micros(wait_us);
            clock.wait_until(&mut alarm, at).await;
            assert!(clock.now() >= at, "{wait_us}");
        }
        clock.wait_until(&mut alarm, Mono::ZERO).await;
    }
}
