//! An edge whose machine is suspended: its own clock stops, and clocks go on. Its time is
//! wrong by the time suspended, so nothing may depend on it until it is learned again.

use std::time::Duration;

use tickstorm_timebase::{Alarm, Epoch, Mono, Quality, Refused};

use crate::edge::micros;
use crate::rules::{Scene, reply};

const BASE_MS: i64 = 1_700_000_040_000;
const IDS: [&str; 3] = ["a", "b", "c"];

/// An edge that has run for 20.3 s. Its clocks are configured or not.
fn scene(voters: &[&str], clocks: &[&'static str]) -> Scene {
    let clocks: Vec<_> = clocks.iter().map(|id| (*id, 0)).collect();
    let mut scene = Scene::new(voters, &clocks);
    assert_eq!(scene.edge.keeper.handle_suspended(BEFORE, Mono::ZERO), None);
    scene.run_until(20_300_000);
    scene
}

/// For how long the machine had been suspended before.
const BEFORE: Duration = Duration::from_secs(77);

/// Suspends the machine for `time`, of which the edge is told at once.
fn suspend(scene: &mut Scene, time: Duration) -> Option<Duration> {
    let us = i64::try_from(time.as_micros()).unwrap();
    for (offset_us, _) in scene.clocks.values_mut() {
        *offset_us += us;
    }
    let now = scene.edge.now;
    scene.edge.keeper.handle_suspended(BEFORE + time, now)
}

#[test]
fn after_a_suspension_the_time_is_unknown_until_it_is_learned_again() {
    for (voters, clocks) in [(&IDS[..1], &IDS[..1]), (&IDS, &IDS), (&[], &IDS)] {
        for ms in [10, 700, 6_000, 30_000, 3_600_000] {
            let slept = Duration::from_millis(ms);
            let mut scene = scene(voters, clocks);
            let before = scene.edge.authority().unwrap();
            assert_eq!(suspend(&mut scene, slept), Some(slept));
            assert_eq!(scene.edge.authority(), None, "{ms} ms");
            assert_eq!(scene.edge.keeper.following(), None);
            assert_eq!(scene.edge.keeper.next_request(), scene.edge.now);
            assert!(!before.outlasts(BEFORE + slept));

            scene.run_until(20_900_000);
            let authority = scene.edge.authority().expect("the time is known again");
            assert!(authority.outlasts(BEFORE + slept));
            let offset_us = i64::try_from(slept.as_micros()).unwrap();
            assert_eq!(scene.offset_us(), Some(offset_us), "{ms} ms, {voters:?}");
            scene.run_until(24_000_000);
            assert_ticks(&scene, slept);
        }
    }
}

/// Asserts that each tick was released once and in order, those that were missed as replays.
fn assert_ticks(scene: &Scene, slept: Duration) {
    let released = &scene.edge.second.released;
    let first = released[0].tick.epoch.as_ms();
    let resume_ms = i64::try_from(slept.as_millis()).unwrap();
    let skipped = released
        .windows(2)
        .find(|pair| pair[1].tick.epoch.as_ms() != pair[0].tick.epoch.as_ms() + 1_000);
    // Beyond RESUME_WINDOW, the oldest ticks are gone.
    assert_eq!(skipped.is_some(), resume_ms > 600_000, "{skipped:?}");
    assert_eq!(first, BASE_MS + 1_000);
    let last = released.last().unwrap().tick.epoch;
    let expected = (BASE_MS + 24_000 + resume_ms) / 1_000 * 1_000;
    assert_eq!(last, Epoch::from_ms(expected));
    let replays = released
        .iter()
        .filter(|one| one.tick.quality == Quality::Replay)
        .count();
    let at_least = usize::try_from((resume_ms / 1_000).min(599) - 1).unwrap_or(0);
    assert!(replays >= at_least, "{replays} of {at_least}");
    assert!(
        released
            .iter()
            .all(|one| one.generation == released[0].generation)
    );
}

/// A hypervisor may stop all clocks of a machine.
#[test]
fn a_pause_that_the_machine_does_not_see_is_no_rate() {
    for (voters, clocks) in [(&IDS[..1], &IDS[..1]), (&IDS, &IDS), (&[], &IDS)] {
        for ms in [1_000, 30_000, 300_000] {
            let mut scene = scene(voters, clocks);
            scene.run_until(100_300_000);
            for (offset_us, _) in scene.clocks.values_mut() {
                *offset_us += ms * 1_000;
            }
            for second in 101..500 {
                scene.run_until(second * 1_000_000);
                let now = scene.edge.now;
                let status = scene.edge.keeper.status(now);
                let alarms = &status.alarms;
                assert!(!alarms.contains(&Alarm::Rate), "{ms} ms, {second} s");
            }
            assert_eq!(scene.offset_us(), Some(ms * 1_000), "{ms} ms, {voters:?}");
        }
    }
}

#[test]
fn no_answer_to_a_request_from_before_a_suspension_counts() {
    let mut scene = scene(&IDS[..1], &IDS[..1]);
    let nonce = loop {
        let at = scene.edge.keeper.next_request();
        scene.edge.run_until(at);
        if let Some(nonce) = scene.edge.ask() {
            break nonce;
        }
    };
    suspend(&mut scene, Duration::from_secs(30));
    let answer = reply(nonce, "a", 51_000_000, 1);
    assert_eq!(
        scene.edge.handle_reply(&answer),
        Err(Refused::UnknownRequest)
    );
}

#[test]
fn readings_that_differ_by_less_than_10_ms_are_no_suspension() {
    let mut scene = scene(&IDS[..1], &IDS[..1]);
    let now = scene.edge.now;
    for us in [9_999, 1, 5_000] {
        let reading = BEFORE + Duration::from_micros(us);
        assert_eq!(scene.edge.keeper.handle_suspended(reading, now), None);
    }
    assert!(scene.edge.authority().is_some());
    let reading = BEFORE - Duration::from_millis(4);
    assert_eq!(scene.edge.keeper.handle_suspended(reading, now), None);
}

#[test]
fn a_drift_of_the_time_suspended_is_no_suspension() {
    let mut scene = scene(&IDS[..1], &IDS[..1]);
    let now = scene.edge.now;
    for second in 1..=600 {
        let reading = BEFORE + second * Duration::from_micros(50);
        assert_eq!(scene.edge.keeper.handle_suspended(reading, now), None);
        let authority = scene.edge.authority().unwrap();
        assert!(authority.outlasts(reading), "after {second} s");
    }
    let reading = BEFORE + Duration::from_millis(41);
    let jump = scene.edge.keeper.handle_suspended(reading, now);
    assert_eq!(jump, Some(Duration::from_millis(11)));
    assert!(scene.edge.authority().is_none());
}

#[test]
fn a_connection_that_is_made_is_used_at_once() {
    let mut scene = Scene::new(&IDS, &[]);
    scene.run_until(5_700_000);
    scene.clocks = IDS.iter().map(|id| (*id, (0, 1))).collect();
    let now = scene.edge.now;
    scene.edge.keeper.handle_connection(now);
    scene.run_until(5_750_000);
    assert_eq!(
        scene.asked.last().map(|(at, _)| *at),
        Some(micros(5_750_000))
    );
    assert_eq!(scene.offset_us(), Some(0));
    scene.run_until(9_200_000);
    let before = scene.asked.len();
    let now = scene.edge.now;
    scene.edge.keeper.handle_connection(now);
    scene.run_until(9_300_000);
    assert_eq!(
        scene.asked.len(),
        before + 1,
        "no burst while the time is known"
    );
}
