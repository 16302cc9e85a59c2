//! Tests of clients that are sent away: by a drain, by an operator, and because the time is lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tickstorm_protocol::message::GoingAway;
use tickstorm_testkit::frame::GOING_AWAY;
use tickstorm_timebase::Mono;
use tokio::sync::oneshot;

use super::super::connections::Walk;
use super::super::moves::{Chosen, MoveAnswer, RebalanceOrder};
use super::super::tasks::ShardTask;
use super::*;

/// The quality of ticks that are sent late.
const REPLAY: i32 = 2;
/// The longest time by which a deadline that a client was told may be missed. The edge closes a few
/// connections at a time, and the tests look once in this time.
const STEP: Duration = Duration::from_millis(20);

/// What a client saw before its connection was closed.
#[derive(Debug, Default)]
struct Seen {
    /// When it was told to go, and the deadline.
    told: Option<(Mono, Mono)>,
    ticks: Vec<(i64, i32)>,
    /// When it got an ERROR, and its code.
    closed: Option<(Mono, String)>,
    message: String,
    hint_ms: u32,
}

/// Returns settings with which no client is closed for its silence.
fn patient() -> ShardSettings {
    let mut settings = settings();
    settings.limits.heartbeat_timeout = Duration::from_secs(3_600);
    settings
}

/// Clients and what they have seen since the last look.
struct Crowd(Vec<(RawFd, Seen)>);

impl Crowd {
    fn subscribe(sim: &mut Sim, clients: usize) -> Self {
        let crowd = (0..clients).map(|_| (sim.subscriber(Mode::Second, false), Seen::default()));
        let crowd = Self(crowd.collect());
        for (client, _) in &crowd.0 {
            sim.frames(*client);
        }
        crowd
    }

    /// Runs the shard for `time`, and looks at all clients in small steps.
    fn watch(&mut self, sim: &mut Sim, time: Duration) {
        let until = sim.now() + time;
        while sim.now() < until {
            sim.run_for(STEP);
            for (client, seen) in &mut self.0 {
                for frame in sim.frames(*client) {
                    match frame.kind {
                        GOING_AWAY => {
                            let told: GoingAway = frame.decode();
                            let within = Duration::from_millis(told.deadline_ms.into());
                            assert!(!told.reason.is_empty());
                            seen.told = Some((sim.now(), sim.now() + within));
                        }
                        ERROR => {
                            let error: ErrorMsg = frame.decode();
                            seen.message = error.message;
                            seen.hint_ms = error.retry_after_ms;
                            seen.closed = Some((sim.now(), error.code));
                        }
                        DATA_BATCH => seen.ticks.extend(ticks_of(&[frame])),
                        other => panic!("a frame of type {other}"),
                    }
                }
            }
        }
    }

    fn closed(&self) -> impl Iterator<Item = &Seen> {
        self.0
            .iter()
            .map(|(_, seen)| seen)
            .filter(|seen| seen.closed.is_some())
    }

    fn told(&self) -> usize {
        let each = self.0.iter();
        each.filter(|(_, seen)| seen.told.is_some()).count()
    }
}

/// Asserts that ticks follow each other without a gap, and that the last is at most a second old.
fn assert_served_until(sim: &Sim, seen: &Seen, until: Mono) {
    let follow = |pair: &[(i64, i32)]| pair[1].0 == pair[0].0 + 1_000;
    assert!(seen.ticks.windows(2).all(follow), "{seen:?}");
    let until_ms = sim.authority.time_at(until).as_millis();
    let last = seen.ticks.last().map_or(0, |(epoch_ms, _)| *epoch_ms);
    assert!(
        until_ms - last <= 1_050,
        "{last} is the last before {until_ms}"
    );
}

fn drain_and_wait(sim: &mut Sim, over: Duration) -> oneshot::Receiver<()> {
    let (reply, drained) = oneshot::channel();
    let now = sim.now();
    sim.shard
        .drain(super::super::drain::Drain::new(over, now, reply));
    drained
}

