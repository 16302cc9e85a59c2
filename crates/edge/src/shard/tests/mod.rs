//! Tests of a whole shard in virtual time, over a scripted network. They check which bytes clients
//! get, and when.

mod admission;
mod bounds;
mod debugging;
mod departures;
mod guessing;
mod memory;
mod metrics;
mod proxied;
mod random_actions;
mod replays;
mod rules;
mod script;
mod suspensions;
mod ticks;
mod tls;

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use prost::Message;
use tickstorm_protocol::message::{Ack, Auth, DataBatch, ErrorMsg, Heartbeat, Subscribe};
use tickstorm_protocol::session::server::Limits;
use tickstorm_testkit::RawFrame;
use tickstorm_testkit::frame::{ACK, AUTH, DATA_BATCH, ERROR, HEARTBEAT, PONG, SUBSCRIBE, frame};
use tickstorm_timebase::{Authority, Mode, Mono};
use tokio::sync::watch;

use super::Vitals;
use super::env::{Commons, ShardSettings};
use super::turn::Shard;
use crate::admission::{Admission, AdmissionLimits, Attempts};
use crate::auth::AcceptedCredentials;
use crate::fd_budget;
use crate::feed::FeedLimits;
use crate::feed::tests::TestTime;
use crate::ip_lists::IpLists;
use crate::memory::{KernelBound, Memory};
use crate::metrics::Metrics;
use crate::sys::network::Network;
use crate::sys::socket::SocketOptions;
use script::Script;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A shard and the script that it runs on.
struct Sim<N: Network = Script> {
    shard: Shard<N, Script>,
    script: Script,
    metrics: Metrics,
    authority: Authority,
    /// The edge's timekeeper and the clock that it follows.
    time: TestTime,
    lists: watch::Sender<IpLists>,
}

fn settings() -> ShardSettings {
    ShardSettings {
        limits: Limits {
            auth_timeout: Duration::from_secs(5),
            heartbeat_interval: Duration::from_secs(15),
            heartbeat_timeout: Duration::from_secs(20),
            frame_rate: 10,
            max_msg_size: 65_536,
            edge_id: "edge-0".to_owned(),
        },
        feeds: FeedLimits {
            batch_window: Duration::from_millis(5),
            resume_window: Duration::from_secs(600),
            behind_max: 1_000,
            max_msg_size: 65_536,
        },
        ahead: Duration::from_millis(800),
        write_deadline: Duration::from_secs(5),
        drain_timeout: Duration::from_secs(20),
        sockets: SocketOptions {
            read_buffer: 0,
            write_buffer: 0,
            user_timeout: Duration::from_secs(20),
        },
        lingering_max: fd_budget::lingering_max(1_000_000, 0),
        buffered_max: 1024 * 1024,
        spin: true,
    }
}

fn credentials() -> AcceptedCredentials {
    let source = |value: &str| {
        Some(crate::auth::CredentialSource {
            value: value.into(),
            file: None,
        })
    };
    AcceptedCredentials::load(&crate::auth::CredentialSources {
        user: source("user"),
        password: source("pass"),
        ..crate::auth::CredentialSources::default()
    })
    .unwrap()
    .0
}

impl Sim {
    /// Creates a shard that knows the time.
    fn new(settings: ShardSettings) -> Self {
        Self::over(settings, |script| script)
    }

    fn without_time(settings: ShardSettings) -> Self {
        Self::without_time_over(settings, |script| script)
    }

    /// Creates a shard that knows the time, with these limits.
    fn with_limits(settings: ShardSettings, limits: AdmissionLimits) -> Self {
        let mut sim = Self::build(settings, limits, |script| script);
        sim.learn_time();
        sim
    }
}

impl<N: Network> Sim<N> {
    /// Creates a shard that knows the time and runs over the network that `over` makes of the
    /// script.
    fn over(settings: ShardSettings, over: impl FnOnce(Script) -> N) -> Self {
        let mut sim = Self::without_time_over(settings, over);
        sim.learn_time();
        sim
    }

    /// Returns how many connections were closed for this reason.
    fn closed(&self, reason: &str) -> u64 {
        self.metrics.closed.with_label_values(&[reason]).get()
    }

    fn learn_time(&mut self) {
        self.shard.set_authority(Some(self.authority));
        self.run_for(MS);
    }

    fn without_time_over(settings: ShardSettings, over: impl FnOnce(Script) -> N) -> Self {
        Self::build(settings, AdmissionLimits::NONE, over)
    }

