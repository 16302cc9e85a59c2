//! The clocks that an edge knows: those listed in CLOCKS, or, if it is not set, those heard
//! recently. It bounds their number and answers questions about all of them; it does not choose.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::choice::{Stance, Voter, stances};
use crate::clock_id::ClockId;
use crate::grid::Epoch;
use crate::heard_clock::HeardClock;
use crate::hearing::Hearing;
use crate::message::Refused;
use crate::mono::Mono;
use crate::rate::SeenRate;
use crate::sample::BoundedOffset;
use crate::status::ClockStatus;

/// The number of clocks remembered if CLOCKS is not set: far more than any deployment runs, and few
/// enough to withstand a sender that makes up ids.
pub(crate) const CLOCKS_MAX: usize = 64;

/// The clocks by their ids.
#[derive(Clone, Debug)]
pub(crate) struct HeardClocks {
    by_id: BTreeMap<ClockId, HeardClock>,
    /// Whether CLOCKS is set.
    configured: bool,
    /// HOLDOVER_MAX: the time after which a clock no longer counts as heard, and a falseticker no
    /// longer counts as one.
    memory: Duration,
    /// CLOCK_TOLERANCE_MS: the difference up to which clocks agree.
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

    /// Returns whether CLOCKS is set.
    pub(crate) const fn are_configured(&self) -> bool {
        self.configured
    }

    pub(crate) fn known(&mut self, id: &ClockId) -> Option<&mut HeardClock> {
        self.by_id.get_mut(id)
    }

    /// Returns the clock with this id, adding it if CLOCKS is not set and there is room.
    pub(crate) fn admit(&mut self, id: &ClockId) -> Result<&mut HeardClock, Refused> {
        if !self.by_id.contains_key(id) {
            if self.configured {
                return Err(Refused::UnknownClock);
            }
            if self.by_id.len() >= CLOCKS_MAX {
                return Err(Refused::TooManyClocks);
            }
        }
        Ok(self.by_id.entry(id.clone()).or_default())
    }

    /// Returns the clock with this id, which has just answered in time. If there is no room, it
    /// replaces a clock that has only announced.
    pub(crate) fn admit_answering(&mut self, id: &ClockId) -> Result<&mut HeardClock, Refused> {
        if !self.configured && self.by_id.len() >= CLOCKS_MAX && !self.by_id.contains_key(id) {
            let unheard = self
                .by_id
                .iter()
                .find(|(_, clock)| clock.last_heard().is_none());
            if let Some(unheard) = unheard.map(|(id, _)| id.clone()) {
                self.by_id.remove(&unheard);
            }
        }
        self.admit(id)
    }

    /// Updates each clock's estimate and stance, and forgets clocks that have been silent for long.
    pub(crate) fn refresh(&mut self, now: Mono) {
        let memory = self.memory;
        let recent = move |last: Option<Mono>| last.is_some_and(|at| now.since(at) < memory);
        if !self.configured {
            let is_kept =
                |clock: &HeardClock| recent(clock.last_message()) || clock.is_false(now, memory);
            self.by_id.retain(|_, clock| is_kept(clock));
        }
        for clock in self.by_id.values_mut() {
            let sample = clock
                .best_sample(now)
                .filter(|_| recent(clock.last_heard()));
            clock.estimate = sample.map(|sample| sample.estimate(now));
            clock.stance = None;
        }
        let strict = self.stances(now, |_| self.tolerance_ns);
        let lenient = self.stances(now, |clock| tolerance_ns(clock, self.tolerance_ns));
        let voters = self.by_id.values_mut().filter(|one| one.estimate.is_some());
        for ((clock, strict), lenient) in voters.zip(strict).zip(lenient) {
            clock.judge(strict, lenient, now, memory);
        }
    }

    /// Returns the stance of each clock that has an estimate, in order.
    fn stances(&self, now: Mono, tolerance_ns: impl Fn(&HeardClock) -> u64) -> Vec<Stance> {
        let electorate = if self.configured {
            self.by_id.len()
        } else {
            self.recent(now).count()
        };
        let voter = |clock: &HeardClock| {
            clock.estimate.map(|estimate| Voter {
                estimate,
                tolerance_ns: tolerance_ns(clock),
            })
        };
        let voters: Vec<Voter> = self.by_id.values().filter_map(voter).collect();
        stances(&voters, electorate)
    }

    /// Returns whether no clock was heard within HOLDOVER_MAX.
    pub(crate) fn are_forgotten(&self, now: Mono) -> bool {
        self.recent(now).next().is_none()
    }

    fn recent(&self, now: Mono) -> impl Iterator<Item = &HeardClock> {
        let is_recent = move |at: Mono| now.since(at) < self.memory;
        self.by_id
            .values()
            .filter(move |clock| clock.last_heard().is_some_and(is_recent))
    }

    /// Marks each clock that differs from a majority as a falseticker.
    pub(crate) fn mark_outvoted_false(&mut self, now: Mono) {
        for clock in self.by_id.values_mut() {
            if clock.stance == Some(Stance::AgainstMajority) {
                clock.mark_false(now);
            }
        }
    }

    /// Accepts the clocks that agree with a majority, except falsetickers. If there is none, this
    /// returns false and changes nothing.
    pub(crate) fn accept_majority(&mut self, now: Mono) -> bool {
        let memory = self.memory;
        let is_credible = |clock: &HeardClock| {
            clock.stance == Some(Stance::WithMajority) && !clock.is_false(now, memory)
        };
        if !self.by_id.values().any(is_credible) {
            return false;
        }
        for clock in self.by_id.values_mut() {
            clock.accepted = is_credible(clock);
        }
        true
    }

