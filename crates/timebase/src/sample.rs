//! The recent offset samples of one clock, and which of them is best. This module knows nothing of
//! other clocks.

use std::collections::VecDeque;
use std::time::Duration;

use crate::authority::DRIFT_DIVISOR;
use crate::message::{Refused, Reply};
use crate::mono::Mono;
use crate::unix::UnixTime;

/// The number of samples to choose the best from. Any further samples would be older.
const SAMPLES_MAX: usize = 8;
/// The age beyond which a sample no longer counts.
const SAMPLE_AGE_MAX: Duration = Duration::from_secs(10);
/// The start of the year 2200 in microseconds. No clock that reads this or later is right, and
/// below it no sum of nanoseconds in this module can overflow.
const UNIX_US_END: i64 = 7_258_118_400_000_000;

/// Authority time minus the machine's own, with its error bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BoundedOffset {
    pub(crate) offset_ns: i64,
    pub(crate) bound_ns: u64,
}

impl BoundedOffset {
    /// Returns whether the true offsets may be within `tolerance_ns` of each other.
    pub(crate) const fn agrees_with(&self, other: &Self, tolerance_ns: u64) -> bool {
        let most = self
            .bound_ns
            .saturating_add(other.bound_ns)
            .saturating_add(tolerance_ns);
        self.offset_ns.abs_diff(other.offset_ns) <= most
    }

    /// Returns whether this estimate contradicts the `older` one of the same clock: they cannot
    /// both hold, or the older one is sharper, but its offset is not possible according to this
    /// one. After a small step, the intervals often overlap, and the older offset would be used for
    /// as long as its bound is the lower one.
    const fn contradicts(&self, older: &Self) -> bool {
        let apart_ns = self.offset_ns.abs_diff(older.offset_ns);
        let is_ruled_out = older.bound_ns < self.bound_ns && apart_ns > self.bound_ns;
        is_ruled_out || !self.agrees_with(older, 0)
    }
}

/// The measurement from one answer, as in NTP: the offset is accurate to within half the round
/// trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OffsetSample {
    pub(crate) offset_ns: i64,
    rtt_ns: u64,
    pub(crate) heard: Mono,
    timeline: u64,
}

impl OffsetSample {
    /// Computes the sample from `reply`, requested at `asked` and received at `heard`.
    pub(crate) fn new(reply: &Reply, asked: Mono, heard: Mono) -> Result<Self, Refused> {
        let received_ns = plausible(reply.received_unix_us)?;
        let sent_ns = plausible(reply.sent_unix_us)?;
        let worked_ns = u64::try_from(sent_ns - received_ns).map_err(|_| Refused::Implausible)?;
        let took_ns = heard.as_nanos().saturating_sub(asked.as_nanos());
        let rtt_ns = took_ns
            .checked_sub(worked_ns)
            .ok_or(Refused::NegativeRoundTrip)?;
        let there = i128::from(received_ns) - i128::from(asked.as_nanos());
        let back = i128::from(sent_ns) - i128::from(heard.as_nanos());
        let offset_ns = i64::try_from((there + back) / 2).map_err(|_| Refused::Implausible)?;
        Ok(Self {
            offset_ns,
            rtt_ns,
            heard,
            timeline: reply.timeline,
        })
    }

    /// Returns the offset's error bound at `now`. The clock was read up to a round trip before its
    /// answer was received, so drift is counted from that far back.
    pub(crate) fn bound_ns(&self, now: Mono) -> u64 {
        self.bound_ns_with(DRIFT_DIVISOR, now)
    }

    /// Returns the same for an offset that drifts by one nanosecond in `drift_divisor`.
    pub(crate) fn bound_ns_with(&self, drift_divisor: u64, now: Mono) -> u64 {
        let age_ns = now.as_nanos().saturating_sub(self.heard.as_nanos());
        self.error_ns() + age_ns.saturating_add(self.rtt_ns) / drift_divisor
    }

    /// Returns the offset's error when it was measured, without any drift since.
    pub(crate) const fn error_ns(&self) -> u64 {
        self.rtt_ns / 2
    }

    /// Returns the timeline of the clock that it is from.
    pub(crate) const fn timeline(&self) -> u64 {
        self.timeline
    }

    pub(crate) fn estimate(&self, now: Mono) -> BoundedOffset {
        BoundedOffset {
            offset_ns: self.offset_ns,
            bound_ns: self.bound_ns(now),
        }
    }
}

/// Returns whether no clock's time is out of the range in which clocks are.
pub(crate) fn is_possible(reply: &Reply) -> bool {
    plausible(reply.received_unix_us).is_ok() && plausible(reply.sent_unix_us).is_ok()
}

fn plausible(unix_us: i64) -> Result<i64, Refused> {
    if !(0..UNIX_US_END).contains(&unix_us) {
        return Err(Refused::Implausible);
    }
    UnixTime::from_micros(unix_us)
        .map(UnixTime::as_nanos)
        .ok_or(Refused::Implausible)
}

/// A clock's latest samples, all from one timeline and none contradicting another. The newest is
/// kept however old it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct OffsetSamples(VecDeque<OffsetSample>);

