//! Which clocks an edge trusts, and for how long: clocks that run away, that are just at the
//! tolerance, that share an id, and that are never heard.

use std::time::Duration;

use tickstorm_timebase::{Alarm, ClockState, Refused};

use crate::edge::{HOLDOVER_MAX, TOLERANCE};
use crate::rules::{Scene, raised, reply};
use crate::simulation::world::Dice;

const SECOND_US: i64 = 1_000_000;
const IDS: [&str; 3] = ["a", "b", "c"];

fn scene(ids: &[&'static str]) -> Scene {
    let clocks: Vec<_> = ids.iter().map(|id| (*id, 0)).collect();
    let mut scene = Scene::new(ids, &clocks);
    scene.run_until(20_000_000);
    scene
}

fn us(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap()
}

/// Moves a clock without a step: its timeline stays the same.
fn slew(scene: &mut Scene, id: &'static str, offset_us: i64) {
    scene.clocks.get_mut(id).unwrap().0 = offset_us;
}

#[test]
fn without_a_majority_a_followed_clock_that_runs_away_does_not_take_the_time_along() {
    // 302 ms in 60 s, and other rates. With two clocks there is no majority once they differ; with
    // three there is none after one has fallen silent.
    for ids in [&IDS[..2], &IDS] {
        for ppm in [5_033, -5_033, 1_000, -20_000, 600] {
            let mut scene = scene(ids);
            scene.clocks.remove("c");
            for second in 20_u32..260 {
                let ran_us = i64::from(second - 20) * ppm;
                slew(&mut scene, "a", ran_us);
                scene.run_until(u64::from(second) * 1_000_000 + 400_000);
                let offset_us = scene.offset_us().unwrap();
                let bound_us = i64::from(scene.status().bound_us.unwrap());
                let most_us = 2 * us(TOLERANCE) + bound_us;
                let what = format!("{ids:?}, {ppm} ppm, second {second}: {offset_us} µs");
                assert!(offset_us.abs() <= most_us, "{what}");
            }
            assert_eq!(scene.follows().as_deref(), Some("b"), "{ids:?}, {ppm}");
            assert!(scene.status().alarms.contains(&Alarm::NoMajority));
        }
    }
}

#[test]
fn the_last_clock_that_runs_away_leaves_the_edge_on_its_own_time() {
    for ppm in [5_033, -2_000] {
        let mut scene = scene(&IDS);
        scene.clocks.remove("b");
        scene.clocks.remove("c");
        scene.run_until(40_000_000);
        for second in 40_u32..95 {
            slew(&mut scene, "a", i64::from(second - 40) * ppm);
            scene.run_until(u64::from(second) * 1_000_000 + 400_000);
            let offset_us = scene.offset_us().unwrap();
            assert!(
                offset_us.abs() <= 2 * us(TOLERANCE),
                "{ppm}: {offset_us} µs"
            );
        }
        assert!(scene.status().holdover);
        assert_eq!(scene.status().alarms, [Alarm::NoneAccepted]);
    }
}

#[test]
fn a_clock_that_drifts_as_good_clocks_may_is_followed_for_hours_without_a_majority() {
    let mut scene = scene(&IDS);
    scene.clocks.remove("b");
    scene.clocks.remove("c");
    for second in 20_u32..10_000 {
        slew(&mut scene, "a", i64::from(second - 20) * 190);
        scene.run_until(u64::from(second) * 1_000_000 + 400_000);
        assert_eq!(scene.follows().as_deref(), Some("a"), "second {second}");
    }
    assert!(scene.offset_us().unwrap() > 1_890_000);
}

#[test]
fn a_majority_counts_for_more_than_the_edges_own_time() {
    for step_us in [15_000, -17_000, 41_000, -900_000] {
        let mut scene = scene(&IDS);
        for id in IDS {
            scene.set(id, step_us);
        }
        scene.run_until(21_000_000);
        assert_eq!(scene.offset_us(), Some(step_us));
        // Without a majority, the edge stays with the clock that is left.
        scene.clocks.remove("b");
        scene.clocks.remove("c");
        scene.run_until(60_000_000);
        assert_eq!(scene.follows().as_deref(), Some("a"), "{step_us}");
        assert_eq!(scene.offset_us(), Some(step_us));
    }
}

#[test]
fn an_accepted_clock_is_left_at_one_and_a_quarter_tolerances_and_taken_back_under_one() {
    let mut scene = scene(&IDS);
    // The bounds are 0.2 ms and up to 0.2 ms more.
    slew(&mut scene, "a", 24_900);
    scene.run_until(60_000_000);
    assert_eq!(scene.follows().as_deref(), Some("a"));
    assert_eq!(scene.status().alarms, []);
    slew(&mut scene, "a", 26_200);
    scene.run_until(75_000_000);
    assert_eq!(scene.follows().as_deref(), Some("b"));
    assert_eq!(scene.status().alarms, [Alarm::Falseticker]);
    slew(&mut scene, "a", 21_200);
    scene.run_until(300_000_000);
    assert_eq!(scene.state("a"), ClockState::False);
    slew(&mut scene, "a", 19_900);
    scene.run_until(355_000_000);
    assert_eq!(scene.state("a"), ClockState::False);
    scene.run_until(380_000_000);
    assert_eq!(scene.follows().as_deref(), Some("a"));
}

#[test]
fn a_clock_that_stays_beyond_the_tolerance_is_left_after_holdover_max() {
    let left_after = |offset_us: &dyn Fn(u64) -> i64| {
        let mut scene = scene(&IDS);
        (0..400_u64).find(|second| {
            slew(&mut scene, "a", offset_us(*second));
            scene.run_until(20_000_000 + (second + 1) * 1_000_000);
            scene.follows().as_deref() != Some("a")
        })
    };
    let max = HOLDOVER_MAX.as_secs();
    let around = |found: Option<u64>| found.is_some_and(|at| (max - 2..max + 12).contains(&at));
    assert!(around(left_after(&|_| 23_000)));
    // It agrees for some seconds in between.
    assert!(around(left_after(&|second| {
        if second % 20 < 12 { 22_000 } else { 15_000 }
    })));
    assert_eq!(left_after(&|_| 19_000), None);
    // It agrees for longer than HOLDOVER_MAX in between.
    assert_eq!(
        left_after(&|second| if second % 150 < 45 { 22_000 } else { 15_000 }),
        None
    );
}

/// Several edges, each with its own noise, and a clock just beyond the tolerance.
#[test]
fn edges_do_not_disagree_for_long_about_a_clock_just_at_the_tolerance() {
    for (seed, stray_us) in (0..12).zip([19_500, 20_300, 21_000, 22_500].into_iter().cycle()) {
        let mut dice = Dice(seed);
        let mut edges: Vec<Scene> = (0..5).map(|_| scene(&IDS)).collect();
        let (mut apart, mut longest_apart) = (0, 0);
        for second in 20..260_u64 {
            for edge in &mut edges {
                // The error of a sample on a noisy network, as the edge sees it.
                for (id, at) in [("a", stray_us), ("b", 0), ("c", 0)] {
                    slew(edge, id, at + dice.between(-180, 180));
                }
                edge.run_until(second * 1_000_000 + 400_000);
            }
            let follows: Vec<_> = edges.iter().map(Scene::follows).collect();
            let differ = follows.iter().any(|one| *one != follows[0]);
            apart = if differ { apart + 1 } else { 0 };
            longest_apart = longest_apart.max(apart);
            let offsets = edges.iter().map(|edge| edge.offset_us().unwrap());
            let (least, most) = (offsets.clone().min().unwrap(), offsets.max().unwrap());
            assert!(most - least <= 2 * us(TOLERANCE), "{most} − {least} µs");
        }
        let most = HOLDOVER_MAX.as_secs();
        assert!(
            longest_apart <= most,
            "seed {seed}, {stray_us} µs: {longest_apart} s"
        );
    }
}

/// Runs for `seconds` while a second host with the id of the clock `a` answers each request as
/// well, off by `off_us`.
fn run_with_twin(scene: &mut Scene, seconds: u64, off_us: i64) {
    let start_us = scene.edge.now.as_nanos() / 1_000;
    for second in 1..=seconds {
        scene.run_until(start_us + second * 1_000_000);
        let (at, nonce) = *scene.asked.last().unwrap();
        let middle_us = i64::try_from(at.as_nanos() / 1_000).unwrap() + 200;
        let second_answer = reply(nonce, "a", middle_us + off_us, 77);
        let outcome = scene.edge.handle_reply(&second_answer);
        assert!([Err(Refused::SharedId), Err(Refused::Duplicate)].contains(&outcome));
        assert!(scene.edge.authority().is_some(), "lost after {second} s");
    }
}

#[test]
fn a_second_host_with_the_sole_clocks_id_does_not_cost_the_time() {
    for (seconds, off_us) in [
        (2, 0),
        (2, 3 * SECOND_US),
        (25, 0),
        (40, -50_000),
        (200, 10),
    ] {
        for voters in [&IDS[..1], &[]] {
            let mut scene = Scene::new(voters, &[("a", 0)]);
            scene.run_until(20_700_000);
            run_with_twin(&mut scene, seconds, off_us);
            assert!(scene.status().alarms.contains(&Alarm::SharedId));
            let gone_us = scene.edge.now.as_nanos() / 1_000;
            for half_second in 1..180 {
                scene.run_until(gone_us + half_second * 500_000);
                assert_eq!(scene.offset_us(), Some(0), "{seconds} s, {off_us} µs");
            }
            // Distrust lasts for half of HOLDOVER_MAX, and the alarm for all of it.
            assert_eq!(scene.follows().as_deref(), Some("a"));
            assert_eq!(scene.status().alarms, []);
            assert_eq!(
                scene.edge.second.released.len() as u64,
                gone_us / 1_000_000 + 90
            );
        }
    }
}

#[test]
fn distrust_ends_early_only_for_a_clock_that_agrees_and_only_if_there_is_no_other() {
    let mut alone = scene(&IDS[..1]);
    run_with_twin(&mut alone, 2, 0);
    alone.run_until(48_000_000);
    assert_eq!(alone.state("a"), ClockState::False);
    alone.run_until(54_000_000);
    assert_eq!(alone.state("a"), ClockState::Accepted);

    let mut among_others = scene(&IDS);
    run_with_twin(&mut among_others, 2, 0);
    among_others.run_until(78_000_000);
    assert_eq!(among_others.state("a"), ClockState::False);
    among_others.run_until(84_000_000);
    assert_eq!(among_others.state("a"), ClockState::Accepted);

    let mut wrong = scene(&IDS[..1]);
    run_with_twin(&mut wrong, 2, 0);
    wrong.set("a", 3 * SECOND_US);
    wrong.run_until(78_000_000);
    assert_eq!(wrong.state("a"), ClockState::False);
    assert_eq!(wrong.offset_us(), Some(0));
}

#[test]
fn a_name_in_clocks_that_is_never_heard_while_others_are_raises_an_alarm() {
    // One of three names is misspelt.
    let mut scene = Scene::new(&["a", "b", "d"], &[("a", 0), ("b", 0)]);
    scene.run_until(9_900_000);
    assert_eq!(scene.status().alarms, []);
    scene.run_until(10_100_000);
    assert_eq!(scene.status().alarms, [Alarm::Unheard]);
    assert_eq!(raised(&scene, Alarm::Unheard), ["d"]);
    scene.set("d", 0);
    scene.run_until(12_000_000);
    assert_eq!(scene.status().alarms, []);

    // A clock that falls silent, and an outage of all, raise no such alarm.
    scene.clocks.remove("d");
    scene.run_until(40_000_000);
    assert_eq!(scene.status().alarms, []);
    scene.clocks.clear();
    scene.run_until(60_000_000);
    assert_eq!(scene.status().alarms, []);
}

#[test]
fn a_misspelt_sole_name_raises_an_alarm_once_unlisted_clocks_were_heard_for_ten_seconds() {
    let mut scene = Scene::new(&["clokc-0"], &[]);
    scene.run_until(60_000_000);
    assert_eq!(scene.status().alarms, [], "nothing is heard at all");
    for half_second in 0..30 {
        let now_us = 60_000_000 + half_second * 500_000;
        scene.run_until(now_us);
        scene.edge.keeper.handle_unlisted(scene.edge.now);
        let expected: &[Alarm] = if half_second < 20 {
            &[]
        } else {
            &[Alarm::Unheard]
        };
        assert_eq!(scene.status().alarms, expected, "{half_second}");
    }
    assert_eq!(raised(&scene, Alarm::Unheard), ["clokc-0"]);
    scene.run_until(90_000_000);
    assert_eq!(scene.status().alarms, []);
}

#[test]
fn a_clock_that_comes_back_under_another_name_raises_an_alarm_for_the_old_one() {
    let mut scene = scene(&IDS);
    scene.clocks.remove("c");
    scene.run_until(25_000_000);
    for second in 25..60 {
        scene.run_until(second * 1_000_000);
        scene.edge.keeper.handle_unlisted(scene.edge.now);
    }
    assert_eq!(raised(&scene, Alarm::Unheard), ["c"]);
    assert_eq!(scene.status().alarms, [Alarm::Unheard]);
}
