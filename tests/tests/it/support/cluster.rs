//! Clocks and edges on a NATS of one server or of several.

use std::time::Duration;

use tickstorm_client::Options;
use tickstorm_testkit::Nats;

use super::daemon::Daemon;
use super::eventually;
use super::witness::Audience;

/// Until started daemons have found each other: a connection, eight rounds, and a tick, on a machine under load.
pub(crate) const SETTLING: Duration = Duration::from_secs(30);

/// Clocks and edges, each on all of the NATS servers.
pub(crate) struct Cluster {
    pub(crate) nats: Vec<Nats>,
    /// `clock-0`, `clock-1` and so on.
    pub(crate) clocks: Vec<Daemon>,
    /// `edge-0`, `edge-1` and so on; they let all of the clocks vote.
    pub(crate) edges: Vec<Daemon>,
}

impl Cluster {
    /// None of the daemons runs yet; `settings` are the edges'.
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

    /// Starts all daemons and waits until each edge believes each clock, has released a tick, and is ready.
    pub(crate) async fn start(&mut self) {
        for daemon in self.clocks.iter_mut().chain(&mut self.edges) {
            daemon.start().await;
        }
        self.settled().await;
    }

    /// Waits until each edge believes each clock, has released a tick, and is ready.
    pub(crate) async fn settled(&self) {
        for edge in &self.edges {
            let all = async || {
                let believed = edge.metric(r#"tickstorm_clocks{state="accepted"}"#).await;
                believed == self.clocks.len() as f64 && edge.is_ready().await
            };
            eventually("the edge believes all clocks and is ready", SETTLING, all).await;
        }
    }

    /// A client's options, with all edges' addresses.
    pub(crate) fn options(&self) -> Options {
        let (first, others) = self.edges.split_first().expect("there is an edge");
        let others = others.iter().map(|edge| edge.clients().to_string());
        others.fold(first.client(), Options::or_at)
    }

    /// Clients that come back.
    pub(crate) fn audience(&self) -> Audience {
        Audience::watching(&self.options())
    }

    /// Clients that give up where their connection ends: as long as the edge lives, that is a defect.
    pub(crate) fn steadfast_audience(&self) -> Audience {
        Audience::watching(&self.options().reconnect(false))
    }
}
