//! The timekeeper's decisions: whom to believe and to follow at each round's end, which steps to wait out, when a generation ends,
//! and forgetting. What it hears and when it is to decide is its parent's part.

use std::time::Duration;

use super::{ANNOUNCED_AHEAD_MAX, Ground, PendingStep, Search, Timekeeper};
use crate::authority::Authority;
use crate::choice::Stance;
use crate::grid::Epoch;
use crate::mono::Mono;
use crate::round::BURST_ROUNDS;
use crate::sample::BoundedOffset;
use crate::unix::UnixTime;

/// How long after the first answer an edge waits for a majority before it takes the lowest clock there is.
const MAJORITY_WAIT: Duration = Duration::from_secs(5);
/// A sole clock's change by more than this is believed only once it has lasted [`LASTING`]; and authority time that falls back by
/// more than this behind the greatest it had reached begins a new generation.
const STEP_NS: u64 = 10_000_000_000;
/// How long a sole clock's step has to last.
const LASTING: Duration = Duration::from_secs(10);

impl Timekeeper {
    /// Chooses whom to believe and whom to follow, at a round's end.
    pub(super) fn choose(&mut self, now: Mono) {
        self.replicas.refresh(now);
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
        self.replicas.blame_outvoted(now);
        if !self.accept_majority(now) {
            let lowest = if waited {
                self.replicas.last_resort(now)
            } else {
                None
            };
            let Some(lowest) = lowest else { return };
            self.accept_agreeing(lowest, now);
        }
        self.follow(now);
    }

    fn choose_next(&mut self, own: BoundedOffset, now: Mono) {
        self.replicas.blame_outvoted(now);
        if !self.accept_majority(now) {
            self.step = None;
            self.accept_agreeing(own, now);
        } else if self.waits_out_step(own, now) {
            self.replicas.accept(now, |_, _| false);
        }
        self.follow(now);
    }

    /// Believes the clocks that agree with a majority; false where there is none, or one of falsetickers only.
    fn accept_majority(&mut self, now: Mono) -> bool {
        self.ground = Ground::Majority;
        self.replicas.accept(now, |replica, _| {
            replica.stance == Some(Stance::WithMajority)
        });
        self.replicas.lowest(|replica| replica.accepted).is_some()
    }

    /// Believes the clocks that agree with `own`.
    fn accept_agreeing(&mut self, own: BoundedOffset, now: Mono) {
        self.ground = Ground::OwnTime;
        let tolerance_ns = self.tolerance_ns;
        self.replicas
            .accept(now, |_, estimate| estimate.agrees_with(&own, tolerance_ns));
    }

    /// Whether only one clock is heard, and a change of its time by more than 10 s has not lasted yet. One that moves on by as much
    /// again has to last anew.
    fn waits_out_step(&mut self, own: BoundedOffset, now: Mono) -> bool {
        let far = |offset_ns: i64, from_ns: i64| offset_ns.abs_diff(from_ns) > STEP_NS;
        let stepped = self
            .replicas
            .sole_estimate()
            .filter(|sole| far(sole.offset_ns, own.offset_ns));
        let Some(sole) = stepped else {
            self.step = None;
            return false;
        };
        let going_on = self
            .step
            .filter(|step| !far(sole.offset_ns, step.offset_ns));
        let step = going_on.unwrap_or(PendingStep {
            offset_ns: sole.offset_ns,
            since: now,
        });
        let lasts = now.since(step.since) >= LASTING;
        self.step = (!lasts).then_some(step);
        !lasts
    }

    /// Takes the time of the lowest clock that is believed; where there is none, goes on with the time there is.
    fn follow(&mut self, now: Mono) {
        let lowest = self.replicas.lowest(|replica| replica.accepted);
        let followed = lowest.and_then(|(id, replica)| {
            Some((
                id.clone(),
                replica.best_sample(now)?,
                replica.clock_error_us(),
            ))
        });
        let Some((id, sample, clock_error_us)) = followed else {
            self.following = None;
            if let Some(authority) = &mut self.authority {
                authority.vouched_until = None;
            }
            return;
        };
        let heard = self.replicas.accepted_last_heard().unwrap_or(sample.heard);
        let before = self
            .authority
            .map_or(Mono::ZERO, |authority| authority.valid_until);
        self.note_reached(now);
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
        self.replicas.void_after(Epoch::from_ms(latest));
        authority.vouched_until = self.replicas.vouched_until();
        self.authority = Some(authority);
        self.following = Some(id);
    }

    /// Forgets the offset, and searches as at the start; but not what was heard, released or reached.
    pub(super) fn forget(&mut self, now: Mono) {
        self.note_reached(now);
        self.authority = None;
        self.following = None;
        self.step = None;
        self.replicas.accept(now, |_, _| false);
        self.search = Search {
            since: now,
            rounds: 0,
            first_answer: None,
        };
        self.rounds.restart(now);
    }

    /// Remembers how far authority time has come.
    fn note_reached(&mut self, now: Mono) {
        if let Some(authority) = self.authority {
            let reached = authority.time_at(now.min(authority.valid_until));
            self.reached = self.reached.max(Some(reached));
        }
    }
}

fn falls_behind(time: UnixTime, reached: UnixTime) -> bool {
    time < reached && time.as_nanos().abs_diff(reached.as_nanos()) > STEP_NS
}
