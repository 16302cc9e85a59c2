//! Tests of a clock from the viewpoint of edges and operators, over a scripted bus and in virtual
//! time.

mod alarms;
mod announcing;
mod answering;
mod health;
mod machine;
mod require_sync;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use machine::TestMachine;
use prometheus::Registry;
use tickstorm_bus::{Bus, EdgeEvent, Events, MemoryBus, MemoryLink};
use tickstorm_clock::{Config, Replica};
use tickstorm_timebase::{Announcement, Reply};

/// The TICK_LEAD_MS of the clocks in these tests.
const LEAD_MS: i64 = 1_500;

/// A bus with an edge on it, on which clocks can be started.
struct Cluster {
    bus: MemoryBus,
    machine: Arc<TestMachine>,
    edge: MemoryLink,
    events: Events<EdgeEvent>,
}

/// A running clock and its metrics.
struct RunningClock {
    replica: Replica,
    registry: Registry,
}

impl Cluster {
    /// Creates a bus with an edge on it. The machine's time is `start_ms` after the start of 1970.
    async fn new(start_ms: i64) -> Self {
        let bus = MemoryBus::new();
        let edge = bus.link("edge");
        let mut events = edge.edge_events(&[]);
        assert_eq!(events.next().await, Some(EdgeEvent::Connected));
        Self {
            bus,
            machine: Arc::new(TestMachine::new(start_ms)),
            edge,
            events,
        }
    }

    /// Starts a clock on a connection named after it.
    fn start(&self, id: &str) -> RunningClock {
        self.start_with(config(id))
    }

    /// Starts a clock with this id on a connection with another name.
    fn start_on(&self, link: &str, id: &str) -> RunningClock {
        self.connect(link, config(id))
    }

    /// Starts a clock with `config`, on a connection named after it.
    fn start_with(&self, config: Config) -> RunningClock {
        let link = config.id.to_string();
        self.connect(&link, config)
    }

    fn connect(&self, link: &str, config: Config) -> RunningClock {
        let registry = Registry::new();
        let machine = Arc::clone(&self.machine);
        let link = Arc::new(self.bus.link(link));
        let replica = Replica::start_on(machine, config, link, &registry);
        RunningClock {
            replica: replica.expect("the registry is new"),
            registry,
        }
    }

    /// Returns the edge's events within `span`, each with the machine's time of its arrival in
    /// milliseconds.
    async fn hear(&mut self, span: Duration) -> Vec<(i64, EdgeEvent)> {
        let mut heard = Vec::new();
        let machine = Arc::clone(&self.machine);
        let listen = async {
            while let Some(event) = self.events.next().await {
                heard.push((machine.unix_ms(), event));
            }
        };
        let outcome = tokio::time::timeout(span, listen).await;
        assert!(outcome.is_err(), "the bus has ended");
        heard
    }

    /// Returns the announcements among the edge's events within `span`.
    async fn announcements(&mut self, span: Duration) -> Vec<(i64, Announcement)> {
        let heard = self.hear(span).await.into_iter();
        heard
            .filter_map(|(at_ms, event)| match event {
                EdgeEvent::Announcement(announcement, _) => Some((at_ms, announcement)),
                EdgeEvent::Reply(_)
                | EdgeEvent::Connected
                | EdgeEvent::Disconnected
                | EdgeEvent::Dropped { .. } => None,
            })
            .collect()
    }

    /// Asks all clocks for the time, and returns their answers within 40 ms, each with the
    /// machine's time of its arrival in milliseconds.
    async fn ask(&mut self, nonce: u64) -> Vec<(i64, Reply)> {
        self.edge.ask(nonce).expect("a connection");
        let heard = self.hear(Duration::from_millis(40)).await.into_iter();
        heard
            .filter_map(|(at_ms, event)| match event {
                EdgeEvent::Reply(reply) => Some((at_ms, reply)),
                EdgeEvent::Announcement(..)
                | EdgeEvent::Connected
                | EdgeEvent::Disconnected
                | EdgeEvent::Dropped { .. } => None,
            })
            .collect()
    }
}

impl RunningClock {
    /// Returns the value of a series in the output of /metrics.
    fn metric(&self, series: &str) -> f64 {
        let text =
            tickstorm_service::metrics::encode(&self.registry).expect("metrics can be encoded");
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {series} in {text}"))
    }

    /// Returns a field of /status.
    fn status(&self, field: &str) -> serde_json::Value {
        self.replica.health().status()[field].clone()
    }
}

fn config(id: &str) -> Config {
    Config {
        id: id.parse().expect("a valid id"),
        rank: 7,
        lead: Duration::from_millis(LEAD_MS.unsigned_abs()),
        require_sync: false,
        skew_ms: 0,
    }
}
