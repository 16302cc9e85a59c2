//! [`HeardClock`]: everything that an edge remembers about one clock. It only keeps records; the
//! timekeeper draws the conclusions.

use std::collections::VecDeque;
use std::time::Duration;

use crate::authority::micros;
use crate::choice::Stance;
use crate::clock_id::ClockId;
use crate::grid::Epoch;
use crate::message::{Announcement, Refused, Reply};
use crate::mono::Mono;
use crate::rate::{RateWatch, SeenRate};
use crate::sample::{BoundedOffset, OffsetSample, OffsetSamples};
use crate::status::{ClockState, ClockStatus};

/// The number of answered requests whose timelines are remembered, to detect a second answer to the
/// same request. It is small because two answers to one request arrive close together.
const ANSWERS_MAX: usize = 8;

/// The most by which an announced epoch may be earlier than the greatest on its timeline. A clock
/// announces only ticks of the next 10 s at most, so an honest one stays well below.
const BEHIND_MAX: Duration = Duration::from_secs(20);

/// A clock's information about itself in its latest answer.
#[derive(Clone, Copy, Debug)]
struct SelfReport {
    rank: u32,
    clock_error_us: u32,
    synchronized: bool,
}

/// What is remembered of an answer.
#[derive(Clone, Copy, Debug)]
struct KnownAnswer {
    nonce: u64,
    timeline: u64,
    sent_unix_us: i64,
}

/// The time during which an accepted clock has differed from a majority by more than the tolerance,
/// but by no more than an accepted clock may.
#[derive(Clone, Copy, Debug)]
struct Straying {
    since: Mono,
    last: Mono,
}

/// One clock, as heard by an edge.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeardClock {
    samples: OffsetSamples,
    self_report: Option<SelfReport>,
    /// The latest answers, including late ones.
    answers: VecDeque<KnownAnswer>,
    /// The timeline of the latest announcements, and the greatest epoch announced on it.
    announced: Option<(u64, Epoch)>,
    /// The timeline of the announcements before those.
    former_timeline: Option<u64>,
    last_announced: Option<Mono>,
    announced_ahead_us: Option<i64>,
    /// When the clock was last marked as a falseticker.
    false_since: Option<Mono>,
    /// When two hosts were last found to answer under this id.
    shared_since: Option<Mono>,
    /// When a message that no clock sends last came from the clock's login.
    invalid_since: Option<Mono>,
    /// The best estimate of the clock's offset, as of the last choice.
    pub(crate) estimate: Option<BoundedOffset>,
    /// Its rate, measured while it was accepted by a majority.
    rate: RateWatch,
    /// The clock's stance, as of the last choice.
    pub(crate) stance: Option<Stance>,
    straying: Option<Straying>,
    /// Whether the last choice accepted the clock.
    pub(crate) accepted: bool,
}

impl HeardClock {
    /// Records that the clock answered a request, in time or late.
    pub(crate) fn record_answer(&mut self, reply: &Reply, now: Mono) -> Result<(), Refused> {
        let mut known = self.answers.iter();
        if let Some(&known) = known.find(|known| known.nonce == reply.nonce) {
            if known.timeline == reply.timeline {
                // A clock answers once. An answer may be delivered twice, but not with other times.
                if known.sent_unix_us != reply.sent_unix_us {
                    self.note_invalid(now);
                }
                return Err(Refused::Duplicate);
            }
            self.false_since = Some(now);
            self.shared_since = Some(now);
            return Err(Refused::SharedId);
        }
        if self.answers.len() == ANSWERS_MAX {
            self.answers.pop_front();
        }
        self.answers.push_back(KnownAnswer {
            nonce: reply.nonce,
            timeline: reply.timeline,
            sent_unix_us: reply.sent_unix_us,
        });
        Ok(())
    }

    pub(crate) fn insert(&mut self, sample: OffsetSample, reply: &Reply) {
        self.samples.insert(sample);
        self.self_report = Some(SelfReport {
            rank: reply.rank,
            clock_error_us: reply.clock_error_us,
            synchronized: reply.synchronized,
        });
    }

    /// Records an announcement, and keeps its epoch if that is the greatest on its timeline. The
    /// announcement came `ahead_us` before the tick's authority time; `None` if the time is
    /// unknown. A clock neither returns to its former timeline nor goes far back on one.
    pub(crate) fn record_announcement(
        &mut self,
        announcement: &Announcement,
        ahead_us: Option<i64>,
        now: Mono,
    ) {
        self.last_announced = Some(now);
        let Announcement {
            timeline, epoch, ..
        } = *announcement;
        match self.announced {
            Some((on, until)) if on == timeline && until >= epoch => {
                if epoch.time().saturating_add(BEHIND_MAX) < until.time() {
                    self.note_invalid(now);
                }
                return;
            }
            Some((on, _)) if on != timeline => {
                if self.former_timeline == Some(timeline) {
                    self.note_invalid(now);
                }
                self.former_timeline = Some(on);
            }
            Some(_) | None => {}
        }
        self.announced = Some((timeline, epoch));
        self.announced_ahead_us = ahead_us.or(self.announced_ahead_us);
    }

    /// Forgets the clock's time, which is no longer known: not when it was wrong, or what it
    /// announced.
    pub(crate) fn forget_samples(&mut self) {
        self.samples = OffsetSamples::default();
        self.rate.restart();
        self.estimate = None;
        self.stance = None;
        self.accepted = false;
    }

