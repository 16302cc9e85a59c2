//! Bounds on the work between two clock readings, and on the lateness that it causes. Every call of
//! the script takes 4 µs.

use super::*;

const COST: Duration = Duration::from_micros(4);
/// The maximum number of calls between two clock readings: the reads, writes, ERROR and closing of
/// one connection.
const CALLS_MAX: usize = 40;

/// Makes every call take [`COST`] from here on, and counts the calls.
fn start_counting(sim: &Sim) {
    let mut scene = sim.script.scene();
    scene.cost = COST;
    scene.calls_max = 0;
}

/// Asserts that no more work was done between two clock readings than one connection needs.
pub(super) fn assert_calls_bounded(sim: &Sim) {
    let calls = sim.script.scene().calls_max;
    assert!(calls <= CALLS_MAX, "{calls} calls without a clock reading");
}

/// Prepares work with `busy` just before a second, then runs past that second's tick. Asserts that
/// no more work was done between two clock readings than one connection needs, and that the tick
/// was less than a millisecond late.
pub(super) fn assert_tick_not_delayed(sim: &mut Sim, busy: impl FnOnce(&mut Sim)) {
    let observer = sim.subscriber(Mode::Second, false);
    sim.frames(observer);
    sim.run_to_just_before_a_second();
    start_counting(sim);
    busy(sim);
    sim.run_for(500 * MS);
    assert_calls_bounded(sim);
    let frames = sim.frames(observer);
    let batch = frames.iter().find(|frame| frame.kind == DATA_BATCH);
    let batch: DataBatch = batch.expect("a tick").decode();
    let late_us = batch.sent_unix_us - batch.ticks[0].epoch_ms * 1_000;
    assert!((0..1_000).contains(&late_us), "{late_us} µs late");
}

#[test]
fn simultaneous_auth_timeouts_of_3500_connections_delay_no_tick() {
    let mut sim = Sim::new(settings());
    assert_tick_not_delayed(&mut sim, |sim| {
        let now = sim.now();
        let clients: Vec<_> = (0..3_500).map(|_| sim.script.connect()).collect();
        // The clients connect 5 s before a second.
        sim.script.scene().cost = Duration::ZERO;
        sim.run_for(MS);
        sim.run_for(4_898 * MS);
        assert!(sim.now().since(now) < 5 * SECOND);
        sim.script.scene().cost = COST;
        sim.run_for(600 * MS);
        assert!(clients.iter().all(|client| sim.script.on(*client).is_shut));
    });
}

#[test]
fn accepting_3000_connections_and_their_handshakes_delays_no_tick() {
    let mut sim = Sim::new(settings());
    assert_tick_not_delayed(&mut sim, |sim| {
        for _ in 0..3_000 {
            let client = sim.script.connect();
            sim.script.client_sends(client, &auth("pass"));
            sim.script
                .client_sends(client, &subscribe(Mode::Minute, false, None));
        }
    });
}

#[test]
fn closing_3000_handshakes_for_as_many_newer_ones_delays_no_tick() {
    let limits = AdmissionLimits {
        handshakes: 100,
        ..AdmissionLimits::NONE
    };
    let mut sim = Sim::with_limits(settings(), limits);
    assert_tick_not_delayed(&mut sim, |sim| {
        for _ in 0..3_100 {
            sim.script.connect();
        }
    });
    assert_eq!(sim.metrics.admission.evicted.get(), 3_000);
}

#[test]
fn a_step_back_ends_3000_subscriptions_in_small_steps() {
    let mut sim = Sim::new(settings());
    for _ in 0..3_000 {
        sim.subscriber(Mode::Minute, false);
    }
    start_counting(&sim);
    sim.step_back(30 * SECOND);
    sim.run_for(2 * SECOND);
    let ended = sim.metrics.closed.with_label_values(&["time_stepped"]);
    assert_eq!(ended.get(), 3_000);
    assert_calls_bounded(&sim);
}

#[test]
fn serving_3000_subscribers_that_waited_for_the_time_delays_no_tick() {
    let mut sim = Sim::without_time(settings());
    for _ in 0..3_000 {
        sim.subscriber(Mode::Minute, false);
    }
    let authority = sim.authority;
    sim.shard.set_authority(Some(authority));
    assert_tick_not_delayed(&mut sim, |_| {});
}

#[test]
fn a_drain_over_zero_time_closes_3000_connections_in_small_steps() {
    let mut sim = Sim::new(settings());
    for _ in 0..3_000 {
        sim.subscriber(Mode::Minute, false);
    }
    start_counting(&sim);
    sim.drain(Duration::ZERO);
    sim.run_for(2 * SECOND);
    assert_calls_bounded(&sim);
    assert_eq!(sim.metrics.active_connections.get(), 0);
}

