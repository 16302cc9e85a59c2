//! [`HeardClock`]: everything an edge remembers of one clock. It keeps and counts; what follows from it is the timekeeper's choice.

use std::collections::VecDeque;
use std::time::Duration;

use crate::authority::micros;
use crate::choice::Stance;
use crate::clock_id::ClockId;
use crate::grid::Epoch;
use crate::message::{Announcement, Refused, Reply};
use crate::mono::Mono;
use crate::sample::{BoundedOffset, OffsetSample, OffsetSamples};
use crate::status::{ClockState, ClockStatus};

/// For how many answered requests it is remembered under which timeline: two answers to one request come close together.
const ANSWERS_MAX: usize = 8;

/// What a clock's latest answer said of the clock itself.
#[derive(Clone, Copy, Debug)]
struct SelfReport {
    rank: u32,
    clock_error_us: u32,
    synchronized: bool,
}

/// One clock, as an edge has heard it.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeardClock {
    samples: OffsetSamples,
    about: Option<SelfReport>,
    /// The requests answered last, late answers included, and under which timeline.
    answers: VecDeque<(u64, u64)>,
    /// The greatest epoch announced, and the timeline on which that was.
    announced: Option<(u64, Epoch)>,
    last_announced: Option<Mono>,
    announced_ahead_us: Option<i64>,
    false_since: Option<Mono>,
    shared_since: Option<Mono>,
    /// As of the last choice: the best estimate, where it stands, and whether the clock is believed.
    pub(crate) estimate: Option<BoundedOffset>,
    pub(crate) stance: Option<Stance>,
    pub(crate) accepted: bool,
}

impl HeardClock {
    /// Notes that the clock answered a request, in time or late.
    pub(crate) fn note_answer(&mut self, reply: &Reply, now: Mono) -> Result<(), Refused> {
        let known = self.answers.iter().find(|(nonce, _)| *nonce == reply.nonce);
        if let Some(&(_, timeline)) = known {
            if timeline == reply.timeline {
                return Err(Refused::Duplicate);
            }
            self.false_since = Some(now);
            self.shared_since = Some(now);
            return Err(Refused::SharedId);
        }
        if self.answers.len() == ANSWERS_MAX {
            self.answers.pop_front();
        }
        self.answers.push_back((reply.nonce, reply.timeline));
        Ok(())
    }

    pub(crate) fn insert(&mut self, sample: OffsetSample, reply: &Reply) {
        self.samples.insert(sample);
        self.about = Some(SelfReport {
            rank: reply.rank,
            clock_error_us: reply.clock_error_us,
            synchronized: reply.synchronized,
        });
    }

    /// Keeps the announced epoch if it is the greatest on its timeline; `ahead_us` before its authority time, where that is known.
    pub(crate) fn announce(
        &mut self,
        announcement: &Announcement,
        ahead_us: Option<i64>,
        now: Mono,
    ) {
        self.last_announced = Some(now);
        let Announcement {
            timeline, epoch, ..
        } = *announcement;
        if self
            .announced
            .is_some_and(|(on, until)| on == timeline && until >= epoch)
        {
            return;
        }
        self.announced = Some((timeline, epoch));
        self.announced_ahead_us = ahead_us.or(self.announced_ahead_us);
    }

    /// Until when the clock vouches for ticks, on its present timeline.
    pub(crate) fn vouches_until(&self) -> Option<Epoch> {
        let (timeline, epoch) = self.announced?;
        (self.samples.timeline() == Some(timeline)).then_some(epoch)
    }

    /// Voids an announcement of a later tick than `latest`.
    pub(crate) fn void_after(&mut self, latest: Epoch) {
        self.announced = self.announced.filter(|&(_, epoch)| epoch <= latest);
    }

    pub(crate) fn last_heard(&self) -> Option<Mono> {
        self.samples.last_heard()
    }

    /// When the clock last said anything.
    pub(crate) fn last_word(&self) -> Option<Mono> {
        self.samples.last_heard().max(self.last_announced)
    }

    pub(crate) fn best_sample(&self, now: Mono) -> Option<OffsetSample> {
        self.samples.best(now)
    }

    pub(crate) fn rank(&self) -> Option<u32> {
        self.about.map(|about| about.rank)
    }

    pub(crate) fn clock_error_us(&self) -> u32 {
        self.about.map_or(0, |about| about.clock_error_us)
    }

    /// Notes that the clock disagrees with a majority.
    pub(crate) fn blame(&mut self, now: Mono) {
        self.false_since = Some(now);
    }

    /// Forgets what made the clock a falseticker.
    pub(crate) fn pardon(&mut self) {
        self.false_since = None;
    }

    /// Whether the clock gave reason to be called a falseticker less than `probation` ago.
    pub(crate) fn is_false(&self, now: Mono, probation: Duration) -> bool {
        self.false_since
            .is_some_and(|blamed| now.since(blamed) < probation)
    }

    /// Whether two hosts answered under this id less than `probation` ago.
    pub(crate) fn is_shared(&self, now: Mono, probation: Duration) -> bool {
        self.shared_since
            .is_some_and(|seen| now.since(seen) < probation)
    }

    pub(crate) fn status(
        &self,
        id: &ClockId,
        own: Option<BoundedOffset>,
        is_false: bool,
    ) -> ClockStatus {
        let state = match self.estimate {
            _ if is_false => ClockState::False,
            None => ClockState::Silent,
            Some(_) if self.accepted => ClockState::Accepted,
            Some(_) if own.is_none() => ClockState::Heard,
            Some(_) => ClockState::Disagrees,
        };
        let ahead_ns = |(mine, own): (BoundedOffset, BoundedOffset)| {
            mine.offset_ns.saturating_sub(own.offset_ns)
        };
        ClockStatus {
            id: id.clone(),
            rank: self.rank(),
            state,
            offset_us: self.estimate.zip(own).map(|pair| ahead_ns(pair) / 1_000),
            bound_us: self.estimate.map(|estimate| micros(estimate.bound_ns)),
            clock_error_us: self.about.map(|about| about.clock_error_us),
            synchronized: self.about.map(|about| about.synchronized),
            announced_ahead_us: self.announced_ahead_us,
        }
    }
}