fn move_one(sim: &mut Sim, id: u64, within: Duration) -> MoveAnswer {
    let (reply, mut answer) = oneshot::channel();
    sim.shard.waiting.tasks.add(ShardTask::MoveOne {
        id,
        within,
        walk: Walk::default(),
        reply: Some(reply),
    });
    sim.run_for(5 * MS);
    answer.try_recv().unwrap()
}

fn ids(sim: &mut Sim) -> Vec<u64> {
    let mut walk = Walk::default();
    let step = || Some(sim.shard.connections.step(&mut walk)?.key.id);
    std::iter::from_fn(step).collect()
}

/// Starts to move a share of the clients.
fn rebalance(
    sim: &mut Sim,
    share: f64,
    over: Duration,
    grace: Duration,
) -> (Chosen, Arc<AtomicUsize>) {
    let (reply, mut chosen) = oneshot::channel();
    let told = Arc::new(AtomicUsize::new(0));
    let order = RebalanceOrder {
        share,
        carry: 0.5,
        over,
        grace,
        told: Arc::clone(&told),
        reply,
    };
    let at = sim.shard.time.read_clock();
    sim.shard.waiting.departures.rebalance(order, at);
    sim.run_for(5 * MS);
    (chosen.try_recv().unwrap(), told)
}

#[test]
fn in_a_drain_each_client_has_half_of_the_time_and_is_closed_at_its_own_deadline() {
    let mut sim = Sim::new(patient());
    let mut crowd = Crowd::subscribe(&mut sim, 100);
    let began = sim.now();
    let mut drained = drain_and_wait(&mut sim, 20 * SECOND);
    crowd.watch(&mut sim, 9_900 * MS);
    assert_eq!((crowd.told(), crowd.closed().count()), (100, 0));
    let mut by_second = Vec::new();
    for _ in 0..9 {
        crowd.watch(&mut sim, SECOND);
        by_second.push(crowd.closed().count());
    }
    for (second, closed) in (1..).zip(&by_second) {
        let even = (second * 1_000 - 100) / 87;
        assert!(closed.abs_diff(even.min(100)) <= 2, "{by_second:?}");
    }
    for seen in crowd.closed() {
        let (told, deadline) = seen.told.unwrap();
        let (closed, code) = seen.closed.as_ref().unwrap();
        assert!(told.since(began) <= 2 * SECOND + STEP * 2, "{seen:?}");
        assert!(deadline.since(told) + STEP >= 10 * SECOND, "{seen:?}");
        let missed = closed.since(deadline).max(deadline.since(*closed));
        assert!(missed <= STEP * 3, "{seen:?}");
        assert_eq!(code, "SERVER_DRAINING");
        assert!((1..=500).contains(&seen.hint_ms), "{seen:?}");
        assert_served_until(&sim, seen, *closed);
    }
    sim.run_for(1_300 * MS);
    assert_eq!(drained.try_recv(), Ok(()));
    assert_eq!(sim.metrics.count_of_going_away("drain"), 100);
}

#[test]
fn a_drain_ends_when_the_last_client_has_left() {
    let mut sim = Sim::new(patient());
    let mut crowd = Crowd::subscribe(&mut sim, 10);
    let mut drained = drain_and_wait(&mut sim, 20 * SECOND);
    crowd.watch(&mut sim, 2 * SECOND);
    for (client, _) in &crowd.0[1..] {
        sim.script.client_ends(*client);
    }
    crowd.watch(&mut sim, SECOND);
    assert!(drained.try_recv().is_err(), "one client is left");
    sim.script.client_ends(crowd.0[0].0);
    sim.run_for(50 * MS);
    assert_eq!(drained.try_recv(), Ok(()));
}

