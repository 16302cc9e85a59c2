//! [`LinkReport`]: what a process knows of its connection to the bus, for operators.

use std::time::Duration;

/// A process's connection to the bus.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkReport {
    /// Whether there is a connection.
    pub is_connected: bool,
    /// The server that it is connected to; `None` without a connection, or if the bus has no
    /// servers.
    pub server: Option<String>,
    /// Whether this connection has brought what it must: a clock's answer to an edge, and its own
    /// announcement to a clock.
    pub is_heard: bool,
    /// Whether nothing has come back for 5 s, over this connection or over those before it.
    pub is_silent: bool,
    /// The subjects that the server does not let this process subscribe to.
    pub refused: Vec<String>,
    /// The subjects that the server does not let this process publish to.
    pub refused_publishes: Vec<RefusedPublish>,
    /// The number of connections that were given up because nothing came back over them.
    pub silent_links: u64,
    /// The number of connections that were made, including this one.
    pub connects: u64,
    /// The number of connections that have ended, for any reason.
    pub disconnects: u64,
}

/// Messages of this process that the server refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedPublish {
    /// Their subject, with `*` for the token that names the edge that is answered.
    pub subject: String,
    /// The time since the last refusal.
    pub ago: Duration,
}
