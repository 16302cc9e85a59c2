//! The admin port: metrics, health and status over HTTP. It only asks; what is healthy, the parts know, as [`Health`].
//!
//! A connection carries one request and has a bounded life, and there is a bounded number of them: whoever holds one open
//! costs this port little and the rest of the process nothing.

use std::{future::Future, io, mem, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
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

/// The most connections at a time: some scrapers, some probes and some people. Further ones wait in the listener's queue.
pub const CONNECTIONS_MAX: usize = 64;

/// The time that a client has to send its request's header. Short, so that idle connections can't keep probes waiting for long.
pub const HEADER_TIME_MAX: Duration = Duration::from_secs(2);

/// The time that a whole connection has, answer included: what the slowest scrapers wait.
pub const CONNECTION_TIME_MAX: Duration = Duration::from_secs(10);

/// The time that running requests have once the port is stopped.
const STOP_TIME_MAX: Duration = Duration::from_secs(1);

/// The bytes that a request's header may have.
const HEADER_BYTES_MAX: usize = 16_384;

/// The pause after accept failed, as it does while no file can be opened: without it the loop would spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The admin port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("ADMIN_ADDR={addr} can't be listened on: {error}")]
pub struct BindError {
    addr: SocketAddr,
    error: io::Error,
}

/// An open admin port that is not served yet.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    addr: SocketAddr,
}

impl Admin {
    /// Opens the port at `addr`; port 0 takes any free one.
    ///
    /// # Errors
    /// Where it is taken or not to be had.
    pub async fn bind(addr: SocketAddr) -> Result<Self, BindError> {
        let bound = TcpListener::bind(addr).await.and_then(|listener| {
            let addr = listener.local_addr()?;
            Ok(Self { listener, addr })
        });
        bound.map_err(|error| BindError { addr, error })
    }

    /// The address that was bound.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until `stop` is cancelled, then ends what is running within a second.
    pub async fn serve(self, registry: Registry, health: Arc<dyn Health>, stop: CancellationToken) {
        let router = router(Shared {
            registry,
            health,
            addr: self.addr,
        });
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let connections = TaskTracker::new();
        let accept = async {
            let mut failing = false;
            loop {
                let place = Arc::clone(&places).acquire_owned().await;
                match self.listener.accept().await {
                    Ok((stream, _)) => {
                        failing = false;
                        let served = serve_connection(stream, router.clone(), stop.clone());
                        connections.spawn(async move {
                            served.await;
                            drop(place);
                        });
                    }
                    Err(error) => {
                        if !mem::replace(&mut failing, true) {
                            tracing::warn!(%error, "the admin port accepts no connections for now");
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

/// Serves one request. How the connection ends is the client's affair: there is nothing to do about any error.
fn serve_connection(
    stream: TcpStream,
    router: Router,
    stop: CancellationToken,
) -> impl Future<Output = ()> {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .keep_alive(false);
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

#[derive(Clone)]
struct Shared {
    registry: Registry,
    health: Arc<dyn Health>,
    addr: SocketAddr,
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/metrics", get(write_metrics))
        .route("/health", get(live))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/status", get(status))
        .with_state(shared)
}

async fn write_metrics(State(shared): State<Shared>) -> Response {
    match metrics::encode(&shared.registry) {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn live(State(shared): State<Shared>) -> Response {
    verdict("live", &shared.health.live())
}

async fn ready(State(shared): State<Shared>) -> Response {
    verdict("ready", &shared.health.ready())
}

/// 200 where nothing speaks against it, else 503 with the reasons.
fn verdict(word: &str, reasons: &[String]) -> Response {
    let (code, status) = if reasons.is_empty() {
        (StatusCode::OK, word.to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not {word}"))
    };
    (code, Json(json!({ "status": status, "reasons": reasons }))).into_response()
}

/// The part's own status, and what only the process knows.
async fn status(State(shared): State<Shared>) -> Response {
    let reasons = shared.health.ready();
    let mut status = shared.health.status();
    if let Value::Object(fields) = &mut status {
        fields.insert("version".into(), json!(crate::VERSION));
        fields.insert("admin_addr".into(), json!(shared.addr.to_string()));
        fields.insert("ready".into(), json!(reasons.is_empty()));
        fields.insert("reasons".into(), json!(reasons));
    }
    Json(status).into_response()
}
