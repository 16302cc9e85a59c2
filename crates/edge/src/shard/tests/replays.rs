//! Tests of replays: ticks that are due go first, the share of the shard's time, the order of a
//! client's frames, and the limits.

use super::*;

const COST: Duration = Duration::from_micros(4);
const NORMAL: i32 = 0;
const REPLAY: i32 = 2;
/// A resume point so far back that the whole window is replayed.
const FULL: Option<i64> = Some(0);

impl Sim {
    /// Returns a shard whose clients all have their own addresses.
    fn with_addresses(settings: ShardSettings) -> Self {
        let sim = Self::new(settings);
        sim.script.scene().has_addresses = true;
        sim
    }

    /// Connects and authenticates clients, without using up time.
    fn authenticated(&mut self, len: usize) -> Vec<RawFd> {
        let cost = std::mem::take(&mut self.script.scene().cost);
        let clients: Vec<_> = (0..len).map(|_| self.script.connect()).collect();
        for client in &clients {
            self.script.client_sends(*client, &auth("pass"));
        }
        self.run_for(10 * MS);
        for client in &clients {
            assert_eq!(self.frames(*client).len(), 1, "the ACK of AUTH");
        }
        self.script.scene().cost = cost;
        clients
    }

    fn subscribes(&self, client: RawFd, mode: Mode, resume_after: Option<i64>) {
        let bytes = subscribe(mode, false, resume_after);
        self.script.client_sends(client, &bytes);
    }

    /// Returns the last SECOND tick whose time has come.
    fn last_ms(&self) -> i64 {
        let time = self.authority.time_at(self.now());
        Mode::Second.last_at(time).as_ms()
    }
}

/// Asserts that a client has received an ACK and then every tick after its resume point, up to the
/// present.
fn assert_complete(sim: &Sim, client: RawFd) {
    let frames = sim.frames(client);
    assert_eq!(frames[0].kind, ACK, "{frames:?}");
    let (mut last, ticks) = (start_of(&frames), ticks_of(&frames));
    for (epoch, _) in &ticks {
        assert_eq!(*epoch, last + 1_000, "{ticks:?}");
        last = *epoch;
    }
    assert!(last >= sim.last_ms(), "{last} of {}", sim.last_ms());
}

#[test]
fn ticks_go_out_on_time_however_many_replays_wait() {
    let mut sim = Sim::with_addresses(settings());
    let observer = sim.subscriber(Mode::Second, false);
    sim.frames(observer);
    sim.script.scene().cost = COST;
    let clients = sim.authenticated(1_500);
    for client in &clients {
        sim.subscribes(*client, Mode::Minute, FULL);
        sim.subscribes(*client, Mode::Second, FULL);
    }
    sim.run_for(6 * SECOND);
    for client in clients {
        assert!(sim.ticks(client).len() > 600);
    }
    let frames = sim.frames(observer);
    assert!(frames.len() >= 5);
    for frame in frames {
        let batch: DataBatch = frame.decode();
        let late_us = batch.sent_unix_us - batch.ticks[0].epoch_ms * 1_000;
        assert!((0..200).contains(&late_us), "{late_us} µs late");
    }
}

#[test]
fn replays_take_at_most_a_fifth_of_the_time() {
    let mut sim = Sim::with_addresses(settings());
    let clients = sim.authenticated(1_000);
    sim.script.scene().cost = MS;
    for client in &clients {
        sim.subscribes(*client, Mode::Minute, FULL);
    }
    // Each replay takes one call.
    for second in 0..9 {
        let before = sim.metrics.messages_sent.get();
        sim.run_for(SECOND);
        let sent = sim.metrics.messages_sent.get() - before;
        assert!(sent <= 201, "{sent} in second {second}");
    }
    for client in clients {
        assert_eq!(sim.ticks(client).len(), 10);
    }
}

#[test]
fn ten_thousand_clients_that_were_away_for_a_minute_are_back_within_two_seconds() {
    let mut sim = Sim::with_addresses(settings());
    let observer = sim.subscriber(Mode::Second, false);
    let clients = sim.authenticated(10_000);
    // A few clients ask for all that they can get, and come first.
    let greedy = sim.authenticated(1_000);
    sim.script.scene().cost = COST;
    for client in &greedy {
        sim.subscribes(*client, Mode::Second, FULL);
    }
    for (n, client) in (0..).zip(&clients) {
        let away_ms = 5_000 + n % 56 * 1_000;
        sim.subscribes(*client, Mode::Second, Some(sim.last_ms() - away_ms));
    }
    sim.frames(observer);
    sim.run_for(2 * SECOND);
    for client in clients.into_iter().chain(greedy) {
        assert_complete(&sim, client);
    }
    assert_eq!(sim.closed("slow_consumer") + sim.closed("rate_limited"), 0);
}

