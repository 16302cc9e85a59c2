//! Tests of authority time learned from PONGs: replies that must not mislead any client. The cases
//! that a client in any language must pass are in `vectors`.

use std::time::Duration;

use proptest::prelude::*;
use tickstorm_client::estimate::{Estimator, PongExchange};
use tickstorm_timebase::Mono;

fn micros(us: i64) -> Mono {
    Mono::from_nanos(u64::try_from(us).unwrap() * 1_000)
}

fn exchange([t1_us, t2_us, t3_us, t4_us, bound]: [i64; 5]) -> PongExchange {
    PongExchange {
        t1_us,
        t2_us,
        t3_us,
        t4_us,
        error_bound_us: u32::try_from(bound).unwrap(),
        clock_error_us: 0,
    }
}

#[test]
fn a_pong_without_times_is_no_sample() {
    for times in [
        [0, 0, 0, 1_000, 0],
        [0, 0, 5_000, 1_000, 0],
        [0, 5_000, 0, 1_000, 0],
    ] {
        let mut estimator = Estimator::new();
        estimator.handle_exchange(&exchange(times));
        assert_eq!(estimator.estimate(micros(1_000)), None, "{times:?}");
    }
}

#[test]
fn a_negative_round_trip_is_no_sample() {
    let mut estimator = Estimator::new();
    estimator.handle_exchange(&exchange([0, 5_000, 6_001, 1_000, 0]));
    estimator.handle_exchange(&exchange([1_001, 5_000, 5_000, 1_000, 0]));
    assert_eq!(estimator.estimate(micros(1_000)), None);
}

#[test]
fn times_that_overflow_are_no_sample() {
    let mut estimator = Estimator::new();
    for extreme in [i64::MIN, i64::MAX, i64::MAX / 1_000, i64::MIN / 1_000] {
        for other in [i64::MIN / 1_000, -1, 1, i64::MAX / 1_000] {
            for rotated in 0..4 {
                let mut times = [extreme, other, other, other];
                times.rotate_right(rotated);
                let [t1, t2, t3, t4] = times;
                estimator.handle_exchange(&exchange([t1, t2, t3, t4, i64::from(u32::MAX)]));
                // Neither learning from the PONG nor asking for the time panics, whatever the
                // result.
                let _ = estimator.estimate(Mono::NEVER);
                let _ = estimator.estimate(micros(1_000));
            }
        }
    }
}

proptest! {
    #[test]
    fn no_times_from_an_edge_cause_a_panic(
        exchanges in prop::collection::vec((any::<[i64; 4]>(), any::<u32>()), 1..10),
        asked_ns: u64,
    ) {
        let mut estimator = Estimator::new();
        for ([t1, t2, t3, t4], bound) in exchanges {
            estimator.handle_exchange(&exchange([t1, t2, t3, t4, i64::from(bound)]));
            // The same times again, scaled down so that they fit into nanoseconds.
            let [t1, t2, t3, t4] = [t1, t2, t3, t4].map(|us| us / 1_000);
            estimator.handle_exchange(&exchange([t1, t2, t3, t4, i64::from(bound)]));
        }
        let _ = estimator.estimate(Mono::from_nanos(asked_ns));
    }
}

#[test]
fn the_estimate_expires_30_s_after_the_last_sample() {
    let mut estimator = Estimator::new();
    estimator.handle_exchange(&exchange([0, 5_000, 5_000, 1_000, 0]));
    let read_at = micros(1_000);
    let last = read_at + Duration::from_secs(30);
    assert!(estimator.estimate(last).is_some());
    assert_eq!(estimator.estimate(last + Duration::from_nanos(1)), None);
}

#[test]
fn samples_that_agree_are_kept_up_to_a_maximum_number() {
    let mut estimator = Estimator::new();
    // The best sample comes first: as long as it is kept, it determines the error.
    estimator.handle_exchange(&exchange([0, 5_000, 5_000, 0, 0]));
    for _ in 0..63 {
        estimator.handle_exchange(&exchange([0, 5_500, 5_500, 1_000, 0]));
    }
    let error = |estimator: &Estimator| estimator.estimate(micros(1_000)).unwrap().error_us;
    assert_eq!(error(&estimator), 1);
    estimator.handle_exchange(&exchange([0, 5_500, 5_500, 1_000, 0]));
    assert_eq!(error(&estimator), 500);
}

