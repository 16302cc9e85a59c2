//! The clocks that an edge knows: those of CLOCKS, or, where that is not set, whoever was lately heard. It bounds their number and
//! asks questions of all of them; it does not choose.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::choice::{Stance, stances};
use crate::clock_id::ClockId;
use crate::grid::Epoch;
use crate::heard_clock::HeardClock;
use crate::message::Refused;
use crate::mono::Mono;
use crate::sample::BoundedOffset;

/// How many clocks are remembered where CLOCKS is not set: far more than anybody runs, few enough for whoever makes up ids.
pub(crate) const REPLICAS_MAX: usize = 64;

/// The clocks by their ids.
#[derive(Clone, Debug)]
pub(crate) struct HeardClocks {
    by_id: BTreeMap<ClockId, HeardClock>,
    /// Whether CLOCKS is set.
    configured: bool,
    /// HOLDOVER_MAX: how long a clock counts as heard, and a falseticker as one.
    memory: Duration,
    tolerance_ns: u64,
}

impl HeardClocks {
    pub(crate) fn new(clocks: Vec<ClockId>, memory: Duration, tolerance_ns: u64) -> Self {
        let configured = !clocks.is_empty();
        let by_id = clocks
            .into_iter()
            .map(|id| (id, HeardClock::default()))
            .collect();
        Self {
            by_id,
            configured,
            memory,
            tolerance_ns,
        }
    }

    pub(crate) fn known(&mut self, id: &ClockId) -> Option<&mut HeardClock> {
        self.by_id.get_mut(id)
    }

    /// The clock of this id, which may be new where CLOCKS is not set and there is room.
    pub(crate) fn admit(&mut self, id: &ClockId) -> Result<&mut HeardClock, Refused> {
        if !self.by_id.contains_key(id) {
            if self.configured {
                return Err(Refused::UnknownClock);
            }
            if self.by_id.len() >= REPLICAS_MAX {
                return Err(Refused::TooManyClocks);
            }
        }
        Ok(self.by_id.entry(id.clone()).or_default())
    }

    /// The clock of this id, which has just answered in time. Where there is no room it takes the place of one that only announced.
    pub(crate) fn admit_answering(&mut self, id: &ClockId) -> Result<&mut HeardClock, Refused> {
        if !self.configured && self.by_id.len() >= REPLICAS_MAX && !self.by_id.contains_key(id) {
            let unheard = self
                .by_id
                .iter()
                .find(|(_, replica)| replica.last_heard().is_none());
            if let Some(unheard) = unheard.map(|(id, _)| id.clone()) {
                self.by_id.remove(&unheard);
            }
        }
        self.admit(id)
    }

    /// Brings each clock's estimate and stance up to `now`, and forgets clocks of which there has been no word for long.
    pub(crate) fn refresh(&mut self, now: Mono) {
        let memory = self.memory;
        let recent = move |word: Option<Mono>| word.is_some_and(|at| now.since(at) < memory);
        if !self.configured {
            let is_kept =
                |replica: &HeardClock| recent(replica.last_word()) || replica.is_false(now, memory);
            self.by_id.retain(|_, replica| is_kept(replica));
        }
        for replica in self.by_id.values_mut() {
            let sample = replica
                .best_sample(now)
                .filter(|_| recent(replica.last_heard()));
            replica.estimate = sample.map(|sample| sample.estimate(now));
        }
        let heard = self
            .by_id
            .values()
            .filter(|replica| recent(replica.last_heard()))
            .count();
        let electorate = if self.configured {
            self.by_id.len()
        } else {
            heard
        };
        let estimates: Vec<BoundedOffset> = self
            .iter()
            .filter_map(|(_, replica)| replica.estimate)
            .collect();
        let mut stances = stances(&estimates, electorate, self.tolerance_ns).into_iter();
        for replica in self.by_id.values_mut() {
            replica.stance = replica.estimate.and_then(|_| stances.next());
        }
    }

    /// Calls each clock that differs from a majority a falseticker.
    pub(crate) fn blame_outvoted(&mut self, now: Mono) {
        for replica in self.by_id.values_mut() {
            if replica.stance == Some(Stance::AgainstMajority) {
                replica.blame(now);
            }
        }
    }

    /// Believes the clocks for which `credible` holds, falsetickers excepted.
    pub(crate) fn accept(
        &mut self,
        now: Mono,
        credible: impl Fn(&HeardClock, BoundedOffset) -> bool,
    ) {
        let memory = self.memory;
        for replica in self.by_id.values_mut() {
            replica.accepted = !replica.is_false(now, memory)
                && replica
                    .estimate
                    .is_some_and(|estimate| credible(replica, estimate));
        }
    }

    /// The lowest (rank, id) of the clocks for which `filter` holds.
    pub(crate) fn lowest(
        &self,
        filter: impl Fn(&HeardClock) -> bool,
    ) -> Option<(&ClockId, &HeardClock)> {
        self.iter()
            .filter(|(_, replica)| filter(replica))
            .min_by_key(|(id, replica)| (replica.rank(), *id))
    }

    /// Pardons the lowest (rank, id) of the clocks that are heard, one that is no falseticker first, and gives its estimate: for
    /// when there is nothing better to go by.
    pub(crate) fn last_resort(&mut self, now: Mono) -> Option<BoundedOffset> {
        let memory = self.memory;
        let heard = self
            .by_id
            .iter_mut()
            .filter(|(_, replica)| replica.estimate.is_some());
        let (_, lowest) = heard
            .min_by_key(|(id, replica)| (replica.is_false(now, memory), replica.rank(), *id))?;
        lowest.pardon();
        lowest.estimate
    }

    /// What the only clock that is heard says; none where several are, or none.
    pub(crate) fn sole_estimate(&self) -> Option<BoundedOffset> {
        let mut heard = self.by_id.values().filter_map(|replica| replica.estimate);
        heard.next().filter(|_| heard.next().is_none())
    }

    /// When a clock that is believed was last heard.
    pub(crate) fn accepted_last_heard(&self) -> Option<Mono> {
        self.accepted().filter_map(HeardClock::last_heard).max()
    }

    /// Until when the clocks that are believed vouch for ticks.
    pub(crate) fn vouched_until(&self) -> Option<Epoch> {
        self.accepted().filter_map(HeardClock::vouches_until).max()
    }

    /// Voids all announcements of later ticks than `latest`.
    pub(crate) fn void_after(&mut self, latest: Epoch) {
        for replica in self.by_id.values_mut() {
            replica.void_after(latest);
        }
    }

    pub(crate) fn is_false(&self, replica: &HeardClock, now: Mono) -> bool {
        replica.is_false(now, self.memory)
    }

    /// Whether two hosts have lately answered under one id.
    pub(crate) fn any_shared(&self, now: Mono) -> bool {
        self.by_id
            .values()
            .any(|replica| replica.is_shared(now, self.memory))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ClockId, &HeardClock)> {
        self.by_id.iter()
    }

    fn accepted(&self) -> impl Iterator<Item = &HeardClock> {
        self.by_id.values().filter(|replica| replica.accepted)
    }
}
