//! Tests of what a shard counts and measures for its operators, against what its clients have sent
//! and received.

use tickstorm_service::env::Value as _;
use tickstorm_testkit::frame::GOING_AWAY;

use super::*;
use crate::admission::Refusal;
use crate::feed::FeedId;
use crate::histogram::BulkHistogram;
use crate::metrics::{ConnectionState, ReceivedFrame, SentFrame};
use crate::networks::Networks;

/// One interval of the timer wheel, after which everything is published, and some more.
const PUBLISHED: Duration = Duration::from_millis(150);
const SECOND_AT_TIME: FeedId = FeedId::at_time(Mode::Second);
const SECOND_AHEAD: FeedId = FeedId::ahead(Mode::Second);

/// Settings with which no client must send HEARTBEATs.
fn patient() -> ShardSettings {
    let mut settings = settings();
    settings.limits.heartbeat_timeout = 3_600 * SECOND;
    settings
}

/// What was observed since a moment: the number, and the sum.
struct Since {
    histogram: BulkHistogram,
    count: u64,
    sum: f64,
}

impl Since {
    fn now(histogram: &BulkHistogram) -> Self {
        Self {
            histogram: histogram.clone(),
            count: histogram.count(),
            sum: histogram.sum(),
        }
    }

    fn count(&self) -> u64 {
        self.histogram.count() - self.count
    }

    fn mean(&self) -> f64 {
        let count = u32::try_from(self.count()).unwrap();
        (self.histogram.sum() - self.sum) / f64::from(count)
    }
}

impl Sim {
    fn latency_ms(&self, feed: FeedId) -> Since {
        Since::now(self.metrics.feeds.publish_latency_ms(feed))
    }

    fn margin(&self) -> Since {
        Since::now(self.metrics.feeds.ahead_margin(Mode::Second))
    }

    fn in_states(&self) -> [i64; 4] {
        ConnectionState::ALL.map(|state| self.metrics.connections.in_state(state))
    }

    fn loop_lag(&self) -> Duration {
        self.shard.vitals.loop_lag(self.now())
    }
}

#[test]
fn each_feed_is_measured_against_the_time_at_which_it_was_to_send() {
    let mut sim = Sim::new(patient());
    sim.subscriber(Mode::Second, false);
    sim.subscriber(Mode::Second, true);
    sim.subscriber(Mode::Minute, true);
    sim.run_to_just_before_a_second();
    let [at_time, ahead] = [SECOND_AT_TIME, SECOND_AHEAD].map(|feed| sim.latency_ms(feed));
    let release = Since::now(sim.metrics.feeds.release_lateness(SECOND_AHEAD));
    let margin = sim.margin();
    sim.run_for(60 * SECOND);
    assert_eq!((at_time.count(), ahead.count()), (60, 60));
    assert!(at_time.mean() < 0.01, "{}", at_time.mean());
    assert!(ahead.mean() < 0.01, "{}", ahead.mean());
    assert_eq!((release.count(), margin.count()), (60, 60));
    assert!(release.mean() < 1e-5, "{}", release.mean());
    assert!((margin.mean() - 0.8).abs() < 1e-5, "{}", margin.mean());
    let minutes = sim.latency_ms(FeedId::ahead(Mode::Minute));
    assert_eq!(minutes.histogram.count(), 1);
    assert_eq!(sim.metrics.feeds.ahead_margin(Mode::Minute).count(), 1);
    assert_eq!(
        sim.latency_ms(FeedId::at_time(Mode::Minute))
            .histogram
            .count(),
        0
    );
}

#[test]
fn a_late_ahead_tick_has_less_margin_and_none_after_its_time() {
    for (stall_ms, latency_ms, margin) in [(901, 700.0, 0.1), (1_701, 1_500.0, -0.7)] {
        let mut sim = Sim::new(settings());
        sim.subscriber(Mode::Second, true);
        sim.run_to_just_before_a_second();
        let (latency, left) = (sim.latency_ms(SECOND_AHEAD), sim.margin());
        let late = sim
            .metrics
            .feeds
            .ahead_margin(Mode::Second)
            .count_up_to(0.0);
        sim.stall(Duration::from_millis(stall_ms));
        sim.run_for(100 * MS);
        assert_eq!((latency.count(), left.count()), (1, 1));
        assert!(
            (latency.mean() - latency_ms).abs() < 0.1,
            "{}",
            latency.mean()
        );
        assert!((left.mean() - margin).abs() < 1e-4, "{}", left.mean());
        let late_now = sim
            .metrics
            .feeds
            .ahead_margin(Mode::Second)
            .count_up_to(0.0);
        assert_eq!(late_now - late, u64::from(margin < 0.0));
    }
}

