//! What a thread of the generator has seen, and all of them together.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::account::Faults;
use super::arrivals::{FrameSeen, Latencies, histogram};
use super::connection_end::EndKind;
use super::meter::Spent;

/// What a thread has seen since it was last asked.
#[derive(Clone, Debug)]
pub(crate) struct Harvest {
    pub(crate) seen: Vec<FrameSeen>,
    pub(crate) latencies: Latencies,
    pub(crate) faults: Faults,
    pub(crate) spent: Spent,
    /// From the begin of connect to the ACK of SUBSCRIBE (or to being connected, for silent ones), in nanoseconds.
    pub(crate) served: Histogram<u64>,
    /// From a HEARTBEAT to its PONG, in nanoseconds.
    pub(crate) pong: Histogram<u64>,
    pub(crate) heartbeats: u64,
    pub(crate) pongs: u64,
    pub(crate) clients: u64,
    /// Slow clients that the edge has closed.
    pub(crate) slow_ended: u64,
    /// What ended connections, and how often.
    pub(crate) ends: BTreeMap<EndKind, u64>,
}

impl Default for Harvest {
    fn default() -> Self {
        Self {
            seen: Vec::new(),
            latencies: Latencies::default(),
            faults: Faults::default(),
            spent: Spent::default(),
            served: histogram(),
            pong: histogram(),
            heartbeats: 0,
            pongs: 0,
            clients: 0,
            slow_ended: 0,
            ends: BTreeMap::new(),
        }
    }
}

impl Harvest {
    /// Adds that of another thread.
    pub(crate) fn add(&mut self, other: Self) {
        self.seen.extend(other.seen);
        self.latencies.add(&other.latencies);
        self.faults.add(&other.faults);
        self.spent.add(other.spent);
        for (mine, theirs) in [
            (&mut self.served, &other.served),
            (&mut self.pong, &other.pong),
        ] {
            mine.add(theirs).expect("all have the same bounds");
        }
        self.heartbeats += other.heartbeats;
        self.pongs += other.pongs;
        self.clients += other.clients;
        self.slow_ended += other.slow_ended;
        for (end, count) in other.ends {
            *self.ends.entry(end).or_default() += count;
        }
    }
}
