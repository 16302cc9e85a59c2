//! What one clock has lately said about the time: samples of its offset, and which of them counts. Knows nothing of other clocks.

use std::collections::VecDeque;
use std::time::Duration;

use crate::authority::drift_ns;
use crate::message::{Refused, Reply};
use crate::mono::Mono;
use crate::unix::UnixTime;

/// Of how many samples the best counts: more would only be older.
const SAMPLES_MAX: usize = 8;
/// The greatest age at which a sample counts.
const SAMPLE_AGE_MAX: Duration = Duration::from_secs(10);
/// The first moment of the year 2200 in microseconds. No clock that says so or more is right, and below it no sum of nanoseconds
/// here can overflow.
const UNIX_US_END: i64 = 7_258_118_400_000_000;

/// Authority time minus the machine's own, with its greatest error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BoundedOffset {
    pub(crate) offset_ns: i64,
    pub(crate) bound_ns: u64,
}

impl BoundedOffset {
    /// Whether the true offsets may differ by no more than `tolerance_ns`.
    pub(crate) const fn agrees_with(&self, other: &Self, tolerance_ns: u64) -> bool {
        let most = self
            .bound_ns
            .saturating_add(other.bound_ns)
            .saturating_add(tolerance_ns);
        self.offset_ns.abs_diff(other.offset_ns) <= most
    }
}

/// One answer, as in NTP: the offset is right to within half the round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OffsetSample {
    pub(crate) offset_ns: i64,
    rtt_ns: u64,
    pub(crate) heard: Mono,
    timeline: u64,
}

impl OffsetSample {
    /// The sample that `reply` gives, asked for at `asked` and heard at `heard`.
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

    /// The offset's greatest error at `now`. The clock was read a way back before the answer was heard, at most a round trip: so
    /// the error has been growing since then.
    pub(crate) fn bound_ns(&self, now: Mono) -> u64 {
        let age_ns = now.as_nanos().saturating_sub(self.heard.as_nanos());
        self.rtt_ns / 2 + drift_ns(age_ns.saturating_add(self.rtt_ns))
    }

    pub(crate) fn estimate(&self, now: Mono) -> BoundedOffset {
        BoundedOffset {
            offset_ns: self.offset_ns,
            bound_ns: self.bound_ns(now),
        }
    }
}

fn plausible(unix_us: i64) -> Result<i64, Refused> {
    if !(0..UNIX_US_END).contains(&unix_us) {
        return Err(Refused::Implausible);
    }
    UnixTime::from_micros(unix_us)
        .map(UnixTime::as_nanos)
        .ok_or(Refused::Implausible)
}

/// A clock's last samples, all of one timeline and none contradicting another. The newest stays, however old.
#[derive(Clone, Debug, Default)]
pub(crate) struct OffsetSamples(VecDeque<OffsetSample>);

impl OffsetSamples {
    /// Takes the next sample. One of another timeline, or whose interval misses an older one's, drops all older ones: the clock
    /// was stepped, or this machine stood still.
    pub(crate) fn insert(&mut self, sample: OffsetSample) {
        let estimate = sample.estimate(sample.heard);
        let continues = self.0.iter().all(|old| {
            old.timeline == sample.timeline && old.estimate(sample.heard).agrees_with(&estimate, 0)
        });
        if !continues {
            self.0.clear();
        }
        if self.0.len() == SAMPLES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    /// The sample with the least bound of those that are not too old.
    pub(crate) fn best(&self, now: Mono) -> Option<OffsetSample> {
        let young = self
            .0
            .iter()
            .filter(|sample| now.since(sample.heard) <= SAMPLE_AGE_MAX);
        young.min_by_key(|sample| sample.bound_ns(now)).copied()
    }

    /// When the clock was last heard.
    pub(crate) fn last_heard(&self) -> Option<Mono> {
        self.0.back().map(|sample| sample.heard)
    }

    /// The clock's present timeline.
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
    fn times_that_no_clock_can_mean_are_refused() {
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
        // Far more than a day of microseconds away from overflow, whatever the machine's own time.
        assert!(OffsetSample::new(&latest, Mono::ZERO, Mono::ZERO).is_ok());
    }

    #[test]
    fn an_answer_that_left_before_its_request_was_read_is_refused() {
        assert_eq!(
            OffsetSample::new(&reply(5_000, 4_999), ASKED, HEARD),
            Err(Refused::Implausible)
        );
    }

    #[test]
    fn a_clock_can_not_take_longer_than_the_round_trip() {
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
}
