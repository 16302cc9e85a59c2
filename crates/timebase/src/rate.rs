//! [`RateWatch`]: how fast this machine's clock runs against a clock, measured over minutes. Error
//! bounds assume that the two differ by at most 200 ppm. If they differ by more, bounds must grow
//! faster, or they would be false between two answers and in holdover. Which of the two is wrong
//! shows only if all clocks say the same.

use std::collections::VecDeque;
use std::time::Duration;

use crate::authority::ASSUMED_PPB;
use crate::mono::Mono;
use crate::sample::OffsetSample;

/// The time between the samples that are kept.
const SPACING: Duration = Duration::from_secs(10);
/// The time over which the rate is measured at least. Two samples with round trips of 40 ms then
/// give it to within 700 ppm, and two with round trips of 1 ms to within 17 ppm.
const SPAN_MIN: Duration = Duration::from_secs(60);
/// The number of samples that are kept, so that the rate is measured over at most five minutes and
/// follows changes of temperature.
const SAMPLES_MAX: usize = 31;
/// The share of the elapsed time, as a divisor, beyond which an offset has jumped and not drifted.
/// No clock's rate is off by a hundredth, but this machine's clock may have stopped unnoticed, as
/// under a hypervisor that pauses it.
const JUMP_DIVISOR: u64 = 100;

/// The rate of a clock minus that of this machine, in parts per billion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeenRate {
    pub(crate) ppb: i64,
    /// How far the measurement may be off.
    error_ppb: u64,
}

impl SeenRate {
    /// Returns whether the rates certainly differ by more than bounds assume.
    pub(crate) const fn is_off(self) -> bool {
        self.ppb.unsigned_abs().saturating_sub(self.error_ppb) > ASSUMED_PPB
    }

    /// Returns the time in nanoseconds in which an offset may drift by one nanosecond, at the rates
    /// that were seen and, if there are none, at those that are assumed.
    pub(crate) fn drift_divisor(seen: Option<Self>) -> u64 {
        let ppb = match seen {
            Some(seen) if seen.is_off() => seen.ppb.unsigned_abs().saturating_add(seen.error_ppb),
            Some(_) | None => ASSUMED_PPB,
        };
        (1_000_000_000 / ppb).max(1)
    }

    /// Returns the rate that all of the clocks with these rates confirm: the one closest to that of
    /// this machine, if all of them run too fast for it, or all too slow. `None` if they do not.
    pub(crate) fn common(mut rates: impl Iterator<Item = Option<Self>>) -> Option<Self> {
        let first = rates.next()??;
        rates.try_fold(first, |least, rate| {
            let rate = rate?;
            let is_same_way = rate.is_off() && (rate.ppb > 0) == (first.ppb > 0);
            let is_less = rate.ppb.abs() < least.ppb.abs();
            is_same_way.then_some(if is_less { rate } else { least })
        })
    }
}

/// The offset of the clock at one moment.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    at: Mono,
    offset_ns: i64,
    error_ns: u64,
}

impl Anchor {
    /// Returns whether the offset has jumped between this moment and the `later` one.
    fn jumps_to(&self, later: &Self) -> bool {
        let elapsed_ns = later.at.as_nanos().saturating_sub(self.at.as_nanos());
        let drift_ns = elapsed_ns / JUMP_DIVISOR;
        let most_ns = self.error_ns.saturating_add(later.error_ns);
        self.offset_ns.abs_diff(later.offset_ns) > most_ns.saturating_add(drift_ns)
    }
}

/// Measures the rate of one clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct RateWatch {
    /// The timeline that the samples are from.
    timeline: Option<u64>,
    anchors: VecDeque<Anchor>,
    /// The last measurement. It is kept when the clock starts another timeline, and after a jump:
    /// its host, and this machine, are still the same.
    seen: Option<SeenRate>,
}

impl RateWatch {
    /// Records the best sample of the clock, which agrees with a majority.
    pub(crate) fn record(&mut self, sample: &OffsetSample) {
        if self.timeline.replace(sample.timeline()) != Some(sample.timeline()) {
            self.anchors.clear();
        }
        let anchor = Anchor {
            at: sample.heard,
            offset_ns: sample.offset_ns,
            error_ns: sample.error_ns(),
        };
        if let Some(last) = self.anchors.back() {
            if anchor.at.since(last.at) < SPACING {
                return;
            }
            if last.jumps_to(&anchor) {
                self.anchors.clear();
            }
        }
        if self.anchors.len() == SAMPLES_MAX {
            self.anchors.pop_front();
        }
        self.anchors.push_back(anchor);
        self.seen = self.measure().or(self.seen);
    }

    /// Forgets the samples, after this machine's clock has stopped for a while.
    pub(crate) fn restart(&mut self) {
        self.anchors.clear();
    }

    /// Returns the last measurement.
    pub(crate) const fn seen(&self) -> Option<SeenRate> {
        self.seen
    }