impl OffsetSamples {
    /// Inserts the next sample. If it is from another timeline or contradicts an older sample, all
    /// older samples are dropped: the clock was stepped, or this machine was suspended.
    pub(crate) fn insert(&mut self, sample: OffsetSample) {
        let contradicts = |old: &OffsetSample| {
            let (old, new) = (old.estimate(sample.heard), sample.estimate(sample.heard));
            new.contradicts(&old)
        };
        let continues = self
            .0
            .iter()
            .all(|old| old.timeline == sample.timeline && !contradicts(old));
        if !continues {
            self.0.clear();
        }
        if self.0.len() == SAMPLES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    /// Returns the sample with the lowest error bound among those that are not too old.
    pub(crate) fn best(&self, now: Mono) -> Option<OffsetSample> {
        let young = self
            .0
            .iter()
            .filter(|sample| now.since(sample.heard) <= SAMPLE_AGE_MAX);
        young.min_by_key(|sample| sample.bound_ns(now)).copied()
    }

    /// Returns when the last answer was received.
    pub(crate) fn last_heard(&self) -> Option<Mono> {
        self.0.back().map(|sample| sample.heard)
    }

    /// Returns the clock's current timeline.
    pub(crate) fn timeline(&self) -> Option<u64> {
        self.0.back().map(|sample| sample.timeline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Mono = Mono::from_nanos(7_000_000);
    const HEARD: Mono = Mono::from_nanos(8_000_000);

    fn reply(received_unix_us: i64, sent_unix_us: i64) -> Reply {
        Reply {
            nonce: 0,
            clock_id: "a".parse().unwrap(),
            rank: 0,
            received_unix_us,
            sent_unix_us,
            clock_error_us: 0,
            synchronized: true,
            timeline: 0,
        }
    }

    #[test]
    fn implausible_times_are_refused() {
        let times = [
            (i64::MIN, i64::MIN),
            (-1, 0),
            (0, UNIX_US_END),
            (i64::MAX, i64::MAX),
            (0, i64::MAX),
            (i64::MIN, i64::MAX),
            (i64::MAX, i64::MIN),
        ];
        for (received, sent) in times {
            let sample = OffsetSample::new(&reply(received, sent), ASKED, HEARD);
            assert_eq!(sample, Err(Refused::Implausible), "{received}, {sent}");
        }
        let latest = reply(UNIX_US_END - 1, UNIX_US_END - 1);
        assert!(OffsetSample::new(&latest, ASKED, HEARD).is_ok());
        // The latest plausible time does not overflow, even if the machine's own time is zero.
        assert!(OffsetSample::new(&latest, Mono::ZERO, Mono::ZERO).is_ok());
    }

    #[test]
    fn an_answer_sent_before_its_request_was_read_is_refused() {
        assert_eq!(
            OffsetSample::new(&reply(5_000, 4_999), ASKED, HEARD),
            Err(Refused::Implausible)
        );
    }

    #[test]
    fn a_clock_cannot_take_longer_than_the_round_trip() {
        let taking = |us: i64| OffsetSample::new(&reply(5_000, 5_000 + us), ASKED, HEARD);
        assert_eq!(taking(1_000).map(|sample| sample.rtt_ns), Ok(0));
        assert_eq!(taking(1_001), Err(Refused::NegativeRoundTrip));
    }

    #[test]
    fn a_sample_counts_for_ten_seconds() {
        let mut samples = OffsetSamples::default();
        samples.insert(OffsetSample::new(&reply(5_000, 5_000), ASKED, HEARD).unwrap());
        let old = HEARD + SAMPLE_AGE_MAX;
        assert!(samples.best(old).is_some());
        assert_eq!(samples.best(old + Duration::from_nanos(1)), None);
        assert_eq!(samples.last_heard(), Some(HEARD));
    }

    /// Returns the offset that is used after two samples a second apart: one with a round trip of
    /// 200 µs and an offset of 0, and then this one.
    fn used_after(offset_us: i64, rtt_us: u64) -> Option<i64> {
        let sample = |offset_us: i64, rtt_us: u64, heard: Mono| OffsetSample {
            offset_ns: offset_us * 1_000,
            rtt_ns: rtt_us * 1_000,
            heard,
            timeline: 0,
        };
        let later = HEARD + Duration::from_secs(1);
        let mut samples = OffsetSamples::default();
        samples.insert(sample(0, 200, HEARD));
        samples.insert(sample(offset_us, rtt_us, later));
        samples.best(later).map(|best| best.offset_ns / 1_000)
    }

    #[test]
    fn an_older_sharper_sample_is_used_unless_a_newer_one_rules_it_out() {
        // The older bound is 0.3 ms by now, and the newer one 1 ms.
        assert_eq!(used_after(990, 2_000), Some(0));
        assert_eq!(used_after(-990, 2_000), Some(0));
        assert_eq!(used_after(1_010, 2_000), Some(1_010));
        assert_eq!(used_after(-1_250, 2_000), Some(-1_250));
        assert_eq!(used_after(5_000, 2_000), Some(5_000));
        assert_eq!(
            used_after(290, 200),
            Some(290),
            "the newer one is the sharper one"
        );
    }
}
