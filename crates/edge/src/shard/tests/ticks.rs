//! Tests of ticks: the time of sending, catching up, resuming, replaying, stepping, and each feed's
//! share of sending.

use std::sync::atomic::Ordering;

use super::*;

const NORMAL: i32 = 0;
const HOLDOVER: i32 = 1;
const REPLAY: i32 = 2;

#[test]
fn a_tick_is_sent_at_its_time_and_an_ahead_tick_earlier_by_its_lead() {
    for timer_is_fast in [false, true] {
        let mut sim = Sim::new(settings());
        sim.script.scene().timer_is_fast = timer_is_fast;
        assert_send_times(&mut sim);
    }
}

fn assert_send_times(sim: &mut Sim) {
    let at_time = sim.subscriber(Mode::Second, false);
    let ahead = sim.subscriber(Mode::Second, true);
    sim.frames(at_time);
    sim.frames(ahead);
    sim.run_for(3 * SECOND);
    for (client, lead_us) in [(at_time, 0), (ahead, 800_000)] {
        for frame in sim.frames(client) {
            let batch: DataBatch = frame.decode();
            let late_us = batch.sent_unix_us - (batch.ticks[0].epoch_ms * 1_000 - lead_us);
            assert!((0..=1).contains(&late_us), "{late_us} µs");
        }
    }
}

#[test]
fn a_subscriber_whose_socket_was_full_catches_up_without_losing_a_byte() {
    let mut sim = Sim::new(settings());
    let client = sim.subscriber(Mode::Second, false);
    sim.frames(client);
    sim.script.on(client).room = Some(7);
    for _ in 0..4 {
        sim.run_for(SECOND);
        sim.script.client_reads(client, 3);
    }
    sim.script.client_reads(client, 1_000_000);
    sim.run_for(2 * SECOND);
    let ticks = sim.ticks(client);
    assert!(ticks.len() >= 5, "{ticks:?}");
    for pair in ticks.windows(2) {
        assert_eq!(pair[1].0, pair[0].0 + 1_000, "{ticks:?}");
    }
    let sends = sim.script.on(client).sends;
    sim.run_for(3 * SECOND);
    assert_eq!(
        sim.script.on(client).sends,
        sends + 3,
        "the hot loop sends to it again"
    );
}

#[test]
fn a_subscriber_whose_frames_the_ring_has_overwritten_is_a_slow_consumer() {
    let mut settings = settings();
    settings.feeds.behind_max = 3;
    settings.write_deadline = 60 * SECOND;
    let mut sim = Sim::new(settings);
    let client = sim.subscriber(Mode::Second, false);
    sim.script.on(client).room = Some(7);
    sim.run_for(3 * SECOND);
    assert!(!sim.script.on(client).is_closed);
    sim.run_for(3 * SECOND);
    assert!(sim.script.on(client).is_closed);
}

#[test]
fn a_new_subscription_starts_now_even_after_a_stall_of_the_edge() {
    let mut sim = Sim::new(settings());
    let before = sim.subscriber(Mode::Second, false);
    sim.run_for(SECOND);
    sim.stall(15 * SECOND);
    let fresh = sim.script.connect();
    sim.script.client_sends(fresh, &auth("pass"));
    sim.script
        .client_sends(fresh, &subscribe(Mode::Second, false, None));
    sim.run_for(3 * SECOND);
    let now_ms = sim.authority.time_at(sim.now()).as_millis();
    let frames = sim.frames(fresh);
    let ticks = ticks_of(&frames);
    assert!(start_of(&frames) > now_ms - 5_000, "{}", start_of(&frames));
    assert!(ticks.len() >= 2 && ticks.iter().all(|(_, quality)| *quality != REPLAY));
    assert_eq!(ticks[0].0, start_of(&frames) + 1_000);
    let followed = sim.ticks(before);
    assert!(followed.iter().any(|(_, quality)| *quality == REPLAY));
    for pair in followed.windows(2) {
        assert_eq!(
            pair[1].0,
            pair[0].0 + 1_000,
            "a subscriber from before the stall misses no tick"
        );
    }
}

#[test]
fn subscribers_that_waited_for_the_time_start_when_it_is_known() {
    let mut sim = Sim::without_time(settings());
    let fresh = sim.subscriber(Mode::Second, false);
    let beats = sim.script.connect();
    sim.script.client_sends(beats, &auth("pass"));
    sim.script.client_sends(beats, &heartbeat(7));
    sim.run_for(4 * SECOND);
    assert_eq!(sim.frames(fresh).len(), 1, "only the ACK of AUTH");
    assert_eq!(
        sim.frames(beats).len(),
        2,
        "other clients are answered meanwhile"
    );
    sim.script.client_sends(fresh, &heartbeat(7));
    let authority = sim.authority;
    sim.shard.set_authority(Some(authority));
    sim.run_for(2 * SECOND);
    let now_ms = sim.authority.time_at(sim.now()).as_millis();
    let frames = sim.frames(fresh);
    assert!(start_of(&frames) > now_ms - 4_000);
    let ticks = ticks_of(&frames);
    assert!(
        ticks.iter().all(|(_, quality)| *quality != REPLAY),
        "{ticks:?}"
    );
}