#[test]
fn a_client_that_authenticates_during_a_drain_is_told_and_one_that_does_not_is_not() {
    let mut settings = patient();
    settings.limits.auth_timeout = 60 * SECOND;
    let mut sim = Sim::new(settings);
    let connected: Vec<_> = (0..3).map(|_| sim.script.connect()).collect();
    sim.run_for(MS);
    drain_and_wait(&mut sim, 20 * SECOND);
    sim.run_for(5 * SECOND);
    for client in &connected[..2] {
        sim.script.client_sends(*client, &auth("pass"));
    }
    sim.run_for(50 * MS);
    for client in &connected[..2] {
        let frames = sim.frames(*client);
        let kinds: Vec<_> = frames.iter().map(|frame| frame.kind).collect();
        assert_eq!(kinds, [ACK, GOING_AWAY]);
        let told: GoingAway = frames[1].decode();
        assert!((4_900..14_000).contains(&told.deadline_ms), "{told:?}");
    }
    sim.run_for(16 * SECOND);
    for client in connected {
        let frames = sim.frames(client);
        assert_eq!(frames.len(), 1, "only the ERROR: {frames:?}");
        assert_eq!(frames[0].decode::<ErrorMsg>().code, "SERVER_DRAINING");
    }
}

#[test]
fn going_away_waits_behind_a_partial_frame_and_for_a_socket_that_is_full() {
    let mut sim = Sim::new(patient());
    let client = sim.subscriber(Mode::Second, false);
    sim.frames(client);
    sim.script.on(client).room = Some(7);
    sim.run_for(1_100 * MS);
    assert_eq!(sim.script.on(client).sent.len(), 7, "a partial frame");
    drain_and_wait(&mut sim, 20 * SECOND);
    sim.run_for(SECOND);
    sim.script.client_reads(client, 10_000);
    sim.run_for(SECOND);
    let kinds: Vec<_> = sim.frames(client).iter().map(|frame| frame.kind).collect();
    assert_eq!(kinds[..2], [DATA_BATCH, GOING_AWAY], "{kinds:?}");
    assert!(
        kinds[2..].iter().all(|kind| *kind == DATA_BATCH),
        "{kinds:?}"
    );
}

#[test]
fn telling_and_closing_3000_clients_is_done_in_small_steps_and_delays_no_tick() {
    let mut sim = Sim::new(patient());
    for _ in 0..3_000 {
        sim.subscriber(Mode::Minute, false);
    }
    bounds::assert_tick_not_delayed(&mut sim, |sim| sim.drain(20 * SECOND));
    sim.run_for(20 * SECOND);
    bounds::assert_calls_bounded(&sim);
    assert_eq!(sim.metrics.count_of_going_away("drain"), 3_001);
    assert_eq!(sim.closed("server_draining"), 3_001);
}

/// Returns how long the fan-out of each of the next ticks takes.
fn fan_outs(sim: &mut Sim, ticks: usize) -> Vec<Duration> {
    sim.script.scene().cost = Duration::from_micros(4);
    let mut took = Vec::new();
    for _ in 0..ticks {
        sim.run_to_just_before_a_second();
        sim.script.scene().horizon = sim.now() + SECOND;
        while sim.shard.sending.busy_since.is_none() {
            sim.shard.turn().unwrap();
        }
        let began = sim.now();
        while sim.shard.sending.busy_since.is_some() {
            sim.shard.turn().unwrap();
        }
        took.push(sim.now().since(began));
    }
    took
}

#[test]
fn no_client_is_told_or_closed_while_a_tick_is_sent_to_3000() {
    let mut sim = Sim::new(patient());
    for _ in 0..3_000 {
        sim.subscriber(Mode::Second, false);
    }
    let without = fan_outs(&mut sim, 3).into_iter().max().unwrap();
    sim.drain(20 * SECOND);
    // Clients are told during the first two, and closed during the last ones.
    let with = fan_outs(&mut sim, 14);
    let latest = *with.iter().max().unwrap();
    assert!(
        latest <= without + MS / 2,
        "{latest:?} instead of {without:?}"
    );
    assert_eq!(sim.metrics.count_of_going_away("drain"), 3_000);
    let closed = sim.closed("server_draining");
    assert!((500..2_500).contains(&closed), "{closed}");
}

