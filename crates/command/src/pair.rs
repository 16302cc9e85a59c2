//! A clock and an edge in this process, with the in-memory bus between them: what `dev` shows and `bench` measures. Who starts them
//! gives them their settings and a registry, and ends them.

use std::sync::Arc;

use prometheus::Registry;
use tickstorm_bus::MemoryBus;
use tickstorm_clock::Replica;
use tickstorm_edge::Edge;
use tickstorm_service::env::{Findings, Section, Settings};
use tickstorm_service::exit;

use tickstorm_clock::settings::{CLOCK, TICK_LEAD_MS};
use tickstorm_edge::settings::AHEAD_MS;
use tickstorm_service::nats::NATS;
use tickstorm_service::settings::COMMON;

use crate::Failure;
use crate::credentials::CLIENT;

#[cfg(test)]
mod tests;

/// All settings of a clock, an edge and a client in this process, in the order in which they are printed.
const SECTIONS: [Section; 9] = {
    let [edge, login, credentials, limits, not_built] = tickstorm_edge::settings::SECTIONS;
    [
        COMMON,
        NATS.refused("this program has no NATS"),
        CLOCK.checked(announced_too_late),
        edge,
        login,
        credentials,
        CLIENT,
        limits,
        not_built,
    ]
};

/// Only here both sides of the promise are known.
fn announced_too_late(settings: &Settings, findings: &mut Findings) {
    let ahead = settings.look_up(&AHEAD_MS);
    let (Some(ahead), Some(lead)) = (ahead, settings.look_up(&TICK_LEAD_MS)) else {
        return;
    };
    if ahead >= lead {
        findings.warn(format!(
            "AHEAD_MS={} is not below TICK_LEAD_MS={}: ticks sent ahead will carry quality HOLDOVER",
            ahead.as_millis(),
            lead.as_millis()
        ));
    }
}

/// What the two are to be.
pub struct Pair {
    clock: tickstorm_clock::Config,
    edge: tickstorm_edge::Config,
}

impl Pair {
    /// Loads the settings of both from the environment, with these defaults and the edge's own.
    pub fn load_settings(defaults: &[(&str, &str)]) -> Result<Settings, Failure> {
        let defaults = [defaults, &tickstorm_edge::settings::DEFAULTS].concat();
        Settings::load(&SECTIONS, &defaults).map_err(|errors| Failure::new(exit::CONFIG, errors))
    }

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
