//! AUTH_RATE_LIMIT: when an AUTH may be judged. An AUTH without a valid device cookie waits once
//! its address, or a block of addresses around it, has failed too often. The waits bound how often
//! a guesser is judged, and the right password is still accepted after them. A device with a cookie
//! has a limit of its own, so it does not matter who fails at its address. All counts are those of
//! the whole process. They are touched only at AUTH. This module is given the time and only
//! decides; the shard waits and answers.

mod failure_table;
mod level;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tickstorm_timebase::Mono;

use self::failure_table::{FailureTable, KEYS_MAX, KeyState, Wait};
pub(crate) use self::level::{Block, Level};
use super::address::Address;
use crate::auth::DeviceId;

/// The shortest time between two warnings that AUTHs wait.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// When an AUTH may be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Immediately.
    Now,
    /// After this wait, for which the AUTH holds a slot.
    After { wait: Duration, slowed_by: Level },
    /// Not at all: too many AUTHs wait already.
    Never,
}

/// A warning that is due to the operator: the AUTHs of a block wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlowWarning {
    /// The smallest block that has failed too often.
    pub(crate) block: Block,
    /// Its failures in the current minute.
    pub(crate) failures: u32,
    /// Its AUTHs that wait.
    pub(crate) waiting: usize,
}

/// AUTH_RATE_LIMIT, and the failures that count against it.
pub(crate) struct Attempts {
    /// Failures per minute and address; 0 turns the limit off.
    failures_max: u32,
    by_block: Mutex<BlockFailures>,
    /// The failures of devices that presented a valid cookie. Only devices that have logged in have
    /// one, so nobody else can fill this.
    by_device: Mutex<DeviceFailures>,
}

/// The failures of each device, and of all of them together.
struct DeviceFailures {
    by_id: FailureTable<DeviceId>,
    all: FailureTable<()>,
}

/// The failures at each level, in its own table, so that many addresses can't displace networks.
struct BlockFailures {
    by_level: [FailureTable<Block>; Level::ALL.len()],
    warned: Option<Mono>,
}

impl Attempts {
    pub(crate) fn new(failures_max: u32) -> Arc<Self> {
        Arc::new(Self {
            failures_max,
            by_block: Mutex::new(BlockFailures {
                by_level: Level::ALL.map(|_| FailureTable::new(KEYS_MAX)),
                warned: None,
            }),
            by_device: Mutex::new(DeviceFailures {
                by_id: FailureTable::new(KEYS_MAX),
                all: FailureTable::new(1),
            }),
        })
    }

    /// Returns when an AUTH without a valid cookie may be judged. If it must wait, it holds a slot
    /// for as long. Also returns a warning, if one is due. Shards that ask at the same moment may
    /// each let one more AUTH through.
    pub(crate) fn take_turn(&self, address: Address, now: Mono) -> (Turn, Option<SlowWarning>) {
        if self.failures_max == 0 {
            return (Turn::Now, None);
        }
        self.by_block().take_turn(address, self.failures_max, now)
    }

    /// Returns whether an AUTH without a valid cookie would have to wait.
    pub(crate) fn would_wait(&self, address: Address, now: Mono) -> bool {
        let slowest = || self.by_block().slowest(address, self.failures_max, now);
        self.failures_max > 0 && slowest().is_some()
    }

    /// Counts the failure of an AUTH without a valid cookie. `slowed_by` is the level that has made
    /// it wait, if any: the failure does not count against larger blocks, since it was slow
    /// already.
    pub(crate) fn fail(&self, address: Address, slowed_by: Option<Level>, now: Mono) {
        if self.failures_max > 0 {
            let mut by_block = self.by_block();
            for block in blocks(address).filter(|block| block.counts(slowed_by)) {
                by_block.table(block).count(block, now);
            }
        }
    }

    /// Returns whether an AUTH with a valid cookie of this device is judged immediately, whatever
    /// its address. Otherwise it counts as one without a cookie. If all devices together have
    /// failed as often as all addresses may, someone guesses with cookies that were collected: each
    /// of them may then fail once. A device whose failures could not be counted has no turn.
    pub(crate) fn has_turn(&self, device: DeviceId, now: Mono) -> bool {
        if self.failures_max == 0 {
            return true;
        }
        let mut by_device = self.by_device();
        by_device.by_id.forget(now);
        let all = by_device.all.state((), now).failures;
        let failures_max = match Level::All.delay(all, self.failures_max) {
            Some(_) => 1,
            None => self.failures_max,
        };
        by_device.by_id.has_room_for(device)
            && by_device.by_id.state(device, now).failures < failures_max
    }