    /// Returns whether the clock is accepted, and its answers are on this timeline.
    pub(crate) fn is_accepted_on(&self, timeline: u64) -> bool {
        self.accepted && self.samples.timeline() == Some(timeline)
    }

    /// Returns the last tick that the clock vouches for on its current timeline.
    pub(crate) fn vouches_until(&self) -> Option<Epoch> {
        let (timeline, epoch) = self.announced?;
        (self.samples.timeline() == Some(timeline)).then_some(epoch)
    }

    /// Forgets the announced epoch if it is later than `latest`.
    pub(crate) fn void_after(&mut self, latest: Epoch) {
        self.announced = self.announced.filter(|&(_, epoch)| epoch <= latest);
    }

    /// Returns when the clock's last answer was received.
    pub(crate) fn last_heard(&self) -> Option<Mono> {
        self.samples.last_heard()
    }

    /// Returns when the clock last answered or announced.
    pub(crate) fn last_message(&self) -> Option<Mono> {
        self.samples.last_heard().max(self.last_announced)
    }

    pub(crate) fn best_sample(&self, now: Mono) -> Option<OffsetSample> {
        self.samples.best(now)
    }

    /// Records the clock's rate by its best sample.
    pub(crate) fn record_rate(&mut self, now: Mono) {
        if let Some(sample) = self.samples.best(now) {
            self.rate.record(&sample);
        }
    }

    /// Returns the clock's rate as last measured.
    pub(crate) const fn rate(&self) -> Option<SeenRate> {
        self.rate.seen()
    }

    pub(crate) fn rank(&self) -> Option<u32> {
        self.self_report.map(|self_report| self_report.rank)
    }

    pub(crate) fn clock_error_us(&self) -> u32 {
        self.self_report
            .map_or(0, |self_report| self_report.clock_error_us)
    }

    /// Sets the clock's stance. It is `lenient`, as counted with the wider tolerance of accepted
    /// clocks. But once this has made a difference for `patience`, it is `strict`, so that edges
    /// that do not accept the clock and edges that do soon follow the same clock again. The wait
    /// starts again only after the clock has agreed for `patience`.
    pub(crate) fn judge(&mut self, strict: Stance, lenient: Stance, now: Mono, patience: Duration) {
        let straying = self.straying;
        self.straying = match (strict, lenient) {
            (Stance::WithMajority, _) => straying.filter(|it| now.since(it.last) < patience),
            (_, Stance::WithMajority) => Some(Straying {
                since: straying.map_or(now, |it| it.since),
                last: now,
            }),
            (_, _) => None,
        };
        let is_over = |it: Straying| now.since(it.since) >= patience;
        self.stance = Some(if self.straying.is_some_and(is_over) {
            strict
        } else {
            lenient
        });
    }

    /// Marks the clock as a falseticker.
    pub(crate) fn mark_false(&mut self, now: Mono) {
        self.false_since = Some(now);
    }

    /// Clears the falseticker mark.
    pub(crate) fn clear_false(&mut self) {
        self.false_since = None;
    }

    /// Returns whether the clock was marked as a falseticker less than `probation` ago.
    pub(crate) fn is_false(&self, now: Mono, probation: Duration) -> bool {
        self.false_since
            .is_some_and(|marked| now.since(marked) < probation)
    }

    /// Returns whether two hosts answered under this id less than `probation` ago.
    pub(crate) fn is_shared(&self, now: Mono, probation: Duration) -> bool {
        self.shared_since
            .is_some_and(|seen| now.since(seen) < probation)
    }

    /// Notes that a message that no clock sends came from the clock's login.
    pub(crate) fn note_invalid(&mut self, now: Mono) {
        self.invalid_since = Some(now);
    }

    /// Returns whether such a message came less than `probation` ago.
    pub(crate) fn is_misbehaving(&self, now: Mono, probation: Duration) -> bool {
        self.invalid_since
            .is_some_and(|seen| now.since(seen) < probation)
    }

    /// Returns the clock's status at `now`, when authority time has the offset `authority_ns`.
    /// Faults of the clock count for `probation`.
    pub(crate) fn status(
        &self,
        id: &ClockId,
        authority_ns: Option<i64>,
        now: Mono,
        probation: Duration,
    ) -> ClockStatus {
        let state = match self.estimate {
            _ if self.is_false(now, probation) => ClockState::False,
            None => ClockState::Silent,
            Some(_) if self.accepted => ClockState::Accepted,
            Some(_) if authority_ns.is_none() => ClockState::Heard,
            Some(_) => ClockState::Disagrees,
        };
        let ahead_ns = |(mine, authority_ns): (BoundedOffset, i64)| {
            mine.offset_ns.saturating_sub(authority_ns)
        };
        ClockStatus {
            id: id.clone(),
            rank: self.rank(),
            state,
            is_shared: self.is_shared(now, probation),
            is_misbehaving: self.is_misbehaving(now, probation),
            is_unheard: false,
            offset_us: self
                .estimate
                .zip(authority_ns)
                .map(|pair| ahead_ns(pair) / 1_000),
            bound_us: self.estimate.map(|estimate| micros(estimate.bound_ns)),
            rate_ppb: self.rate().map(|seen| seen.ppb.saturating_neg()),
            clock_error_us: self
                .self_report
                .map(|self_report| self_report.clock_error_us),
            synchronized: self.self_report.map(|self_report| self_report.synchronized),
            announced_ahead_us: self.announced_ahead_us,
        }
    }
}