#[test]
fn replay_ticks_are_counted_as_late_but_not_measured() {
    let mut sim = Sim::new(settings());
    let clients = [false, true].map(|ahead| sim.subscriber(Mode::Second, ahead));
    sim.run_to_just_before_a_second();
    let measured = [SECOND_AT_TIME, SECOND_AHEAD].map(|feed| sim.latency_ms(feed));
    let margin = sim.margin();
    clients.iter().for_each(|client| drop(sim.frames(*client)));
    sim.stall(14_500 * MS);
    sim.run_for(10 * MS);
    for (client, measured) in clients.iter().zip(&measured) {
        let ticks = sim.ticks(*client);
        assert!(ticks.len() >= 15 && ticks[0].1 == 2, "{ticks:?}");
        assert_eq!(measured.count(), 0);
    }
    let late_sends =
        || [SECOND_AT_TIME, SECOND_AHEAD].map(|feed| sim.metrics.feeds.late_sends(feed).get());
    let late_before = late_sends();
    assert!(
        late_before.iter().all(|sends| *sends >= 1),
        "{late_before:?}"
    );
    // One who resumes is sent past ticks, which say nothing about the edge either.
    let now_ms = sim.authority.time_at(sim.now()).as_millis();
    let late = sim.script.connect();
    let resume = subscribe(Mode::Second, false, Some(now_ms - 60_000));
    sim.script
        .client_sends(late, &[auth("pass"), resume].concat());
    sim.run_for(10 * MS);
    assert!(sim.ticks(late).len() >= 59);
    assert_eq!((measured[0].count(), margin.count()), (0, 0));
    let late_after =
        [SECOND_AT_TIME, SECOND_AHEAD].map(|feed| sim.metrics.feeds.late_sends(feed).get());
    assert_eq!(late_after, late_before);
}

#[test]
fn the_spread_of_a_fan_out_goes_from_its_first_to_its_last_subscriber() {
    let mut sim = Sim::new(settings());
    let cost = Duration::from_micros(10);
    // More than fit into one chunk.
    for _ in 0..1_500 {
        sim.script.connect();
    }
    sim.run_for(100 * MS);
    for client in 0..1_500 {
        let frames = [auth("pass"), subscribe(Mode::Second, false, None)].concat();
        sim.script.client_sends(client, &frames);
    }
    sim.run_for(100 * MS);
    sim.run_to_just_before_a_second();
    let spread = Since::now(sim.metrics.feeds.fanout(SECOND_AT_TIME));
    let of_nobody = Since::now(sim.metrics.feeds.fanout(SECOND_AHEAD));
    let released = Since::now(sim.metrics.feeds.release_lateness(SECOND_AHEAD));
    sim.script.scene().cost = cost;
    sim.run_for(3 * SECOND);
    assert_eq!(spread.count(), 3);
    assert!((0.015..0.05).contains(&spread.mean()), "{}", spread.mean());
    assert_eq!((of_nobody.count(), released.count()), (0, 3));
}

