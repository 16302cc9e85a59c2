//! The arrivals of each tick, merged from all threads of the generator.

use std::collections::BTreeMap;

use super::figure::millis;
use super::generator::FrameSeen;

/// The arrivals of one tick, or of one frame of a burst, at all clients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TickArrivals {
    pub(crate) due_ns: u64,
    pub(crate) first_ns: u64,
    pub(crate) last_ns: u64,
    /// The number of clients that it reached.
    pub(crate) count: u64,
}

impl TickArrivals {
    /// Returns the time from due to the last arrival, in milliseconds.
    pub(crate) fn last_ms(&self) -> f64 {
        millis(self.last_ns.saturating_sub(self.due_ns))
    }

    /// Returns the time from the first arrival to the last, in milliseconds.
    pub(crate) fn spread_ms(&self) -> f64 {
        millis(self.last_ns.saturating_sub(self.first_ns))
    }
}

/// All ticks of a run, by sender (edge or bare loop) and first epoch.
#[derive(Debug, Default)]
pub(crate) struct ArrivalsByTick(BTreeMap<(bool, i64), TickArrivals>);

impl ArrivalsByTick {
    /// Merges what a thread has seen.
    pub(crate) fn add(&mut self, seen: &[FrameSeen]) {
        for seen in seen {
            let key = (seen.ticks.bare, seen.ticks.first_ms);
            let tick = self.0.entry(key).or_insert(TickArrivals {
                due_ns: seen.due_ns,
                first_ns: seen.first_ns,
                last_ns: seen.last_ns,
                count: 0,
            });
            tick.first_ns = tick.first_ns.min(seen.first_ns);
            tick.last_ns = tick.last_ns.max(seen.last_ns);
            tick.count += seen.count;
        }
    }

    /// Returns the arrivals of this tick, sent by the edge or by the bare loop.
    pub(crate) fn of(&self, bare: bool, first_ms: i64) -> Option<TickArrivals> {
        self.0.get(&(bare, first_ms)).copied()
    }

    /// Returns the sum, over the ticks in `moments`, of the time from due to the last arrival, in
    /// milliseconds.
    pub(crate) fn wall_ms(&self, moments: std::ops::Range<i64>) -> f64 {
        let within = self
            .0
            .iter()
            .filter(|((_, first_ms), _)| moments.contains(first_ms));
        within.map(|(_, tick)| tick.last_ms()).sum()
    }

    /// Drops all but the last `keep`, so that a run of many hours needs no more memory than one of
    /// minutes.
    pub(crate) fn trim(&mut self, keep: usize) {
        while self.0.len() > keep {
            self.0.pop_first();
        }
    }
}
