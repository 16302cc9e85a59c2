//! [`StartError`]: why an edge can't start, and the exit code of a process that ends over it.

use std::io;
use std::net::SocketAddr;

use tickstorm_service::exit;
use tickstorm_service::metrics::RegisterError;

use crate::auth::CredentialsError;
use crate::fd_budget::TooFewShards;

/// Why an edge can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A metric can't be had.
    #[error(transparent)]
    Metrics(#[from] RegisterError),
    /// Credentials can't be read.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The system gives no thread, epoll, timer or eventfd for a shard.
    #[error("shard {shard} can't be started")]
    Shard {
        /// Which one.
        shard: usize,
        /// What the system said.
        source: io::Error,
    },
    /// The address can't be listened on.
    #[error("LISTEN_ADDR={addr} can't be listened on")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The limit of open files can't be raised.
    #[error("open files: the limit can't be raised")]
    RaiseLimit(#[source] io::Error),
    /// The limit of open files leaves no room for clients.
    #[error("open files: the limit is {limit}; more than {reserved} are needed (ulimit -n)")]
    LowLimit {
        /// The limit.
        limit: u64,
        /// Open files that are no clients'.
        reserved: u64,
    },
    /// Shards' tables of open files have no room for MAX_CONNECTIONS.
    #[error(transparent)]
    TooFewShards(#[from] TooFewShards),
    /// A shard can't have a table of open files of its own.
    #[error(
        "FD_TABLES=per-shard: the system lets no thread have a table of open files of its own ({0}); in a container its seccomp \
         profile has to allow unshare"
    )]
    Separate(#[source] io::Error),
}

impl StartError {
    /// The exit code of a process that ends over it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Credentials(_) | Self::TooFewShards(_) => exit::CONFIG,
            Self::Listen { .. }
            | Self::RaiseLimit(_)
            | Self::LowLimit { .. }
            | Self::Separate(_)
            | Self::Shard { .. } => exit::UNAVAILABLE,
            Self::Metrics(_) => exit::SOFTWARE,
        }
    }
}
