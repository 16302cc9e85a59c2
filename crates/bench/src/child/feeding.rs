//! Feeds a burst to the edge, paced by the clock: once per batch window, all ticks that have become
//! due.

use std::time::Duration;

use tickstorm_edge::Edge;
use tickstorm_timebase::{Epoch, Mode, Quality, Tick};

use crate::machine::{CpuTime, now_ns};
use crate::orders::BurstPlan;

/// Feeds the whole burst and returns once the last tick was fed. Returns the CPU time that feeding
/// took, in microseconds, since it is not the edge's.
pub(super) fn feed(edge: &Edge, burst: BurstPlan) -> u64 {
    let before = CpuTime::of_thread();
    // Ticks are fed as often as the edge sends: feeding more often would wake every shard only to
    // make the ticks wait for their batch.
    let step = Duration::from_nanos(burst.due_ns(burst.per_frame) - burst.due_ns(0));
    let mut fed = 0;
    while fed < burst.ticks {
        let now_ns = now_ns();
        if now_ns < burst.due_ns(fed) {
            let wait = Duration::from_nanos(burst.due_ns(fed) - now_ns);
            std::thread::sleep(wait.max(step));
            continue;
        }
        let elapsed = u128::from(now_ns - burst.at_ns);
        let due = elapsed * u128::from(burst.rate) / 1_000_000_000 + 1;
        let until = u64::try_from(due).unwrap_or(u64::MAX).min(burst.ticks);
        let ticks: Vec<Tick> = (fed..until)
            .map(|n| Tick {
                epoch: Epoch::from_ms(burst.epoch_ms(n)),
                quality: Quality::Normal,
            })
            .collect();
        edge.burst(Mode::Second, &ticks);
        fed = until;
    }
    CpuTime::of_thread().total_us - before.total_us
}
