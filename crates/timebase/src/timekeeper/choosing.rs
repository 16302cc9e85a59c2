//! The timekeeper's decisions: at each round's end, which clocks to accept and which one to follow;
//! which steps to wait out; when a generation ends; and when to forget the time. The parent module
//! handles incoming messages and timing.

use std::time::Duration;

use super::{ANNOUNCED_AHEAD_MAX, Basis, PendingStep, Timekeeper};
use crate::authority::Authority;
use crate::grid::Epoch;
use crate::mono::Mono;
use crate::own_time::OwnTime;
use crate::rate::SeenRate;
use crate::sample::{BoundedOffset, OffsetSample};
use crate::search::Search;
use crate::unix::UnixTime;

/// A step of the only heard clock by more than this is followed only once it has lasted
/// [`STEP_LASTS_MIN`]. A new generation starts when authority time falls behind the greatest
/// authority time reached by more than this.
const STEP_NS: u64 = 10_000_000_000;
/// The time for which a step of the only heard clock must last.
const STEP_LASTS_MIN: Duration = Duration::from_secs(10);
/// The time for which authority time stays valid after HOLDOVER_MAX, so that an outage of that
/// length costs no tick: the last answer may be a second older than the outage, and the first one
/// after it comes up to a second later, in a round that must end first.
const HOLDOVER_GRACE: Duration = Duration::from_secs(2);

impl Timekeeper {
    /// Chooses which clocks to accept and which one to follow, at a round's end.
    pub(super) fn choose(&mut self, now: Mono) {
        self.clocks.refresh(now);
        match self.own_estimate(now) {
            None => self.choose_first(now),
            Some(own) => self.choose_next(own, now),
        }
    }

    fn choose_first(&mut self, now: Mono) {
        let (is_over, has_waited) = (self.search.is_over(), self.search.has_waited(now));
        if !is_over && !has_waited {
            return;
        }
        self.clocks.mark_outvoted_false(now);
        if !is_over || !self.accept_majority(now) {
            let lowest = if has_waited {
                self.clocks.last_resort(now)
            } else {
                None
            };
            let Some(lowest) = lowest else { return };
            self.accept_agreeing(lowest, now);
        }
        self.follow(now);
    }

    fn choose_next(&mut self, own: BoundedOffset, now: Mono) {
        if !self.clocks.are_configured()
            && self.search.is_answered()
            && self.clocks.are_forgotten(now)
        {
            // The next clock to answer would be a majority of one.
            self.search = self.new_search(now);
        }
        self.clocks.mark_outvoted_false(now);
        if !self.search.is_over() || !self.accept_majority(now) {
            self.step = None;
            self.accept_agreeing(own, now);
            self.end_distrust(own, now);
        } else if self.waits_out_step(now) {
            self.clocks.accept_none();
        }
        self.follow(now);
    }

    /// Accepts the clocks that agree with a majority. Returns false if there is no majority or it
    /// consists only of falsetickers.
    fn accept_majority(&mut self, now: Mono) -> bool {
        self.basis = Basis::Majority;
        self.clocks.accept_majority(now)
    }

    /// Accepts the clocks that agree with `own`.
    fn accept_agreeing(&mut self, own: BoundedOffset, now: Mono) {
        self.basis = Basis::OwnTime;
        self.clocks.accept_agreeing(own, now);
    }

    /// Accepts falsetickers that agree with `own` if no other clock does and half of HOLDOVER_MAX
    /// has passed in holdover. Their time is right now, and without them the edge would lose it.
    fn end_distrust(&mut self, own: BoundedOffset, now: Mono) {
        let is_late = self.valid_until().since(now) <= self.holdover_max / 2;
        let is_alone = self.clocks.lowest(|clock| clock.accepted).is_none();
        if is_late && is_alone && self.clocks.forgive_agreeing(own, now) {
            self.clocks.accept_agreeing(own, now);
        }
    }

    /// Returns whether a step of the only heard clock must still be waited out: its time has
    /// changed by more than [`STEP_NS`], and the change has lasted for less than
    /// [`STEP_LASTS_MIN`]. Another change by more than [`STEP_NS`] restarts the wait.
    fn waits_out_step(&mut self, now: Mono) -> bool {
        let far = |offset_ns: i64, from_ns: i64| offset_ns.abs_diff(from_ns) > STEP_NS;
        let authority_ns = self.authority.map(|authority| authority.offset_ns);
        let stepped = self
            .clocks
            .sole_estimate()
            .filter(|sole| authority_ns.is_some_and(|authority| far(sole.offset_ns, authority)));
        let Some(sole) = stepped else {
            self.step = None;
            return false;
        };
        let pending = self
            .step
            .filter(|step| !far(sole.offset_ns, step.offset_ns));
        let step = pending.unwrap_or(PendingStep {
            offset_ns: sole.offset_ns,
            since: now,
        });
        let lasts = now.since(step.since) >= STEP_LASTS_MIN;
        self.step = (!lasts).then_some(step);
        !lasts
    }

