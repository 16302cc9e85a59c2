//! The release of ticks: which ticks are due, when the next ones are, and how to wait for them. A
//! tick is released and first sent on the same clock reading.

use std::sync::atomic::Ordering;

use tickstorm_timebase::{Authority, Mode, Mono, Quality, Tick};
use tickstorm_timer::Wait;

use super::Vitals;
use super::env::Env;
use super::feeds::Feeds;
use crate::feed::FeedId;
use crate::sys::network::WaitFor;

/// The time at which the next ticks are due, so that one clock reading shows whether any must be
/// released.
#[derive(Clone, Copy, Debug)]
pub(super) struct NextTick {
    next_tick: Mono,
}

impl NextTick {
    pub(super) fn new() -> Self {
        Self {
            next_tick: Mono::ZERO,
        }
    }

    /// Discards the time because authority time or the feeds have changed; it is computed again at
    /// the next release.
    pub(super) fn invalidate(&mut self) {
        self.next_tick = Mono::ZERO;
    }

    pub(super) fn next_tick(&self) -> Mono {
        self.next_tick
    }

    /// Adds the ticks that are due by `mono` to the feeds.
    pub(super) fn release(&mut self, env: &Env, feeds: &mut Feeds, mono: Mono) {
        if mono < self.next_tick {
            return;
        }
        self.next_tick = match env.ticking_authority(mono) {
            Some(authority) => {
                feeds.release(authority, mono);
                feeds.next_tick(authority)
            }
            None => Mono::NEVER,
        };
    }
}

/// Records in vitals and metrics that `first`, the first tick of a batch, is sent at `mono`.
pub(super) fn record_release(
    vitals: &Vitals,
    env: &Env,
    feed: FeedId,
    authority: &Authority,
    first: Tick,
    mono: Mono,
) {
    if feed == FeedId::at_time(Mode::Second) {
        vitals.released.store(mono.as_nanos(), Ordering::Relaxed);
    }
    if first.quality != Quality::Replay {
        let lead = feed.lead(env.settings().ahead);
        let due = authority.mono_at(first.epoch.time().saturating_sub(lead));
        let histogram = env.metrics().feeds.release_lateness(feed);
        histogram.observe(mono.since(due).as_secs_f64(), 1);
    }
}

/// The state of a shard's timer, which is not set again for a wait if it will already fire soon
/// enough.
#[derive(Clone, Copy, Debug)]
pub(super) struct TurnTimer {
    /// The time at which the timer will fire; [`Mono::ZERO`] if it is not set.
    set_for: Mono,
}

/// The way to wait when a shard has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdleAction {
    /// Wait for events.
    Wait(WaitFor),
    /// Spin until this time, when a tick is due. It is at most [`tickstorm_timer::SPIN`] away.
    Spin(Mono),
}

impl TurnTimer {
    pub(super) fn new() -> Self {
        Self {
            set_for: Mono::ZERO,
        }
    }

    /// Notes that the timer has fired. It may fire before the time that it was set for, because its
    /// clock may run faster than the machine's time.
    pub(super) fn handle_fired(&mut self) {
        self.set_for = Mono::ZERO;
    }

    /// Returns how to wait, starting at `mono`, until `tick` is due (to the microsecond if `spins`)
    /// or until `other`, whichever is earlier. Waking up for `other` may be a little late.
    pub(super) fn idle(&mut self, mono: Mono, tick: Mono, other: Mono, spins: bool) -> IdleAction {
        let until_other = other.since(mono);
        let sleep = if tick == Mono::NEVER {
            until_other
        } else {
            match Wait::plan(tick.since(mono), spins) {
                Wait::Due => return IdleAction::Wait(WaitFor::None),
                Wait::Spin => return IdleAction::Spin(tick),
                Wait::Sleep(sleep) => sleep.min(until_other),
            }
        };
        if sleep.is_zero() {
            return IdleAction::Wait(WaitFor::None);
        }
        let until = mono + sleep;
        if mono < self.set_for && self.set_for <= until {
            return IdleAction::Wait(WaitFor::AsSet);
        }
        self.set_for = until;
        IdleAction::Wait(WaitFor::For(sleep))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(us: u64) -> Mono {
        Mono::from_nanos(1_000_000_000 + us * 1_000)
    }

    #[test]
    fn the_timer_is_set_once_per_wait_however_often_events_interrupt_it() {
        let mut timer = TurnTimer::new();
        let first = timer.idle(at(0), Mono::NEVER, at(100_000), true);
        assert_eq!(
            first,
            IdleAction::Wait(WaitFor::For(Duration::from_micros(100_000)))
        );
        for us in [1, 50_000, 99_999] {
            let again = timer.idle(at(us), Mono::NEVER, at(100_000), true);
            assert_eq!(again, IdleAction::Wait(WaitFor::AsSet), "{us}");
        }
        let sooner = timer.idle(at(10), Mono::NEVER, at(1_010), true);
        assert_eq!(
            sooner,
            IdleAction::Wait(WaitFor::For(Duration::from_micros(1_000)))
        );
        let after_it = timer.idle(at(1_010), Mono::NEVER, at(100_000), true);
        assert!(
            matches!(after_it, IdleAction::Wait(WaitFor::For(_))),
            "{after_it:?}"
        );
    }

    #[test]
    fn a_timer_that_has_fired_early_is_set_again() {
        let mut timer = TurnTimer::new();
        timer.idle(at(0), Mono::NEVER, at(100_000), true);
        // The timer's clock runs 8 % fast.
        timer.handle_fired();
        let again = timer.idle(at(92_000), Mono::NEVER, at(100_000), true);
        let remaining = Duration::from_micros(8_000);
        assert_eq!(again, IdleAction::Wait(WaitFor::For(remaining)));
    }

    #[test]
    fn the_wait_for_a_tick_ends_by_spinning_and_never_oversleeps() {
        let mut timer = TurnTimer::new();
        let tick = at(1_000_000);
        let mut now = at(0);
        loop {
            match timer.idle(now, tick, Mono::NEVER, true) {
                IdleAction::Wait(WaitFor::For(sleep)) => {
                    now = now + sleep;
                    assert!(now < tick);
                }
                IdleAction::Spin(until) => break assert_eq!(until, tick),
                other @ IdleAction::Wait(_) => panic!("{other:?} at {now:?}"),
            }
        }
        assert!(tick.since(now) <= tickstorm_timer::SPIN);
        assert_eq!(
            timer.idle(tick, tick, Mono::NEVER, true),
            IdleAction::Wait(WaitFor::None)
        );
    }
}
