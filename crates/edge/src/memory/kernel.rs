//! The edge-wide look at the kernel's TCP memory. A connection whose output fits into its socket
//! never meets a write deadline, although its socket may hold more memory than everything that the
//! process keeps for it.

use std::sync::Arc;
use std::time::Duration;

use tickstorm_timebase::{Clock as _, Mono, SystemClock};

use super::Memory;
use crate::shard::{ShardCommand, ShardHandle};

/// The interval between looks. Filling the sockets of many connections takes seconds.
const INTERVAL: Duration = Duration::from_secs(1);

/// How far below the bound the memory is brought, as a divisor of the bound: with no room, each
/// look would close a few more connections.
const ROOM_DIVISOR: u64 = 10;

/// How far below the bound the memory is tight, as a divisor of the bound. This is more than the
/// room that shedding makes, so that sockets which are closed meanwhile do not fill that room.
const TIGHT_DIVISOR: u64 = 4;

/// Returns whether `used` bytes of TCP memory are near the bound or beyond it.
pub(super) fn is_tight(used: u64, bound: u64) -> bool {
    used > bound - bound / TIGHT_DIVISOR
}

/// TCP memory that exceeds its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Excess {
    used: u64,
    excess: u64,
}

impl Excess {
    /// Returns the excess of `used` bytes over `bound`, if it is exceeded.
    pub(crate) fn of(used: u64, bound: u64) -> Option<Self> {
        let target = bound - bound / ROOM_DIVISOR;
        (used > bound).then(|| Self {
            used,
            excess: used - target,
        })
    }

    /// Returns how much of `held` bytes, the memory of a shard's sockets, must be freed. Each shard
    /// frees the same share, so that none needs to know what the others hold.
    pub(crate) fn share_of(self, held: u64) -> u64 {
        let share = u128::from(held) * u128::from(self.excess);
        u64::try_from(share.div_ceil(u128::from(self.used.max(1)))).unwrap_or(u64::MAX)
    }
}

/// The most looks in a row at which the shards need not search for full sockets.
const SKIPPED_MAX: u32 = 7;
/// If the bound is exceeded by more than this part of it, the shards search in any case.
const URGENT_PART: u64 = 4;

/// Makes searches for full sockets rarer as long as they find none: while a tick is in flight to
/// everybody, many sockets with a frame each may exceed the bound.
#[derive(Debug, Default)]
struct Pace {
    /// The number of connections that were closed before the last search.
    closed: u64,
    /// The number of looks to skip after the next search.
    skipped_next: u32,
    /// The number of looks that are still to be skipped.
    left: u32,
}

impl Pace {
    /// Returns whether to search now that the bound is exceeded. `closed` is the number of
    /// connections that all searches have closed. If it is urgent, no look is skipped.
    fn searches(&mut self, closed: u64, is_urgent: bool) -> bool {
        if closed != self.closed || is_urgent {
            *self = Self {
                closed,
                ..Self::default()
            };
        }
        if self.left > 0 {
            self.left -= 1;
            return false;
        }
        self.left = self.skipped_next;
        self.skipped_next = (2 * self.skipped_next + 1).min(SKIPPED_MAX);
        true
    }
}

/// Tells looks after which nothing is closed yet, because the edge has just been stalled: input
/// that arrived meanwhile is still unread, and says nothing about the clients.
#[derive(Debug, Default)]
struct Looks {
    last: Option<Mono>,
    has_waited: bool,
}

impl Looks {
    /// Returns whether a look at `now` must not close anything. There is always one that may after
    /// it, however busy the machine is.
    fn must_wait(&mut self, now: Mono) -> bool {
        let last = self.last.replace(now);
        let is_late = last.is_some_and(|last| now.since(last) > 2 * INTERVAL);
        self.has_waited = is_late && !self.has_waited;
        self.has_waited
    }
}

