//! The admin port: metrics, health and status over HTTP. It only reports; whether a component is
//! healthy is decided by the component itself, through [`Health`].
//!
//! A connection carries one request and has a bounded lifetime, and the number of connections is
//! bounded: a client that holds one open costs this port little and the rest of the process
//! nothing.

use std::{
    future::Future,
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::{
    Extension, Json, Router,
    extract::{Request, State},
    http::{StatusCode, header::CONTENT_TYPE},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::metrics;

mod health;

pub use health::{Health, Parts};

/// The maximum number of concurrent connections: enough for some scrapers, some probes and some
/// people. Further connections wait in the listener's queue.
pub const CONNECTIONS_MAX: usize = 64;

/// The time limit for a client to send the header of its request. It is short, so that idle
/// connections can't keep probes waiting for long.
pub const HEADER_TIME_MAX: Duration = Duration::from_secs(2);

/// The time limit for a connection, including the response: the slowest scrapers wait this long.
pub const CONNECTION_TIME_MAX: Duration = Duration::from_secs(10);

/// The time that requests in progress have to finish after the port is stopped.
const STOP_TIME_MAX: Duration = Duration::from_secs(1);

/// The maximum size of a request's header in bytes.
const HEADER_BYTES_MAX: usize = 16_384;

/// The pause after a failed accept, without which the loop would spin, for example while the
/// process is out of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The error when the admin port could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on ADMIN_ADDR={addr}")]
pub struct BindError {
    addr: SocketAddr,
    source: io::Error,
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
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    addr: SocketAddr,
    local: Router,
}

impl Admin {
    /// Binds the port at `addr`; port 0 picks any free port.
    ///
    /// # Errors
    /// Returns an error if the address is in use or not available.
    pub async fn bind(addr: SocketAddr) -> Result<Self, BindError> {
        let bound = TcpListener::bind(addr).await.and_then(|listener| {
            let addr = listener.local_addr()?;
            let local = Router::new();
            Ok(Self {
                listener,
                addr,
                local,
            })
        });
        bound.map_err(|source| BindError { addr, source })
    }

    /// Returns the address that was bound.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Adds `routes`, at least one, for peers on this machine only: all others get a 403.
    #[must_use]
    pub fn with_routes(mut self, routes: Router) -> Self {
        let guarded = routes.route_layer(from_fn(require_loopback));
        self.local = self.local.merge(guarded);
        self
    }

    /// Serves until `stop` is cancelled, then finishes the requests in progress within a second.
    pub async fn serve(self, registry: Registry, health: Arc<dyn Health>, stop: CancellationToken) {
        let context = AdminContext {
            registry,
            health,
            addr: self.addr,
        };
        let router = router(context).merge(self.local);
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let connections = TaskTracker::new();
        let accept = async {
            let mut failing = false;
            loop {
                let permit = Arc::clone(&permits).acquire_owned().await;
                match self.listener.accept().await {
                    Ok((stream, peer)) => {
                        failing = false;
                        let served =
                            serve_connection(stream, peer.ip(), router.clone(), stop.clone());
                        connections.spawn(async move {
                            served.await;
                            drop(permit);
                        });
                    }
                    Err(error) => {
                        if !mem::replace(&mut failing, true) {
                            tracing::warn!(
                                %error,
                                "the admin port cannot accept connections; retrying"
                            );
                        }
                        sleep(ACCEPT_RETRY).await;
                    }
                }
            }
        };
        stop.run_until_cancelled(accept).await;
        connections.close();
        connections.wait().await;
    }
}

/// Serves one request. Errors are ignored: they only concern the client, and nothing can be done
/// about them.
fn serve_connection(
    stream: TcpStream,
    peer: IpAddr,
    router: Router,
    stop: CancellationToken,
) -> impl Future<Output = ()> {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .keep_alive(false);
    let router = router.layer(Extension(PeerIp(peer)));
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    async move {
        let mut connection = pin!(connection);
        let until_stopped = stop.run_until_cancelled(connection.as_mut());
        if let Ok(None) = timeout(CONNECTION_TIME_MAX, until_stopped).await {
            connection.as_mut().graceful_shutdown();
            let _ = timeout(STOP_TIME_MAX, connection).await;
        }
    }
}

/// The address of the client that sent a request.
#[derive(Clone, Copy)]
struct PeerIp(IpAddr);

async fn require_loopback(
    Extension(PeerIp(peer)): Extension<PeerIp>,
    request: Request,
    next: Next,
) -> Response {
    if peer.to_canonical().is_loopback() {
        return next.run(request).await;
    }
    (
        StatusCode::FORBIDDEN,
        "only available from the same machine",
    )
        .into_response()
}

/// The sources of the responses.
#[derive(Clone)]
struct AdminContext {
    registry: Registry,
    health: Arc<dyn Health>,
    addr: SocketAddr,
}

fn router(context: AdminContext) -> Router {
    Router::new()
        .route("/metrics", get(write_metrics))
        .route("/health", get(live))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/status", get(status))
        .with_state(context)
}

async fn write_metrics(State(context): State<AdminContext>) -> Response {
    match metrics::encode(&context.registry) {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn live(State(context): State<AdminContext>) -> Response {
    verdict("live", &context.health.live())
}

async fn ready(State(context): State<AdminContext>) -> Response {
    verdict("ready", &context.health.ready())
}

/// Responds 200 if there are no reasons against it, otherwise 503 with the reasons.
fn verdict(word: &str, reasons: &[String]) -> Response {
    let (code, status) = if reasons.is_empty() {
        (StatusCode::OK, word.to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not {word}"))
    };
    (code, Json(json!({ "status": status, "reasons": reasons }))).into_response()
}

/// Responds with the component's own status and the fields that only the process knows.
async fn status(State(context): State<AdminContext>) -> Response {
    let reasons = context.health.ready();
    let mut status = context.health.status();
    if let Value::Object(fields) = &mut status {
        fields.insert("version".into(), json!(crate::VERSION));
        fields.insert("admin_addr".into(), json!(context.addr.to_string()));
        fields.insert("ready".into(), json!(reasons.is_empty()));
        fields.insert("reasons".into(), json!(reasons));
    }
    Json(status).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn status_code_for(peer: IpAddr, path: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let admin = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let router = admin
            .with_routes(Router::new().route("/local", get(|| async { "here" })))
            .local;
        let mut client = TcpStream::connect(addr).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        serve_connection(stream, peer, router, CancellationToken::new()).await;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer[9..12].to_owned()
    }

    #[tokio::test]
    async fn added_routes_are_open_to_peers_on_this_machine_only() {
        let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
        for peer in [
            Ipv4Addr::LOCALHOST.into(),
            IpAddr::from([127, 0, 0, 2]),
            Ipv6Addr::LOCALHOST.into(),
            mapped.into(),
        ] {
            assert_eq!(status_code_for(peer, "/local").await, "200", "{peer}");
        }
        let mapped = Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped();
        for peer in [
            IpAddr::from([192, 0, 2, 1]),
            mapped.into(),
            "2001:db8::1".parse().unwrap(),
        ] {
            assert_eq!(status_code_for(peer, "/local").await, "403", "{peer}");
            assert_eq!(status_code_for(peer, "/other").await, "404", "{peer}");
        }
    }
}