#[test]
fn waiting_for_its_turn_makes_no_client_a_slow_consumer() {
    let mut settings = settings();
    settings.write_deadline = SECOND;
    settings.feeds.behind_max = 1;
    let mut sim = Sim::with_addresses(settings);
    let clients = sim.authenticated(500);
    sim.script.scene().cost = MS;
    for client in &clients {
        sim.subscribes(*client, Mode::Second, FULL);
    }
    // Of each second, the fan-out to the clients that have caught up takes up to a half.
    sim.run_for(4 * SECOND);
    let waiting = |client: &&RawFd| sim.script.on(**client).sends == 2;
    assert!(clients.iter().any(|client| waiting(&client)));
    sim.run_for(26 * SECOND);
    assert_eq!(sim.closed("slow_consumer"), 0);
    sim.script.scene().cost = Duration::ZERO;
    sim.run_for(2 * SECOND);
    for client in clients {
        assert_complete(&sim, client);
    }
}

#[test]
fn a_client_that_does_not_read_its_replay_is_a_slow_consumer() {
    let mut sim = Sim::new(settings());
    let client = sim.authenticated(1)[0];
    sim.script.on(client).room = Some(1_000);
    sim.subscribes(client, Mode::Second, FULL);
    sim.run_for(4_900 * MS);
    assert!(!sim.script.on(client).is_closed);
    sim.run_for(1_500 * MS);
    assert!(sim.script.on(client).is_closed);
    assert_eq!(sim.closed("slow_consumer"), 1);
}

#[test]
fn a_replay_whose_socket_was_full_continues_in_its_turn() {
    let mut sim = Sim::with_addresses(settings());
    let slow = sim.authenticated(1)[0];
    sim.script.on(slow).room = Some(1_000);
    sim.subscribes(slow, Mode::Second, FULL);
    sim.run_for(MS);
    assert_eq!(sim.script.on(slow).sent.len(), 1_000);
    let others = sim.authenticated(200);
    sim.script.scene().cost = MS;
    for client in others {
        sim.subscribes(client, Mode::Minute, FULL);
    }
    sim.run_for(10 * MS);
    let before = sim.script.on(slow).sends;
    sim.script.client_reads(slow, 1_000_000);
    // Its long replay comes after the others' short ones, of which there are enough for a second.
    sim.run_for(900 * MS);
    assert_eq!(sim.script.on(slow).sends, before);
    sim.run_for(2 * SECOND);
    assert_complete(&sim, slow);
}

/// Returns a client whose replay waits for its turn for some seconds, since many others come first.
/// Its ACKs are taken.
fn waiting_client(sim: &mut Sim) -> RawFd {
    let others = sim.authenticated(500);
    let client = sim.authenticated(1)[0];
    sim.script.scene().cost = MS;
    for other in others {
        sim.subscribes(other, Mode::Second, FULL);
    }
    sim.subscribes(client, Mode::Second, FULL);
    sim.run_for(3 * SECOND);
    let kinds: Vec<_> = sim.frames(client).iter().map(|frame| frame.kind).collect();
    assert_eq!(kinds, [ACK], "the replay waits");
    client
}

#[test]
fn while_a_replay_waits_its_client_is_answered_at_once() {
    let mut sim = Sim::with_addresses(settings());
    let client = waiting_client(&mut sim);
    sim.script.client_sends(client, &heartbeat(7));
    sim.run_for(20 * MS);
    let kinds: Vec<_> = sim.frames(client).iter().map(|frame| frame.kind).collect();
    assert_eq!(kinds, [PONG]);
    sim.run_for(5 * SECOND);
    let ticks = sim.ticks(client);
    assert!(ticks.len() > 600, "{}", ticks.len());
    for pair in ticks.windows(2) {
        assert_eq!(pair[1].0, pair[0].0 + 1_000);
    }
    let replayed = ticks.iter().filter(|(_, quality)| *quality == REPLAY);
    // The ticks that have become due meanwhile are late, too, except the last.
    assert!(replayed.count() > 600, "{ticks:?}");
    assert_eq!(ticks[ticks.len() - 1].1, NORMAL);
}

