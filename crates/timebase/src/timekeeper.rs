//! [`Timekeeper`]: an edge's idea of what time it is. It asks all clocks in rounds, believes some, follows one, holds over when none
//! is left, and says all that in an [`Authority`]. It releases no ticks and sends nothing itself.

mod choosing;

use std::time::Duration;

use crate::authority::Authority;
use crate::clock_id::ClockId;
use crate::heard_clocks::HeardClocks;
use crate::message::{Announcement, Refused, Reply};
use crate::mono::Mono;
use crate::round::Rounds;
use crate::sample::{BoundedOffset, OffsetSample};
use crate::status::{Alarm, TimeStatus};
use crate::unix::UnixTime;

/// How far ahead of authority time an announcement may be: the greatest TICK_LEAD_MS and one second.
const ANNOUNCED_AHEAD_MAX: Duration = Duration::from_secs(11);

/// The settings of a timekeeper.
#[derive(Clone, Debug)]
pub struct TimekeeperConfig {
    /// CLOCKS: the clocks that have a vote; empty: whoever answers.
    pub clocks: Vec<ClockId>,
    /// CLOCK_TOLERANCE_MS: how far clocks may differ and still agree; twice that is a round's length.
    pub tolerance: Duration,
    /// HOLDOVER_MAX: how long after the last answer of a believed clock the time counts as known.
    pub holdover_max: Duration,
}

/// An edge's search for a first clock to follow, or for one after it has forgotten the time.
#[derive(Clone, Copy, Debug)]
struct Search {
    since: Mono,
    /// Rounds begun since then that have ended, answered or not.
    rounds: u32,
    /// When the first answer to one of them came.
    first_answer: Option<Mono>,
}

/// A sole clock's change that is waited out.
#[derive(Clone, Copy, Debug)]
struct PendingStep {
    offset_ns: i64,
    since: Mono,
}

/// What the last choice rested on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ground {
    Majority,
    OwnTime,
}

/// The state machine that keeps authority time on an edge.
#[derive(Clone, Debug)]
pub struct Timekeeper {
    holdover_max: Duration,
    tolerance_ns: u64,
    rounds: Rounds,
    replicas: HeardClocks,
    authority: Option<Authority>,
    following: Option<ClockId>,
    ground: Ground,
    search: Search,
    step: Option<PendingStep>,
    /// The greatest authority time there was in this generation, up to the last choice.
    reached: Option<UnixTime>,
    generation: u32,
    origin: UnixTime,
}

impl Timekeeper {
    /// A timekeeper that does not know the time and asks for it at once. `first_nonce` is random: it numbers its requests.
    #[must_use]
    pub fn new(config: TimekeeperConfig, first_nonce: u64, now: Mono) -> Self {
        let TimekeeperConfig {
            clocks,
            tolerance,
            holdover_max,
        } = config;
        let tolerance_ns = u64::try_from(tolerance.as_nanos()).unwrap_or(u64::MAX);
        Self {
            holdover_max,
            tolerance_ns,
            rounds: Rounds::new(first_nonce, tolerance.saturating_mul(2), now),
            replicas: HeardClocks::new(clocks, holdover_max, tolerance_ns),
            authority: None,
            following: None,
            ground: Ground::Majority,
            search: Search {
                since: now,
                rounds: 0,
                first_answer: None,
            },
            step: None,
            reached: None,
            generation: 0,
            origin: UnixTime::default(),
        }
    }

    /// The number of the request to send to all clocks now, if one is due.
    pub fn poll_request(&mut self, now: Mono) -> Option<u64> {
        self.rounds.ask(now)
    }

    /// When [`Self::poll_request`] has something to give.
    #[must_use]
    pub fn next_request(&self) -> Mono {
        self.rounds.next_request()
    }

    /// Takes a clock's answer, which arrived at `now`. It has no effect before the end of its round.
    ///
    /// # Errors
    /// The answer is no sample, for the given reason.
    pub fn handle_reply(&mut self, reply: &Reply, now: Mono) -> Result<(), Refused> {
        let (asked, until) = self
            .rounds
            .find(reply.nonce)
            .ok_or(Refused::UnknownRequest)?;
        let in_time = if now <= until {
            Ok(())
        } else {
            Err(Refused::Late)
        };
        let sample = in_time.and_then(|()| OffsetSample::new(reply, asked, now));
        // A late answer makes no clock known, but tells of a second host under a known one's name.
        let replica = match sample {
            Ok(_) => self.replicas.admit_answering(&reply.clock_id)?,
            Err(refused) => self.replicas.known(&reply.clock_id).ok_or(refused)?,
        };
        replica.note_answer(reply, now)?;
        replica.insert(sample?, reply);
        if asked >= self.search.since {
            self.search.first_answer.get_or_insert(now);
        }
        Ok(())
    }

