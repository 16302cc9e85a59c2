//! The edge under test. It listens on a port of loopback that the system chooses, and uses the
//! in-memory bus with a clock that serves this machine's own time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use tickstorm_bus::{Bus, ClockEvent, MemoryBus};
use tickstorm_edge::{
    Config, CredentialSource, CredentialSources, Edge, FdTables, IpListSources, StartError,
};
use tickstorm_testkit::{Peer, PeerOptions, poll_until_async};
use tickstorm_timebase::{
    Announcement, Epoch, HostClock, Mode, Reply, SystemHost, TimekeeperConfig, UnixTime,
};
use tokio::task::JoinHandle;

pub(crate) const USER: &str = "stream_user";
pub(crate) const PASSWORD: &str = "stream_pass";

/// The longest time that a test waits for something that must happen.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// An edge, its bus and its clock.
pub(crate) struct TestEdge {
    pub(crate) edge: Edge,
    pub(crate) registry: Registry,
    pub(crate) bus: MemoryBus,
    clock: Option<JoinHandle<()>>,
}

/// Returns the configuration of most tests: the defaults, and two shards.
pub(crate) fn config() -> Config {
    let source = |value: &str| {
        Some(CredentialSource {
            value: value.into(),
            file: None,
        })
    };
    Config {
        id: "edge-under-test".to_owned(),
        listen_addr: SocketAddr::from(([127, 0, 0, 1], 0)),
        tls: None,
        balancers: None,
        credentials: CredentialSources {
            user: source(USER),
            password: source(PASSWORD),
            ..CredentialSources::default()
        },
        time: TimekeeperConfig {
            clocks: Vec::new(),
            tolerance: Duration::from_millis(20),
            holdover_max: Duration::from_secs(60),
        },
        time_error_max: Duration::from_millis(250),
        ahead: Duration::from_millis(800),
        resume_window: Duration::from_secs(600),
        connections_max: 10_000,
        handshakes_max: 4_096,
        connections_per_ip_max: 0,
        connect_rate_per_ip: 0,
        ip_lists: IpListSources::default(),
        // Off, since all peers have the same address.
        auth_rate_limit: 0,
        auth_timeout: Duration::from_secs(5),
        heartbeat_interval: Duration::from_secs(15),
        heartbeat_timeout: Duration::from_secs(20),
        frame_rate: 10,
        batch_window: Duration::from_millis(5),
        max_msg_size: 65_536,
        buffered_max: 64 * 1024 * 1024,
        queue_frames_max: 1_000,
        write_deadline: Duration::from_secs(5),
        read_buffer: 65_536,
        write_buffer: 65_536,
        shards: 2,
        fd_tables: FdTables::Shared,
        drain_delay: Duration::ZERO,
        drain_timeout: Duration::from_secs(3),
    }
}

impl TestEdge {
    /// Starts an edge with a clock, and waits until it knows the time.
    pub(crate) async fn start(config: Config) -> Self {
        let mut edge = Self::start_without_clock(config).await;
        edge.start_clock();
        edge.ready().await;
        edge
    }

    /// Starts an edge without a clock, so that the time is unknown.
    pub(crate) async fn start_without_clock(config: Config) -> Self {
        let bus = MemoryBus::new();
        let registry = Registry::new();
        let link: Arc<dyn Bus> = Arc::new(bus.link("edge"));
        // Boxed, because the tests' futures would contain this large future several times.
        let edge = Box::pin(Edge::start(config, link, &registry))
            .await
            .expect("the edge starts");
        Self {
            edge,
            registry,
            bus,
            clock: None,
        }
    }

    /// Starts an edge that must not start, and returns the reason.
    pub(crate) async fn start_error(config: Config) -> StartError {
        let bus: Arc<dyn Bus> = Arc::new(MemoryBus::new().link("edge"));
        match Box::pin(Edge::start(config, bus, &Registry::new())).await {
            Ok(edge) => panic!("listens on {}", edge.listen_addr()),
            Err(error) => error,
        }
    }