    /// Counts a failure of a device that had its turn.
    pub(crate) fn fail_device(&self, device: DeviceId, now: Mono) {
        if self.failures_max > 0 {
            let mut by_device = self.by_device();
            by_device.by_id.count(device, now);
            by_device.all.count((), now);
        }
    }

    fn by_block(&self) -> MutexGuard<'_, BlockFailures> {
        self.by_block.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn by_device(&self) -> MutexGuard<'_, DeviceFailures> {
        self.by_device
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the blocks that contain `address`, smallest first.
fn blocks(address: Address) -> impl Iterator<Item = Block> {
    let blocks = Level::ALL.map(|level| level.block_of(address));
    blocks.into_iter().flatten()
}

/// The slowest wait that the blocks of an address demand.
struct Slowest {
    wait: Duration,
    /// The smallest block that demands a wait.
    by: Block,
    /// Whether a block has no slot left, whether or not it demands a wait itself: many guessers,
    /// each slowed by its own address, would otherwise not be bounded together.
    is_full: bool,
}

impl BlockFailures {
    fn take_turn(
        &mut self,
        address: Address,
        failures_max: u32,
        now: Mono,
    ) -> (Turn, Option<SlowWarning>) {
        self.by_level.iter_mut().for_each(|table| table.forget(now));
        let Some(slowest) = self.slowest(address, failures_max, now) else {
            return (Turn::Now, None);
        };
        let slowed_by = slowest.by.level;
        let turn = if slowest.is_full {
            Turn::Never
        } else {
            let until = now + slowest.wait;
            for block in blocks(address) {
                let counts = block.counts(Some(slowed_by));
                self.table(block).hold(block, Wait { until, counts }, now);
            }
            Turn::After {
                wait: slowest.wait,
                slowed_by,
            }
        };
        (turn, self.warning(slowest.by, now))
    }

    /// Returns the slowest wait of the blocks of `address`; `None` if none demands one.
    fn slowest(&self, address: Address, failures_max: u32, now: Mono) -> Option<Slowest> {
        let mut slowest: Option<Slowest> = None;
        let mut is_full = false;
        for block in blocks(address) {
            is_full |= self.state(block, now).waiting >= block.level.waiting_max();
            if let Some(wait) = self.delay(block, failures_max, now) {
                let slowest = slowest.get_or_insert(Slowest {
                    wait,
                    by: block,
                    is_full: false,
                });
                slowest.wait = slowest.wait.max(wait);
            }
        }
        slowest.map(|slowest| Slowest { is_full, ..slowest })
    }

    /// Returns the wait that a block demands; `None` if it demands none.
    fn delay(&self, block: Block, failures_max: u32, now: Mono) -> Option<Duration> {
        let state = self.state(block, now);
        let count = state.failures.saturating_add(state.counted);
        block.level.delay(count, failures_max)
    }

    fn state(&self, block: Block, now: Mono) -> KeyState {
        self.by_level[block.level as usize].state(block, now)
    }

    fn warning(&mut self, block: Block, now: Mono) -> Option<SlowWarning> {
        let is_due = self.warned.is_none_or(|at| now.since(at) >= WARN_INTERVAL);
        is_due.then(|| {
            self.warned = Some(now);
            let state = self.state(block, now);
            SlowWarning {
                block,
                failures: state.failures,
                waiting: state.waiting,
            }
        })
    }

    fn table(&mut self, block: Block) -> &mut FailureTable<Block> {
        &mut self.by_level[block.level as usize]
    }
}

impl Block {
    /// Returns whether an AUTH that `slowed_by` has made wait counts against this block. What a
    /// level slows does not count against larger blocks, so that one guesser does not slow a whole
    /// network.
    fn counts(&self, slowed_by: Option<Level>) -> bool {
        slowed_by.is_none_or(|slowed_by| self.level <= slowed_by)
    }
}

#[cfg(test)]
mod tests;
