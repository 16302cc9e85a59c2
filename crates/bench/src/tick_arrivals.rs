//! Ticks by round: what the threads of the generator saw of one tick, put together.

use std::collections::BTreeMap;

use super::figure::millis;
use super::generator::FrameSeen;

/// One tick, or one frame of a burst, over all clients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TickArrivals {
    pub(crate) due_ns: u64,
    pub(crate) first_ns: u64,
    pub(crate) last_ns: u64,
    /// To how many clients it came.
    pub(crate) count: u64,
}

impl TickArrivals {
    /// From when it was due to its last arrival.
    pub(crate) fn last_ms(&self) -> f64 {
        millis(self.last_ns.saturating_sub(self.due_ns))
    }

    /// From its first arrival to its last.
    pub(crate) fn spread_ms(&self) -> f64 {
        millis(self.last_ns.saturating_sub(self.first_ns))
    }
}

/// All rounds of a run, by kind and first tick.
#[derive(Debug, Default)]
pub(crate) struct ArrivalsByTick(BTreeMap<(bool, i64), TickArrivals>);

impl ArrivalsByTick {
    /// Adds what was seen.
    pub(crate) fn add(&mut self, seen: &[FrameSeen]) {
        for seen in seen {
            let key = (seen.ticks.bare, seen.ticks.first_ms);
            let round = self.0.entry(key).or_insert(TickArrivals {
                due_ns: seen.due_ns,
                first_ns: seen.first_ns,
                last_ns: seen.last_ns,
                count: 0,
            });
            round.first_ns = round.first_ns.min(seen.first_ns);
            round.last_ns = round.last_ns.max(seen.last_ns);
            round.count += seen.count;
        }
    }

    /// The round of this tick, of the edge or of the bare loop.
    pub(crate) fn of(&self, bare: bool, first_ms: i64) -> Option<TickArrivals> {
        self.0.get(&(bare, first_ms)).copied()
    }

    /// How long all rounds of these moments took together, each from when it was due to its last arrival.
    pub(crate) fn wall_ms(&self, moments: std::ops::Range<i64>) -> f64 {
        let within = self
            .0
            .iter()
            .filter(|((_, first_ms), _)| moments.contains(first_ms));
        within.map(|(_, round)| round.last_ms()).sum()
    }

    /// Forgets all but the last `keep`, so that a run of many hours holds no more than one of minutes.
    pub(crate) fn trim(&mut self, keep: usize) {
        while self.0.len() > keep {
            self.0.pop_first();
        }
    }
}
