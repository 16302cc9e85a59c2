//! How much is done between two looks at the clock, and how late that makes a tick. Every call of
//! the script's takes 4 µs.

use super::*;

const COST: Duration = Duration::from_micros(4);
/// Calls for one connection: some reads, writes, an ERROR and what closing takes.
const CALLS_MAX: usize = 40;

/// From now on calls take their time, and are counted.
fn start_counting(sim: &Sim) {
    let mut scene = sim.script.scene();
    scene.cost = COST;
    scene.calls_max = 0;
}

/// Judges that no more was done in a row than one connection needs.
fn judge_calls(sim: &Sim) {
    let calls = sim.script.scene().calls_max;
    assert!(
        calls <= CALLS_MAX,
        "{calls} calls without a look at the clock"
    );
}

/// Lets a second pass with a tick in it, with `busy` waiting for the shard just before that; judges
/// that no more was done in a row than one connection needs, and that the tick came within a
/// millisecond.
fn judge(sim: &mut Sim, busy: impl FnOnce(&mut Sim)) {
    let witness = sim.subscriber(Mode::Second, false);
    sim.frames(witness);
    sim.run_to_just_before_a_second();
    start_counting(sim);
    busy(sim);
    sim.run_for(500 * MS);
    judge_calls(sim);
    let frames = sim.frames(witness);
    let batch = frames.iter().find(|frame| frame.kind == DATA_BATCH);
    let batch: DataBatch = batch.expect("a tick").decode();
    let late_us = batch.sent_unix_us - batch.ticks[0].epoch_ms * 1_000;
    assert!((0..1_000).contains(&late_us), "{late_us} µs late");
}

#[test]
fn three_and_a_half_thousand_auth_timeouts_at_once_hold_up_no_tick() {
    let mut sim = Sim::new(settings());
    judge(&mut sim, |sim| {
        let now = sim.now();
        let strangers: Vec<_> = (0..3_500).map(|_| sim.script.connect()).collect();
        // They come 5 s before a second.
        sim.script.scene().cost = Duration::ZERO;
        sim.run_for(MS);
        sim.run_for(4_898 * MS);
        assert!(sim.now().since(now) < 5 * SECOND);
        sim.script.scene().cost = COST;
        sim.run_for(600 * MS);
        assert!(strangers.iter().all(|one| sim.script.on(*one).is_shut));
    });
}

#[test]
fn three_thousand_newcomers_and_their_handshakes_hold_up_no_tick() {
    let mut sim = Sim::new(settings());
    judge(&mut sim, |sim| {
        for _ in 0..3_000 {
            let client = sim.script.connect();
            sim.script.client_sends(client, &auth("pass"));
            sim.script
                .client_sends(client, &subscribe(Mode::Minute, false, None));
        }
    });
}

#[test]
fn a_step_back_of_time_ends_three_thousand_subscriptions_piece_by_piece() {
    let mut sim = Sim::new(settings());
    for _ in 0..3_000 {
        sim.subscriber(Mode::Minute, false);
    }
    start_counting(&sim);
    sim.step_back(30 * SECOND);
    sim.run_for(2 * SECOND);
    let ended = sim.metrics.closed.with_label_values(&["time_stepped"]);
    assert_eq!(ended.get(), 3_000);
    judge_calls(&sim);
}

#[test]
fn three_thousand_subscribers_that_wait_for_the_time_are_served_piece_by_piece() {
    let mut sim = Sim::without_time(settings());
    for _ in 0..3_000 {
        sim.subscriber(Mode::Minute, false);
    }
    let authority = sim.authority;
    sim.shard.take_authority(Some(authority));
    judge(&mut sim, |_| {});
}

#[test]
fn a_drain_without_time_closes_three_thousand_piece_by_piece() {
    let mut sim = Sim::new(settings());
    for _ in 0..3_000 {
        sim.subscriber(Mode::Minute, false);
    }
    start_counting(&sim);
    sim.drain(Duration::ZERO);
    sim.run_for(2 * SECOND);
    judge_calls(&sim);
    assert_eq!(sim.metrics.active_connections.get(), 0);
}

#[test]
fn a_list_of_three_thousand_connections_holds_up_no_tick() {
    let mut sim = Sim::new(settings());
    for _ in 0..3_000 {
        sim.subscriber(Mode::Minute, false);
    }
    let (reply, mut listed) = tokio::sync::oneshot::channel();
    judge(&mut sim, |sim| {
        let order = super::super::listing::Order::Age;
        let listing = super::super::listing::Listing::new(order, 2_000, reply);
        let task = super::super::tasks::ShardTask::List(listing);
        sim.shard.waiting.tasks.add(task);
    });
    assert_eq!(listed.try_recv().unwrap().len(), 2_000);
}

#[test]
fn thousands_that_wait_for_one_resume_point_join_piece_by_piece() {
    let mut sim = Sim::new(settings());
    let now_ms = sim.authority.time_at(sim.now()).as_millis();
    let point = now_ms / 1_000 * 1_000 + 3_000;
    let clients: Vec<_> = (0..3_000)
        .map(|_| {
            let client = sim.script.connect();
            sim.script.client_sends(client, &auth("pass"));
            let resume = subscribe(Mode::Second, false, Some(point));
            sim.script.client_sends(client, &resume);
            client
        })
        .collect();
    sim.run_for(6 * SECOND);
    for client in clients {
        assert_eq!(sim.ticks(client)[0].0, point + 1_000);
    }
}
