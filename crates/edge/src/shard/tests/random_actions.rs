//! Property tests over random sequences of actions: every client gets complete frames, and ticks
//! without gap or duplicate; and the metrics tell how many connections and subscribers there are.

use proptest::prelude::*;
use tickstorm_protocol::code::CloseReason;

use super::super::connections::Walk;
use super::super::moves::RebalanceOrder;
use super::script::Scene;
use super::*;
use crate::feed::FeedId;
use crate::metrics::ConnectionState;

/// A random action of a client, the machine or the test.
#[derive(Clone, Debug)]
enum Action {
    Connect,
    Auth(prop::sample::Index),
    Subscribe {
        who: prop::sample::Index,
        minute: bool,
        ahead: bool,
        /// The resume point, in seconds after now; negative for the past.
        resume: Option<i64>,
    },
    /// Lets this many clients connect and ask for long replays, which hold up others.
    Crowd(usize),
    Heartbeat(prop::sample::Index),
    /// Limits the client's socket to this many more bytes.
    LimitRoom(prop::sample::Index, usize),
    Read(prop::sample::Index, usize),
    Disconnect(prop::sample::Index),
    Break(prop::sample::Index),
    /// Lets this many milliseconds pass.
    Pass(u64),
    /// Stalls the machine for this many milliseconds.
    Stall(u64),
    /// Sets the time that each call takes, in microseconds.
    Cost(u64),
    TimerIsFast(bool),
    /// Loses the time, or gives it back.
    KnowTime(bool),
    /// Moves half of the clients over this many milliseconds, from 2,000.
    Rebalance(u64),
}

fn action() -> impl Strategy<Value = Action> {
    let who = any::<prop::sample::Index>;
    prop_oneof![
        3 => Just(Action::Connect),
        4 => who().prop_map(Action::Auth),
        6 => (who(), any::<bool>(), any::<bool>(), prop::option::of(-700_i64..20)).prop_map(
            |(who, minute, ahead, resume)| Action::Subscribe { who, minute, ahead, resume }
        ),
        1 => (1_usize..20).prop_map(Action::Crowd),
        2 => who().prop_map(Action::Heartbeat),
        2 => (who(), 0_usize..200).prop_map(|(who, room)| Action::LimitRoom(who, room)),
        3 => (who(), 1_usize..5_000).prop_map(|(who, most)| Action::Read(who, most)),
        1 => who().prop_map(Action::Disconnect),
        1 => who().prop_map(Action::Break),
        6 => (1_u64..3_000).prop_map(Action::Pass),
        1 => (1_u64..30_000).prop_map(Action::Stall),
        1 => (0_u64..2_000).prop_map(Action::Cost),
        1 => any::<bool>().prop_map(Action::TimerIsFast),
        2 => any::<bool>().prop_map(Action::KnowTime),
        1 => (2_000_u64..10_000).prop_map(Action::Rebalance),
    ]
}

impl Sim {
    fn apply(&mut self, action: &Action, clients: &mut Vec<RawFd>) {
        let pick = |who: &prop::sample::Index| {
            (!clients.is_empty()).then(|| clients[who.index(clients.len())])
        };
        match action {
            Action::Connect => {
                let client = self.script.connect();
                clients.push(client);
            }
            Action::Auth(who) => {
                if let Some(client) = pick(who) {
                    self.script.client_sends(client, &auth("pass"));
                }
            }
            Action::Subscribe {
                who,
                minute,
                ahead,
                resume,
            } => {
                if let Some(client) = pick(who) {
                    let mode = if *minute { Mode::Minute } else { Mode::Second };
                    let now_ms = self.authority.time_at(self.now()).as_millis();
                    let point = resume.map(|seconds| now_ms + seconds * 1_000);
                    let bytes = subscribe(mode, *ahead, point);
                    self.script.client_sends(client, &bytes);
                }
            }
            Action::Crowd(len) => self.crowd(*len, clients),
            Action::Heartbeat(who) => {
                if let Some(client) = pick(who) {
                    self.script.client_sends(client, &heartbeat(1));
                }
            }
            Action::LimitRoom(who, room) => {
                if let Some(client) = pick(who) {
                    self.script.on(client).room = Some(*room);
                }
            }
            Action::Read(who, most) => {
                if let Some(client) = pick(who) {
                    self.script.client_reads(client, *most);
                }
            }
            Action::Disconnect(who) => {
                if let Some(client) = pick(who) {
                    self.script.client_ends(client);
                }
            }
            Action::Break(who) => {
                if let Some(client) = pick(who) {
                    self.script.breaks(client, nix::errno::Errno::ECONNRESET);
                }
            }
            Action::Pass(ms) => self.run_for(Duration::from_millis(*ms)),
            Action::Stall(ms) => self.stall(Duration::from_millis(*ms)),
            Action::TimerIsFast(is_fast) => self.script.scene().timer_is_fast = *is_fast,
            Action::KnowTime(is_known) => {
                let authority = self.authority;
                self.shard.set_authority(is_known.then_some(authority));
            }
            Action::Rebalance(ms) => self.rebalance(*ms),
            Action::Cost(us) => self.script.scene().cost = Duration::from_micros(*us),
        }
    }
}