#[test]
fn listing_3000_connections_delays_no_tick() {
    let mut sim = Sim::new(settings());
    for _ in 0..3_000 {
        sim.subscriber(Mode::Minute, false);
    }
    let (reply, mut listed) = tokio::sync::oneshot::channel();
    assert_tick_not_delayed(&mut sim, |sim| {
        let order = super::super::listing::Order::Age;
        let listing = super::super::listing::Listing::new(order, 2_000, reply);
        let task = super::super::tasks::ShardTask::List(listing);
        sim.shard.waiting.tasks.add(task);
    });
    assert_eq!(listed.try_recv().unwrap().len(), 2_000);
}

/// A list waits for the tick and its fan-out, and so does the search for a connection to close.
#[test]
fn nothing_is_done_for_operators_just_before_a_tick_or_while_it_is_sent() {
    let mut sim = Sim::new(settings());
    for _ in 0..3_000 {
        sim.subscriber(Mode::Second, false);
    }
    sim.run_to_just_before_a_second();
    start_counting(&sim);
    sim.script.scene().horizon = sim.now() + SECOND;
    let (reply, mut listed) = tokio::sync::oneshot::channel();
    let order = super::super::listing::Order::Age;
    let listing = super::super::listing::Listing::new(order, 2_000, reply);
    let tasks = &mut sim.shard.waiting.tasks;
    tasks.add(super::super::tasks::ShardTask::List(listing));
    let (reply, mut closed) = tokio::sync::oneshot::channel();
    tasks.add(super::super::tasks::ShardTask::CloseOne {
        id: u64::MAX,
        walk: super::super::connections::Walk::default(),
        reply: Some(reply),
    });
    let mut was_sending = false;
    for _ in 0..100_000 {
        sim.shard.turn().unwrap();
        let is_sending = sim.shard.sending.busy_since.is_some();
        if was_sending && !is_sending {
            break;
        }
        was_sending |= is_sending;
        assert_eq!(sim.shard.waiting.served_operators, Mono::ZERO);
    }
    assert!(was_sending);
    sim.run_for(500 * MS);
    assert_eq!(listed.try_recv().unwrap().len(), 2_000);
    assert!(!closed.try_recv().unwrap());
}

#[test]
fn a_list_that_nobody_waits_for_is_given_up_in_small_steps() {
    let mut sim = Sim::new(settings());
    for _ in 0..3_000 {
        sim.subscriber(Mode::Minute, false);
    }
    let (reply, listed) = tokio::sync::oneshot::channel();
    let order = super::super::listing::Order::Age;
    let listing = super::super::listing::Listing::new(order, 3_000, reply);
    let task = super::super::tasks::ShardTask::List(listing);
    start_counting(&sim);
    sim.shard.waiting.tasks.add(task);
    drop(listed);
    sim.run_for(SECOND);
    assert!(!sim.shard.waiting.tasks.have_any(true));
    assert_calls_bounded(&sim);
}

#[test]
fn three_thousand_subscribers_that_wait_for_one_resume_point_all_join() {
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

#[test]
fn closing_3000_connections_because_of_their_sockets_memory_delays_no_tick() {
    let mut sim = Sim::new(settings());
    for _ in 0..3_000 {
        let client = sim.subscriber(Mode::Minute, false);
        sim.script.on(client).memory.unsent = 100_000;
    }
    assert_tick_not_delayed(&mut sim, |sim| {
        let excess = crate::memory::Excess::of(1 << 40, 1).unwrap();
        let shedding = super::super::shedding::Shedding::new(excess);
        sim.shard.waiting.tasks.shed(shedding);
    });
    sim.run_for(SECOND);
    let slow = sim.metrics.closed.with_label_values(&["slow_consumer"]);
    assert_eq!(slow.get(), 3_000);
}

#[test]
fn closing_2000_connections_because_of_their_half_frames_delays_no_tick() {
    let mut sim = Sim::new(ShardSettings {
        buffered_max: 2_100 * 3_000,
        ..settings()
    });
    let half = &frame(SUBSCRIBE, &[7; 4_000])[..3_000];
    let mut clients = Vec::new();
    for _ in 0..2_100 {
        let client = sim.subscriber(Mode::Minute, false);
        sim.script.client_sends(client, half);
        clients.push(client);
    }
    sim.run_for(MS);
    assert_tick_not_delayed(&mut sim, |sim| {
        for _ in 0..2_000 {
            let client = sim.script.connect();
            let bytes = [auth("pass"), half.to_vec()].concat();
            sim.script.client_sends(client, &bytes);
        }
    });
    sim.run_for(SECOND);
    assert_eq!(sim.metrics.memory.buffer_evictions.get(), 2_000);
}
