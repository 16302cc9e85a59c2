//! A clock and an edge in this process, connected by the in-memory bus: `dev` shows them, and
//! `bench` measures them. The caller provides their settings and a registry, and stops them.

use std::sync::Arc;

use prometheus::Registry;
use tickstorm_bus::MemoryBus;
use tickstorm_clock::Replica;
use tickstorm_edge::Edge;
use tickstorm_service::env::{Findings, Section, Settings};
use tickstorm_service::exit;
use tickstorm_service::nats_link;

use tickstorm_clock::settings::{CLOCK, TICK_LEAD_MS};
use tickstorm_edge::settings::{AHEAD_MS, TLS};
use tickstorm_service::nats::NATS;
use tickstorm_service::settings::COMMON;
use tickstorm_service::traces::settings::TRACES;

use crate::Failure;
use crate::credentials::CLIENT;

#[cfg(test)]
mod tests;

/// The settings of a clock, an edge and a client in this process, in the order in which they are
/// printed. The client does not use TLS.
const SECTIONS: [Section; 10] =
    sections(TLS.refused("the client of this program does not use TLS"));

/// The same if clients use TLS.
const SECTIONS_WITH_TLS: [Section; 10] = sections(TLS);

const fn sections(tls: Section) -> [Section; 10] {
    let [edge, login, credentials, limits, _] = tickstorm_edge::settings::SECTIONS;
    [
        COMMON,
        TRACES.refused("this program sends no traces"),
        NATS.refused("this program does not use NATS"),
        CLOCK.checked(warn_of_late_announcements),
        edge,
        login,
        credentials,
        CLIENT,
        limits,
        tls,
    ]
}

/// Warns if ahead feeds are sent earlier than ticks are announced. Only a program with both a clock
/// and an edge knows both settings.
fn warn_of_late_announcements(settings: &Settings, findings: &mut Findings) {
    let ahead = settings.look_up(&AHEAD_MS);
    let (Some(ahead), Some(lead)) = (ahead, settings.look_up(&TICK_LEAD_MS)) else {
        return;
    };
    if ahead >= lead {
        findings.warn(format!(
            "AHEAD_MS={} is not below TICK_LEAD_MS={}: \
             ticks that are sent ahead will have quality HOLDOVER",
            ahead.as_millis(),
            lead.as_millis()
        ));
    }
}

/// The configuration of a clock and an edge that have not been started.
pub struct Pair {
    clock: tickstorm_clock::Config,
    edge: tickstorm_edge::Config,
}

impl Pair {
    /// Loads the settings of both from the environment, with these defaults and those of the edge.
    pub fn load_settings(defaults: &[(&str, &str)]) -> Result<Settings, Failure> {
        load(&SECTIONS, defaults)
    }

    /// Does the same for a program whose clients use TLS if the edge does.
    pub fn load_settings_with_tls(defaults: &[(&str, &str)]) -> Result<Settings, Failure> {
        load(&SECTIONS_WITH_TLS, defaults)
    }

    /// Creates the configuration from `settings`.
    #[must_use]
    pub fn from_settings(settings: &Settings) -> Self {
        Self {
            clock: tickstorm_clock::Config::from_settings(settings),
            edge: tickstorm_edge::Config::from_settings(settings),
        }
    }

    /// Starts the clock, and then the edge.
    pub async fn start(self, registry: &Registry) -> Result<(Replica, Edge), Failure> {
        let bus = MemoryBus::new();
        let clock = Replica::start(self.clock, Arc::new(bus.link("clock")), registry)
            .map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        let edge_link = Arc::new(bus.link("edge"));
        nats_link::register(registry, Arc::clone(&edge_link) as _)
            .map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        // Boxed, because this future is large.
        let edge = Box::pin(Edge::start(self.edge, edge_link, registry))
            .await
            .map_err(|error| Failure::new(error.exit_code(), error))?;
        Ok((clock, edge))
    }
}

fn load(sections: &[Section], defaults: &[(&str, &str)]) -> Result<Settings, Failure> {
    let defaults = [defaults, &tickstorm_edge::settings::DEFAULTS].concat();
    Settings::load(sections, &defaults).map_err(|errors| Failure::new(exit::CONFIG, errors))
}