/// Looks at the kernel's TCP memory each second, and lets the shards shed connections when it
/// exceeds its bound.
pub(crate) async fn watch(memory: Arc<Memory>, shards: Vec<ShardHandle>) {
    tracing::info!(
        limit_bytes = memory.kernel.bytes(),
        limit_from = memory.kernel.reason(),
        source = %memory.kernel.source(),
        "bound on the kernel's TCP memory"
    );
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut has_failed, mut pace, mut looks) = (false, Pace::default(), Looks::default());
    loop {
        interval.tick().await;
        let must_wait = looks.must_wait(SystemClock.now());
        let source = memory.kernel.source().clone();
        // Reading may wait for a kernel that sums up the statistics of all cores.
        let Ok(read) = tokio::task::spawn_blocking(move || source.read()).await else {
            return;
        };
        let used = match read {
            Ok(used) => used,
            Err(error) => {
                if !std::mem::replace(&mut has_failed, true) {
                    let source = memory.kernel.source();
                    tracing::warn!(%error, %source, "can't read the kernel's TCP memory");
                }
                continue;
            }
        };
        has_failed = false;
        memory.set_kernel_bytes(used);
        if must_wait {
            continue;
        }
        let closed = memory.metrics.kernel_evictions.get();
        let bound = memory.kernel.bytes();
        let Some(excess) = Excess::of(used, bound) else {
            pace = Pace::default();
            continue;
        };
        let is_urgent = used - bound > bound / URGENT_PART;
        if pace.searches(closed, is_urgent) {
            for shard in &shards {
                // A shard that has ended has closed its sockets.
                let _ = shard.send(ShardCommand::Shed(excess));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn up_to_the_bound_there_is_no_excess() {
        assert_eq!(Excess::of(0, 0), None);
        assert_eq!(Excess::of(1_000, 1_000), None);
        let excess = Excess::of(1_001, 1_000).unwrap();
        assert_eq!(excess.share_of(1_001), 101);
    }

    #[test]
    fn the_memory_is_tight_from_three_quarters_of_its_bound() {
        assert!(!is_tight(750, 1_000));
        assert!(is_tight(751, 1_000));
        assert!(!is_tight(1 << 40, u64::MAX));
    }

    #[test]
    fn searches_that_find_nothing_become_rare_and_one_that_finds_something_is_repeated_at_once() {
        let mut pace = Pace::default();
        let mut search = |closed, looks: u32| -> Vec<u32> {
            (0..looks)
                .filter(|_| pace.searches(closed, false))
                .collect()
        };
        assert_eq!(search(0, 32), [0, 1, 3, 7, 15, 23, 31]);
        assert_eq!(search(5, 3), [0, 1]);
        assert_eq!(search(6, 1), [0]);
    }

    #[test]
    fn no_look_is_skipped_while_the_bound_is_exceeded_by_much() {
        let mut pace = Pace::default();
        for _ in 0..32 {
            pace.searches(0, false);
        }
        assert!((0..8).all(|_| pace.searches(0, true)));
    }

    #[test]
    fn after_a_stall_shards_have_time_to_read_before_anything_is_closed() {
        let mut looks = Looks::default();
        let mut waits = |ms: u64| looks.must_wait(Mono::from_nanos(ms * 1_000_000));
        assert_eq!([10_000, 11_000, 13_000].map(&mut waits), [false; 3]);
        assert_eq!([43_000, 44_000].map(&mut waits), [true, false]);
        let always_late = [60_000, 70_000, 80_000, 90_000].map(&mut waits);
        assert_eq!(always_late, [true, false, true, false]);
    }

    proptest! {
        #[test]
        fn the_shares_of_all_shards_bring_the_memory_below_the_bound(
            held in prop::collection::vec(0..u64::MAX >> 8, 1..20),
            bound in 0..u64::MAX >> 2,
        ) {
            let used: u64 = held.iter().sum();
            if let Some(excess) = Excess::of(used, bound) {
                let shares: Vec<u64> = held.iter().map(|held| excess.share_of(*held)).collect();
                prop_assert!(shares.iter().zip(&held).all(|(share, held)| share <= held));
                let left = used - shares.iter().sum::<u64>();
                prop_assert!(left <= bound - bound / ROOM_DIVISOR);
            } else {
                prop_assert!(used <= bound);
            }
        }
    }
}
