//! [`AlarmClock`]: the clock by which a client waits when it releases ticks itself.

use std::future::Future;

use tickstorm_timebase::{Clock, Mono, SystemClock};
use tickstorm_timer::AsyncTimer;

/// A clock that a task can wait on.
pub trait AlarmClock: Clock + Send + Sync + 'static {
    /// The state that a task keeps from one wait to the next.
    type Timer: Default + Send;

    /// Waits until the clock shows `at`, as exactly as possible. If the future is dropped before it
    /// completes, no state remains except in `timer`, which the next wait sets again.
    fn wait_until(&self, timer: &mut Self::Timer, at: Mono) -> impl Future<Output = ()> + Send;
}

impl AlarmClock for SystemClock {
    type Timer = AsyncTimer;

    async fn wait_until(&self, timer: &mut AsyncTimer, at: Mono) {
        timer.wait_until(self, at).await;
    }
}
