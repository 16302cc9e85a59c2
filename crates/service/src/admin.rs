//! The admin port: metrics, health and status over HTTP. It only reports; whether a component is
//! healthy is decided by the component itself, through [`Health`].
//!
//! A connection carries one request and has a bounded lifetime, and the number of connections is
//! bounded: a client that holds one open costs this port little and the rest of the process
//! nothing. If there is no room for another one, a slow connection gives way (`roster`), so
//! probes of health are answered at any time. Routes that show clients or change anything are
//! behind a guard.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use prometheus::Registry;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    daemon::Bound, env::Settings, exit, file_watch::FileWatch, metrics::RegisterError,
    settings::ADMIN_ADDR,
};

mod accept;
mod connection;
mod guard;
mod health;
mod page;
mod places;
mod ready_metric;
mod request_id;
mod reserve;
mod roster;
mod routes;
mod tls;
mod token;

use accept::Acceptor;
use connection::{Connection, ConnectionTls};
use guard::{Guard, RefusedMetric};
pub use health::{Health, Parts};
pub use ready_metric::register_ready;
pub use request_id::RequestId;
pub use routes::busy;
use tls::AdminTls;
pub use tls::AdminTlsError;
use token::AdminToken;
pub use token::AdminTokenError;

/// The number of concurrent connections that there is always room for: enough for some scrapers,
/// some probes and some people. Their file descriptors are part of those that every process needs.
pub const CONNECTIONS_MIN: usize = 64;

/// The maximum number of concurrent connections if the process has file descriptors to spare. With
/// slow ones, fewer have to be closed and accepted again.
pub const CONNECTIONS_MAX: usize = 512;

/// The time limit for a TLS handshake.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(2);

/// The maximum number of TLS handshakes that compute at the same time. Each takes milliseconds on
/// the runtime of the whole process, of which at least one thread stays free for what must not
/// wait, such as an edge's timekeeper.
const HANDSHAKES_COMPUTING_MAX: usize = 1;

/// The time limit for a client to send the header of its request. It is short, so that idle
/// connections can't keep probes waiting for long.
pub const HEADER_TIME_MAX: Duration = Duration::from_secs(2);

/// The time limit for a request and its response: the slowest scrapers wait this long.
pub const CONNECTION_TIME_MAX: Duration = Duration::from_secs(10);

/// The error when the admin port could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on ADMIN_ADDR={addr}")]
pub struct BindError {
    addr: SocketAddr,
    source: io::Error,
}

/// The error when the admin port could not be opened as the settings say.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Its address could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Its certificate and key can't be used.
    #[error(transparent)]
    Tls(#[from] AdminTlsError),
    /// Its token can't be used.
    #[error(transparent)]
    Token(#[from] AdminTokenError),
    /// Its metrics could not be registered.
    #[error(transparent)]
    Metrics(#[from] RegisterError),
}

impl AdminError {
    /// Returns the exit code for a process that fails with this error.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Bind(_) => exit::UNAVAILABLE,
            Self::Tls(_) | Self::Token(_) => exit::CONFIG,
            Self::Metrics(_) => exit::SOFTWARE,
        }
    }
}

/// Returns the address at which a program on this machine reaches a listener on `addr`.
#[must_use]
pub fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, addr.port())
}

/// An admin port that is bound but not served yet.
pub struct Admin {
    listener: TcpListener,
    asked: SocketAddr,
    addr: SocketAddr,
    tls: Option<AdminTls>,
    token: Option<AdminToken>,
    refused: Option<RefusedMetric>,
    guarded: Router,
    files: Vec<FileWatch>,
    connections_max: usize,
}

impl fmt::Debug for Admin {
    /// Omits the private key and the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}

impl Admin {
    /// Binds the port at ADMIN_ADDR, with TLS if `settings` name a certificate and its key, with a
    /// token if they name its file, and registers its metrics.
    ///
    /// # Errors
    /// Returns an error if one of these files can't be used, or if the address is in use or not
    /// available.
    pub async fn from_settings(
        settings: &Settings,
        registry: &Registry,
    ) -> Result<Self, AdminError> {
        let tls = AdminTls::load(settings, registry)?;
        let token = AdminToken::load(settings, registry)?;
        let files = tls.iter().map(AdminTls::access);
        let files = files
            .chain(token.as_ref().map(AdminToken::access))
            .collect();
        let refused = Some(RefusedMetric::register(registry)?);
        let bound = Self::bind(settings.get(&ADMIN_ADDR)).await?;
        Ok(Self {
            tls,
            token,
            refused,
            files,
            ..bound
        })
    }