/// Teaches an estimator by a PONG each 10 s, over a path of 200 µs, on a machine whose clock gains
/// this many parts per million. Returns the greatest ratio of error to bound within the last 60 s.
fn worst_ratio(estimator: &mut Estimator, ppm: i64, secs: i64) -> f64 {
    let true_us = |now_us: i64| now_us - now_us * ppm / 1_000_000 + 1_000_000_000_000_000;
    let mut worst = 0.0_f64;
    for sec in (10..secs).step_by(10) {
        let (t1, t4) = (sec * 1_000_000, sec * 1_000_000 + 200);
        let there = true_us(t1 + 100);
        estimator.handle_exchange(&exchange([t1, there, there, t4, 10]));
        // Just before the next PONG, the estimate is worst.
        let asked_us = t4 + 9_990_000;
        let estimate = estimator.estimate(micros(asked_us)).unwrap();
        let error = estimate.unix.as_micros().abs_diff(true_us(asked_us));
        if sec >= secs - 60 {
            worst = worst.max(error as f64 / estimate.error_us as f64);
        }
    }
    worst
}

#[test]
fn bounds_hold_within_minutes_on_a_machine_whose_clock_runs_at_a_wrong_rate() {
    for ppm in [-2_000, -400, 0, 150, 400, 2_000, 20_000] {
        let worst = worst_ratio(&mut Estimator::new(), ppm, 300);
        assert!(worst <= 1.0, "{ppm} ppm: error is {worst} of the bound");
    }
    // Before the rate is known, the bound is that of an ordinary machine.
    assert!(worst_ratio(&mut Estimator::new(), 2_000, 40) > 1.0);
}

#[test]
fn a_stall_leaves_no_estimate_but_tells_how_late_something_was() {
    let mut estimator = Estimator::new();
    estimator.handle_suspended(micros(0), Duration::from_secs(7));
    estimator.handle_exchange(&exchange([0, 5_000, 5_000, 1_000, 0]));
    let same = Duration::from_secs(7) + Duration::from_millis(1);
    assert!(!estimator.handle_suspended(micros(2_000), same));
    assert!(estimator.estimate(micros(2_000)).is_some());
    assert!(estimator.handle_suspended(micros(3_000), Duration::from_secs(37)));
    assert_eq!(estimator.estimate(micros(3_000)), None);
    // The question was asked before, and the answer read afterwards.
    estimator.handle_exchange(&exchange([2_999, 9_000, 9_000, 4_000, 0]));
    assert_eq!(estimator.estimate(micros(4_000)), None);
    estimator.handle_exchange(&exchange([3_000, 9_000, 9_000, 4_000, 0]));
    assert!(estimator.estimate(micros(4_000)).is_some());
}

#[test]
fn a_drift_of_the_time_suspended_drops_nothing() {
    let mut estimator = Estimator::new();
    estimator.handle_suspended(micros(0), Duration::from_secs(7));
    for second in 1..=600 {
        let now_us = second * 1_000_000;
        let suspended =
            Duration::from_secs(7) + Duration::from_micros(50) * u32::try_from(second).unwrap();
        assert!(!estimator.handle_suspended(micros(now_us), suspended));
        estimator.handle_exchange(&exchange([
            now_us,
            5_000 + now_us,
            5_000 + now_us,
            now_us,
            0,
        ]));
        // The samples from before are still used.
        assert!(
            estimator.estimate(micros(now_us + 1)).is_some(),
            "{second} s"
        );
    }
    let jumped = Duration::from_secs(7) + Duration::from_millis(41);
    assert!(estimator.handle_suspended(micros(601_000_000), jumped));
    assert_eq!(estimator.estimate(micros(601_000_000)), None);
}

#[test]
fn the_rate_of_the_machine_outlasts_stalls_and_steps_of_time() {
    for forget in [
        |estimator: &mut Estimator| estimator.handle_stall(micros(300_000_000)),
        Estimator::clear,
    ] {
        let mut estimator = Estimator::new();
        assert!(worst_ratio(&mut estimator, 2_000, 300) <= 1.0);
        forget(&mut estimator);
        let read = exchange([301_000_000, 5_000, 5_000, 301_000_200, 10]);
        estimator.handle_exchange(&read);
        let estimate = estimator.estimate(micros(311_000_200)).unwrap();
        assert!(estimate.error_us >= 20_000, "{estimate:?}");
    }
}
