//! A clock and an edge in this process, with the in-memory bus between them: what `dev` shows and `bench` measures. Who starts them
//! gives them their settings and a registry, and ends them.

use std::sync::Arc;

use prometheus::Registry;
use tickstorm_bus::MemoryBus;
use tickstorm_clock::Replica;
use tickstorm_edge::Edge;
use tickstorm_service::env::Settings;
use tickstorm_service::lifecycle::exit;

use crate::Failure;

/// What the two are to be.
pub struct Pair {
    clock: tickstorm_clock::Config,
    edge: tickstorm_edge::Config,
}

impl Pair {
    /// As `settings` want them.
    pub fn from_settings(settings: &Settings) -> Result<Self, Failure> {
        let wrong = |error| Failure::new(exit::CONFIG, error);
        Ok(Self {
            clock: tickstorm_clock::Config::from_settings(settings).map_err(wrong)?,
            edge: tickstorm_edge::Config::from_settings(settings).map_err(wrong)?,
        })
    }

    /// Starts both, the clock first.
    pub async fn start(self, registry: &Registry) -> Result<(Replica, Edge), Failure> {
        let bus = MemoryBus::new();
        let clock = Replica::start(self.clock, Arc::new(bus.link("clock")), registry)
            .map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        let edge = Edge::start(self.edge, Arc::new(bus.link("edge")), registry)
            .await
            .map_err(|error| Failure::new(error.exit_code(), error))?;
        Ok((clock, edge))
    }
}
