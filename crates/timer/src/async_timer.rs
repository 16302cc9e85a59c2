//! [`AsyncTimer`]: lets a task wait for a moment with little effect on the thread's other tasks.

use std::time::Duration;

use tickstorm_timebase::{Clock, Mono};

#[cfg(target_os = "linux")]
use self::descriptor::Descriptor;
use crate::wait::Wait;

/// A timer that a task reuses from one wait to the next. It belongs to the runtime in which it
/// first waited.
#[derive(Debug, Default)]
pub struct AsyncTimer {
    #[cfg(target_os = "linux")]
    descriptor: Descriptor,
}

impl AsyncTimer {
    /// Waits until `clock` shows `at`. While it spins, it lets the thread's other tasks run before
    /// each clock reading.
    ///
    /// Without a timerfd, the wait is as late as the runtime's timer. A wait that is dropped before
    /// it ends leaves nothing behind that could affect the next one.
    pub async fn wait_until(&mut self, clock: &(impl Clock + Sync), at: Mono) {
        loop {
            match Wait::plan(at.since(clock.now()), true) {
                Wait::Due => return,
                Wait::Spin => tokio::task::yield_now().await,
                Wait::Sleep(duration) => self.sleep(duration).await,
            }
        }
    }

    async fn sleep(&mut self, duration: Duration) {
        #[cfg(target_os = "linux")]
        if self.descriptor.sleep(duration).await.is_ok() {
            return;
        }
        // Without a descriptor, only the runtime's timer remains, which is late by milliseconds.
        tokio::time::sleep(duration).await;
    }
}

#[cfg(target_os = "linux")]
mod descriptor {
    use std::io;
    use std::time::Duration;

    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    use crate::timerfd::TimerFd;

    /// A timerfd that is created and registered with the runtime's epoll by the first sleep.
    #[derive(Debug, Default)]
    pub(super) struct Descriptor(Option<AsyncFd<TimerFd>>);

    impl Descriptor {
        /// Sleeps for `duration`. If this fails, it fails before any time has passed.
        pub(super) async fn sleep(&mut self, duration: Duration) -> io::Result<()> {
            let registered = match &self.0 {
                Some(registered) => registered,
                None => self.0.insert(register(TimerFd::new()?)?),
            };
            registered.get_ref().set(duration)?;
            loop {
                let mut ready = registered.readable().await?;
                let has_fired = registered.get_ref().take_expiration()?;
                // Readiness that tokio remembers may be left over from a wait that was dropped.
                ready.clear_ready();
                if has_fired {
                    return Ok(());
                }
            }
        }
    }

    #[expect(
        deprecated,
        reason = "the replacement is unsafe; \
                  here the descriptor is owned and lives as long as its registration"
    )]
    fn register(timer: TimerFd) -> io::Result<AsyncFd<TimerFd>> {
        AsyncFd::with_interest(timer, Interest::READABLE)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tickstorm_timebase::{ManualClock, SystemClock};

    use super::*;

    #[tokio::test]
    async fn it_is_never_early_and_returns_immediately_for_a_past_moment() {
        let (clock, mut timer) = (SystemClock, AsyncTimer::default());
        for wait_us in [0, 10, 200, 3_000, 30_000] {
            let at = clock.now() + Duration::from_micros(wait_us);
            timer.wait_until(&clock, at).await;
            assert!(clock.now() >= at, "{wait_us}");
        }
        timer.wait_until(&clock, Mono::ZERO).await;
    }

    #[tokio::test]
    async fn other_tasks_run_while_it_spins() {
        let (clock, mut timer) = (ManualClock::default(), AsyncTimer::default());
        let (duration, other) = (Duration::from_micros(100), clock.clone());
        // Only another task advances the clock to the moment.
        tokio::spawn(async move { other.advance(duration) });
        timer.wait_until(&clock, Mono::ZERO + duration).await;
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_sleep_that_was_dropped_does_not_shorten_the_next() {
        use tokio::time::{Instant, sleep, timeout};

        let mut descriptor = Descriptor::default();
        for _ in 0..20 {
            // The timer fires after its wait was dropped.
            let _ = timeout(Duration::ZERO, descriptor.sleep(Duration::ZERO)).await;
            sleep(Duration::from_millis(1)).await;
            let (began, duration) = (Instant::now(), Duration::from_millis(2));
            descriptor.sleep(duration).await.unwrap();
            assert!(began.elapsed() >= duration);
        }
    }
}