#[test]
fn frames_are_counted_by_type_and_direction() {
    let mut sim = Sim::new(settings());
    let mut clients = vec![
        sim.subscriber(Mode::Second, false),
        sim.subscriber(Mode::Second, true),
        sim.subscriber(Mode::Minute, false),
    ];
    // One falls behind and catches up.
    sim.script.on(clients[0]).room = Some(7);
    sim.run_for(3 * SECOND);
    sim.script.client_reads(clients[0], 1_000_000);
    let now_ms = sim.authority.time_at(sim.now()).as_millis();
    let replay = subscribe(Mode::Second, false, Some(now_ms - 400_000));
    let others: [&[Vec<u8>]; 6] = [
        &[auth("pass"), replay, heartbeat(1), heartbeat(2)],
        &[auth("wrong")],
        &[
            auth("pass"),
            heartbeat(1),
            frame(0x81, b"skipped"),
            auth("pass"),
        ],
        &[auth("pass"), frame(DATA_BATCH, &[])],
        &[frame(GOING_AWAY, &[])],
        &[auth("pass"), frame(0x42, &[])],
    ];
    for frames in others {
        let client = sim.script.connect();
        sim.script.client_sends(client, &frames.concat());
        clients.push(client);
    }
    sim.run_for(10 * SECOND);
    sim.drain(20 * SECOND);
    sim.run_for(30 * SECOND + PUBLISHED);

    let mut sent = [0_u64; SentFrame::ALL.len()];
    for client in clients {
        for frame in sim.frames(client) {
            let sent_frame = match frame.kind {
                DATA_BATCH => SentFrame::DataBatch,
                ERROR => SentFrame::Error,
                ACK => SentFrame::Ack,
                PONG => SentFrame::Pong,
                GOING_AWAY => SentFrame::GoingAway,
                kind => panic!("{kind}"),
            };
            sent[sent_frame as usize] += 1;
        }
        assert!(sim.script.on(client).sent.is_empty());
    }
    let counted = SentFrame::ALL.map(|frame| sim.metrics.frames.sent(frame).get());
    assert_eq!(counted, sent);
    let [batches, errors, acks, pongs, going] = counted;
    assert_eq!((errors, acks, pongs, going), (9, 11, 3, 4));
    assert_eq!(sim.metrics.messages_sent.get(), batches);
    let received = ReceivedFrame::ALL.map(|frame| sim.metrics.frames.received(frame).get());
    // AUTH, SUBSCRIBE, HEARTBEAT, DATA_BATCH, ERROR, ACK, PONG, others: the one that was skipped,
    // and the GOING_AWAY. The last frame has no valid type, so it does not count.
    assert_eq!(received, [9, 4, 3, 1, 0, 0, 0, 2]);
}

#[test]
fn refused_connections_are_counted_by_reason_and_as_closed() {
    let limits = AdmissionLimits {
        connections: 2,
        connections_per_address: 1,
        ..AdmissionLimits::NONE
    };
    let mut sim = Sim::with_limits(settings(), limits);
    let connect = |sim: &Sim, from: &str| {
        let client = sim.script.connect_from(Some(from.parse().unwrap()));
        sim.script.client_sends(client, &auth("pass"));
    };
    sim.lists.send_modify(|lists| {
        lists.blocked = Networks::parse("198.51.100.0/24", &()).unwrap();
    });
    for from in [
        "192.0.2.1",
        "192.0.2.2",
        "192.0.2.3",
        "192.0.2.1",
        "198.51.100.1",
    ] {
        connect(&sim, from);
        sim.run_for(MS);
    }
    assert_eq!(sim.in_states(), [0, 2, 0, 2]);
    connect(&sim, "192.0.2.4");
    sim.drain(20 * SECOND);
    sim.run_for(MS);
    let refused = |refusal| sim.metrics.connections.refused(refusal);
    assert_eq!(Refusal::ALL.map(refused), [1, 1, 1, 1]);
    for refusal in Refusal::ALL {
        assert_eq!(sim.closed(refusal.label()), 1, "{refusal:?}");
    }
    assert_eq!(sim.metrics.connections.accepted.get(), 6);
}

