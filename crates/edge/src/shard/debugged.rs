//! [`DebugList`]: the clients that an operator debugs. The events of their connections are logged
//! even if the log's level leaves them out. A shard has its own copy of the list, which control
//! replaces by a command, so nothing here is shared, and without such clients an event costs one
//! look at an empty list.

use std::net::IpAddr;
use std::sync::Arc;

use crate::networks::Networks;

/// A client that an operator debugs.
#[derive(Clone, Debug)]
pub(crate) struct DebuggedClient {
    /// The client as the operator named it. Log lines have it in the field `debug`.
    pub(crate) name: Arc<str>,
    pub(crate) connections: DebuggedConnections,
}

/// The connections of a client that an operator debugs.
#[derive(Clone, Debug)]
pub(crate) enum DebuggedConnections {
    /// All connections from these addresses.
    From(Networks),
    /// The connection with this number.
    One(u64),
}

/// The clients that an operator debugs, in the order in which they were named.
#[derive(Clone, Debug, Default)]
pub(crate) struct DebugList(Arc<[DebuggedClient]>);

impl DebugList {
    /// Returns the name of the first client to which a connection belongs.
    #[inline]
    pub(super) fn find(&self, number: u64, peer: IpAddr) -> Option<&str> {
        let found = self.0.iter().find(|client| match &client.connections {
            DebuggedConnections::From(networks) => networks.contain(peer),
            DebuggedConnections::One(debugged) => *debugged == number,
        });
        found.map(|client| &*client.name)
    }
}

impl FromIterator<DebuggedClient> for DebugList {
    fn from_iter<I: IntoIterator<Item = DebuggedClient>>(clients: I) -> Self {
        Self(clients.into_iter().collect())
    }
}

/// Logs an event of the connection with this number and peer, at the level debug. If an operator
/// debugs its client, the line has the field `debug`, and the log's level in force if that is less.
macro_rules! log_connection {
    ($env:expr, $number:expr, $peer:expr; $($event:tt)+) => {{
        let env: &crate::shard::env::Env = $env;
        let (number, peer): (u64, std::net::SocketAddr) = ($number, $peer);
        let debugged = env.debugged.find(number, peer.ip());
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    connection = %env.connection_id(number),
                    %peer,
                    debug = debugged,
                    $($event)+
                )
            };
        }
        if debugged.is_none() || tracing::enabled!(tracing::Level::DEBUG) {
            log!(debug);
        } else if tracing::enabled!(tracing::Level::INFO) {
            log!(info);
        } else if tracing::enabled!(tracing::Level::WARN) {
            log!(warn);
        } else {
            log!(error);
        }
    }};
}
pub(super) use log_connection;
