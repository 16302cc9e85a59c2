//! A shard whose machine is suspended or stalls: what it knew of the time before does not count, or
//! is applied before anything that waits is served.

use tickstorm_protocol::message::Pong;

use super::*;

const NORMAL: i32 = 0;
const REPLAY: i32 = 2;
const SLEPT: Duration = Duration::from_secs(30);

impl Sim {
    /// Suspends the machine: its clock stops, and those of others go on.
    fn suspend(&mut self) {
        self.script.scene().suspended += SLEPT;
        self.time.base_ms += i64::try_from(SLEPT.as_millis()).unwrap();
    }

    /// Lets the timekeeper notice the suspension and learn the time again, and passes that on.
    fn learn_time_again(&mut self) {
        self.time.now = self.now();
        let keeper = &mut self.time.keeper;
        keeper.handle_suspended(Duration::ZERO, self.time.now);
        let noticed = keeper.handle_suspended(SLEPT, self.time.now);
        assert_eq!(noticed, Some(SLEPT));
        let (after, now) = self.time.run_until(|_| true);
        self.run_for(now.since(self.now()));
        self.authority = after;
        self.learn_time();
    }

    /// Sends a heartbeat and returns the answer.
    fn pong(&mut self, client: RawFd) -> Pong {
        self.script.client_sends(client, &heartbeat(7));
        self.run_for(MS);
        let frames = self.frames(client);
        let pong = frames.iter().find(|frame| frame.kind == PONG);
        pong.expect("a PONG").decode()
    }
}

#[test]
fn after_a_suspension_there_is_no_tick_and_no_time_until_it_is_learned_again() {
    let mut sim = Sim::new(settings());
    let client = sim.subscriber(Mode::Second, false);
    sim.frames(client);
    sim.run_to_just_before_a_second();
    assert!(sim.pong(client).error_bound_us < 1_000);
    let before = sim.authority;
    sim.run_for(SECOND);
    let (last, quality) = *sim.ticks(client).last().expect("a tick");
    assert_eq!(quality, NORMAL);

    sim.run_to_just_before_a_second();
    sim.suspend();
    sim.run_for(3 * SECOND);
    assert_eq!(sim.ticks(client), []);
    let pong = sim.pong(client);
    assert_eq!((pong.sent_unix_us, pong.error_bound_us), (0, u32::MAX));
    // An authority from before the suspension, which the timekeeper published too late.
    sim.shard.set_authority(Some(before));
    sim.run_for(2 * SECOND);
    assert_eq!(sim.ticks(client), []);

    sim.learn_time_again();
    sim.run_for(2 * SECOND);
    let ticks = sim.ticks(client);
    let mut expected = last;
    for (epoch, _) in &ticks {
        expected += 1_000;
        assert_eq!(*epoch, expected, "{ticks:?}");
    }
    assert!(ticks.len() > 33, "{ticks:?}");
    assert_eq!(ticks[0].1, REPLAY, "{ticks:?}");
    let (end, quality) = *ticks.last().unwrap();
    assert_eq!(quality, NORMAL, "{ticks:?}");
    let now_ms = sim.authority.time_at(sim.now()).as_millis();
    assert!((0..=1_000).contains(&(now_ms - end)), "{now_ms}: {ticks:?}");
    assert!(sim.pong(client).error_bound_us < 10_000);
}

#[test]
fn a_suspension_closes_nobody_even_without_a_drain_timeout() {
    let mut sim = Sim::new(ShardSettings {
        drain_timeout: Duration::ZERO,
        ..settings()
    });
    let clients = [(); 20].map(|()| sim.subscriber(Mode::Second, false));
    sim.run_for(SECOND);
    sim.suspend();
    sim.run_for(1_200 * MS);
    sim.learn_time_again();
    sim.run_for(4 * SECOND);
    assert_eq!(sim.closed("no_time"), 0);
    for client in clients {
        assert!(!sim.script.on(client).is_shut);
        let (_, quality) = *sim.ticks(client).last().expect("a tick");
        assert_eq!(quality, NORMAL);
    }
}

#[test]
fn a_suspension_during_a_wait_is_noticed_before_what_arrived_meanwhile_is_answered() {
    let mut sim = Sim::new(settings());
    let client = sim.subscriber(Mode::Second, false);
    sim.frames(client);
    // The turn has read the clock, waits, and gets the heartbeat.
    sim.script.client_sends(client, &heartbeat(7));
    sim.suspend();
    sim.run_for(MS);
    let frames = sim.frames(client);
    let pong: Pong = frames[0].decode();
    assert_eq!(pong.error_bound_us, u32::MAX);
}

#[test]
fn after_a_stall_in_a_wait_a_new_time_is_applied_before_what_arrived_meanwhile_is_answered() {
    let mut sim = Sim::new(settings());
    let client = sim.subscriber(Mode::Second, false);
    sim.frames(client);
    sim.run_for(SECOND);
    sim.frames(client);
    sim.script.client_sends(client, &heartbeat(7));
    sim.script.scene().wait_stalls = SLEPT;
    sim.shard.turn().unwrap();
    assert_eq!(sim.frames(client).len(), 0, "nothing is served yet");
    // Before its next turn, the thread applies what was published.
    sim.shard.set_authority(None);
    sim.shard.turn().unwrap();
    let frames = sim.frames(client);
    let pong: Pong = frames[0].decode();
    assert_eq!(pong.error_bound_us, u32::MAX, "{frames:?}");
}

#[test]
fn after_a_stall_of_30_s_the_bound_has_grown_by_the_drift_of_that_time() {
    let mut sim = Sim::new(settings());
    let client = sim.subscriber(Mode::Second, false);
    sim.run_for(SECOND);
    sim.frames(client);
    let before = sim.pong(client).error_bound_us;
    sim.stall(SLEPT);
    let pong = sim.pong(client);
    assert!(pong.error_bound_us >= before + 6_000, "{before}, {pong:?}");
    let time_us = sim.authority.time_at(sim.now()).as_micros();
    assert!((time_us - pong.sent_unix_us).abs() < 2_000, "{pong:?}");
}
