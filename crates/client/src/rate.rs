//! [`RateWatch`]: the rate of this machine's clock against authority time, over minutes. Error
//! bounds assume a drift of at most 200 ppm; a machine whose clock is worse is noticed here. The
//! rate is a property of this machine, so it is kept when offsets begin again, as with another
//! edge, until it has been measured again.

use std::collections::VecDeque;
use std::time::Duration;

use tickstorm_timebase::Mono;

/// The drift between the clocks of two machines that is assumed without evidence of more, in parts
/// per million.
pub(crate) const ASSUMED_PPM: u64 = 200;
/// The largest drift that is believed. Beyond it, the bound would say nothing anyway.
const PPM_MAX: u64 = 100_000;
/// The time over which the best sample is chosen.
const WINDOW: Duration = Duration::from_secs(20);
/// The shortest time between two points that shows a rate.
const APART_MIN: Duration = Duration::from_secs(5);
/// The number of points that are kept. The rates between all neighbours must agree, so that a jump
/// of a clock is not taken for a rate.
const POINTS: usize = 5;
/// The smallest number of rates between neighbours that shows a rate.
const RATES_MIN: usize = 3;
/// The shortest time between the first and the last point that shows a rate.
const SPAN_MIN: Duration = Duration::from_secs(60);

/// An offset at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) at: Mono,
    pub(crate) offset_ns: i64,
    pub(crate) error_ns: u64,
}

/// The points of the last minutes.
#[derive(Clone, Debug, Default)]
pub(crate) struct RateWatch {
    points: VecDeque<Point>,
    /// The start of the current window, and the best point in it.
    current: Option<(Mono, Point)>,
    /// The largest drift, in parts per million, that the last measurement allows; at most
    /// [`ASSUMED_PPM`] if that was not certainly exceeded.
    measured_ppm: u64,
}

impl RateWatch {
    pub(crate) fn handle_sample(&mut self, point: Point) {
        let Some((from, best)) = &mut self.current else {
            self.current = Some((point.at, point));
            return;
        };
        if point.error_ns < best.error_ns {
            *best = point;
        }
        if point.at.since(*from) >= WINDOW {
            if self.points.len() == POINTS {
                self.points.pop_front();
            }
            self.points.push_back(*best);
            self.current = None;
            self.measure();
        }
    }

    /// Forgets all points, because offsets to come do not continue those so far. The rate remains.
    pub(crate) fn restart(&mut self) {
        self.points.clear();
        self.current = None;
    }

    /// Returns the drift to assume, in parts per million: what was last measured, if that was
    /// certainly more than [`ASSUMED_PPM`].
    pub(crate) fn drift_ppm(&self) -> u64 {
        self.measured_ppm.max(ASSUMED_PPM)
    }

    fn measure(&mut self) {
        let (Some(&first), Some(last)) = (self.points.front(), self.points.back()) else {
            return;
        };
        if last.at.since(first.at) < SPAN_MIN {
            return;
        }
        let (mut earlier, mut rates) = (first, Vec::with_capacity(POINTS));
        for &later in self.points.iter().skip(1) {
            if later.at.since(earlier.at) >= APART_MIN {
                rates.push(Rate::between(&earlier, &later));
                earlier = later;
            }
        }
        let least = |rates: &[Rate]| rates.iter().map(|rate| rate.least_ppm).max();
        let most = |rates: &[Rate]| rates.iter().map(|rate| rate.most_ppm).min();
        let (Some(least), Some(most)) = (least(&rates), most(&rates)) else {
            return;
        };
        // A clock that jumped has no rate, and another rate each time. The edge's clock may be
        // slewed meanwhile.
        let assumed = i128::from(ASSUMED_PPM);
        if rates.len() < RATES_MIN || least > most.saturating_add(assumed) {
            return;
        }
        let exceeds = |rate: &Rate| rate.least_ppm > assumed;
        let falls_below = |rate: &Rate| rate.most_ppm < -assumed;
        let is_excessive = rates.iter().all(exceeds) || rates.iter().all(falls_below);
        let bound = rates.iter().map(Rate::bound_ppm).max().unwrap_or(PPM_MAX);
        self.measured_ppm = if is_excessive {
            bound
        } else {
            self.measured_ppm.min(bound)
        };
    }
}

/// The interval in which the rate between two points lies, in parts per million.
struct Rate {
    least_ppm: i128,
    most_ppm: i128,
}

impl Rate {
    fn between(earlier: &Point, later: &Point) -> Self {
        let apart_ns = later.at.since(earlier.at).as_nanos();
        let moved_ns = i128::from(later.offset_ns) - i128::from(earlier.offset_ns);
        let errors_ns = i128::from(earlier.error_ns) + i128::from(later.error_ns);
        let ppm =
            |ns: i128| ns.saturating_mul(1_000_000) / i128::try_from(apart_ns).unwrap_or(i128::MAX);
        Self {
            least_ppm: ppm(moved_ns - errors_ns),
            most_ppm: ppm(moved_ns + errors_ns),
        }
    }