    /// Starts a clock that answers and announces.
    pub(crate) fn start_clock(&mut self) {
        let link = self.bus.link("clock");
        self.clock = Some(tokio::spawn(run_clock(link)));
    }

    /// Waits until the edge knows the time.
    pub(crate) async fn ready(&self) {
        let health = self.edge.health();
        poll_until_async("the edge knows the time", SOON, || {
            !health.status()["authority"].is_null()
        })
        .await;
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.edge.listen_addr()
    }

    /// Connects a client whose receive buffer is soon full.
    pub(crate) async fn narrow_peer(&self) -> Peer {
        let socket = PeerOptions {
            receive_buffer: Some(4_096),
            ..PeerOptions::default()
        };
        Peer::connect_with(self.addr(), socket).await
    }

    /// Returns a metric's value (for a histogram, its number of observations), summed over all
    /// series with a label value equal to `label`, or over all series if `label` is empty.
    pub(crate) fn metric(&self, name: &str, label: &str) -> f64 {
        let families = self.registry.gather();
        let metrics = families.iter().filter(|family| family.name() == name);
        metrics
            .flat_map(|family| family.get_metric())
            .filter(|metric| {
                label.is_empty() || metric.get_label().iter().any(|l| l.value() == label)
            })
            .map(|metric| {
                metric.get_counter().get_value()
                    + metric.get_gauge().get_value()
                    + f64::from(u32::try_from(metric.get_histogram().get_sample_count()).unwrap())
            })
            .sum()
    }

    /// Waits until a metric has at least this value.
    pub(crate) async fn metric_reaches(&self, name: &str, label: &str, value: f64) {
        let what = format!("{name}{{{label}}} reaches {value}");
        poll_until_async(&what, SOON, || self.metric(name, label) >= value).await;
    }

    /// Waits until a metric reaches `value`, and checks that it does not exceed it.
    pub(crate) async fn counts(&self, name: &str, value: usize) {
        let value = f64::from(u32::try_from(value).unwrap());
        self.metric_reaches(name, "", value).await;
        assert!(
            self.metric(name, "") <= value,
            "{name} is {} instead of {value}",
            self.metric(name, "")
        );
    }

    pub(crate) async fn stop(self) {
        if let Some(clock) = self.clock {
            clock.abort();
        }
        self.edge.stop().await;
    }
}

/// Runs a clock that serves this machine's wall-clock time.
async fn run_clock(link: impl Bus) {
    let mut events = link.clock_events(&"clock-0".parse().expect("a valid id"));
    let mut announce = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(ClockEvent::Request { nonce, reply_to }) => {
                    let now = SystemHost::new(0).read().unix;
                    let _ = link.answer(&reply_to, &reply(nonce, now));
                }
                Some(_) => {}
                None => return,
            },
            _ = announce.tick() => {
                let now = SystemHost::new(0).read().unix;
                let second = Mode::Second.last_at(now).as_ms() + 2_000;
                let _ = link.announce(&Announcement {
                    mode: Mode::Second,
                    epoch: Epoch::from_ms(second),
                    clock_id: "clock-0".parse().expect("a valid id"),
                    rank: 0,
                    sent_unix_us: now.as_micros(),
                    timeline: 1,
                });
            }
        }
    }
}

fn reply(nonce: u64, now: UnixTime) -> Reply {
    Reply {
        nonce,
        clock_id: "clock-0".parse().expect("a valid id"),
        rank: 0,
        received_unix_us: now.as_micros(),
        sent_unix_us: now.as_micros(),
        clock_error_us: 1_000,
        synchronized: true,
        timeline: 1,
    }
}

/// Returns this machine's wall-clock time, which is authority time in these tests.
pub(crate) fn wall_ms() -> i64 {
    SystemHost::new(0).read().unix.as_millis()
}
