//! What an admin port answers: its /status, as far as this program shows it. A field that is
//! missing or unknown is no error, since the daemon may have another version.

use std::error::Error;
use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use tickstorm_service::admin_client::{AdminPort, Response};

/// The longest part of an unexpected answer that is shown, in characters.
const EXCERPT_MAX: usize = 100;

/// A port that was asked.
#[derive(Debug)]
pub(super) struct Asked {
    /// The URL of the port.
    pub(super) url: String,
    pub(super) outcome: Result<Answer, NoAnswer>,
}

/// The reason that there is no answer.
#[derive(Debug)]
pub(super) struct NoAnswer {
    pub(super) reason: String,
    /// Whether nothing listens on the port.
    is_unused: bool,
    /// Whether nobody has said that something would.
    pub(super) is_excused: bool,
}

/// An answer: a daemon, or both an edge and a clock in one process.
#[derive(Debug)]
pub(super) struct Answer {
    /// The whole status.
    pub(super) raw: Value,
    pub(super) process: Process,
    pub(super) edge: Option<Edge>,
    pub(super) clock: Option<Clock>,
}

/// The process, apart from what it does.
#[derive(Debug, Deserialize)]
pub(super) struct Process {
    pub(super) version: String,
    pub(super) ready: bool,
    #[serde(default)]
    pub(super) reasons: Vec<String>,
    #[serde(default)]
    pub(super) refused_files: Vec<RefusedFiles>,
    pub(super) uptime_s: Option<u64>,
}

/// Files that have changed and can't be used.
#[derive(Debug, Deserialize)]
pub(super) struct RefusedFiles {
    #[serde(default)]
    pub(super) files: Value,
    #[serde(default)]
    pub(super) error: String,
}

/// An edge.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Edge {
    pub(super) id: String,
    pub(super) draining: bool,
    pub(super) holdover: bool,
    pub(super) connections: u64,
    pub(super) max_connections: u64,
    pub(super) authority: Option<Authority>,
    pub(super) clocks: Vec<SeenClock>,
    pub(super) nats_link: NatsLink,
    pub(super) accept_queue: AcceptQueue,
    alarms: Vec<Alarm>,
    memory: Alarms,
    tls: Alarms,
}

/// The time of an edge.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Authority {
    pub(super) unix_us: i64,
    pub(super) bound_us: u64,
    pub(super) following: Option<String>,
}

/// A clock as an edge sees it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SeenClock {
    pub(super) id: String,
    pub(super) rank: Option<u64>,
    pub(super) state: String,
    pub(super) offset_us: Option<i64>,
    pub(super) bound_us: Option<u64>,
}

/// A daemon's connection to NATS.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NatsLink {
    server: Option<String>,
    heard: bool,
    refused: Vec<String>,
    refused_publishes: Vec<IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AcceptQueue {
    pub(super) overflowed_in_last_minute: bool,
}

/// A section of the status with alarms, and with warnings in the case of TLS.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Alarms {
    alarms: Vec<Alarm>,
    warnings: Vec<String>,
}

/// An alarm.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Alarm {
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) action: Option<String>,
    pub(super) clocks: Vec<String>,
}

/// A clock, as it sees itself.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Clock {
    pub(super) id: String,
    pub(super) nats_link: NatsLink,
    pub(super) nats: bool,
    pub(super) synchronized: bool,
    pub(super) clock_error_us: Option<u64>,
    pub(super) last_announced_epoch_ms: Option<i64>,
    pub(super) alarms: Vec<Alarm>,
}

/// The state of a daemon's connection to NATS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkState {
    /// It brings messages.
    Heard,
    /// It is open, and nothing has come over it yet.
    Silent,
    /// The server refuses a subscription, or messages.
    Refused,
    /// There is none.
    Absent,
}

impl Asked {
    /// Asks the port for its status.
    pub(super) fn ask(port: &AdminPort, tls: &Arc<ClientConfig>) -> Self {
        let outcome = match port.get("/status", tls) {
            Ok(response) => Answer::read(&response),
            Err(error) => Err(NoAnswer {
                is_unused: error.kind() == io::ErrorKind::ConnectionRefused,
                is_excused: false,
                reason: chain(&error),
            }),
        };
        Self {
            url: port.to_string(),
            outcome,
        }
    }

