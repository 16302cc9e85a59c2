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

/// Returns how late the tick `epoch_ms` was released, in microseconds: by the last shard, if there
/// are several. `None` if no client has seen it; the load generator counts it as lost.
pub(crate) fn release_lateness_us(epoch_ms: i64, seen: &[FrameSeen]) -> Option<u64> {
    let carriers = carriers(epoch_ms, seen).map(|seen| seen.ticks.sent_unix_us);
    let lateness_us = carriers.map(|sent_us| sent_us.saturating_sub(epoch_ms * 1_000));
    // A tick that is sent early is counted as a fault elsewhere.
    lateness_us
        .max()
        .map(|lateness_us| lateness_us.max(0).unsigned_abs())
}

/// Returns the time from when the tick `epoch_ms` was due to its last arrival, in milliseconds.
pub(crate) fn last_arrival_ms(epoch_ms: i64, seen: &[FrameSeen]) -> Option<f64> {
    let lasts = carriers(epoch_ms, seen).map(|seen| seen.last_ns.saturating_sub(seen.due_ns));
    lasts.max().map(millis)
}

/// Returns the frames of the edge that contain this tick.
fn carriers(epoch_ms: i64, seen: &[FrameSeen]) -> impl Iterator<Item = &FrameSeen> {
    let edge = seen.iter().filter(|seen| !seen.ticks.bare);
    edge.filter(move |seen| (seen.ticks.first_ms..=seen.ticks.last_ms).contains(&epoch_ms))
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