    fn measure(&self) -> Option<SeenRate> {
        let (first, last) = (self.anchors.front()?, self.anchors.back()?);
        let span = last.at.since(first.at);
        if span < SPAN_MIN {
            return None;
        }
        let span_ns = i128::try_from(span.as_nanos()).ok()?;
        let ppb = |ns: i128| ns * 1_000_000_000 / span_ns;
        let moved_ns = i128::from(last.offset_ns) - i128::from(first.offset_ns);
        let error_ns = i128::from(first.error_ns) + i128::from(last.error_ns);
        Some(SeenRate {
            ppb: i64::try_from(ppb(moved_ns)).ok()?,
            error_ppb: u64::try_from(ppb(error_ns)).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Reply;

    /// Records what is heard once per second, with this round trip, while this machine runs `ppm`
    /// slower than the clock.
    fn hear(
        watch: &mut RateWatch,
        timeline: u64,
        ppm: u64,
        rtt_us: u64,
        span: std::ops::Range<u64>,
    ) {
        hear_from(watch, timeline, BASE_US, ppm, rtt_us, span);
    }

    /// The clock's time when the machine's is zero, in microseconds.
    const BASE_US: i64 = 1_000_000_000;

    /// Does the same for a clock that is ahead of the machine by `base_us` at first.
    fn hear_from(
        watch: &mut RateWatch,
        timeline: u64,
        base_us: i64,
        ppm: u64,
        rtt_us: u64,
        span: std::ops::Range<u64>,
    ) {
        for second in span {
            let asked = Mono::ZERO + Duration::from_secs(second);
            let heard = asked + Duration::from_micros(rtt_us);
            // The answer says either end of the round trip, whichever is worse.
            let way_us = if second.is_multiple_of(2) { 0 } else { rtt_us };
            let passed_us = second * 1_000_000 + way_us + second * ppm;
            let unix_us = base_us + i64::try_from(passed_us).unwrap();
            let reply = Reply {
                nonce: 0,
                clock_id: "a".parse().unwrap(),
                rank: 0,
                received_unix_us: unix_us,
                sent_unix_us: unix_us,
                clock_error_us: 0,
                synchronized: true,
                timeline,
            };
            let sample = OffsetSample::new(&reply, asked, heard).unwrap();
            watch.record(&sample);
        }
    }

    fn seen_after(ppm: u64, rtt_us: u64) -> SeenRate {
        let mut watch = RateWatch::default();
        hear(&mut watch, 1, ppm, rtt_us, 0..60);
        assert_eq!(watch.seen(), None);
        hear(&mut watch, 1, ppm, rtt_us, 60..400);
        watch.seen().unwrap()
    }

    #[test]
    fn only_a_difference_that_is_certain_counts() {
        for (ppm, rtt_us, is_off) in [
            (0, 400, false),
            (190, 400, false),
            (210, 400, true),
            (1_000, 400, true),
            (100, 40_000, false),
            (250, 40_000, false),
            (1_000, 40_000, true),
        ] {
            let seen = seen_after(ppm, rtt_us);
            assert_eq!(seen.is_off(), is_off, "{ppm} ppm, {rtt_us} µs: {seen:?}");
            let is_within =
                seen.ppb.abs_diff(i64::try_from(ppm).unwrap() * 1_000) <= seen.error_ppb + 1;
            assert!(is_within, "{ppm} ppm: {seen:?}");
        }
    }

    #[test]
    fn the_assumed_drift_is_at_least_the_difference_that_is_seen() {
        let mut watch = RateWatch::default();
        let divisor = |watch: &RateWatch| SeenRate::drift_divisor(watch.seen());
        assert_eq!(divisor(&watch), 5_000);
        hear(&mut watch, 1, 1_000, 400, 0..400);
        let seen = divisor(&watch);
        assert!((980..=1_000).contains(&seen), "{seen}");
        // The clock was stepped, and nothing is known about the new timeline yet.
        hear(&mut watch, 2, 0, 400, 400..460);
        assert_eq!(divisor(&watch), seen);
        hear(&mut watch, 2, 0, 400, 460..461);
        assert_eq!(divisor(&watch), 5_000);
    }

    #[test]
    fn only_what_all_clocks_say_is_about_this_machine() {
        let rate = |ppm: i64| {
            Some(SeenRate {
                ppb: ppm * 1_000,
                error_ppb: 10_000,
            })
        };
        let common = |ppms: &[i64]| SeenRate::common(ppms.iter().map(|ppm| rate(*ppm)));
        assert_eq!(common(&[1_000, 900, 1_100]), rate(900));
        assert_eq!(common(&[-1_000, -900]), rate(-900));
        assert_eq!(common(&[600, 0]), None);
        assert_eq!(common(&[600, -600]), None);
        assert_eq!(common(&[]), None);
        assert_eq!(SeenRate::common([rate(600), None].into_iter()), None);
    }

    #[test]
    fn a_pause_is_not_taken_for_a_rate() {
        let mut watch = RateWatch::default();
        hear(&mut watch, 1, 0, 400, 0..100);
        watch.restart();
        let slept = 30_000_000;
        hear(&mut watch, 1, slept, 400, 100..102);
        assert_eq!(watch.seen().map(|seen| seen.ppb), Some(0));
    }

    #[test]
    fn a_jump_on_the_same_timeline_is_not_taken_for_a_rate() {
        for jump_us in [250_000, 30_000_000, 300_000_000, -250_000, -30_000_000] {
            let mut watch = RateWatch::default();
            hear(&mut watch, 1, 50, 400, 0..400);
            let before = watch.seen();
            assert!(before.is_some());
            // Nothing is measured again before the minute after the jump is over.
            hear_from(&mut watch, 1, BASE_US + jump_us, 50, 400, 400..460);
            assert_eq!(watch.seen(), before, "{jump_us} µs");
            hear_from(&mut watch, 1, BASE_US + jump_us, 50, 400, 460..900);
            let seen = watch.seen().unwrap();
            assert!(!seen.is_off(), "{jump_us} µs: {seen:?}");
            assert!(seen.ppb.abs_diff(50_000) <= seen.error_ppb + 1, "{seen:?}");
        }
    }
}