#[test]
fn a_drain_goes_on_even_if_ticks_are_sent_without_a_pause() {
    let mut sim = Sim::new(patient());
    for _ in 0..1_400 {
        sim.subscriber(Mode::Second, false);
    }
    // Sending a tick takes longer than a second, so each turn has time for one other call.
    sim.script.scene().cost = MS;
    sim.run_for(5 * SECOND);
    let began = sim.now();
    sim.drain(4 * SECOND);
    sim.run_for(40 * SECOND);
    let busy_since = sim.shard.sending.busy_since;
    assert!(
        busy_since.is_some_and(|since| since < began),
        "{busy_since:?}"
    );
    assert!(sim.metrics.count_of_going_away("drain") >= 1);
    let closed = sim.closed("server_draining");
    assert!(closed >= 10, "{closed}");
}

#[test]
fn one_client_is_moved_gently_and_no_other() {
    let mut sim = Sim::new(patient());
    let mut crowd = Crowd::subscribe(&mut sim, 3);
    let ids = ids(&mut sim);
    let within = 8 * SECOND;
    assert_eq!(move_one(&mut sim, ids[1], within), MoveAnswer::Told(within));
    crowd.watch(&mut sim, 3 * SECOND);
    assert_eq!(crowd.told(), 1);
    // It is told only once, and keeps its deadline.
    let MoveAnswer::Told(left) = move_one(&mut sim, ids[1], within) else {
        panic!("it is still there");
    };
    assert!((4 * SECOND..=5 * SECOND).contains(&left), "{left:?}");
    crowd.watch(&mut sim, 4_900 * MS);
    assert_eq!(crowd.closed().count(), 0);
    crowd.watch(&mut sim, 200 * MS);
    let (_, seen) = &crowd.0[1];
    let (closed, code) = seen.closed.as_ref().unwrap();
    assert_eq!(code, "SERVER_DRAINING");
    assert!(!seen.message.contains("shut down"), "{}", seen.message);
    assert!(seen.told.is_some());
    assert_served_until(&sim, seen, *closed);
    crowd.watch(&mut sim, 5 * SECOND);
    assert_eq!((crowd.told(), crowd.closed().count()), (1, 1));
    assert_eq!(sim.metrics.count_of_going_away("operator"), 1);
    assert_eq!(move_one(&mut sim, ids[1], within), MoveAnswer::Unknown);
}

#[test]
fn a_client_that_can_not_be_told_is_not_moved() {
    let mut sim = Sim::new(patient());
    let silent = sim.script.connect();
    sim.run_for(MS);
    let id = ids(&mut sim)[0];
    assert_eq!(move_one(&mut sim, id, SECOND), MoveAnswer::Unauthenticated);
    sim.run_for(3 * SECOND);
    assert!(sim.frames(silent).is_empty());
    drain_and_wait(&mut sim, 20 * SECOND);
    assert_eq!(move_one(&mut sim, id, SECOND), MoveAnswer::Draining);
}

#[test]
fn a_share_of_the_clients_chosen_at_random_is_moved_evenly_over_the_time() {
    let mut sim = Sim::new(patient());
    sim.script.connect();
    let mut crowd = Crowd::subscribe(&mut sim, 200);
    let began = sim.now();
    let (chosen, told) = rebalance(&mut sim, 0.2, 40 * SECOND, 10 * SECOND);
    assert_eq!(chosen.connections, 40);
    let mut by_second = Vec::new();
    for _ in 0..40 {
        crowd.watch(&mut sim, SECOND);
        by_second.push((crowd.told(), crowd.closed().count()));
    }
    // All are told in the first 30 s, and closed 10 s later each.
    for (second, (told, closed)) in (1_usize..).zip(&by_second) {
        let even = |second: usize| (second * 40 / 30).min(40);
        assert!(told.abs_diff(even(second)) <= 2, "{by_second:?}");
        assert!(
            closed.abs_diff(even(second.saturating_sub(10))) <= 2,
            "{by_second:?}"
        );
    }
    for seen in crowd.closed() {
        let ((at, deadline), (closed, code)) = (seen.told.unwrap(), seen.closed.clone().unwrap());
        assert!(deadline.since(at) <= 10 * SECOND && closed.since(began) <= 41 * SECOND);
        assert!(closed.since(at) + STEP * 2 >= 10 * SECOND, "{seen:?}");
        assert_eq!(code, "SERVER_DRAINING");
        assert_served_until(&sim, seen, closed);
    }
    sim.run_for(SECOND);
    assert_eq!(told.load(Ordering::Relaxed), 40);
    assert_eq!(Arc::strong_count(&told), 1, "the rebalance is over");
    assert_eq!(sim.metrics.count_of_going_away("rebalance"), 40);
}

