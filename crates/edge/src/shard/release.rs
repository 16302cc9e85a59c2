//! The tick's instant: which ticks are due, when the next ones are, and how to wait for them.
//! Release and first send are one look at the clock.

use std::sync::atomic::Ordering;

use tickstorm_timebase::{Authority, Mode, Mono, Quality, Tick};
use tickstorm_timer::Wait;

use super::Vitals;
use super::env::Env;
use super::feeds::Feeds;
use crate::feed::FeedId;
use crate::sys::network::WaitFor;

/// When the next ticks are due, so that a look at the clock says whether there is something to
/// release.
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

    /// The time or the feeds have changed: what is due is reckoned again.
    pub(super) fn forget(&mut self) {
        self.next_tick = Mono::ZERO;
    }

    pub(super) fn next_tick(&self) -> Mono {
        self.next_tick
    }

    /// Takes into the feeds what is due by `mono`.
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

/// Shows that `first`, the first tick of a batch, goes out at `mono`.
pub(super) fn observe(
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
    if feed.delivery == crate::feed::Delivery::AtTime && first.quality != Quality::Replay {
        let late = mono.since(authority.mono_at(first.epoch.time()));
        let lateness = &env.metrics().release_lateness;
        lateness.observe(late.as_secs_f64());
    }
}

/// For when a shard's timer is set. It is not set again for a wait that it ends soon enough as it
/// is.
#[derive(Clone, Copy, Debug)]
pub(super) struct TurnTimer {
    set_for: Mono,
}

/// What to do if there is nothing to do at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdleAction {
    /// Wait for events.
    Wait(WaitFor),
    /// Look at the clock until this moment, a tick's, which is microseconds away.
    Spin(Mono),
}

impl TurnTimer {
    pub(super) fn new() -> Self {
        Self {
            set_for: Mono::ZERO,
        }
    }

    /// The timer has fired. It may do so before the moment it was set for: its clock may run faster
    /// than the machine's time.
    pub(super) fn has_fired(&mut self) {
        self.set_for = Mono::ZERO;
    }

    /// How to wait at `mono` until `tick` is due, to the microsecond if anybody notices, or until
    /// `other`, which may be late a little.
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
    fn the_timer_is_set_once_for_a_wait_however_often_events_interrupt_it() {
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
        // Its clock runs 8 % fast.
        timer.has_fired();
        let again = timer.idle(at(92_000), Mono::NEVER, at(100_000), true);
        let remaining = Duration::from_micros(8_000);
        assert_eq!(again, IdleAction::Wait(WaitFor::For(remaining)));
    }

    #[test]
    fn a_tick_is_spun_for_at_the_end_and_never_slept_over() {
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
