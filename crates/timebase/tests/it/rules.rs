//! Tests of the rules of time that no hand-written case covers, one per rule.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tickstorm_timebase::{
    Alarm, ClockState, Epoch, Mode, Mono, Quality, Refused, Reply, TimeStatus,
};

use crate::edge::{Edge, HOLDOVER_MAX, clock_id, micros};

const BASE_MS: i64 = 1_700_000_040_000;
const SECOND_US: i64 = 1_000_000;

/// An edge that asks when its timers are due, and clocks that answer by a script.
pub(crate) struct Scene {
    pub(crate) edge: Edge,
    /// The offset of each answering clock from the base in microseconds, and its timeline.
    pub(crate) clocks: BTreeMap<&'static str, (i64, u64)>,
    pub(crate) asked: Vec<(Mono, u64)>,
}

impl Scene {
    pub(crate) fn new(voters: &[&str], clocks: &[(&'static str, i64)]) -> Self {
        let clocks = clocks
            .iter()
            .map(|&(id, offset_us)| (id, (offset_us, 1)))
            .collect();
        Self {
            edge: Edge::new(voters),
            clocks,
            asked: Vec::new(),
        }
    }

    /// Runs until `until_us`, answering each request after 400 µs.
    pub(crate) fn run_until(&mut self, until_us: u64) {
        while self.edge.keeper.next_request() <= micros(until_us) {
            let at = self.edge.keeper.next_request().max(self.edge.now);
            self.edge.run_until(at);
            // A timer on the way may have postponed the request or brought it forward.
            let Some(nonce) = self.edge.ask() else {
                continue;
            };
            self.asked.push((at, nonce));
            self.edge.run_until(at + Duration::from_micros(400));
            for reply in self.replies(at, nonce) {
                self.edge.handle_reply(&reply).unwrap();
            }
        }
        self.edge.run_until(micros(until_us));
    }

    fn replies(&self, asked: Mono, nonce: u64) -> Vec<Reply> {
        let middle = i64::try_from(asked.as_nanos() / 1_000).unwrap() + 200;
        let reply = |(id, (offset_us, timeline)): (&&str, &(i64, u64))| {
            reply(nonce, id, middle + offset_us, *timeline)
        };
        self.clocks.iter().map(reply).collect()
    }

    pub(crate) fn set(&mut self, id: &'static str, offset_us: i64) {
        let timeline = self.clocks.get(id).map_or(1, |(_, timeline)| timeline + 1);
        self.clocks.insert(id, (offset_us, timeline));
    }

    pub(crate) fn status(&self) -> TimeStatus {
        self.edge.keeper.status(self.edge.now)
    }

    pub(crate) fn state(&self, id: &str) -> ClockState {
        let status = self.status();
        status
            .clocks
            .iter()
            .find(|clock| clock.id.as_str() == id)
            .unwrap()
            .state
    }

    pub(crate) fn follows(&self) -> Option<String> {
        self.edge.keeper.following().map(ToString::to_string)
    }

    /// Returns authority time minus the base and the edge's own time, in microseconds.
    pub(crate) fn offset_us(&self) -> Option<i64> {
        Some((self.status().offset_ns? - BASE_MS * 1_000_000) / 1_000)
    }

    pub(crate) fn announce(&mut self, id: &str, ms: i64) -> Result<(), Refused> {
        let timeline = self.clocks.get(id).map_or(1, |(_, timeline)| *timeline);
        self.edge
            .announce(id, Mode::Second, Epoch::from_ms(BASE_MS + ms), timeline)
    }

    pub(crate) fn last_quality(&self) -> Quality {
        self.edge.second.released.last().unwrap().tick.quality
    }
}

pub(crate) fn reply(nonce: u64, id: &str, unix_us: i64, timeline: u64) -> Reply {
    Reply {
        nonce,
        clock_id: clock_id(id),
        rank: 0,
        received_unix_us: BASE_MS * 1_000 + unix_us,
        sent_unix_us: BASE_MS * 1_000 + unix_us,
        clock_error_us: 7,
        synchronized: true,
        timeline,
    }
}

#[test]
fn eight_quick_rounds_are_followed_by_one_per_second() {
    let mut scene = Scene::new(&["a"], &[("a", 0)]);
    scene.run_until(3_400_000);
    let asked: Vec<u64> = scene
        .asked
        .iter()
        .map(|(at, _)| at.as_nanos() / 1_000_000)
        .collect();
    assert_eq!(
        asked,
        [0, 50, 100, 150, 200, 250, 300, 350, 1_350, 2_350, 3_350]
    );
}

#[test]
fn an_edge_that_has_forgotten_the_time_starts_another_burst() {
    let mut scene = Scene::new(&["a"], &[("a", 0)]);
    scene.run_until(2_000_000);
    scene.clocks.clear();
    scene.run_until(63_300_000);
    assert!(scene.status().holdover);
    scene.run_until(64_800_000);
    assert_eq!(scene.offset_us(), None);
    assert!(!scene.status().holdover);
    // The last answer came at 1.3504 s.
    let forgot = micros(63_350_400);
    let after = |(at, _): &(Mono, u64)| at.since(forgot).as_millis();
    let since = scene.asked.iter().filter(|(at, _)| *at >= forgot);
    let asked: Vec<u128> = since.map(after).collect();
    assert_eq!(asked, [0, 50, 100, 150, 200, 250, 300, 350, 1_350]);
}

#[test]
fn an_answer_counts_once_and_only_until_the_end_of_its_round() {
    let mut edge = Edge::new(&["a"]);
    let nonce = edge.ask().unwrap();
    assert_eq!(
        edge.handle_reply(&reply(nonce + 1, "a", 0, 1)),
        Err(Refused::UnknownRequest)
    );
    assert_eq!(
        edge.handle_reply(&reply(nonce, "z", 0, 1)),
        Err(Refused::UnknownClock)
    );
    edge.sleep_until(micros(40_000));
    assert_eq!(edge.handle_reply(&reply(nonce, "a", 0, 1)), Ok(()));
    assert_eq!(
        edge.handle_reply(&reply(nonce, "a", 0, 1)),
        Err(Refused::Duplicate)
    );
    let mut edge = Edge::new(&["a"]);
    let nonce = edge.ask().unwrap();
    edge.sleep_until(micros(40_001));
    assert_eq!(
        edge.handle_reply(&reply(nonce, "a", 0, 1)),
        Err(Refused::Late)
    );
}

#[test]
fn a_late_answer_also_reveals_two_hosts_under_one_id() {
    let mut scene = Scene::new(&["a", "b", "c"], &[("a", 0), ("b", 0), ("c", 0)]);
    scene.run_until(1_360_000);
    let (_, nonce) = *scene.asked.last().unwrap();
    scene.run_until(1_500_000);
    let second = reply(nonce, "a", 1_400_000, 9);
    assert_eq!(scene.edge.handle_reply(&second), Err(Refused::SharedId));
    scene.run_until(2_500_000);
    assert_eq!(scene.state("a"), ClockState::False);
    assert_eq!(scene.follows().as_deref(), Some("b"));
    assert_eq!(scene.status().alarms, [Alarm::SharedId, Alarm::Falseticker]);
    scene.run_until(60_500_000);
    assert_eq!(scene.state("a"), ClockState::False);
    scene.run_until(62_500_000);
    assert_eq!(scene.follows().as_deref(), Some("a"));
    assert_eq!(scene.status().alarms, []);
}

/// Returns the clocks for which `alarm` is raised.
pub(crate) fn raised(scene: &Scene, alarm: Alarm) -> Vec<String> {
    let clocks = scene.status().clocks;
    let raised = clocks.iter().filter(|clock| clock.is_raised(alarm));
    raised.map(|clock| clock.id.to_string()).collect()
}

#[test]
fn an_outvoted_clock_raises_an_alarm_until_it_is_accepted_again() {
    let mut scene = Scene::new(&["a", "b", "c"], &[("a", 0), ("b", 0), ("c", 0)]);
    scene.run_until(2_000_000);
    assert_eq!(scene.status().alarms, []);
    scene.set("b", 5 * SECOND_US);
    scene.run_until(4_000_000);
    assert_eq!(scene.status().alarms, [Alarm::Falseticker]);
    assert_eq!(raised(&scene, Alarm::Falseticker), ["b"]);
    scene.set("b", 0);
    scene.run_until(62_000_000);
    assert_eq!(scene.status().alarms, [Alarm::Falseticker]);
    scene.run_until(64_500_000);
    assert_eq!(scene.status().alarms, []);
    assert_eq!(scene.state("b"), ClockState::Accepted);
}

#[test]
fn messages_that_no_clock_sends_raise_an_alarm_and_cost_no_trust() {
    let mut scene = Scene::new(&["a", "b", "c"], &[("a", 0), ("b", 0), ("c", 0)]);
    scene.run_until(2_000_000);
    scene
        .edge
        .keeper
        .handle_invalid(&clock_id("a"), scene.edge.now);
    scene
        .edge
        .keeper
        .handle_invalid(&clock_id("z"), scene.edge.now);
    scene.run_until(4_000_000);
    assert_eq!(scene.status().alarms, [Alarm::Misbehaving]);
    assert_eq!(raised(&scene, Alarm::Misbehaving), ["a"]);
    assert_eq!(scene.follows().as_deref(), Some("a"));
    scene.run_until(62_500_000);
    assert_eq!(scene.status().alarms, []);

    assert_eq!(scene.announce("b", 63_001), Err(Refused::OffGrid));
    assert_eq!(raised(&scene, Alarm::Misbehaving), ["b"]);
    let (_, nonce) = *scene.asked.last().unwrap();
    let same = scene
        .replies(scene.asked.last().unwrap().0, nonce)
        .remove(2);
    assert_eq!(scene.edge.handle_reply(&same), Err(Refused::Duplicate));
    assert_eq!(raised(&scene, Alarm::Misbehaving), ["b"]);
    let other = Reply {
        received_unix_us: same.received_unix_us + 1,
        sent_unix_us: same.sent_unix_us + 1,
        ..same
    };
    assert_eq!(scene.edge.handle_reply(&other), Err(Refused::Duplicate));
    assert_eq!(raised(&scene, Alarm::Misbehaving), ["b", "c"]);
}

#[test]
fn announcements_that_contradict_the_clock_raise_an_alarm() {
    let ids = ["a", "b", "c"];
    let hour_ms = 3_600_000;
    let scene = || {
        let mut scene = Scene::new(&ids, &ids.map(|id| (id, 0)));
        scene.run_until(1_100_000);
        for id in ids {
            assert_eq!(scene.announce(id, 2_000), Ok(()));
        }
        scene
    };
    let announce = |scene: &mut Scene, ms, timeline| {
        let epoch = Epoch::from_ms(BASE_MS + ms);
        scene.edge.announce("a", Mode::Second, epoch, timeline)
    };

    let mut ahead = scene();
    assert_eq!(announce(&mut ahead, hour_ms, 1), Err(Refused::TooFarAhead));
    assert_eq!(raised(&ahead, Alarm::Misbehaving), ["a"]);

    let mut back = scene();
    assert_eq!(announce(&mut back, -hour_ms, 1), Ok(()));
    assert_eq!(raised(&back, Alarm::Misbehaving), ["a"]);

    let mut elsewhere = scene();
    assert_eq!(announce(&mut elsewhere, 2_000, 9), Ok(()));
    assert_eq!(raised(&elsewhere, Alarm::Misbehaving), [""; 0]);
    assert_eq!(announce(&mut elsewhere, 2_000, 1), Ok(()));
    assert_eq!(raised(&elsewhere, Alarm::Misbehaving), ["a"]);

    for mut contradicted in [ahead, back, elsewhere] {
        contradicted.run_until(3_000_000);
        assert_eq!(contradicted.follows().as_deref(), Some("a"));
        assert_eq!(contradicted.status().alarms, [Alarm::Misbehaving]);
    }
}

#[test]
fn announcements_of_a_stepped_clock_or_of_an_earlier_minute_raise_no_alarm() {
    let mut scene = Scene::new(&["a", "b", "c"], &[("a", 0), ("b", 0), ("c", 0)]);
    scene.run_until(1_100_000);
    assert_eq!(scene.announce("a", 12_000), Ok(()));
    let minute = Epoch::from_ms(BASE_MS);
    let minute = scene.edge.announce("a", Mode::Minute, minute, 1);
    assert_eq!(minute, Ok(()));
    // It is stepped by an hour, and announces before it answers.
    let later = Epoch::from_ms(BASE_MS + 3_602_000);
    let stepped = scene.edge.announce("a", Mode::Second, later, 2);
    assert_eq!(stepped, Err(Refused::TooFarAhead));
    let back = Epoch::from_ms(BASE_MS - 3_598_000);
    let stepped = scene.edge.announce("a", Mode::Second, back, 3);
    assert_eq!(stepped, Ok(()));
    assert_eq!(raised(&scene, Alarm::Misbehaving), [""; 0]);
}

#[test]
fn answers_with_impossible_times_raise_an_alarm() {
    for unix_us in [-1, i64::MIN, i64::MAX] {
        let mut scene = Scene::new(&["a", "b", "c"], &[("b", 0), ("c", 0)]);
        scene.run_until(1_360_000);
        let (_, nonce) = *scene.asked.last().unwrap();
        let impossible = Reply {
            received_unix_us: unix_us,
            sent_unix_us: unix_us,
            ..reply(nonce, "a", 0, 1)
        };
        let refused = scene.edge.handle_reply(&impossible);
        assert_eq!(refused, Err(Refused::Implausible));
        assert_eq!(raised(&scene, Alarm::Misbehaving), ["a"]);
    }
}

/// Returns whether the edge must draw another reply subject.
fn redraws(scene: &mut Scene) -> bool {
    let now = scene.edge.now;
    scene.edge.keeper.poll_redraw(now)
}

#[test]
fn an_edge_draws_another_reply_subject_after_three_seconds_of_silence() {
    let mut scene = Scene::new(&["a"], &[("a", 0)]);
    scene.run_until(3_000_000);
    assert!(!redraws(&mut scene));
    scene.clocks.clear();
    scene.run_until(6_349_999);
    assert!(!redraws(&mut scene), "three rounds, but less than 3 s");
    scene.run_until(6_350_000);
    assert!(redraws(&mut scene));
    assert!(!redraws(&mut scene), "counting starts again");
    scene.run_until(9_300_000);
    assert!(!redraws(&mut scene));
    scene.set("a", 0);
    scene.run_until(9_400_000);
    scene.clocks.clear();
    scene.run_until(13_300_000);
    assert!(!redraws(&mut scene), "less than 3 s since the last answer");
    scene.run_until(13_400_000);
    assert!(redraws(&mut scene));
}

#[test]
fn an_edge_that_is_answered_late_keeps_its_reply_subject() {
    // The first is 20 ms after the end of a round, and the last is what clocks still answer.
    for rtt_ms in [60, 500, 1_700] {
        let rtt = Duration::from_millis(rtt_ms);
        let mut edge = Edge::new(&["a"]);
        let mut in_flight = VecDeque::new();
        while edge.now < micros(60_000_000) {
            let answered = in_flight.front().map_or(Mono::NEVER, |&(at, _)| at);
            let now = answered.min(edge.keeper.next_request());
            edge.run_until(now);
            assert!(!edge.keeper.poll_redraw(now), "{rtt:?}, at {now:?}");
            if let Some(nonce) = edge.ask() {
                in_flight.push_back((now + rtt, nonce));
            }
            if let Some((_, nonce)) = in_flight.pop_front_if(|(at, _)| *at <= now) {
                let late = edge.handle_reply(&reply(nonce, "a", 0, 1));
                assert_eq!(late, Err(Refused::Late));
            }
        }
        let rounds = edge.keeper.status(edge.now).rounds;
        assert_eq!(rounds.answered, 0, "{rtt:?}");
        assert!(rounds.unanswered >= 60, "{rtt:?}: {rounds:?}");
    }
}

#[test]
fn an_edge_without_a_connection_keeps_its_reply_subject() {
    let mut scene = Scene::new(&["a"], &[("a", 0)]);
    scene.run_until(3_000_000);
    scene.clocks.clear();
    // Nothing can be sent for 5 s.
    for second in 3..8 {
        scene.run_until(second * 1_000_000 + 349_999);
        assert!(!redraws(&mut scene));
        let at = micros(second * 1_000_000 + 350_000);
        scene.edge.run_until(at);
        scene.edge.ask().expect("a request is due");
        scene.edge.keeper.handle_outage();
    }
    scene.run_until(9_400_000);
    assert!(!redraws(&mut scene), "two rounds were sent since");
    // The connection is dead for 2.9 s before that is noticed.
    scene.run_until(11_200_000);
    scene.edge.keeper.handle_outage();
    scene.run_until(14_200_000);
    assert!(!redraws(&mut scene), "the connection was lost");
    scene.run_until(14_400_000);
    assert!(redraws(&mut scene));
}

#[test]
fn if_all_clocks_differ_none_is_a_falseticker_and_the_edges_own_time_decides() {
    let mut scene = Scene::new(&["a", "b", "c"], &[("a", 0), ("b", 0), ("c", 0)]);
    scene.run_until(2_000_000);
    scene.set("a", 5 * SECOND_US);
    scene.set("b", -5 * SECOND_US);
    scene.run_until(13_000_000);
    let states = ["a", "b", "c"].map(|id| scene.state(id));
    assert_eq!(
        states,
        [
            ClockState::Disagrees,
            ClockState::Disagrees,
            ClockState::Accepted
        ]
    );
    assert_eq!(scene.follows().as_deref(), Some("c"));
    assert_eq!(scene.status().alarms, [Alarm::NoMajority]);
}

#[test]
fn a_majority_of_only_falsetickers_does_not_count() {
    // a, b and c are outvoted one after another; then d and e fall silent.
    let ids = ["a", "b", "c", "d", "e"];
    let mut scene = Scene::new(&ids, &ids.map(|id| (id, 0)));
    scene.run_until(2_000_000);
    scene.set("a", SECOND_US);
    scene.run_until(4_000_000);
    scene.set("a", 0);
    scene.set("b", SECOND_US);
    scene.run_until(6_000_000);
    scene.set("c", SECOND_US);
    scene.set("b", 0);
    scene.run_until(8_000_000);
    scene.set("c", 0);
    scene.clocks.remove("d");
    scene.clocks.remove("e");
    scene.run_until(20_000_000);
    // Three of five agree, each of them a falseticker on probation.
    assert_eq!(
        ["a", "b", "c"].map(|id| scene.state(id)),
        [ClockState::False; 3]
    );
    assert!(scene.status().holdover);
    assert_eq!(scene.follows(), None);
    assert_eq!(
        scene.status().alarms,
        [Alarm::NoneAccepted, Alarm::Falseticker]
    );
}

#[test]
fn an_edge_holds_over_if_no_clock_agrees_with_its_own_time() {
    let mut scene = Scene::new(&["a", "b"], &[("a", 0), ("b", 0)]);
    scene.run_until(2_000_000);
    scene.set("a", SECOND_US);
    scene.set("b", -SECOND_US);
    scene.run_until(20_000_000);
    assert_eq!(scene.offset_us(), Some(0));
    assert!(scene.status().holdover);
    assert_eq!(scene.status().alarms, [Alarm::NoneAccepted]);
    let bound_us = scene.status().bound_us.unwrap();
    // 200 µs and 200 ppm of 18.65 s.
    assert!((3_920..3_940).contains(&bound_us), "{bound_us}");
}

#[test]
fn the_last_resort_is_not_a_falseticker_if_there_is_another_clock() {
    let mut scene = Scene::new(
        &["a", "b", "c"],
        &[("a", 5 * SECOND_US), ("b", 0), ("c", 0)],
    );
    scene.run_until(2_000_000);
    scene.clocks.remove("b");
    scene.clocks.remove("c");
    scene.run_until(59_000_000);
    scene.set("c", 9 * SECOND_US);
    // The last answer of an accepted clock arrived at 1.35 s, so the time is forgotten at 63.35 s;
    // 5 s later there is still no majority.
    scene.run_until(68_000_000);
    assert_eq!(scene.offset_us(), None);
    scene.run_until(70_000_000);
    assert_eq!(scene.follows().as_deref(), Some("c"));
    assert_eq!(
        scene.status().alarms,
        [Alarm::NoMajority, Alarm::Falseticker]
    );
}

#[test]
fn a_sole_clocks_step_of_up_to_ten_seconds_is_followed_immediately() {
    for step_us in [10 * SECOND_US, -9 * SECOND_US] {
        let mut scene = Scene::new(&["a"], &[("a", 0)]);
        scene.run_until(2_000_000);
        scene.set("a", step_us);
        scene.run_until(2_400_000);
        assert_eq!(scene.offset_us(), Some(step_us));
        assert_eq!(scene.edge.take_steps(), 0);
    }
}

#[test]
fn a_second_step_of_a_sole_clock_restarts_the_wait() {
    let mut scene = Scene::new(&["a"], &[("a", 0)]);
    scene.run_until(2_000_000);
    scene.set("a", 3_600 * SECOND_US);
    scene.run_until(9_000_000);
    assert_eq!(
        scene.status().alarms,
        [Alarm::NoneAccepted, Alarm::StepPending]
    );
    scene.set("a", 7_200 * SECOND_US);
    scene.run_until(18_500_000);
    assert_eq!(scene.offset_us(), Some(0));
    scene.run_until(20_500_000);
    assert_eq!(scene.offset_us(), Some(7_200 * SECOND_US));
    assert_eq!(scene.status().alarms, []);
}

#[test]
fn a_majoritys_step_is_followed_immediately_however_far() {
    let mut scene = Scene::new(&["a", "b", "c"], &[("a", 0), ("b", 0), ("c", 0)]);
    scene.run_until(2_000_000);
    for id in ["a", "b", "c"] {
        scene.set(id, -3_600 * SECOND_US);
    }
    scene.run_until(2_400_000);
    assert_eq!(scene.offset_us(), Some(-3_600 * SECOND_US));
    assert_eq!(scene.edge.take_steps(), 1);
}

#[test]
fn a_new_generation_starts_only_beyond_ten_seconds_back() {
    for (back_us, steps) in [(9_999_000, 0), (10_001_000, 1)] {
        let ids = ["a", "b", "c"];
        let mut scene = Scene::new(&ids, &ids.map(|id| (id, 0)));
        scene.run_until(20_000_000);
        for id in ids {
            scene.set(id, -back_us);
        }
        scene.run_until(21_000_000);
        assert_eq!(scene.edge.take_steps(), steps, "{back_us} µs back");
        scene.run_until(40_000_000);
        let ticks = scene.edge.second.released.windows(2);
        let resets =
            ticks.filter(|two| two[1].tick.epoch.as_ms() - two[0].tick.epoch.as_ms() != 1_000);
        assert_eq!(resets.count(), usize::try_from(steps).unwrap());
    }
}

#[test]
fn announcements_off_the_grid_too_far_ahead_or_from_unknown_clocks_are_refused() {
    let mut scene = Scene::new(&["a"], &[("a", 0)]);
    // Before the time is known, no announcement can be too far ahead.
    assert_eq!(scene.announce("a", 3_600_000), Ok(()));
    assert_eq!(scene.announce("a", 1), Err(Refused::OffGrid));
    assert_eq!(scene.announce("z", 1_000), Err(Refused::UnknownClock));
    scene.run_until(1_100_000);
    assert_eq!(
        scene.last_quality(),
        Quality::Holdover,
        "the announcement far ahead is forgotten"
    );
    assert_eq!(scene.announce("a", 13_000), Err(Refused::TooFarAhead));
    assert_eq!(
        scene.announce("a", i64::MAX - i64::MAX.rem_euclid(1_000) - BASE_MS),
        Err(Refused::TooFarAhead)
    );
    assert_eq!(scene.announce("a", 12_000), Ok(()));
    scene.run_until(2_100_000);
    assert_eq!(scene.last_quality(), Quality::Normal);
}

#[test]
fn an_older_announcement_does_not_revoke_a_newer_one() {
    let mut scene = Scene::new(&["a"], &[("a", 0)]);
    scene.run_until(500_000);
    assert_eq!(scene.announce("a", 2_000), Ok(()));
    assert_eq!(scene.announce("a", 1_000), Ok(()));
    scene.run_until(2_100_000);
    assert_eq!(scene.last_quality(), Quality::Normal);
    let ahead_us = scene.status().clocks[0].announced_ahead_us;
    assert_eq!(ahead_us, Some(1_500_000));
}

#[test]
fn a_falsetickers_announcements_are_refused() {
    let mut scene = Scene::new(&["a", "b", "c"], &[("a", SECOND_US), ("b", 0), ("c", 0)]);
    scene.run_until(500_000);
    assert_eq!(scene.announce("a", 1_000), Err(Refused::Falseticker));
    assert_eq!(scene.announce("b", 1_000), Ok(()));
}

#[test]
fn fake_clocks_neither_exhaust_memory_nor_keep_real_ones_out() {
    let mut scene = Scene::new(&[], &[("a", 0)]);
    let refused = (0..1_000)
        .filter(|n| scene.announce(&format!("x{n}"), 1_000).is_err())
        .count();
    assert_eq!(refused, 1_000 - 64);
    scene.run_until(2_000_000);
    assert_eq!(scene.follows().as_deref(), Some("a"));
    assert_eq!(scene.status().clocks.len(), 64);
    scene.edge.sleep_until(micros(2_350_000));
    let nonce = scene.edge.ask().unwrap();
    scene.edge.sleep_until(micros(2_350_400));
    let answers = (0..1_000).map(|n| reply(nonce, &format!("y{n}"), 2_350_200, 1));
    let refused = answers
        .filter(|answer| scene.edge.handle_reply(answer).is_err())
        .count();
    assert_eq!(refused, 1_000 - 63);
    scene.run_until(63_000_000);
    assert_eq!(
        scene.status().clocks.len(),
        1,
        "no other clock has been heard for HOLDOVER_MAX"
    );
}

#[test]
fn ticks_in_holdover_are_punctual_and_it_ends_without_a_gap() {
    let mut scene = Scene::new(&["a"], &[("a", 300)]);
    scene.run_until(5_000_000);
    scene.clocks.clear();
    scene.run_until(60_000_000);
    scene.set("a", 300);
    scene.run_until(70_000_000);
    let released = &scene.edge.second.released;
    assert_eq!(released.len(), 70);
    for (second, one) in (1_u64..).zip(released) {
        assert_eq!(one.at, micros(second * 1_000_000 - 300));
        assert_eq!(
            one.tick.epoch,
            Epoch::from_ms(BASE_MS + i64::try_from(second).unwrap() * 1_000)
        );
    }
}

#[test]
fn holdover_counts_from_the_last_answer_of_any_accepted_clock() {
    let ids = ["a", "b", "c"];
    let mut scene = Scene::new(&ids, &ids.map(|id| (id, 0)));
    scene.run_until(2_000_000);
    scene.clocks.remove("a");
    scene.run_until(5_000_000);
    scene.set("b", 5 * SECOND_US);
    scene.set("c", -5 * SECOND_US);
    scene.run_until(6_000_000);
    // a is accepted because of its old sample, heard at 1.3504 s. b and c were last heard as
    // accepted clocks at 4.3504 s.
    assert_eq!(scene.follows().as_deref(), Some("a"));
    scene.run_until(66_300_000);
    assert_eq!(scene.offset_us(), Some(0));
    scene.run_until(66_351_000);
    assert_eq!(scene.offset_us(), None);
}

#[test]
fn an_outage_beyond_holdover_costs_no_tick_within_the_resume_window() {
    let mut scene = Scene::new(&["a"], &[("a", 0)]);
    scene.run_until(1_500_000);
    scene.clocks.clear();
    scene.run_until(400_000_000);
    let before = scene.edge.second.released.len();
    assert_eq!(before, 63, "1.35 s, HOLDOVER_MAX {HOLDOVER_MAX:?} and 2 s");
    scene.set("a", 0);
    scene.run_until(402_000_000);
    let epochs = scene
        .edge
        .second
        .released
        .iter()
        .map(|one| one.tick.epoch.as_ms() - BASE_MS);
    assert!(epochs.eq((1..=402).map(|second| second * 1_000)));
    assert_eq!(scene.edge.take_steps(), 0);
}

#[test]
fn the_reported_clock_error_is_that_of_the_followed_clock() {
    let mut scene = Scene::new(&["a"], &[("a", 0)]);
    scene.run_until(1_000_000);
    assert_eq!(scene.edge.authority().unwrap().clock_error_us(), 7);
    let clock = &scene.status().clocks[0];
    assert_eq!(
        (clock.rank, clock.synchronized, clock.offset_us),
        (Some(0), Some(true), Some(0))
    );
}