#[test]
fn a_resumed_subscription_replays_missed_ticks_and_continues() {
    let mut sim = Sim::new(settings());
    sim.run_for(5 * SECOND);
    let last_ms = Mode::Second
        .last_at(sim.authority.time_at(sim.now()))
        .as_ms();
    let client = sim.script.connect();
    sim.script.client_sends(client, &auth("pass"));
    let resume = subscribe(Mode::Second, false, Some(last_ms - 3_000));
    sim.script.client_sends(client, &resume);
    sim.run_for(2 * SECOND);
    let ticks = sim.ticks(client);
    let epochs = (0..).map(|n| last_ms - 2_000 + n * 1_000);
    let expected: Vec<_> = epochs
        .zip([REPLAY, REPLAY, REPLAY, NORMAL, NORMAL])
        .collect();
    assert_eq!(ticks, expected);
}

#[test]
fn a_subscription_with_a_future_resume_point_waits_for_it() {
    let mut sim = Sim::new(settings());
    let last_ms = Mode::Second
        .last_at(sim.authority.time_at(sim.now()))
        .as_ms();
    let client = sim.script.connect();
    sim.script.client_sends(client, &auth("pass"));
    let resume = subscribe(Mode::Second, false, Some(last_ms + 3_000));
    sim.script.client_sends(client, &resume);
    sim.run_for(6 * SECOND);
    let frames = sim.frames(client);
    assert_eq!(start_of(&frames), last_ms + 3_000);
    assert_eq!(ticks_of(&frames)[0].0, last_ms + 4_000);
}

#[test]
fn a_step_back_ends_every_subscription_before_a_tick_of_the_new_time() {
    let mut sim = Sim::new(settings());
    let clients: Vec<_> = (0..500)
        .map(|n| sim.subscriber(Mode::Second, n % 2 == 0))
        .collect();
    sim.run_for(SECOND);
    let late_subscriber = sim.script.connect();
    sim.script.client_sends(late_subscriber, &auth("pass"));
    sim.run_for(MS);
    for client in &clients {
        sim.frames(*client);
    }
    sim.script.scene().cost = MS / 250;
    sim.step_back(30 * SECOND);
    // The client subscribes while the other subscriptions are being ended. Its subscription belongs
    // to the new time and is kept.
    sim.script
        .client_sends(late_subscriber, &subscribe(Mode::Second, false, None));
    sim.run_for(3 * SECOND);
    assert!(sim.ticks(late_subscriber).len() >= 2);
    let after_ms = sim.authority.origin().as_millis();
    for client in clients {
        let frames = sim.frames(client);
        let errors = frames.iter().filter(|frame| frame.kind == ERROR);
        let codes: Vec<_> = errors
            .map(|frame| frame.decode::<ErrorMsg>().code)
            .collect();
        assert_eq!(codes, ["TIME_STEPPED"]);
        let ticks = ticks_of(&frames);
        assert!(
            ticks.iter().all(|(epoch, _)| *epoch > after_ms + 10_000),
            "a tick of the new time: {ticks:?} after {after_ms}"
        );
    }
    let new_client = sim.subscriber(Mode::Second, false);
    sim.run_for(2 * SECOND);
    assert!(sim.ticks(new_client).len() >= 2);
}

#[test]
fn a_fan_out_that_takes_longer_than_its_period_starves_no_other_feed() {
    let mut settings = settings();
    settings.limits.heartbeat_timeout = 600 * SECOND;
    let mut sim = Sim::new(settings);
    let minute = sim.subscriber(Mode::Minute, false);
    let ahead_minute = sim.subscriber(Mode::Minute, true);
    let ahead = sim.subscriber(Mode::Second, true);
    // Two chunks of SECOND subscribers, which take 1.4 times the period to send.
    let seconds: Vec<_> = (0..1_400)
        .map(|_| sim.subscriber(Mode::Second, false))
        .collect();
    sim.frames(ahead);
    sim.script.scene().cost = MS;
    sim.run_for(130 * SECOND);
    assert_eq!(sim.ticks(minute).len(), 2);
    assert_eq!(sim.ticks(ahead_minute).len(), 2);
    assert!(sim.ticks(ahead).len() >= 120);
    let ticks = sim.ticks(seconds[0]);
    assert!(
        ticks.len() >= 100,
        "the SECOND feed continues: {}",
        ticks.len()
    );
    for pair in ticks.windows(2) {
        assert_eq!(pair[1].0, pair[0].0 + 1_000);
    }
}