    /// Binds the port at `addr`, without TLS, token or metrics; port 0 picks any free port. This is
    /// async because it needs the runtime.
    ///
    /// # Errors
    /// Returns an error if the address is in use or not available.
    pub async fn bind(addr: SocketAddr) -> Result<Self, BindError> {
        let bound = accept::listen(addr).and_then(|listener| {
            Ok(Self {
                asked: addr,
                addr: listener.local_addr()?,
                listener,
                tls: None,
                token: None,
                refused: None,
                guarded: Router::new(),
                files: Vec::new(),
                connections_max: CONNECTIONS_MIN,
            })
        });
        bound.map_err(|source| BindError { addr, source })
    }

    /// Returns the requested address and the one that was bound.
    #[must_use]
    pub const fn bound(&self) -> Bound {
        Bound {
            asked: self.asked,
            addr: self.addr,
        }
    }

    /// Returns the URL of the status page.
    #[must_use]
    pub fn status_url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/status", self.addr)
    }

    /// Returns the address that was bound.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Adds `routes`, at least one, behind the guard: with ADMIN_TOKEN_FILE they need its token,
    /// and without it they are for programs on this machine only. There is no way to add routes
    /// without the guard.
    #[must_use]
    pub fn with_routes(mut self, routes: Router) -> Self {
        let guard = Guard {
            token: self.token.as_ref().map(AdminToken::digests),
            refused: self.refused.clone(),
        };
        let guarded = guard.protect(routes::take_turns(routes));
        self.guarded = self.guarded.merge(guarded);
        self
    }

    /// Shows in /status whether these files, in addition to those of the port itself, can be used.
    #[must_use]
    pub fn with_watched_files(mut self, files: impl IntoIterator<Item = FileWatch>) -> Self {
        self.files.extend(files);
        self
    }

    /// Returns access to all files that are watched, including those of the port itself.
    #[must_use]
    pub fn watched_files(&self) -> Vec<FileWatch> {
        self.files.clone()
    }

    /// Uses up to `files` file descriptors that the process does not need, for more connections
    /// than [`CONNECTIONS_MIN`].
    #[must_use]
    pub fn with_spare_files(mut self, files: usize) -> Self {
        self.connections_max = CONNECTIONS_MIN.saturating_add(files).min(CONNECTIONS_MAX);
        self
    }

    /// Returns all routes of the port.
    fn router(&self, registry: Registry, health: Arc<dyn Health>) -> Router {
        let files = self.files.clone();
        routes::routes(registry, health, self.addr, files).merge(self.guarded.clone())
    }

    /// Serves until `stop` is cancelled, then finishes the requests in progress within a second.
    pub async fn serve(self, registry: Registry, health: Arc<dyn Health>, stop: CancellationToken) {
        let router = self.router(registry, Arc::clone(&health));
        let configs = self.tls.as_ref().map(AdminTls::configs);
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_COMPUTING_MAX));
        let mut acceptor = Acceptor::new(self.listener, self.connections_max, configs.is_some());
        let connections = TaskTracker::new();
        let accept = async {
            loop {
                let (stream, peer, place) = acceptor.accept(&*health).await;
                let connection = Connection {
                    stream,
                    peer: peer.ip(),
                    tls: configs.as_ref().map(|configs| ConnectionTls {
                        config: Arc::clone(&configs.borrow()),
                        computing: Arc::clone(&handshakes),
                    }),
                    router: router.clone(),
                    stop: stop.clone(),
                };
                connections.spawn(connection.serve(place));
            }
        };
        let watch_tls = async {
            if let Some(tls) = self.tls {
                tls.run().await;
            }
        };
        let watch_token = async {
            if let Some(token) = self.token {
                token.run().await;
            }
        };
        // Boxed, because all together are a large future.
        let serve = Box::pin(async { tokio::join!(accept, watch_tls, watch_token) });
        stop.run_until_cancelled(serve).await;
        connections.close();
        connections.wait().await;
    }
}

#[cfg(test)]
mod tests;