    /// Takes a clock's announcement, which arrived at `now`.
    ///
    /// # Errors
    /// The announcement does not count, for the given reason.
    pub fn handle_announcement(
        &mut self,
        announcement: &Announcement,
        now: Mono,
    ) -> Result<(), Refused> {
        let Announcement {
            mode,
            epoch,
            ref clock_id,
            ..
        } = *announcement;
        if !mode.is_tick(epoch) {
            return Err(Refused::OffGrid);
        }
        let time = self.authority.map(|authority| authority.time_at(now));
        if time.is_some_and(|time| epoch.time() > time.saturating_add(ANNOUNCED_AHEAD_MAX)) {
            return Err(Refused::TooFarAhead);
        }
        let probation = self.holdover_max;
        let replica = self.replicas.admit(clock_id)?;
        if replica.is_false(now, probation) {
            return Err(Refused::Falseticker);
        }
        let ahead =
            |time: UnixTime| epoch.time().as_nanos().saturating_sub(time.as_nanos()) / 1_000;
        replica.announce(announcement, time.map(ahead), now);
        if let Some(authority) = &mut self.authority {
            authority.vouched_until = self.replicas.vouched_until();
        }
        Ok(())
    }

    /// Does what is due: ends rounds, chooses, and forgets the time where holdover has lasted too long.
    pub fn poll(&mut self, now: Mono) {
        while self.next_change() <= now {
            if self.valid_until() <= self.rounds.next_end() {
                self.forget(now);
            } else if let Some(asked) = self.rounds.end(now) {
                if asked >= self.search.since {
                    self.search.rounds = self.search.rounds.saturating_add(1);
                }
                self.choose(now);
            }
        }
    }

    /// When [`Self::poll`] has something to do.
    #[must_use]
    pub fn next_change(&self) -> Mono {
        self.rounds.next_end().min(self.valid_until())
    }

    /// When to call [`Self::poll`] and then [`Self::poll_request`] next.
    #[must_use]
    pub fn next_deadline(&self) -> Mono {
        self.next_change().min(self.next_request())
    }

    /// What time it is; none while that is not known. Shards are to have each change of it.
    #[must_use]
    pub const fn authority(&self) -> Option<Authority> {
        self.authority
    }

    /// The clock that is followed; none while the time is unknown, and in holdover.
    #[must_use]
    pub const fn following(&self) -> Option<&ClockId> {
        self.following.as_ref()
    }

    /// What /status and metrics say of the time.
    #[must_use]
    pub fn status(&self, now: Mono) -> TimeStatus {
        let own = self.own_estimate(now);
        let clocks = self.replicas.iter();
        let clocks = clocks
            .map(|(id, replica)| replica.status(id, own, self.replicas.is_false(replica, now)));
        TimeStatus {
            clocks: clocks.collect(),
            following: self.following.clone(),
            alarms: Alarm::ALL
                .into_iter()
                .filter(|alarm| self.is_raised(*alarm, now))
                .collect(),
            holdover: self.authority.is_some() && self.following.is_none(),
            offset_ns: self.authority.map(|authority| authority.offset_ns),
            bound_us: self.authority.map(|authority| authority.bound_us(now)),
        }
    }

    fn is_raised(&self, alarm: Alarm, now: Mono) -> bool {
        match alarm {
            Alarm::NoMajority => self.following.is_some() && self.ground == Ground::OwnTime,
            Alarm::NoneBelieved => {
                let answered = self.replicas.lowest(|replica| replica.estimate.is_some());
                self.authority.is_some() && self.following.is_none() && answered.is_some()
            }
            Alarm::StepPending => self.step.is_some(),
            Alarm::SharedId => self.replicas.any_shared(now),
        }
    }

    fn valid_until(&self) -> Mono {
        self.authority
            .map_or(Mono::NEVER, |authority| authority.valid_until)
    }

    fn own_estimate(&self, now: Mono) -> Option<BoundedOffset> {
        let authority = self.authority?;
        Some(BoundedOffset {
            offset_ns: authority.offset_ns,
            bound_ns: authority.bound_ns_at(now),
        })
    }
}