#[test]
fn ticks_in_a_frame_made_late_are_marked_as_replayed() {
    let mut sim = Sim::new(settings());
    let clients: Vec<_> = (0..1_100)
        .map(|_| sim.subscriber(Mode::Second, false))
        .collect();
    for client in &clients {
        sim.frames(*client);
    }
    // A fan-out takes 5.5 s. Ticks that become due meanwhile share one frame, which is made when
    // the fan-out has finished.
    sim.run_to_just_before_a_second();
    sim.script.scene().cost = 5 * MS;
    sim.run_for(12 * SECOND);
    let batches: Vec<DataBatch> = sim
        .frames(clients[0])
        .iter()
        .filter(|frame| frame.kind == DATA_BATCH)
        .map(|frame| frame.decode())
        .collect();
    assert!(batches.len() >= 2, "{batches:?}");
    for batch in &batches {
        for tick in &batch.ticks {
            let late_us = batch.sent_unix_us - tick.epoch_ms * 1_000;
            let is_replay = tick.quality == REPLAY;
            // In whole microseconds, exactly one second can't be told from slightly more.
            let may_be = late_us == 1_000_000 || is_replay == (late_us > 1_000_000);
            assert!(may_be, "{tick:?}, {late_us} µs late");
            assert!(is_replay || [NORMAL, HOLDOVER].contains(&tick.quality));
        }
    }
}

/// A fan-out to 3,000 subscribers whose first chunk is sent, and the subscribers whose turn comes
/// last, in the third chunk.
struct FanOutInProgress {
    sim: Sim,
    others: Vec<RawFd>,
    waiting: [RawFd; 3],
}

impl FanOutInProgress {
    fn begin() -> Self {
        let mut sim = Sim::new(settings());
        let mut subscribers: Vec<_> = (0..3_000)
            .map(|_| sim.subscriber(Mode::Second, false))
            .collect();
        sim.run_to_just_before_a_second();
        for client in &subscribers {
            sim.frames(*client);
            sim.script.on(*client).sends = 0;
        }
        sim.script.scene().horizon = sim.now() + SECOND;
        while sim.shard.sending.busy_since.is_none() {
            sim.shard.turn().unwrap();
        }
        let since = sim.shard.vitals.sending_since.load(Ordering::Relaxed);
        assert_eq!(Some(Mono::from_nanos(since)), sim.shard.sending.busy_since);
        // The array of subscribers is a ring, and a fan-out may start anywhere.
        let sent: Vec<_> = subscribers
            .iter()
            .map(|client| sim.script.on(*client).sends > 0)
            .collect();
        let first = (0..sent.len())
            .find(|index| sent[*index] && !sent[(index + sent.len() - 1) % sent.len()])
            .expect("a part is sent");
        subscribers.rotate_left(first);
        let (others, waiting) = subscribers.split_last_chunk().expect("enough");
        Self {
            waiting: *waiting,
            others: others.to_vec(),
            sim,
        }
    }

    /// Ends the fan-out. Each of the other subscribers must have got its tick, once.
    fn end(&mut self) {
        self.sim.run_for(SECOND / 2);
        let vitals = &self.sim.shard.vitals;
        assert_eq!(vitals.sending_since.load(Ordering::Relaxed), 0);
        for client in &self.others {
            assert_eq!(self.sim.script.on(*client).sends, 1);
            assert_eq!(self.sim.ticks(*client).len(), 1);
        }
    }
}

#[test]
fn an_answer_during_a_fan_out_brings_the_tick_in_the_same_call() {
    let mut fan_out = FanOutInProgress::begin();
    for client in fan_out.waiting {
        fan_out.sim.script.client_sends(client, &heartbeat(1));
    }
    fan_out.end();
    let sim = &mut fan_out.sim;
    for client in fan_out.waiting {
        assert_eq!(sim.script.on(client).sends, 1);
        let kinds: Vec<_> = sim.frames(client).iter().map(|frame| frame.kind).collect();
        assert_eq!(kinds, [PONG, DATA_BATCH]);
    }
    // Afterwards they are sent ticks by the hot loop, like all others.
    sim.run_for(SECOND);
    for client in fan_out.waiting {
        assert_eq!(sim.script.on(client).sends, 2);
        assert_eq!(sim.ticks(client).len(), 1);
    }
}

#[test]
fn a_subscriber_that_is_closed_during_a_fan_out_gets_the_tick_before_the_error() {
    let mut fan_out = FanOutInProgress::begin();
    let [whole, part, none] = fan_out.waiting;
    let sim = &mut fan_out.sim;
    // A frame's length is that of the tick that another subscriber has been sent.
    let sent = sim.script.on(fan_out.others[0]).sent.len();
    sim.script.on(part).room = Some(sent + 7);
    sim.script.on(none).room = Some(0);
    for client in fan_out.waiting {
        sim.script.client_sends(client, &auth("pass"));
    }
    fan_out.end();
    let sim = &mut fan_out.sim;
    assert_eq!(sim.script.on(whole).sends, 1);
    let kinds: Vec<_> = sim.frames(whole).iter().map(|frame| frame.kind).collect();
    assert_eq!(kinds, [DATA_BATCH, ERROR]);
    assert!(sim.script.on(whole).is_shut && !sim.script.on(whole).is_closed);
    // Without room for the ERROR there is none, and no reason to linger.
    assert_eq!(sim.script.on(part).sent.len(), sent + 7);
    assert!(sim.script.on(part).is_closed && sim.script.on(none).is_closed);
    assert_eq!(sim.script.on(none).sends, 0);
    assert_eq!(sim.closed("already_authenticated"), 3);
}