#[test]
fn a_subscription_without_a_replay_replaces_one_whose_replay_waits() {
    let mut sim = Sim::with_addresses(settings());
    let client = waiting_client(&mut sim);
    sim.subscribes(client, Mode::Second, None);
    let asked_ms = sim.last_ms();
    sim.run_for(1_100 * MS);
    assert_eq!(sim.ticks(client), [(asked_ms + 1_000, NORMAL)]);
    // Asking again, it is queued again, after the turn that it no longer needs.
    for _ in 0..5 {
        sim.subscribes(client, Mode::Second, Some(asked_ms - 99_000));
        sim.subscribes(client, Mode::Second, None);
    }
    sim.subscribes(client, Mode::Second, Some(asked_ms - 99_000));
    sim.run_for(8 * SECOND);
    let ticks = sim.ticks(client);
    let replayed = ticks
        .iter()
        .filter(|(epoch, _)| *epoch <= asked_ms + 1_000)
        .count();
    assert_eq!(replayed, 100, "{ticks:?}");
}

#[test]
fn a_client_whose_replay_waits_is_sent_the_error_that_ends_its_connection() {
    let mut sim = Sim::with_addresses(settings());
    let client = waiting_client(&mut sim);
    sim.script.client_sends(client, &auth("pass"));
    sim.run_for(20 * MS);
    assert_eq!(sim.error(client), "ALREADY_AUTHENTICATED");
    sim.run_for(5 * SECOND);
    assert!(sim.frames(client).is_empty(), "nothing after the ERROR");
}

#[test]
fn a_tick_that_an_ahead_feed_has_sent_already_does_not_wait_for_a_turn() {
    let mut sim = Sim::with_addresses(settings());
    let others = sim.authenticated(150);
    let client = sim.authenticated(1)[0];
    // 0.7 s before a tick, which the ahead feed has sent.
    sim.run_to_just_before_a_second();
    sim.run_for(301 * MS);
    sim.script.scene().cost = MS;
    for other in &others {
        sim.subscribes(*other, Mode::Minute, FULL);
    }
    sim.run_for(450 * MS);
    let bytes = subscribe(Mode::Second, true, None);
    sim.script.client_sends(client, &bytes);
    sim.run_for(20 * MS);
    assert_eq!(sim.ticks(client), [(sim.last_ms() + 1_000, NORMAL)]);
    let has_waited = |other: &&RawFd| sim.ticks(**other).is_empty();
    assert!(others.iter().any(|other| has_waited(&other)));
}

#[test]
fn short_replays_precede_long_ones() {
    let mut sim = Sim::with_addresses(settings());
    let greedy = sim.authenticated(200);
    let client = sim.authenticated(1)[0];
    sim.script.scene().cost = MS;
    for other in &greedy {
        sim.subscribes(*other, Mode::Second, FULL);
    }
    sim.run_for(600 * MS);
    sim.subscribes(client, Mode::Second, Some(sim.last_ms() - 60_000));
    sim.run_for(20 * MS);
    assert_complete(&sim, client);
    let has_waited = |other: &&RawFd| sim.ticks(**other).is_empty();
    assert!(greedy.iter().any(|other| has_waited(&other)));
}

#[test]
fn more_frames_or_replays_than_are_allowed_close_the_connection_with_rate_limited() {
    let mut sim = Sim::new(settings());
    let client = sim.authenticated(1)[0];
    for _ in 0..21 {
        sim.subscribes(client, Mode::Second, None);
    }
    sim.run_for(MS);
    let frames = sim.frames(client);
    assert_eq!(frames.len(), 21, "20 ACKs: {frames:?}");
    let error: ErrorMsg = frames[20].decode();
    assert_eq!(error.code, "RATE_LIMITED");
    assert!(
        error.message.contains("a SUBSCRIBE counts as ten"),
        "{}",
        error.message
    );

    let client = sim.authenticated(1)[0];
    for _ in 0..3 {
        sim.subscribes(client, Mode::Second, FULL);
        sim.run_for(MS);
    }
    let frames = sim.frames(client);
    let error: ErrorMsg = frames[frames.len() - 1].decode();
    assert_eq!(error.code, "RATE_LIMITED");
    for part in ["a replay of 600 ticks", "1200", "a connection"] {
        assert!(error.message.contains(part), "{}", error.message);
    }
    assert_eq!(ticks_of(&frames).len(), 1_200);
}

