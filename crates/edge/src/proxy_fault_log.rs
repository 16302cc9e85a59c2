//! [`ProxyFaultLog`]: limits how often faults of the PROXY protocol are logged. A balancer that is
//! set up wrongly causes one for each client.

use std::sync::{Mutex, PoisonError};

use tickstorm_timebase::Mono;

use crate::log_limit::LogLimit;

/// The faults of all shards.
#[derive(Default)]
pub(crate) struct ProxyFaultLog {
    /// Those of trusted load balancers.
    balancers: Mutex<LogLimit>,
    /// Those of all other peers.
    others: Mutex<LogLimit>,
}

impl ProxyFaultLog {
    /// Notes a fault of a trusted load balancer. If it may be logged, returns the number of earlier
    /// ones that were not.
    pub(crate) fn note_balancer(&self, now: Mono) -> Option<u64> {
        note(&self.balancers, now)
    }

    /// Does the same for a header from any other peer.
    pub(crate) fn note_other(&self, now: Mono) -> Option<u64> {
        note(&self.others, now)
    }
}

fn note(limit: &Mutex<LogLimit>, now: Mono) -> Option<u64> {
    let mut limit = limit.lock().unwrap_or_else(PoisonError::into_inner);
    limit.note(now)
}
