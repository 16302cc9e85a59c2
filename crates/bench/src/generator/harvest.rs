//! The results of one thread of the generator, and the sum over all threads.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::account::Faults;
use super::arrivals::{FrameSeen, Latencies, histogram};
use super::connection_end::EndKind;
use super::meter::Spent;

/// Everything that a thread has seen since the last harvest.
#[derive(Clone, Debug)]
pub struct Harvest {
    pub(crate) seen: Vec<FrameSeen>,
    pub(crate) latencies: Latencies,
    /// The broken promises.
    pub faults: Faults,
    pub(crate) spent: Spent,
    /// The times from the start of connect to the ACK of SUBSCRIBE (for silent clients, to the
    /// established connection), in nanoseconds.
    pub(crate) served: Histogram<u64>,
    /// The times from a HEARTBEAT to its PONG, in nanoseconds.
    pub(crate) pong: Histogram<u64>,
    pub(crate) heartbeats: u64,
    pub(crate) pongs: u64,
    pub(crate) clients: u64,
    /// The number of slow clients that the edge has disconnected.
    pub(crate) slow_ended: u64,
    /// The reasons why connections ended, and how often each occurred.
    pub ends: BTreeMap<EndKind, u64>,
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
    /// Returns the times from when ticks were due to their arrival, in nanoseconds.
    #[must_use]
    pub fn arrivals(&self) -> &Histogram<u64> {
        &self.latencies.edge
    }

    /// Adds the harvest of another thread.
    pub(crate) fn add(&mut self, other: Self) {
        self.seen.extend(other.seen);
        self.latencies.add(&other.latencies);
        self.faults.add(&other.faults);
        self.spent.add(other.spent);
        for (mine, theirs) in [
            (&mut self.served, &other.served),
            (&mut self.pong, &other.pong),
        ] {
            mine.add(theirs)
                .expect("all histograms have the same bounds");
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