    fn build(
        settings: ShardSettings,
        limits: AdmissionLimits,
        over: impl FnOnce(Script) -> N,
    ) -> Self {
        let mut time = TestTime::new();
        let (authority, now) = time.run_until(|_| true);
        let script = Script::default();
        {
            let mut scene = script.scene();
            scene.now = now;
            scene.is_listening = true;
        }
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let lists = watch::Sender::new(IpLists::default());
        let replays = Arc::new(super::address_budgets(settings.feeds.resume_window));
        let buffered_max = settings.buffered_max;
        let commons = Commons {
            traces: None,
            settings: Arc::new(settings),
            admission: Admission::new(limits, lists.subscribe(), metrics.admission_gauges()),
            attempts: Attempts::new(0),
            logins: Arc::default(),
            replays,
            memory: Memory::new(&metrics.memory, buffered_max, KernelBound::none()),
            metrics: metrics.clone(),
            authority: watch::channel(None).1,
            credentials: watch::channel(credentials()).1,
            tls: None,
            refusals: Arc::default(),
            balancers: None,
            proxy_faults: Arc::default(),
        };
        let vitals = Arc::new(Vitals::new(now));
        Self {
            shard: Shard::new(0, commons, vitals, over(script.clone()), script.clone()),
            script,
            metrics,
            authority,
            time,
            lists,
        }
    }

    fn now(&self) -> Mono {
        self.script.scene().now
    }

    /// Runs the shard for the given time.
    fn run_for(&mut self, time: Duration) {
        let until = self.now() + time;
        self.script.scene().horizon = until;
        while self.now() < until {
            self.shard.turn().unwrap();
        }
    }

    /// Runs the shard until 1 ms before authority time reaches its next whole second.
    fn run_to_just_before_a_second(&mut self) {
        let time = self.authority.time_at(self.now());
        let next = Mode::Second.next_after(Mode::Second.last_at(time));
        let due = self.authority.mono_at(next.time());
        let remaining = due.since(self.now()).saturating_sub(MS);
        self.run_for(remaining);
    }

    /// Steps back the clock that the edge follows, runs the shard until the timekeeper has noticed,
    /// and passes the new authority time to the shard.
    fn step_back(&mut self, by: Duration) {
        self.time.base_ms -= i64::try_from(by.as_millis()).unwrap();
        self.time.now = self.now();
        let before = self.authority.generation();
        let (after, now) = self
            .time
            .run_until(|authority| authority.generation() != before);
        self.run_for(now.since(self.now()));
        self.authority = after;
        self.shard.set_authority(Some(after));
    }

    /// Stalls the machine.
    fn stall(&mut self, time: Duration) {
        let mut scene = self.script.scene();
        scene.now = scene.now + time;
    }

    /// Connects a client and subscribes it. Its ACKs are still among its frames.
    fn subscriber(&mut self, mode: Mode, ahead: bool) -> RawFd {
        let client = self.script.connect();
        self.script.client_sends(client, &auth("pass"));
        self.script
            .client_sends(client, &subscribe(mode, ahead, None));
        self.run_for(MS);
        client
    }

    /// Takes the frames that a client has received.
    fn frames(&self, client: RawFd) -> Vec<RawFrame> {
        let mut socket = self.script.on(client);
        std::iter::from_fn(|| RawFrame::take(&mut socket.sent)).collect()
    }

    /// Takes the frames that a client has received, and returns their ticks as (epoch, quality).
    fn ticks(&self, client: RawFd) -> Vec<(i64, i32)> {
        ticks_of(&self.frames(client))
    }

    /// Takes a client's frames, of which the last must be an ERROR, and returns its code.
    fn error(&self, client: RawFd) -> String {
        let frames = self.frames(client);
        let last = frames.last().expect("at least one frame");
        assert_eq!(last.kind, ERROR, "{frames:?}");
        last.decode::<ErrorMsg>().code
    }

    fn drain(&mut self, over: Duration) {
        let (reply, _) = tokio::sync::oneshot::channel();
        let now = self.now();
        self.shard.drain(super::drain::Drain::new(over, now, reply));
    }
}

fn ticks_of(frames: &[RawFrame]) -> Vec<(i64, i32)> {
    let batches = frames.iter().filter(|frame| frame.kind == DATA_BATCH);
    batches
        .flat_map(|frame| frame.decode::<DataBatch>().ticks)
        .map(|tick| (tick.epoch_ms, tick.quality))
        .collect()
}

/// Returns `start_epoch_ms` of the first ACK of a SUBSCRIBE among `frames`.
fn start_of(frames: &[RawFrame]) -> i64 {
    let acks = frames.iter().filter(|frame| frame.kind == ACK);
    acks.map(|frame| frame.decode::<Ack>())
        .find(|ack| ack.acked_type == 2)
        .expect("an ACK of a SUBSCRIBE")
        .start_epoch_ms
}

fn auth(password: &str) -> Vec<u8> {
    let auth = Auth {
        username: "user".to_owned(),
        password: password.to_owned(),
        ..Auth::default()
    };
    frame(AUTH, &auth.encode_to_vec())
}

fn subscribe(mode: Mode, ahead: bool, resume_after: Option<i64>) -> Vec<u8> {
    let subscribe = Subscribe {
        mode: match mode {
            Mode::Second => 0,
            Mode::Minute => 1,
        },
        ahead,
        resume_after_epoch_ms: resume_after,
    };
    frame(SUBSCRIBE, &subscribe.encode_to_vec())
}

fn heartbeat(client_time_us: i64) -> Vec<u8> {
    frame(HEARTBEAT, &Heartbeat { client_time_us }.encode_to_vec())
}