    /// Accepts the clocks that agree with `own`, except falsetickers.
    pub(crate) fn accept_agreeing(&mut self, own: BoundedOffset, now: Mono) {
        for clock in self.by_id.values_mut() {
            let tolerance_ns = tolerance_ns(clock, self.tolerance_ns);
            let agrees = |estimate: BoundedOffset| estimate.agrees_with(&own, tolerance_ns);
            clock.accepted =
                !clock.is_false(now, self.memory) && clock.estimate.is_some_and(agrees);
        }
    }

    /// Forgets the time of all clocks.
    pub(crate) fn forget_samples(&mut self) {
        for clock in self.by_id.values_mut() {
            clock.forget_samples();
        }
    }

    /// Accepts no clock.
    pub(crate) fn accept_none(&mut self) {
        for clock in self.by_id.values_mut() {
            clock.accepted = false;
        }
    }

    /// Clears the falseticker marks of the clocks that agree with `own`, and returns whether there
    /// were any.
    pub(crate) fn forgive_agreeing(&mut self, own: BoundedOffset, now: Mono) -> bool {
        let (memory, tolerance_ns) = (self.memory, self.tolerance_ns);
        let agrees = |estimate: BoundedOffset| estimate.agrees_with(&own, tolerance_ns);
        let mut are_any = false;
        for clock in self.by_id.values_mut() {
            if clock.is_false(now, memory) && clock.estimate.is_some_and(agrees) {
                clock.clear_false();
                are_any = true;
            }
        }
        are_any
    }

    /// Returns the clock with the lowest (rank, id) among those for which `filter` holds.
    pub(crate) fn lowest(
        &self,
        filter: impl Fn(&HeardClock) -> bool,
    ) -> Option<(&ClockId, &HeardClock)> {
        self.iter()
            .filter(|(_, clock)| filter(clock))
            .min_by_key(|(id, clock)| (clock.rank(), *id))
    }

    /// Chooses the heard clock with the lowest (rank, id), or a falseticker if no other clock is
    /// heard. Clears its falseticker mark and returns its estimate. This is for an edge that knows
    /// no time and finds no majority.
    pub(crate) fn last_resort(&mut self, now: Mono) -> Option<BoundedOffset> {
        let memory = self.memory;
        let heard = self
            .by_id
            .iter_mut()
            .filter(|(_, clock)| clock.estimate.is_some());
        let (_, lowest) =
            heard.min_by_key(|(id, clock)| (clock.is_false(now, memory), clock.rank(), *id))?;
        lowest.clear_false();
        lowest.estimate
    }

    /// Returns the estimate of the only heard clock; `None` if several clocks or none are heard.
    pub(crate) fn sole_estimate(&self) -> Option<BoundedOffset> {
        let mut heard = self.by_id.values().filter_map(|clock| clock.estimate);
        heard.next().filter(|_| heard.next().is_none())
    }

    /// Records the rates of the accepted clocks.
    pub(crate) fn record_rates(&mut self, now: Mono) {
        for clock in self.by_id.values_mut().filter(|clock| clock.accepted) {
            clock.record_rate(now);
        }
    }

    /// Returns the rate of this clock as last measured.
    pub(crate) fn rate_of(&self, id: &ClockId) -> Option<SeenRate> {
        self.by_id.get(id)?.rate()
    }

    /// Returns the rate that all accepted clocks confirm, so that it is this machine's.
    pub(crate) fn common_rate(&self) -> Option<SeenRate> {
        SeenRate::common(self.accepted().map(HeardClock::rate))
    }

    /// Returns when an accepted clock was last heard.
    pub(crate) fn accepted_last_heard(&self) -> Option<Mono> {
        self.accepted().filter_map(HeardClock::last_heard).max()
    }

    /// Returns the last tick that an accepted clock vouches for.
    pub(crate) fn vouched_until(&self) -> Option<Epoch> {
        self.accepted().filter_map(HeardClock::vouches_until).max()
    }

    /// Forgets all announcements of ticks later than `latest`.
    pub(crate) fn void_after(&mut self, latest: Epoch) {
        for clock in self.by_id.values_mut() {
            clock.void_after(latest);
        }
    }

    /// Returns the status of each clock, ordered by id, when authority time has the offset
    /// `authority_ns`.
    pub(crate) fn statuses(
        &self,
        authority_ns: Option<i64>,
        hearing: &Hearing,
        now: Mono,
    ) -> Vec<ClockStatus> {
        let status = |(id, clock): (&ClockId, &HeardClock)| ClockStatus {
            is_unheard: self.configured && hearing.is_unheard(clock.last_message(), now),
            ..clock.status(id, authority_ns, now, self.memory)
        };
        self.iter().map(status).collect()
    }

    fn iter(&self) -> impl Iterator<Item = (&ClockId, &HeardClock)> {
        self.by_id.iter()
    }

    fn accepted(&self) -> impl Iterator<Item = &HeardClock> {
        self.by_id.values().filter(|clock| clock.accepted)
    }
}

/// Returns the difference up to which `clock` agrees with others. An accepted clock may differ by a
/// quarter more than the tolerance before it is left, so that noise does not make edges disagree
/// about a clock that is just at the tolerance.
fn tolerance_ns(clock: &HeardClock, tolerance_ns: u64) -> u64 {
    if clock.accepted {
        tolerance_ns.saturating_add(tolerance_ns / 4)
    } else {
        tolerance_ns
    }
}
