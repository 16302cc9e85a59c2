//! [`Timekeeper`]: an edge's notion of the current time. It queries all clocks in rounds, accepts
//! some, follows one, holds over when none is left, and publishes the result as an [`Authority`].
//! It releases no ticks and sends nothing itself.

mod choosing;

use std::time::Duration;

use crate::authority::Authority;
use crate::clock::{SUSPENSION_MIN, was_suspended};
use crate::clock_id::ClockId;
use crate::heard_clocks::HeardClocks;
use crate::hearing::Hearing;
use crate::message::{Announcement, Refused, Reply};
use crate::mono::Mono;
use crate::own_time::OwnTime;
use crate::rate::SeenRate;
use crate::round::Rounds;
use crate::sample::{BoundedOffset, OffsetSample, is_possible};
use crate::search::Search;
use crate::status::{Alarm, ClockStatus, TimeStatus};
use crate::unix::UnixTime;

/// The maximum lead of an announcement over authority time: the greatest TICK_LEAD_MS plus one
/// second.
const ANNOUNCED_AHEAD_MAX: Duration = Duration::from_secs(11);

/// The settings of a timekeeper.
#[derive(Clone, Debug)]
pub struct TimekeeperConfig {
    /// CLOCKS: the clocks that have a vote. If empty, every clock that answers has one.
    pub clocks: Vec<ClockId>,
    /// CLOCK_TOLERANCE_MS: the difference up to which clocks agree. A round lasts twice as long.
    pub tolerance: Duration,
    /// HOLDOVER_MAX: the longest outage of all clocks that costs no tick. Authority time counts as
    /// known until 2 s after that, counted from the last answer of an accepted clock.
    pub holdover_max: Duration,
}

/// A step of the only heard clock, which is followed only once it has lasted long enough.
#[derive(Clone, Copy, Debug)]
struct PendingStep {
    offset_ns: i64,
    since: Mono,
}

/// The basis of the last choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Basis {
    Majority,
    OwnTime,
}

/// The state machine that keeps authority time on an edge.
#[derive(Clone, Debug)]
pub struct Timekeeper {
    holdover_max: Duration,
    tolerance_ns: u64,
    rounds: Rounds,
    clocks: HeardClocks,
    authority: Option<Authority>,
    following: Option<ClockId>,
    basis: Basis,
    /// The edge's own time, while authority time is known.
    own_time: Option<OwnTime>,
    search: Search,
    hearing: Hearing,
    step: Option<PendingStep>,
    /// The rate of the clock that is followed, or was last.
    rate: Option<SeenRate>,
    /// The rate that all accepted clocks confirm, as of the last choice by a majority.
    machine_rate: Option<SeenRate>,
    /// For how long the machine has been suspended so far; `None` before the first reading.
    suspended: Option<Duration>,
    /// The greatest authority time reached in this generation, as of the last choice.
    reached: Option<UnixTime>,
    generation: u32,
    origin: UnixTime,
}

impl Timekeeper {
    /// Creates a timekeeper that does not know the time and requests it immediately.
    #[must_use]
    pub fn new(config: TimekeeperConfig, now: Mono) -> Self {
        let TimekeeperConfig {
            clocks,
            tolerance,
            holdover_max,
        } = config;
        let tolerance_ns = u64::try_from(tolerance.as_nanos()).unwrap_or(u64::MAX);
        let search = Search::new(clocks.is_empty(), now);
        Self {
            holdover_max,
            tolerance_ns,
            rounds: Rounds::new(tolerance.saturating_mul(2), now),
            clocks: HeardClocks::new(clocks, holdover_max, tolerance_ns),
            authority: None,
            following: None,
            basis: Basis::Majority,
            own_time: None,
            search,
            hearing: Hearing::default(),
            step: None,
            rate: None,
            machine_rate: None,
            suspended: None,
            reached: None,
            generation: 0,
            origin: UnixTime::default(),
        }
    }

    /// Returns the number of the request to send to all clocks now, if one is due. `draw` must draw
    /// each number at random: if the next one could be guessed, a clock could answer before it is
    /// asked, and an answer to a request of an earlier run could be taken for one to this run's.
    pub fn poll_request(&mut self, now: Mono, draw: impl FnOnce() -> u64) -> Option<u64> {
        self.rounds.ask(now, draw)
    }

    /// Handles that a request could not be sent, or that the connection was lost.
    pub fn handle_outage(&mut self) {
        self.rounds.note_outage();
    }