#[test]
fn each_rebalance_chooses_other_clients_and_the_share_is_rounded() {
    let chosen_of = |clients, share| {
        let mut sim = Sim::new(patient());
        let mut crowd = Crowd::subscribe(&mut sim, clients);
        let (chosen, _) = rebalance(&mut sim, share, 2 * SECOND, SECOND);
        crowd.watch(&mut sim, 1_900 * MS);
        let told = crowd.0.iter().filter(|(_, seen)| seen.told.is_some());
        let told: BTreeSet<_> = told.map(|(client, _)| *client).collect();
        assert_eq!(told.len(), chosen.connections);
        told
    };
    assert_ne!(chosen_of(60, 0.5), chosen_of(60, 0.5));
    assert_eq!(chosen_of(3, 0.2).len(), 1);
    assert_eq!(chosen_of(2, 0.2).len(), 0);
    assert_eq!(chosen_of(7, 1.0).len(), 7);
}

#[test]
fn shards_together_round_the_share_once() {
    let mut carry = 0.5;
    let mut sum = 0;
    for clients in [1, 2, 1, 1, 2] {
        let mut sim = Sim::new(patient());
        Crowd::subscribe(&mut sim, clients);
        let (reply, mut chosen) = oneshot::channel();
        let order = RebalanceOrder {
            share: 0.2,
            carry,
            over: 2 * SECOND,
            grace: SECOND,
            told: Arc::default(),
            reply,
        };
        let at = sim.shard.time.read_clock();
        sim.shard.waiting.departures.rebalance(order, at);
        sim.run_for(5 * MS);
        let Chosen {
            connections,
            carry: left,
        } = chosen.try_recv().unwrap();
        sum += connections;
        carry = left;
    }
    assert_eq!(sum, 1, "a fifth of seven clients");
}

#[test]
fn a_rebalance_ends_early_if_the_clients_leave_by_themselves() {
    let mut sim = Sim::new(patient());
    let crowd = Crowd::subscribe(&mut sim, 20);
    let (_, told) = rebalance(&mut sim, 1.0, 40 * SECOND, SECOND);
    for (client, _) in &crowd.0 {
        sim.script.client_ends(*client);
    }
    sim.run_for(4 * SECOND);
    assert_eq!(Arc::strong_count(&told), 1);
}

#[test]
fn a_drain_replaces_a_rebalance() {
    let mut sim = Sim::new(patient());
    let mut crowd = Crowd::subscribe(&mut sim, 50);
    let (_, told) = rebalance(&mut sim, 1.0, 10 * SECOND, 5 * SECOND);
    crowd.watch(&mut sim, 2 * SECOND);
    let mut drained = drain_and_wait(&mut sim, 20 * SECOND);
    assert_eq!(Arc::strong_count(&told), 1);
    crowd.watch(&mut sim, 18_900 * MS);
    for seen in crowd.closed() {
        let (closed, _) = seen.closed.as_ref().unwrap();
        let (_, deadline) = seen.told.unwrap();
        assert!(closed.since(deadline).max(deadline.since(*closed)) <= STEP * 3);
    }
    assert_eq!(crowd.closed().count(), 50);
    sim.run_for(1_300 * MS);
    assert_eq!(drained.try_recv(), Ok(()));
}

