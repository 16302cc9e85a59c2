//! [`RateWatch`]: the rate of this machine's clock against authority time, over minutes. Error
//! bounds assume a drift of at most 200 ppm; a machine whose clock is worse is noticed here.

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
/// The number of points that are kept. All rates between neighbours must agree, so that one step of
/// a clock is not taken for a rate.
const POINTS: usize = 5;
/// The number of points that shows a rate: over at least a minute.
const POINTS_MIN: usize = 4;

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
        }
    }

    /// Returns the drift to assume, in parts per million: what was seen, if that is certainly more
    /// than [`ASSUMED_PPM`].
    pub(crate) fn drift_ppm(&self) -> u64 {
        if self.points.len() < POINTS_MIN {
            return ASSUMED_PPM;
        }
        let (mut least, mut most) = (i128::MAX, 0);
        let mut forward = None;
        for (earlier, later) in self.points.iter().zip(self.points.iter().skip(1)) {
            let apart = later.at.since(earlier.at);
            let moved_ns = i128::from(later.offset_ns) - i128::from(earlier.offset_ns);
            if apart < APART_MIN || *forward.get_or_insert(moved_ns > 0) != (moved_ns > 0) {
                return ASSUMED_PPM;
            }
            let errors_ns = i128::from(earlier.error_ns) + i128::from(later.error_ns);
            let ppm = |ns: i128| {
                ns.saturating_mul(1_000_000) / i128::try_from(apart.as_nanos()).unwrap_or(i128::MAX)
            };
            least = least.min(ppm(moved_ns.abs() - errors_ns));
            most = most.max(ppm(moved_ns.abs() + errors_ns));
        }
        if least <= i128::from(ASSUMED_PPM) {
            return ASSUMED_PPM;
        }
        u64::try_from(most).map_or(PPM_MAX, |most| most.min(PPM_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the drift after samples every 10 s for `secs`, with these offsets.
    fn drift_ppm(secs: u64, error_ns: u64, offset_ns: impl Fn(u64) -> i64) -> u64 {
        let mut rate = RateWatch::default();
        for sec in (0..secs).step_by(10) {
            rate.handle_sample(Point {
                at: Mono::ZERO + Duration::from_secs(sec),
                offset_ns: offset_ns(sec),
                error_ns,
            });
        }
        rate.drift_ppm()
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
    fn extreme_offsets_do_not_overflow() {
        for extreme in [i64::MIN, i64::MAX] {
            let jumping = |sec: u64| if sec.is_multiple_of(40) { extreme } else { 0 };
            let _ = drift_ppm(300, u64::MAX, jumping);
            let _ = drift_ppm(300, 0, |sec| extreme / 300 * signed(sec));
        }
    }
}