    /// Handles that there is a connection. If the time is unknown, or the connection may have been
    /// lost for a while, clocks are asked at once.
    pub fn handle_connection(&mut self, now: Mono) {
        if self.authority.is_none() && self.clocks.are_configured() {
            self.rounds.restart(now);
        } else {
            self.rounds.hasten(now);
        }
    }

    /// Handles a reading of [`Clock::suspended`]; call it before anything else that happens at
    /// `now`. Returns for how long the machine was suspended since the last reading, if it was.
    /// Then all samples are wrong by that time, and so is authority time: both are forgotten, and
    /// clocks are asked again at once. Answers to earlier requests no longer count.
    ///
    /// [`Clock::suspended`]: crate::Clock::suspended
    pub fn handle_suspended(&mut self, suspended: Duration, now: Mono) -> Option<Duration> {
        let before = self.suspended.replace(suspended).unwrap_or(suspended);
        if !was_suspended(before, suspended) {
            self.follow_drift(suspended);
            return None;
        }
        self.forget(now);
        self.clocks.forget_samples();
        self.rounds.forget_requests();
        self.rounds.restart(now);
        Some(suspended.abs_diff(before))
    }

    /// Keeps authority time valid although `suspended` drifts, as it does outside Linux: only a
    /// jump between two readings counts. On Linux, this changes nothing.
    fn follow_drift(&mut self, suspended: Duration) {
        if let Some(authority) = &mut self.authority {
            if authority.suspended.abs_diff(suspended) >= SUSPENSION_MIN / 2 {
                authority.suspended = suspended;
            }
        }
    }

    /// Returns when [`Self::poll_request`] next returns a request.
    #[must_use]
    pub fn next_request(&self) -> Mono {
        self.rounds.next_request()
    }

    /// Returns how long ago the request with this number was made, for one of the last 32.
    #[must_use]
    pub fn time_since_request(&self, nonce: u64, now: Mono) -> Option<Duration> {
        let (asked, _) = self.rounds.find(nonce)?;
        Some(now.since(asked))
    }

    /// Handles a clock's answer, which arrived at `now`. It takes effect at the end of its round.
    ///
    /// # Errors
    /// Returns the reason if the answer yields no sample.
    pub fn handle_reply(&mut self, reply: &Reply, now: Mono) -> Result<(), Refused> {
        let (asked, until) = self
            .rounds
            .find(reply.nonce)
            .ok_or(Refused::UnknownRequest)?;
        self.rounds.note_heard(reply.nonce);
        let in_time = if now <= until {
            Ok(())
        } else {
            Err(Refused::Late)
        };
        let sample = in_time.and_then(|()| OffsetSample::new(reply, asked, now));
        // A late answer does not add a clock, but reveals a second host under a known clock's id.
        let clock = match sample {
            Ok(_) => self.clocks.admit_answering(&reply.clock_id)?,
            Err(refused) => self.clocks.known(&reply.clock_id).ok_or(refused)?,
        };
        clock.record_answer(reply, now)?;
        if !is_possible(reply) {
            clock.note_invalid(now);
        }
        clock.insert(sample?, reply);
        self.rounds.note_answer(reply.nonce);
        self.hearing.note_listed(now);
        let is_first = self.search.note_answer(asked, now);
        // At the start, the eight rounds that count are quick. After an outage they are not.
        if is_first && !self.clocks.are_configured() && self.reached.is_none() {
            self.rounds.ensure_burst(now);
        }
        Ok(())
    }

    /// Handles a clock's announcement, which arrived at `now`.
    ///
    /// # Errors
    /// Returns the reason if the announcement does not count.
    pub fn handle_announcement(
        &mut self,
        announcement: &Announcement,
        now: Mono,
    ) -> Result<(), Refused> {
        let Announcement {
            mode,
            epoch,
            timeline,
            ref clock_id,
            ..
        } = *announcement;
        if !mode.is_tick(epoch) {
            self.handle_invalid(clock_id, now);
            return Err(Refused::OffGrid);
        }
        let time = self.authority.map(|authority| authority.time_at(now));
        if time.is_some_and(|time| epoch.time() > time.saturating_add(ANNOUNCED_AHEAD_MAX)) {
            // Unless the clock was stepped, its time is that of the edge.
            let known = self.clocks.known(clock_id);
            if let Some(clock) = known.filter(|clock| clock.is_accepted_on(timeline)) {
                clock.note_invalid(now);
            }
            return Err(Refused::TooFarAhead);
        }
        let probation = self.holdover_max;
        let clock = self.clocks.admit(clock_id)?;
        if clock.is_false(now, probation) {
            return Err(Refused::Falseticker);
        }
        let ahead =
            |time: UnixTime| epoch.time().as_nanos().saturating_sub(time.as_nanos()) / 1_000;
        clock.record_announcement(announcement, time.map(ahead), now);
        self.hearing.note_listed(now);
        if let Some(authority) = &mut self.authority {
            authority.vouched_until = self.clocks.vouched_until();
        }
        Ok(())
    }

