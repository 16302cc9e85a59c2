//! [`AlarmClock`]: what a client waits by when it releases ticks itself.

use std::future::Future;

use tickstorm_timebase::{Clock, Mono, SystemClock};
use tickstorm_timer::AsyncTimer;

/// A clock that one can wait by.
pub trait AlarmClock: Clock + Send + Sync + 'static {
    /// What a task keeps from one wait to the next.
    type Timer: Default + Send;

    /// Waits until the clock shows `at`, as exactly as it can. Dropped before its end it leaves nothing behind but in `timer`, which the
    /// next wait sets anew.
    fn wait_until(&self, timer: &mut Self::Timer, at: Mono) -> impl Future<Output = ()> + Send;
}

impl AlarmClock for SystemClock {
    type Timer = AsyncTimer;

    async fn wait_until(&self, timer: &mut AsyncTimer, at: Mono) {
        timer.wait_until(self, at).await;
    }
}