    /// Returns the largest drift in the interval, in either direction.
    fn bound_ppm(&self) -> u64 {
        let bound = self
            .least_ppm
            .unsigned_abs()
            .max(self.most_ppm.unsigned_abs());
        u64::try_from(bound).map_or(PPM_MAX, |bound| bound.min(PPM_MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    /// Returns the drift after samples every 10 s for `secs`, with these offsets.
    fn drift_ppm(secs: u64, error_ns: u64, offset_ns: impl Fn(u64) -> i64) -> u64 {
        let mut rate = RateWatch::default();
        learn(&mut rate, 0..secs, error_ns, offset_ns);
        rate.drift_ppm()
    }

    fn learn(
        rate: &mut RateWatch,
        secs: Range<u64>,
        error_ns: u64,
        offset_ns: impl Fn(u64) -> i64,
    ) {
        for sec in secs.step_by(10) {
            rate.handle_sample(Point {
                at: Mono::ZERO + Duration::from_secs(sec),
                offset_ns: offset_ns(sec),
                error_ns,
            });
        }
    }

    fn signed(secs: u64) -> i64 {
        i64::try_from(secs).unwrap()
    }

    #[test]
    fn a_rate_beyond_200_ppm_is_seen_within_two_minutes_in_either_direction() {
        for ppm in [-50_000, -1_000, -300, 300, 1_000, 50_000_i64] {
            let seen = drift_ppm(120, 10_000, |sec| ppm * 1_000 * signed(sec));
            assert!(
                (ppm.unsigned_abs()..=ppm.unsigned_abs() + 2).contains(&seen),
                "{seen} of {ppm}"
            );
        }
        assert_eq!(drift_ppm(120, 0, |sec| 900_000_000 * signed(sec)), PPM_MAX);
    }

    #[test]
    fn an_ordinary_rate_noise_and_a_single_step_are_no_excessive_rate() {
        for ppm in [-200, 0, 50, 200_i64] {
            let seen = drift_ppm(300, 10_000, |sec| ppm * 1_000 * signed(sec));
            assert_eq!(seen, ASSUMED_PPM, "{ppm}");
        }
        let noisy = |sec: u64| {
            if sec.is_multiple_of(20) {
                15_000_000
            } else {
                -15_000_000
            }
        };
        assert_eq!(drift_ppm(300, 16_000_000, noisy), ASSUMED_PPM);
        for step_at in (0..300).step_by(10) {
            let stepped = |sec| if sec < step_at { 0 } else { 40_000_000 };
            assert_eq!(drift_ppm(300, 10_000, stepped), ASSUMED_PPM, "{step_at}");
        }
        assert_eq!(drift_ppm(60, 0, |sec| 1_000_000 * signed(sec)), ASSUMED_PPM);
    }

    #[test]
    fn a_rate_is_kept_until_it_is_measured_again() {
        let mut rate = RateWatch::default();
        let fast = |sec| 2_000_000 * signed(sec);
        learn(&mut rate, 0..120, 10_000, fast);
        let measured = rate.drift_ppm();
        assert!((2_000..2_010).contains(&measured), "{measured}");
        // Another edge, a move or a stall: the offsets begin again elsewhere.
        for from in [200, 250, 300] {
            rate.restart();
            learn(&mut rate, from..from + 40, 10_000, |_| 7);
            assert_eq!(rate.drift_ppm(), measured, "{from}");
        }
        // Errors that allow the old rate do not show another one.
        rate.restart();
        learn(&mut rate, 400..600, 50_000_000, |_| 7);
        assert_eq!(rate.drift_ppm(), measured);
        rate.restart();
        learn(&mut rate, 600..720, 10_000, |_| 7);
        assert_eq!(rate.drift_ppm(), ASSUMED_PPM);
    }

    #[test]
    fn jumps_are_no_rate_and_do_not_hide_one() {
        // A hypervisor stops the machine for a different time every 30 s.
        let jumps = [0, 300, 1_100, 1_250, 2_900, 3_000, 4_700, 5_100, 5_900_i64];
        let jumping = |sec: u64| 1_000_000 * jumps[usize::try_from(sec / 30).unwrap()];
        assert_eq!(drift_ppm(270, 10_000, jumping), ASSUMED_PPM);
        for jump_at in (130..300).step_by(10) {
            let mut rate = RateWatch::default();
            learn(&mut rate, 0..300, 10_000, |sec| {
                let jumped = if sec < jump_at { 0 } else { 40_000_000 };
                -1_000_000 * signed(sec) + jumped
            });
            let seen = rate.drift_ppm();
            assert!((1_000..1_010).contains(&seen), "{seen}, {jump_at}");
        }
    }

    #[test]
    fn a_pair_of_points_that_are_too_close_is_skipped() {
        let mut rate = RateWatch::default();
        for sec in 0..200 {
            // The best samples are at the end of one window and at the start of the next.
            let error_ns = if [20, 22].contains(&(sec % 63)) {
                5_000
            } else {
                10_000
            };
            rate.handle_sample(Point {
                at: Mono::ZERO + Duration::from_secs(sec),
                offset_ns: 1_000_000 * signed(sec),
                error_ns,
            });
        }
        let close = |(earlier, later): (&Point, &Point)| later.at.since(earlier.at) < APART_MIN;
        assert!(
            rate.points
                .iter()
                .zip(rate.points.iter().skip(1))
                .any(close)
        );
        let seen = rate.drift_ppm();
        assert!((1_000..1_010).contains(&seen), "{seen}");
    }

    #[test]
    fn extreme_offsets_do_not_overflow() {
        for extreme in [i64::MIN, i64::MAX] {
            let jumping = |sec: u64| if sec.is_multiple_of(40) { extreme } else { 0 };
            let _ = drift_ppm(300, u64::MAX, jumping);
            let _ = drift_ppm(300, 0, |sec| extreme / 300 * signed(sec));
        }
    }
}