    /// Handles a message from the login of `clock` that no clock sends: what it contained is not
    /// for the timekeeper. It raises an alarm and has no other effect. The time is not at risk,
    /// since a clock that sends such messages is judged by its answers like any other.
    pub fn handle_invalid(&mut self, clock: &ClockId, now: Mono) {
        if let Some(clock) = self.clocks.known(clock) {
            clock.note_invalid(now);
        }
    }

    /// Notes that a message came from a clock that CLOCKS does not list, which the caller dropped.
    pub fn handle_unlisted(&mut self, now: Mono) {
        self.hearing.note_unlisted(now);
    }

    /// Returns whether the edge must draw another reply subject before its next request, because
    /// nothing has come to three rounds in a row, for 3 s: no late answer either, and not because
    /// there was no connection. Clocks do not know a new reply subject, which matters during a
    /// flood of requests.
    pub fn poll_redraw(&mut self, now: Mono) -> bool {
        self.rounds.take_silence(now)
    }

    /// Ends the rounds that are due, chooses clocks after each of them, and forgets the time if
    /// holdover has lasted too long.
    pub fn poll(&mut self, now: Mono) {
        while self.next_change() <= now {
            if self.valid_until() <= self.rounds.next_end() {
                self.forget(now);
            } else if let Some(asked) = self.rounds.end(now) {
                self.search.note_end(asked);
                self.choose(now);
            }
        }
    }

    /// Returns when [`Self::poll`] next has something to do.
    #[must_use]
    pub fn next_change(&self) -> Mono {
        self.rounds.next_end().min(self.valid_until())
    }

    /// Returns when to call [`Self::poll`] and then [`Self::poll_request`] next.
    #[must_use]
    pub fn next_deadline(&self) -> Mono {
        self.next_change().min(self.next_request())
    }

    /// Returns the current time; `None` while it is unknown. Every change must be sent to the
    /// shards.
    #[must_use]
    pub const fn authority(&self) -> Option<Authority> {
        self.authority
    }

    /// Returns the clock that is followed; `None` in holdover and while the time is unknown.
    #[must_use]
    pub const fn following(&self) -> Option<&ClockId> {
        self.following.as_ref()
    }

    /// Returns the state of timekeeping for /status and metrics.
    #[must_use]
    pub fn status(&self, now: Mono) -> TimeStatus {
        let authority_ns = self.authority.map(|authority| authority.offset_ns);
        let clocks = self.clocks.statuses(authority_ns, &self.hearing, now);
        let alarms = Alarm::ALL
            .into_iter()
            .filter(|alarm| self.is_raised(*alarm, &clocks));
        TimeStatus {
            following: self.following.clone(),
            alarms: alarms.collect(),
            holdover: self.authority.is_some() && self.following.is_none(),
            offset_ns: self.authority.map(|authority| authority.offset_ns),
            bound_us: self.authority.map(|authority| authority.bound_us(now)),
            rounds: self.rounds.counts(),
            rate_ppb: self.rate.map(|seen| seen.ppb.saturating_neg()),
            clocks,
        }
    }

    fn is_raised(&self, alarm: Alarm, clocks: &[ClockStatus]) -> bool {
        match alarm {
            Alarm::NoMajority => self.following.is_some() && self.basis == Basis::OwnTime,
            Alarm::NoneAccepted => {
                let answered = self.clocks.lowest(|clock| clock.estimate.is_some());
                self.authority.is_some() && self.following.is_none() && answered.is_some()
            }
            Alarm::StepPending => self.step.is_some(),
            Alarm::Rate => self.rate.is_some_and(SeenRate::is_off),
            Alarm::SharedId | Alarm::Falseticker | Alarm::Misbehaving | Alarm::Unheard => {
                clocks.iter().any(|clock| clock.is_raised(alarm))
            }
        }
    }

    fn valid_until(&self) -> Mono {
        self.authority
            .map_or(Mono::NEVER, |authority| authority.valid_until)
    }

    /// Returns the edge's own time, by which clocks are judged without a majority.
    fn own_estimate(&self, now: Mono) -> Option<BoundedOffset> {
        let own = self.own_time?;
        Some(BoundedOffset {
            offset_ns: own.offset_ns,
            bound_ns: own.bound_ns_at(SeenRate::drift_divisor(self.machine_rate), now),
        })
    }
}
