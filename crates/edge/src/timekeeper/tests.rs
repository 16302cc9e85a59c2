use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use prometheus::Registry;
use tickstorm_bus::{ClockEvent, MemoryBus};
use tickstorm_testkit::poll_until_async;
use tickstorm_timebase::{Reply, TimekeeperConfig};
use tokio::sync::watch;

use super::*;
use crate::metrics::Metrics;

/// Long enough that only a defect exceeds it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The number of reports to wait for: those of the first burst of requests, and of the next round.
const ROUNDS: u64 = 9;

fn clock_id(id: &str) -> ClockId {
    id.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_flood_of_events_each_deadline_is_kept_and_reported() {
    let bus = MemoryBus::new();
    let clock = bus.link("clock-0");
    let mut requests = clock.clock_events(&clock_id("clock-0"));
    let edge = bus.link("edge");
    let subject = edge.answer_subject(&clock_id("clock-0"));
    let config = TimekeeperConfig {
        clocks: Vec::new(),
        tolerance: Duration::from_millis(20),
        holdover_max: Duration::from_secs(60),
    };
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let (authority, _authority) = watch::channel(None);
    let (status, reported) = watch::channel(None);
    let driver = TimekeeperDriver::new(
        Timekeeper::new(config, SystemClock.now()),
        &[],
        Arc::new(edge),
        AuthorityPublisher::new(authority),
        TimeReporter::new(status, metrics.time, Duration::from_millis(800)),
    );
    let floods = Arc::new(AtomicBool::new(true));
    let is_on = Arc::clone(&floods);
    // Each batch is an event: messages were dropped.
    let flood = thread::spawn(move || {
        while is_on.load(Ordering::Relaxed) {
            bus.inject(&subject, None, b"\xFF".to_vec());
        }
    });
    let driven = tokio::spawn(driver.run());
    let rounds = || {
        let reported = reported.borrow();
        let status: Option<&tickstorm_timebase::TimeStatus> = reported.as_ref();
        status.map_or(0, |status| status.rounds.unanswered)
    };
    poll_until_async("each round is reported", PATIENCE, || rounds() >= ROUNDS).await;
    floods.store(false, Ordering::Relaxed);
    flood.join().unwrap();
    driven.abort();

    let mut nonces = Vec::new();
    while nonces.len() < 8 {
        if let Some(ClockEvent::Request { nonce, .. }) = requests.next().await {
            nonces.push(nonce);
        }
    }
    let follow = nonces
        .windows(2)
        .filter(|pair| pair[1].wrapping_sub(pair[0]) < 1 << 32);
    assert_eq!(follow.count(), 0, "each is drawn at random: {nonces:?}");
}

#[tokio::test]
async fn the_time_of_each_answer_is_measured_once_even_if_it_comes_too_late() {
    let bus = MemoryBus::new();
    let clock = bus.link("clock-0");
    let mut requests = clock.clock_events(&clock_id("clock-0"));
    let config = TimekeeperConfig {
        clocks: vec![clock_id("clock-0")],
        tolerance: Duration::from_millis(20),
        holdover_max: Duration::from_secs(60),
    };
    let registry = Registry::new();
    let metrics = Metrics::register(&registry).unwrap();
    let round_trips = metrics.time.round_trips.clone();
    let (authority, _authority) = watch::channel(None);
    let (status, _status) = watch::channel(None);
    let driver = TimekeeperDriver::new(
        Timekeeper::new(config, SystemClock.now()),
        &[clock_id("clock-0")],
        Arc::new(bus.link("edge")),
        AuthorityPublisher::new(authority),
        TimeReporter::new(status, metrics.time, Duration::from_millis(800)),
    );
    let driven = tokio::spawn(driver.run());
    let mut answered = 0;
    while answered < 3 {
        let Some(ClockEvent::Request { nonce, reply_to }) = requests.next().await else {
            continue;
        };
        // A round lasts for twice the tolerance.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let reply = |nonce| Reply {
            nonce,
            clock_id: clock_id("clock-0"),
            rank: 0,
            received_unix_us: 1,
            sent_unix_us: 1,
            clock_error_us: 0,
            synchronized: true,
            timeline: 1,
        };
        for _ in 0..2 {
            clock.answer(&reply_to, &reply(nonce)).unwrap();
        }
        // An answer that no request asked for.
        clock
            .answer(&reply_to, &reply(nonce.wrapping_add(1)))
            .unwrap();
        answered += 1;
        poll_until_async("the answer is measured", PATIENCE, || {
            round_trips.get_sample_count() >= answered
        })
        .await;
        assert_eq!(round_trips.get_sample_count(), answered);
    }
    let least_s = 0.1 * f64::from(u32::try_from(answered).unwrap());
    assert!(round_trips.get_sample_sum() >= least_s);
    driven.abort();
}
