//! [`AsyncTimer`]: a task's wait for a moment, which the thread's other tasks hardly notice.

use std::time::Duration;

use tickstorm_timebase::{Clock, Mono};

#[cfg(target_os = "linux")]
use self::descriptor::Descriptor;
use crate::wait::Wait;

/// What a task keeps from one wait to the next. It belongs to the runtime that it was first waited
/// with in.
#[derive(Debug, Default)]
pub struct AsyncTimer {
    #[cfg(target_os = "linux")]
    descriptor: Descriptor,
}

impl AsyncTimer {
    /// Waits until `clock` shows `at`. While it spins, the thread's other tasks have a turn before
    /// each look at the clock.
    ///
    /// Without a timerfd it is as late as the runtime's timer. Dropped before its end it leaves
    /// nothing behind that the next wait would notice.
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
        // Without a descriptor, what is left is a timer that is late by milliseconds.
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

    /// A timerfd in a runtime's epoll, from the first sleep on.
    #[derive(Debug, Default)]
    pub(super) struct Descriptor(Option<AsyncFd<TimerFd>>);

    impl Descriptor {
        /// Fails before it has slept, or not at all.
        pub(super) async fn sleep(&mut self, duration: Duration) -> io::Result<()> {
            let registered = match &self.0 {
                Some(registered) => registered,
                None => self.0.insert(register(TimerFd::new()?)?),
            };
            registered.get_ref().set(duration)?;
            loop {
                let mut ready = registered.readable().await?;
                let has_fired = registered.get_ref().take_expiration()?;
                // Readiness that tokio remembers may be that of a wait that was dropped.
                ready.clear_ready();
                if has_fired {
                    return Ok(());
                }
            }
        }
    }

    #[expect(
        deprecated,
        reason = "its successor is unsafe; here the descriptor is owned and lives as long as its registration"
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
    async fn it_is_never_early_and_returns_at_once_for_what_has_been() {
        let (clock, mut timer) = (SystemClock, AsyncTimer::default());
        for wait_us in [0, 10, 200, 3_000, 30_000] {
            let at = clock.now() + Duration::from_micros(wait_us);
            timer.wait_until(&clock, at).await;
            assert!(clock.now() >= at, "{wait_us}");
        }
        timer.wait_until(&clock, Mono::ZERO).await;
    }

    #[tokio::test]
    async fn other_tasks_have_their_turns_while_it_spins() {
        let (clock, mut timer) = (ManualClock::default(), AsyncTimer::default());
        let (duration, other) = (Duration::from_micros(100), clock.clone());
        // The moment comes in another task only.
        tokio::spawn(async move { other.advance(duration) });
        timer.wait_until(&clock, Mono::ZERO + duration).await;
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_sleep_that_was_dropped_does_not_shorten_the_next() {
        use tokio::time::{Instant, sleep, timeout};

        let mut descriptor = Descriptor::default();
        for _ in 0..20 {
            // It fires, and nobody is there any more.
            let _ = timeout(Duration::ZERO, descriptor.sleep(Duration::ZERO)).await;
            sleep(Duration::from_millis(1)).await;
            let (began, duration) = (Instant::now(), Duration::from_millis(2));
            descriptor.sleep(duration).await.unwrap();
            assert!(began.elapsed() >= duration);
        }
    }
}
