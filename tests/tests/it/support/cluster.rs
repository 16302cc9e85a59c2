//! Clocks and edges that are connected by one NATS server or several.

use std::time::Duration;

use tickstorm_client::Options;
use tickstorm_testkit::Nats;

use super::daemon::Daemon;
use super::eventually;
use super::observer::Observers;

/// The time limit for daemons to settle after their start, on a machine under load: they connect,
/// exchange eight rounds, and release a tick.
pub(crate) const SETTLING: Duration = Duration::from_secs(30);

/// Clocks and edges, each of which is configured with all of the NATS servers.
pub(crate) struct Cluster {
    pub(crate) nats: Vec<Nats>,
    /// The clocks, named `clock-0`, `clock-1` and so on.
    pub(crate) clocks: Vec<Daemon>,
    /// The edges, named `edge-0`, `edge-1` and so on. They let all of the clocks vote.
    pub(crate) edges: Vec<Daemon>,
}

impl Cluster {
    /// Returns a cluster whose daemons are not started yet. The edges get `settings`.
    pub(crate) fn new(
        nats: Vec<Nats>,
        clocks: usize,
        edges: usize,
        settings: &[(&str, &str)],
    ) -> Self {
        let urls: Vec<_> = nats.iter().map(Nats::url).collect();
        let urls = urls.join(",");
        let ids: Vec<_> = (0..clocks).map(|index| format!("clock-{index}")).collect();
        let edge = |index| {
            let edge = Daemon::edge(&format!("edge-{index}"), &urls)
                .with("CLOCKS", &ids.join(","))
                .with("DRAIN_TIMEOUT", "1s");
            let with = |edge: Daemon, (name, value): &(&str, &str)| edge.with(name, value);
            settings.iter().fold(edge, with)
        };
        Self {
            edges: (0..edges).map(edge).collect(),
            clocks: ids.iter().map(|id| Daemon::clock(id, &urls)).collect(),
            nats,
        }
    }

    /// Starts all daemons and waits until each edge accepts each clock, has released a tick, and is
    /// ready.
    pub(crate) async fn start(&mut self) {
        for daemon in self.clocks.iter_mut().chain(&mut self.edges) {
            daemon.start().await;
        }
        self.settled().await;
    }

    /// Waits until each edge accepts each clock, has released a tick, and is ready.
    pub(crate) async fn settled(&self) {
        for edge in &self.edges {
            let all = async || {
                let accepted = edge.metric(r#"tickstorm_clocks{state="accepted"}"#).await;
                accepted == self.clocks.len() as f64 && edge.is_ready().await
            };
            eventually("the edge accepts all clocks and is ready", SETTLING, all).await;
        }
    }

    /// Returns a client's options with the addresses of all edges.
    pub(crate) fn options(&self) -> Options {
        let (first, others) = self.edges.split_first().expect("there is an edge");
        let others = others.iter().map(|edge| edge.clients().to_string());
        others.fold(first.client(), Options::or_at)
    }

    /// Starts clients that reconnect.
    pub(crate) fn reconnecting_observers(&self) -> Observers {
        Observers::start(&self.options())
    }

    /// Starts clients that fail when their connection ends, for tests in which the edge keeps
    /// running.
    pub(crate) fn observers_without_reconnect(&self) -> Observers {
        Observers::start(&self.options().reconnect(false))
    }
}