    /// Creates the outcome of asking a port that does not answer.
    #[cfg(test)]
    pub(super) fn unused(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            outcome: Err(NoAnswer {
                reason: "Connection refused".to_owned(),
                is_unused: true,
                is_excused: false,
            }),
        }
    }

    /// Returns the answer, if there is one.
    pub(super) fn answer(&self) -> Option<&Answer> {
        self.outcome.as_ref().ok()
    }

    /// Returns whether an edge and a clock answer together, as in `tickstorm dev`.
    pub(super) fn is_edge_and_clock(&self) -> bool {
        self.answer()
            .is_some_and(|answer| answer.edge.is_some() && answer.clock.is_some())
    }

    /// Returns whether nothing listens on the port.
    pub(super) fn is_unused(&self) -> bool {
        self.outcome
            .as_ref()
            .is_err_and(|no_answer| no_answer.is_unused)
    }

    /// Excuses the port if nothing listens on it.
    pub(super) fn excused(mut self) -> Self {
        if let Err(no_answer) = &mut self.outcome {
            no_answer.is_excused = no_answer.is_unused;
        }
        self
    }
}

impl Answer {
    fn read(response: &Response) -> Result<Self, NoAnswer> {
        let unexpected = |what: String| NoAnswer {
            reason: what,
            is_unused: false,
            is_excused: false,
        };
        let Response { code, body } = response;
        if *code != 200 {
            let excerpt: String = body.trim().chars().take(EXCERPT_MAX).collect();
            return Err(unexpected(format!("it answers {code}: {excerpt}")));
        }
        Self::parse(body).map_err(|error| {
            let what = format!("its answer is not the status of an edge or a clock: {error}");
            unexpected(what)
        })
    }

    pub(super) fn parse(body: &str) -> Result<Self, serde_json::Error> {
        let raw: Value = serde_json::from_str(body)?;
        let is_edge = raw.get("listen_addr").is_some();
        let clock = if is_edge {
            raw.get("clock")
        } else {
            Some(&raw)
        };
        let edge = is_edge.then(|| Edge::deserialize(&raw)).transpose()?;
        let clock = clock.map(Clock::deserialize).transpose()?;
        let process = Process::deserialize(&raw)?;
        Ok(Self {
            process,
            edge,
            clock,
            raw,
        })
    }

    /// Returns the name of the daemon, which is that of the edge if a clock is in the same process.
    pub(super) fn name(&self) -> &str {
        let edge = self.edge.as_ref().map(|edge| &edge.id);
        let clock = self.clock.as_ref().map(|clock| &clock.id);
        edge.or(clock).map_or("?", String::as_str)
    }

    /// Returns the alarms of everything in the process, each with the name of its daemon.
    pub(super) fn alarms(&self) -> impl Iterator<Item = (&str, &Alarm)> {
        let edge = self.edge.iter().flat_map(|edge| {
            let own = edge.alarms.iter();
            let others = edge.memory.alarms.iter().chain(&edge.tls.alarms);
            own.chain(others).map(move |alarm| (&*edge.id, alarm))
        });
        let clock = self.clock.iter().flat_map(|clock| {
            let alarms = clock.alarms.iter();
            alarms.map(move |alarm| (&*clock.id, alarm))
        });
        edge.chain(clock)
    }

    /// Returns the warnings about certificates.
    pub(super) fn warnings(&self) -> &[String] {
        self.edge
            .as_ref()
            .map_or(&[], |edge| edge.tls.warnings.as_slice())
    }
}

impl NatsLink {
    /// Returns the state of the connection.
    pub(super) fn state(&self) -> LinkState {
        if !self.refused.is_empty() || !self.refused_publishes.is_empty() {
            return LinkState::Refused;
        }
        match (self.heard, &self.server) {
            // The in-memory bus has no server.
            (true, _) => LinkState::Heard,
            (false, Some(_)) => LinkState::Silent,
            (false, None) => LinkState::Absent,
        }
    }
}

/// Returns an error and its sources as one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