/// Loses the time, and gives it back after `dark`. Returns what the clients have seen.
fn lose_time_for(sim: &mut Sim, crowd: &mut Crowd, dark: Duration) {
    crowd.watch(sim, 1_100 * MS);
    sim.shard.set_authority(None);
    crowd.watch(sim, dark);
    let authority = sim.authority;
    sim.shard.set_authority(Some(authority));
    crowd.watch(sim, 2 * SECOND);
}

#[test]
fn subscribers_of_an_edge_without_time_are_closed_evenly_over_the_drain_timeout() {
    let mut sim = Sim::new(patient());
    let mut crowd = Crowd::subscribe(&mut sim, 180);
    let idle = sim.script.connect();
    sim.script.client_sends(idle, &auth("pass"));
    sim.run_for(MS);
    sim.shard.set_authority(None);
    crowd.watch(&mut sim, 2 * SECOND);
    assert_eq!(crowd.closed().count(), 0);
    for second in 1..=18_usize {
        crowd.watch(&mut sim, SECOND);
        let closed = crowd.closed().count();
        // The wheel, which turns every 100 ms, notices the loss.
        assert!(
            closed.abs_diff(second * 10) <= 3,
            "{closed} after {second} s"
        );
    }
    crowd.watch(&mut sim, 200 * MS);
    assert_eq!(crowd.closed().count(), 180);
    for seen in crowd.closed() {
        assert_eq!(seen.closed.as_ref().unwrap().1, "NO_TIME");
        assert!((1_000..=10_000).contains(&seen.hint_ms), "{seen:?}");
    }
    assert_eq!(sim.closed("no_time"), 180);
    assert!(!sim.script.on(idle).is_shut, "it has not subscribed");
}

#[test]
fn if_the_time_comes_back_the_others_stay_and_get_the_missed_ticks_as_replay() {
    for dark in [1_500 * MS, 11 * SECOND] {
        let mut sim = Sim::new(patient());
        let mut crowd = Crowd::subscribe(&mut sim, 90);
        lose_time_for(&mut sim, &mut crowd, dark);
        let left: Vec<_> = crowd
            .0
            .iter()
            .filter(|(_, seen)| seen.closed.is_none())
            .collect();
        let expected = if dark < 2 * SECOND { 90 } else { 45 };
        assert!(
            left.len().abs_diff(expected) <= 3,
            "{} are left",
            left.len()
        );
        let now = sim.now();
        for (client, seen) in left {
            assert!(!sim.script.on(*client).is_shut);
            assert_served_until(&sim, seen, now);
            let replayed = seen.ticks.iter().filter(|(_, quality)| *quality == REPLAY);
            assert!(
                replayed.count() >= usize::from(dark > 3 * SECOND),
                "{seen:?}"
            );
        }
    }
}

#[test]
fn the_time_is_lost_when_it_is_no_longer_valid_even_if_the_shard_is_not_told() {
    let mut sim = Sim::new(patient());
    let client = sim.subscriber(Mode::Minute, false);
    // Longer than HOLDOVER_MAX of these tests.
    sim.stall(Duration::from_secs(3_700));
    sim.run_for(19 * SECOND);
    assert!(!sim.script.on(client).is_shut);
    sim.run_for(2 * SECOND);
    assert_eq!(sim.error(client), "NO_TIME");
}

#[test]
fn without_a_drain_timeout_subscribers_are_closed_within_a_second_after_the_grace() {
    for drain_timeout in [Duration::ZERO, SECOND] {
        let mut sim = Sim::new(ShardSettings {
            drain_timeout,
            ..patient()
        });
        let mut crowd = Crowd::subscribe(&mut sim, 100);
        sim.shard.set_authority(None);
        crowd.watch(&mut sim, 2 * SECOND);
        assert_eq!(crowd.closed().count(), 0);
        crowd.watch(&mut sim, 500 * MS);
        let closed = crowd.closed().count();
        assert!((30..=50).contains(&closed), "{closed} after half of it");
        crowd.watch(&mut sim, 700 * MS);
        assert_eq!(crowd.closed().count(), 100);
    }
}