    /// Adopts the time of the accepted clock with the lowest (rank, id). If no clock is accepted,
    /// continues with the present time.
    fn follow(&mut self, now: Mono) {
        let lowest = self.clocks.lowest(|clock| clock.accepted);
        let followed = lowest.and_then(|(id, clock)| {
            Some((id.clone(), clock.best_sample(now)?, clock.clock_error_us()))
        });
        let Some((id, sample, clock_error_us)) = followed else {
            self.following = None;
            if let Some(authority) = &mut self.authority {
                authority.vouched_until = None;
            }
            return;
        };
        let heard = self.clocks.accepted_last_heard().unwrap_or(sample.heard);
        let before = self
            .authority
            .map_or(Mono::ZERO, |authority| authority.valid_until);
        self.record_reached(now);
        if self.basis == Basis::Majority {
            self.clocks.record_rates(now);
            self.machine_rate = self.clocks.common_rate();
        }
        self.rate = self.clocks.rate_of(&id);
        let drift_divisor = SeenRate::drift_divisor(self.rate);
        let mut authority = Authority {
            offset_ns: sample.offset_ns,
            bound_ns: sample.bound_ns_with(drift_divisor, now),
            bound_from: now,
            drift_divisor,
            suspended: self.suspended.unwrap_or_default(),
            clock_error_us,
            vouched_until: None,
            valid_until: before.max(heard + self.holdover_max + HOLDOVER_GRACE),
            generation: self.generation,
            origin: self.origin,
        };
        let time = authority.time_at(now);
        if self
            .reached
            .is_none_or(|reached| falls_behind(time, reached))
        {
            self.generation = self.generation.wrapping_add(1);
            self.origin = time;
            self.reached = Some(time);
            authority.generation = self.generation;
            authority.origin = time;
        }
        let latest = time.saturating_add(ANNOUNCED_AHEAD_MAX).as_millis();
        self.clocks.void_after(Epoch::from_ms(latest));
        authority.vouched_until = self.clocks.vouched_until();
        self.own_time = Some(self.next_own_time(&sample, now));
        self.authority = Some(authority);
        self.following = Some(id);
    }

    /// Returns the edge's own time when authority time gets the offset of `sample`. A majority's
    /// word counts for more than the own time if they are far apart.
    fn next_own_time(&self, sample: &OffsetSample, now: Mono) -> OwnTime {
        let offset_ns = sample.offset_ns;
        let drift_divisor = SeenRate::drift_divisor(self.machine_rate);
        let bound_ns = sample.bound_ns_with(drift_divisor, now);
        let Some(mut own) = self.own_time else {
            return OwnTime::new(offset_ns, bound_ns, now);
        };
        own.approach(offset_ns, bound_ns, drift_divisor, now);
        let far_ns = self.tolerance_ns.saturating_mul(2);
        if self.basis == Basis::Majority && own.offset_ns.abs_diff(offset_ns) > far_ns {
            return OwnTime::new(offset_ns, bound_ns, now);
        }
        own
    }

    /// Forgets the offset and searches as at the start. The samples, the falseticker marks, the
    /// positions of feeds and the greatest time reached are kept. If CLOCKS is not set, the search
    /// is not quick: which clocks there are shows only after a while, since they do not come back
    /// at the same moment.
    pub(super) fn forget(&mut self, now: Mono) {
        self.record_reached(now);
        self.authority = None;
        self.own_time = None;
        self.following = None;
        self.step = None;
        self.clocks.accept_none();
        self.search = self.new_search(now);
        if self.clocks.are_configured() {
            self.rounds.restart(now);
        }
    }

    const fn new_search(&self, now: Mono) -> Search {
        Search::new(!self.clocks.are_configured(), now)
    }

    /// Records how far authority time has advanced.
    fn record_reached(&mut self, now: Mono) {
        if let Some(authority) = self.authority {
            let reached = authority.time_at(now.min(authority.valid_until));
            self.reached = self.reached.max(Some(reached));
        }
    }
}

fn falls_behind(time: UnixTime, reached: UnixTime) -> bool {
    time < reached && time.as_nanos().abs_diff(reached.as_nanos()) > STEP_NS
}