impl Sim {
    /// Connects clients that all ask for the longest replay.
    fn crowd(&mut self, len: usize, clients: &mut Vec<RawFd>) {
        for _ in 0..len {
            let client = self.script.connect();
            self.script.client_sends(client, &auth("pass"));
            let now_ms = self.authority.time_at(self.now()).as_millis();
            let resume = subscribe(Mode::Second, false, Some(now_ms - 600_000));
            self.script.client_sends(client, &resume);
            clients.push(client);
        }
    }

    fn rebalance(&mut self, over_ms: u64) {
        let at = self.shard.time.read_clock();
        let order = RebalanceOrder {
            share: 0.5,
            carry: 0.5,
            over: Duration::from_millis(over_ms),
            grace: SECOND,
            told: Arc::default(),
            reply: tokio::sync::oneshot::channel().0,
        };
        self.shard.waiting.departures.rebalance(order, at);
    }
}

impl Sim {
    /// Checks the metrics of connections and subscribers against the connections, and against each
    /// other.
    fn check_counts(&mut self) -> Result<(), TestCaseError> {
        let now = self.now();
        self.shard.publish(now);
        let mut by_state = [0_i64; ConnectionState::ALL.len()];
        let mut by_feed = [0_i64; FeedId::ALL.len()];
        let mut behind = 0_i64;
        let mut walk = Walk::default();
        while let Some(connection) = self.shard.connections.step(&mut walk) {
            by_state[connection.state() as usize] += 1;
            let slot = connection.key.slot;
            if let Some(feed) = self.shard.driver.feeds.feed_of(slot) {
                by_feed[feed.index()] += 1;
            }
            behind += i64::from(self.shard.driver.feeds.is_behind(slot));
        }
        let shown = ConnectionState::ALL.map(|state| self.metrics.connections.in_state(state));
        prop_assert_eq!(shown, by_state);
        let feeds = &self.metrics.feeds;
        prop_assert_eq!(
            FeedId::ALL.map(|feed| feeds.subscribers(feed).get()),
            by_feed
        );
        prop_assert_eq!(feeds.behind.get(), behind);

        let [handshake, authenticated, subscribed, lingering] = shown;
        prop_assert!(by_feed.iter().sum::<i64>() <= subscribed);
        let all = self.script.scene().sockets.len();
        let sockets = i64::try_from(all - self.script.waiting()).unwrap();
        prop_assert_eq!(signed(self.metrics.connections.accepted.get()), sockets);
        let are_shut = |scene: &Scene| {
            let sockets = scene.sockets.values();
            let open = sockets.filter(|socket| !socket.is_closed);
            open.filter(|socket| socket.is_shut).count()
        };
        let shut = i64::try_from(are_shut(&self.script.scene())).unwrap();
        prop_assert_eq!(lingering, shut, "as the clients see it");
        let closed: u64 = CloseReason::labels()
            .map(|reason| self.closed(reason))
            .sum();
        let open = handshake + authenticated + subscribed;
        prop_assert_eq!(self.metrics.active_connections.get(), open);
        prop_assert_eq!(signed(closed) + open, sockets);
        let (begun, _) = self.metrics.connections.handshakes();
        let (ended, _) = self.metrics.connections.sessions();
        prop_assert_eq!(signed(begun) - signed(ended), authenticated + subscribed);
        Ok(())
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap()
}

/// Checks that a client's stream keeps the promise of a subscription: after each ACK of a
/// SUBSCRIBE, every tick of its mode after `start_epoch_ms`.
fn check_stream(frames: &[RawFrame]) -> Result<(), TestCaseError> {
    let mut last = None;
    let mut period = None;
    for frame in frames {
        match frame.kind {
            ACK => {
                let ack: Ack = frame.decode();
                if ack.acked_type == 2 {
                    last = Some(ack.start_epoch_ms);
                    period = None;
                }
            }
            DATA_BATCH => {
                let batch: DataBatch = frame.decode();
                for tick in batch.ticks {
                    let this = if tick.mode == 0 { 1_000 } else { 60_000 };
                    prop_assert_eq!(
                        *period.get_or_insert(this),
                        this,
                        "a subscription has one mode"
                    );
                    let before = last.expect("an ACK precedes the first tick");
                    let next = (before.div_euclid(this) + 1) * this;
                    prop_assert_eq!(tick.epoch_ms, next, "after {}", before);
                    last = Some(tick.epoch_ms);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_client_gets_complete_frames_and_each_tick_once(
        actions in prop::collection::vec(action(), 1..120),
    ) {
        let mut settings = settings();
        settings.limits.frame_rate = 1_000;
        settings.feeds.behind_max = 8;
        // Enough for several full replays of one client.
        settings.feeds.resume_window = Duration::from_secs(1_200);
        let mut sim = Sim::new(settings);
        sim.script.scene().has_addresses = true;
        let mut clients = Vec::new();
        for action in &actions {
            sim.apply(action, &mut clients);
        }
        sim.script.scene().cost = Duration::ZERO;
        let authority = sim.authority;
        sim.shard.set_authority(Some(authority));
        sim.run_for(MS);
        for client in &clients {
            let mut bytes = sim.script.on(*client).sent.clone();
            let frames: Vec<_> = std::iter::from_fn(|| RawFrame::take(&mut bytes)).collect();
            check_stream(&frames)?;
        }
        // Clients that are still connected continue to get ticks.
        for client in &clients {
            sim.script.client_reads(*client, 100_000_000);
        }
        sim.run_for(2 * SECOND);
        for client in &clients {
            let frames = sim.frames(*client);
            check_stream(&frames)?;
            let socket = sim.script.on(*client);
            let is_complete = socket.is_closed || socket.sent.is_empty();
            prop_assert!(is_complete, "the stream ends in a partial frame");
        }
    }

    #[test]
    fn the_metrics_of_connections_and_subscribers_are_right_after_each_action(
        actions in prop::collection::vec(action(), 1..80),
        connections in prop_oneof![Just(4_usize), Just(40), Just(1_000_000)],
        lingering_max in prop_oneof![Just(1_usize), Just(1_000)],
    ) {
        let mut settings = settings();
        settings.feeds.behind_max = 8;
        settings.limits.auth_timeout = SECOND;
        settings.lingering_max = lingering_max;
        let limits = AdmissionLimits {
            connections,
            handshakes: 10,
            ..AdmissionLimits::NONE
        };
        let mut sim = Sim::with_limits(settings, limits);
        sim.script.scene().has_addresses = true;
        let mut clients = Vec::new();
        for action in &actions {
            sim.apply(action, &mut clients);
            sim.check_counts()?;
        }
        sim.script.scene().cost = Duration::ZERO;
        sim.drain(4 * SECOND);
        sim.run_for(10 * SECOND);
        sim.check_counts()?;
        sim.shard.close_all(CloseReason::Shutdown);
        sim.check_counts()?;
        let left = ConnectionState::ALL.map(|state| sim.metrics.connections.in_state(state));
        prop_assert_eq!(left, [0; 4]);
    }
}
