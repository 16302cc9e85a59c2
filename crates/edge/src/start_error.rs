//! [`StartError`]: the reasons why an edge can't start, and the exit code for each.

use std::io;
use std::net::SocketAddr;

use tickstorm_service::exit;
use tickstorm_service::metrics::RegisterError;

use crate::auth::CredentialsError;
use crate::fd_budget::TooFewShards;
use crate::ip_lists::IpListError;
use crate::tls::TlsError;

/// An error that prevents an edge from starting.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A metric can't be registered.
    #[error(transparent)]
    Metrics(#[from] RegisterError),
    /// Credentials can't be read.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The files of TLS can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A list of allowed or blocked networks can't be used.
    #[error(transparent)]
    IpLists(#[from] IpListError),
    /// The system can't provide a thread, epoll, timer or eventfd for a shard.
    #[error("shard {shard} can't be started")]
    Shard {
        /// The shard's number.
        shard: usize,
        /// The error from the system.
        source: io::Error,
    },
    /// The edge can't listen on LISTEN_ADDR.
    #[error("can't listen on LISTEN_ADDR={addr}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The error from the system.
        source: io::Error,
    },
    /// The open-file limit can't be raised.
    #[error("the open-file limit can't be raised")]
    RaiseLimit(#[source] io::Error),
    /// The open-file limit leaves no room for clients.
    #[error(
        "the open-file limit is {limit} but must be greater than {reserved}; raise it (ulimit -n, \
         LimitNOFILE)"
    )]
    LowLimit {
        /// The limit.
        limit: u64,
        /// The open files that are not for clients.
        reserved: u64,
    },
    /// The shards' file descriptor tables have no room for MAX_CONNECTIONS.
    #[error(transparent)]
    TooFewShards(#[from] TooFewShards),
    /// A shard can't get its own file descriptor table.
    #[error(
        "FD_TABLES=per-shard: the system does not give a thread its own file descriptor table \
         ({0}); in a container, the seccomp profile must allow unshare"
    )]
    Separate(#[source] io::Error),
}

impl StartError {
    /// Returns the exit code for a process that fails with this error.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Credentials(_) | Self::Tls(_) | Self::IpLists(_) | Self::TooFewShards(_) => {
                exit::CONFIG
            }
            Self::Listen { .. }
            | Self::RaiseLimit(_)
            | Self::LowLimit { .. }
            | Self::Separate(_)
            | Self::Shard { .. } => exit::UNAVAILABLE,
            Self::Metrics(_) => exit::SOFTWARE,
        }
    }
}
