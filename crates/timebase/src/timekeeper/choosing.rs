//! The timekeeper's decisions: at each round's end, which clocks to accept and which one to follow;
//! which steps to wait out; when a generation ends; and when to forget the time. The parent module
//! handles incoming messages and timing.

use std::time::Duration;

use super::{ANNOUNCED_AHEAD_MAX, Basis, PendingStep, Search, Timekeeper};
use crate::authority::Authority;
use crate::choice::Stance;
use crate::grid::Epoch;
use crate::mono::Mono;
use crate::round::BURST_ROUNDS;
use crate::sample::BoundedOffset;
use crate::unix::UnixTime;

/// The time after the first answer for which an edge waits for a majority before it settles for the
/// clock with the lowest (rank, id).
const MAJORITY_WAIT: Duration = Duration::from_secs(5);
/// A step of the only heard clock by more than this is followed only once it has lasted
/// [`STEP_LASTS_MIN`]. A new generation starts when authority time falls behind the greatest
/// authority time reached by more than this.
const STEP_NS: u64 = 10_000_000_000;
/// The time for which a step of the only heard clock must last.
const STEP_LASTS_MIN: Duration = Duration::from_secs(10);

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
        let first_answer = self.search.first_answer;
        let waited = first_answer.is_some_and(|first| now.since(first) >= MAJORITY_WAIT);
        if self.search.rounds < BURST_ROUNDS && !waited {
            return;
        }
        self.clocks.mark_outvoted_false(now);
        if !self.accept_majority(now) {
            let lowest = if waited {
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
        self.clocks.mark_outvoted_false(now);
        if !self.accept_majority(now) {
            self.step = None;
            self.accept_agreeing(own, now);
        } else if self.waits_out_step(own, now) {
            self.clocks.accept(now, |_, _| false);
        }
        self.follow(now);
    }

    /// Accepts the clocks that agree with a majority. Returns false if there is no majority or it
    /// consists only of falsetickers.
    fn accept_majority(&mut self, now: Mono) -> bool {
        self.basis = Basis::Majority;
        self.clocks
            .accept(now, |clock, _| clock.stance == Some(Stance::WithMajority));
        self.clocks.lowest(|clock| clock.accepted).is_some()
    }

    /// Accepts the clocks that agree with `own`.
    fn accept_agreeing(&mut self, own: BoundedOffset, now: Mono) {
        self.basis = Basis::OwnTime;
        let tolerance_ns = self.tolerance_ns;
        self.clocks
            .accept(now, |_, estimate| estimate.agrees_with(&own, tolerance_ns));
    }

    /// Returns whether a step of the only heard clock must still be waited out: its time has
    /// changed by more than [`STEP_NS`], and the change has lasted for less than
    /// [`STEP_LASTS_MIN`]. Another change by more than [`STEP_NS`] restarts the wait.
    fn waits_out_step(&mut self, own: BoundedOffset, now: Mono) -> bool {
        let far = |offset_ns: i64, from_ns: i64| offset_ns.abs_diff(from_ns) > STEP_NS;
        let stepped = self
            .clocks
            .sole_estimate()
            .filter(|sole| far(sole.offset_ns, own.offset_ns));
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
        let mut authority = Authority {
            offset_ns: sample.offset_ns,
            bound_ns: sample.bound_ns(now),
            bound_from: now,
            clock_error_us,
            vouched_until: None,
            valid_until: before.max(heard + self.holdover_max),
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
        self.authority = Some(authority);
        self.following = Some(id);
    }

    /// Forgets the offset and searches as at the start. The samples, the falseticker marks, the
    /// positions of feeds and the greatest time reached are kept.
    pub(super) fn forget(&mut self, now: Mono) {
        self.record_reached(now);
        self.authority = None;
        self.following = None;
        self.step = None;
        self.clocks.accept(now, |_, _| false);
        self.search = Search {
            since: now,
            rounds: 0,
            first_answer: None,
        };
        self.rounds.restart(now);
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