/// A stopped edge loses the time, and learns it again in its first rounds.
#[test]
fn an_edge_that_stood_still_closes_no_subscriber_if_it_learns_the_time_soon() {
    let mut sim = Sim::new(patient());
    let mut crowd = Crowd::subscribe(&mut sim, 100);
    sim.stall(Duration::from_secs(4_000));
    crowd.watch(&mut sim, 1_500 * MS);
    sim.time.now = sim.now();
    let now = sim.now();
    let (authority, _) = sim.time.run_until(|authority| authority.is_valid(now));
    sim.authority = authority;
    sim.shard.set_authority(Some(authority));
    crowd.watch(&mut sim, 25 * SECOND);
    let no_time = crowd
        .closed()
        .filter(|seen| seen.closed.as_ref().unwrap().1 == "NO_TIME");
    assert_eq!(no_time.count(), 0);
}

#[test]
fn a_draining_edge_without_time_sends_its_clients_away_as_any_other() {
    let mut sim = Sim::new(patient());
    let mut crowd = Crowd::subscribe(&mut sim, 50);
    sim.shard.set_authority(None);
    crowd.watch(&mut sim, SECOND);
    drain_and_wait(&mut sim, 20 * SECOND);
    crowd.watch(&mut sim, 19 * SECOND);
    assert_eq!(crowd.closed().count(), 50);
    let draining = |seen: &Seen| seen.closed.as_ref().unwrap().1 == "SERVER_DRAINING";
    assert!(crowd.closed().all(draining));
}

#[test]
fn a_subscribe_that_cannot_be_answered_within_5_s_is_answered_with_no_time() {
    let mut sim = Sim::without_time(patient());
    let client = sim.subscriber(Mode::Second, false);
    sim.run_for(4_900 * MS);
    assert!(!sim.script.on(client).is_shut);
    // A second one does not extend the wait of the first.
    sim.script
        .client_sends(client, &subscribe(Mode::Minute, false, None));
    sim.run_for(400 * MS);
    assert_eq!(sim.error(client), "NO_TIME");
    assert_eq!(sim.closed("no_time"), 1);
}

#[test]
fn a_second_subscribe_has_5_s_as_well() {
    let mut sim = Sim::new(patient());
    let client = sim.subscriber(Mode::Second, false);
    sim.run_for(MS);
    sim.shard.set_authority(None);
    sim.run_for(MS);
    sim.script
        .client_sends(client, &subscribe(Mode::Minute, false, None));
    sim.run_for(4_900 * MS);
    assert!(!sim.script.on(client).is_shut);
    sim.run_for(400 * MS);
    assert_eq!(sim.error(client), "NO_TIME");
}

#[test]
fn a_stall_of_the_edge_does_not_count_against_a_subscribe() {
    let mut sim = Sim::without_time(patient());
    let client = sim.subscriber(Mode::Second, false);
    sim.run_for(3 * SECOND);
    sim.stall(60 * SECOND);
    sim.run_for(1_500 * MS);
    assert!(!sim.script.on(client).is_shut);
    let authority = sim.authority;
    sim.shard.set_authority(Some(authority));
    sim.run_for(2 * SECOND);
    let frames = sim.frames(client);
    assert!(!ticks_of(&frames).is_empty(), "{frames:?}");
    sim.run_for(10 * SECOND);
    assert!(!sim.script.on(client).is_shut, "the deadline is over");
}

#[test]
fn a_subscribe_is_served_if_the_time_becomes_known_at_its_deadline() {
    let mut sim = Sim::without_time(patient());
    let clients: Vec<_> = (0..300)
        .map(|_| sim.subscriber(Mode::Second, false))
        .collect();
    sim.run_for(4_690 * MS);
    let authority = sim.authority;
    // All deadlines pass before the shard gets to serve any.
    let mut scene = sim.script.scene();
    scene.now = scene.now + 450 * MS;
    drop(scene);
    sim.shard.set_authority(Some(authority));
    sim.run_for(2 * SECOND);
    for client in clients {
        assert!(!ticks_of(&sim.frames(client)).is_empty());
        assert!(!sim.script.on(client).is_shut);
    }
}