#[test]
fn a_session_lasts_from_the_accepted_auth_to_the_end() {
    let mut sim = Sim::new(settings());
    let [client, guesser, silent] = [(); 3].map(|()| sim.script.connect());
    sim.run_for(2 * SECOND);
    assert_eq!(sim.in_states(), [3, 0, 0, 0]);
    sim.script.client_sends(client, &auth("pass"));
    sim.script.client_sends(guesser, &auth("wrong"));
    sim.run_for(MS);
    assert_eq!(sim.in_states(), [1, 1, 0, 1]);
    sim.script
        .client_sends(client, &subscribe(Mode::Minute, false, None));
    sim.run_for(MS);
    assert_eq!(sim.in_states(), [1, 0, 1, 1]);
    sim.run_for(10 * SECOND);
    assert_eq!(sim.metrics.connections.sessions(), (0, 0.0));
    sim.script.client_ends(client);
    sim.run_for(MS);
    let (handshakes, handshake_s) = sim.metrics.connections.handshakes();
    let (sessions, session_s) = sim.metrics.connections.sessions();
    assert_eq!((handshakes, sessions), (1, 1));
    assert!((handshake_s - 2.0).abs() < 0.01, "{handshake_s}");
    assert!((session_s - 10.0).abs() < 0.01, "{session_s}");
    assert!(sim.script.on(silent).is_shut, "the AUTH never came");
    assert_eq!(sim.in_states(), [0; 4]);
}

#[test]
fn waiting_is_no_lag_and_a_long_turn_shows_for_15_to_20_s() {
    let mut sim = Sim::new(patient());
    let client = sim.subscriber(Mode::Second, false);
    sim.run_for(60 * SECOND - 10 * MS);
    assert!(sim.loop_lag() < MS, "{:?}", sim.loop_lag());
    let turns = sim.metrics.loops.turn.clone();
    // At least one for each interval of the wheel, and all of them short.
    assert!(turns.count() >= 600, "{}", turns.count());
    assert_eq!(turns.count_up_to(1e-3), turns.count());

    // Waiting takes long, but not the turn.
    sim.script.client_sends(client, &heartbeat(1));
    sim.script.scene().wait_stalls = 5 * SECOND;
    sim.run_for(8 * SECOND);
    assert!(sim.loop_lag() < MS, "{:?}", sim.loop_lag());

    // Reading and answering take 200 ms each.
    sim.script.client_sends(client, &heartbeat(1));
    sim.script.scene().cost = 200 * MS;
    sim.shard.turn().unwrap();
    sim.script.scene().cost = Duration::ZERO;
    let during = sim.loop_lag();
    assert!((400 * MS..SECOND).contains(&during), "{during:?}");
    sim.run_for(14 * SECOND);
    let after = sim.loop_lag();
    assert!(
        after >= during && after < during + MS,
        "{after:?}, {during:?}"
    );
    sim.run_for(8 * SECOND);
    assert!(sim.loop_lag() < MS, "{:?}", sim.loop_lag());
    assert_eq!(turns.count() - turns.count_up_to(0.25), 1);
}

#[test]
fn round_trips_of_some_heartbeats_are_recorded_if_the_system_knows_them() {
    let mut sim = Sim::new(settings());
    let client = sim.subscriber(Mode::Second, false);
    let beat = |sim: &mut Sim| {
        for _ in 0..400 {
            sim.script.client_sends(client, &heartbeat(1));
            sim.run_for(200 * MS);
        }
        sim.metrics.connections.round_trips()
    };
    assert_eq!(beat(&mut sim), (0, 0.0));
    sim.script.on(client).round_trip = Some(20 * MS);
    let (count, sum) = beat(&mut sim);
    assert!((10..50).contains(&count), "{count}");
    let expected = f64::from(u32::try_from(count).unwrap()) * 0.02;
    assert!((sum - expected).abs() < 1e-6, "{sum}");
}

#[test]
fn a_shard_that_ends_takes_its_part_out_of_the_gauges() {
    let mut sim = Sim::new(settings());
    let full = sim.subscriber(Mode::Second, false);
    sim.subscriber(Mode::Minute, true);
    sim.script.connect();
    sim.script.on(full).room = Some(0);
    sim.run_for(SECOND + PUBLISHED);
    let feeds = sim.metrics.feeds.clone();
    let gauges = || {
        let subscribers = FeedId::ALL.map(|feed| feeds.subscribers(feed).get());
        (subscribers, feeds.behind.get())
    };
    assert_eq!(gauges(), ([1, 0, 0, 1], 1));
    assert_eq!(sim.in_states(), [1, 0, 2, 0]);
    sim.shard
        .close_all(tickstorm_protocol::code::CloseReason::Shutdown);
    assert_eq!(gauges(), ([0; 4], 0));
    assert_eq!(sim.in_states(), [0; 4]);
}
