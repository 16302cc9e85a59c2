//! Outages of all clocks, of about HOLDOVER_MAX and longer.

use tickstorm_timebase::{Alarm, Epoch};

use crate::edge::{HOLDOVER_MAX, micros};
use crate::rules::Scene;

const BASE_MS: i64 = 1_700_000_040_000;
const SECOND_US: i64 = 1_000_000;
const IDS: [&str; 3] = ["a", "b", "c"];

fn scene(voters: &[&str], ids: &[&'static str]) -> Scene {
    let clocks: Vec<_> = ids.iter().map(|id| (*id, 0)).collect();
    Scene::new(voters, &clocks)
}

/// Lets the edge hear nothing from `from_us` to `until_us`, and afterwards clocks that are right.
fn outage(scene: &mut Scene, from_us: u64, until_us: u64) {
    scene.run_until(from_us);
    let clocks = std::mem::take(&mut scene.clocks);
    scene.run_until(until_us);
    scene.clocks = clocks;
}

#[test]
fn an_outage_of_up_to_holdover_max_delays_no_tick_whatever_its_phase() {
    let longest_us = u64::try_from(HOLDOVER_MAX.as_micros()).unwrap();
    for voters in [&IDS[..1], &IDS, &[]] {
        let clocks = if voters.is_empty() { &IDS[..] } else { voters };
        for phase_us in (0..1_000_000).step_by(47_000) {
            for length_us in [58_900_000, 59_700_000, longest_us] {
                let mut scene = scene(voters, clocks);
                let from_us = 20_000_000 + phase_us;
                outage(&mut scene, from_us, from_us + length_us);
                scene.run_until(90_000_000);
                assert_eq!(scene.edge.second.released.len(), 90);
                for (second, one) in (1_i64..).zip(&scene.edge.second.released) {
                    let at = micros(u64::try_from(second * SECOND_US).unwrap());
                    let epoch = Epoch::from_ms(BASE_MS + second * 1_000);
                    let found = (one.at, one.tick.epoch);
                    assert_eq!(found, (at, epoch), "{phase_us}, {length_us}, {voters:?}");
                }
            }
        }
    }
}

#[test]
fn after_a_longer_outage_the_time_is_unknown_two_seconds_after_holdover_max() {
    let mut scene = scene(&["a"], &["a"]);
    scene.run_until(1_500_000);
    scene.clocks.clear();
    // The last answer came at 1.3504 s.
    scene.run_until(63_300_000);
    assert_eq!(scene.offset_us(), Some(0));
    scene.run_until(63_351_000);
    assert_eq!(scene.offset_us(), None);
}

/// The first clock to answer is wrong, and the others come back later.
#[test]
fn without_clocks_configured_the_first_clock_to_answer_after_an_outage_is_no_majority() {
    for wrong_us in [5 * SECOND_US, -300_000, 3_600 * SECOND_US] {
        // Until 62.35 s after its last answer the edge knows the time.
        for length_us in [60_300_000, 61_200_000, 65_000_000, 400_000_000] {
            for alone_us in [30_000, 700_000, 2_500_000, 4_200_000] {
                let mut scene = scene(&[], &IDS);
                scene.run_until(20_000_000);
                scene.clocks.clear();
                scene.run_until(20_000_000 + length_us);
                scene.set("a", wrong_us);
                let mut now_us = 20_000_000 + length_us + alone_us;
                scene.run_until(now_us);
                assert!([None, Some(0)].contains(&scene.offset_us()));
                scene.set("b", 0);
                scene.set("c", 0);
                for _ in 0..40 {
                    now_us += 250_000;
                    scene.run_until(now_us);
                    let offset_us = scene.offset_us();
                    let what = format!("{wrong_us}, {length_us}, {alone_us}: {offset_us:?}");
                    assert!([None, Some(0)].contains(&offset_us), "{what}");
                }
                assert_eq!(scene.offset_us(), Some(0));
                assert_eq!(scene.follows().as_deref(), Some("b"));
                assert_eq!(scene.edge.take_steps(), 0);
            }
        }
    }
}

/// A wrong clock is alone for longer than an edge waits for a majority.
#[test]
fn without_clocks_configured_a_clock_that_is_followed_alone_is_told_by_an_alarm() {
    let mut scene = scene(&[], &IDS);
    scene.run_until(20_000_000);
    scene.clocks.clear();
    scene.run_until(100_000_000);
    scene.set("a", 5 * SECOND_US);
    scene.run_until(107_000_000);
    assert_eq!(scene.offset_us(), Some(5 * SECOND_US));
    assert_eq!(scene.status().alarms, [Alarm::NoMajority]);
    scene.set("b", 0);
    scene.set("c", 0);
    scene.run_until(115_000_000);
    assert_eq!(scene.offset_us(), Some(0));
    assert_eq!(scene.follows().as_deref(), Some("b"));
}

#[test]
fn an_edge_that_starts_before_a_sole_clock_chooses_it_after_eight_quick_rounds() {
    let mut scene = scene(&[], &[]);
    scene.run_until(30_000_000);
    scene.set("a", 0);
    // The first answer comes at 30.3504 s.
    scene.run_until(30_650_000);
    assert_eq!(scene.offset_us(), None);
    scene.run_until(30_750_000);
    assert_eq!(scene.offset_us(), Some(0));
}