#[test]
fn the_connections_of_one_address_share_a_budget_and_those_of_others_do_not() {
    let mut sim = Sim::new(settings());
    let clients = sim.authenticated(100);
    for client in &clients {
        sim.subscribes(*client, Mode::Second, FULL);
    }
    sim.run_for(SECOND);
    // The first 60 ticks of each are free: 12,000 ticks are enough for 22.
    let (served, refused) = clients.split_at(22);
    for client in served {
        assert_complete(&sim, *client);
    }
    for client in refused {
        assert_eq!(sim.error(*client), "RATE_LIMITED");
    }
    // Clients that were away for less than a minute come back all the same.
    let clients = sim.authenticated(1_000);
    for client in &clients {
        sim.subscribes(*client, Mode::Second, Some(sim.last_ms() - 60_000));
    }
    sim.run_for(SECOND);
    for client in clients {
        assert_complete(&sim, client);
    }
    sim.script.scene().has_addresses = true;
    let other = sim.authenticated(1)[0];
    sim.subscribes(other, Mode::Second, FULL);
    sim.run_for(MS);
    assert_complete(&sim, other);
}

#[test]
fn without_a_resume_window_nothing_is_replayed_and_nobody_is_refused() {
    let mut settings = settings();
    settings.feeds.resume_window = Duration::ZERO;
    let mut sim = Sim::new(settings);
    let clients = sim.authenticated(100);
    for client in &clients {
        for _ in 0..10 {
            sim.subscribes(*client, Mode::Second, FULL);
        }
    }
    let asked_ms = sim.last_ms();
    sim.run_for(1_100 * MS);
    for client in clients {
        let ticks = sim.ticks(client);
        assert!(
            ticks.iter().all(|(epoch, _)| *epoch > asked_ms),
            "{ticks:?}"
        );
        assert!(!ticks.is_empty());
    }
}

#[test]
fn no_replay_is_written_while_a_tick_is_being_sent() {
    let mut sim = Sim::with_addresses(settings());
    // Three chunks of subscribers.
    for client in sim.authenticated(3_000) {
        sim.subscribes(client, Mode::Second, None);
    }
    let clients = sim.authenticated(2_000);
    sim.run_to_just_before_a_second();
    sim.script.scene().cost = COST;
    for client in &clients {
        sim.subscribes(*client, Mode::Minute, FULL);
    }
    // Each client's first send is its ACK of AUTH, the second that of SUBSCRIBE, and the third its
    // replay.
    let replayed = |sim: &Sim| {
        let clients = clients.iter().map(|client| sim.script.on(*client).sends);
        clients.filter(|sends| *sends > 2).count()
    };
    let mut turns_of_fan_out = 0;
    let until = sim.now() + 200 * MS;
    sim.script.scene().horizon = until;
    while sim.now() < until {
        let before = replayed(&sim);
        sim.shard.turn().unwrap();
        if sim.shard.sending.busy_since.is_some() {
            turns_of_fan_out += 1;
            assert_eq!(replayed(&sim), before, "a replay was written");
        }
    }
    assert!(turns_of_fan_out >= 3, "{turns_of_fan_out}");
    assert!(replayed(&sim) > 1_000, "{}", replayed(&sim));
}

#[test]
fn replays_are_completed_even_if_ticks_are_sent_without_a_pause() {
    let mut sim = Sim::with_addresses(settings());
    // Sending a tick takes longer than a second.
    for client in sim.authenticated(1_400) {
        sim.subscribes(client, Mode::Second, None);
    }
    let client = sim.authenticated(1)[0];
    sim.run_for(SECOND);
    sim.script.scene().cost = MS;
    sim.run_for(10 * SECOND);
    let asked = sim.now();
    sim.subscribes(client, Mode::Minute, FULL);
    sim.run_for(5 * SECOND);
    let busy_since = sim.shard.sending.busy_since;
    assert!(
        busy_since.is_some_and(|since| since < asked),
        "{busy_since:?}"
    );
    assert_eq!(sim.ticks(client).len(), 10);
}
