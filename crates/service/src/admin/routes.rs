//! The paths that every daemon has: health, status, its page, and metrics. They show no client, so
//! anyone who reaches the port may read them.
//!
//! Health is answered at once, from what the component knows, and takes no turn. Everything else
//! takes turns: see [`take_turns`].

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Request, State},
    http::{
        StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER},
    },
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::Registry;
use serde_json::{Value, json};
use tickstorm_timebase::{Clock as _, Mono, SystemClock};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until},
};

use super::{Health, connection::Client, page, roster::Busy};
use crate::{file_watch::FileWatch, low_priority, metrics};

/// The time between two encodings of the metrics, each of which takes a millisecond or more.
const ENCODING_INTERVAL: Duration = Duration::from_millis(100);

/// Puts `routes`, at least one, among those whose answers take work or may be long. A client that
/// does not read such an answer gives way to others, and if too many are in progress, the request
/// is refused.
pub(super) fn take_turns(routes: Router) -> Router {
    routes.route_layer(from_fn(start_or_refuse))
}

async fn start_or_refuse(request: Request, next: Next) -> Response {
    let client = request.extensions().get::<Client>();
    match client.map_or(Ok(()), Client::start_answer) {
        Ok(()) => next.run(request).await,
        Err(Busy) => busy("the admin port is answering too many requests: ask again later"),
    }
}

/// Returns the answer to a request that can't be served now.
#[must_use]
pub fn busy(text: &'static str) -> Response {
    let later = [(RETRY_AFTER, "1")];
    (StatusCode::SERVICE_UNAVAILABLE, later, text).into_response()
}

/// Returns the routes.
pub(super) fn routes(
    registry: Registry,
    health: Arc<dyn Health>,
    addr: SocketAddr,
    files: Vec<FileWatch>,
) -> Router {
    let metrics = Router::new()
        .route("/metrics", get(write_metrics))
        .with_state(Arc::new(MetricsText::new(registry)));
    let context = Context {
        health,
        addr,
        files: files.into(),
        started: SystemClock.now(),
    };
    let status = Router::new()
        .route("/status", get(status))
        .with_state(context.clone());
    let health = Router::new()
        .route("/health", get(live))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .with_state(context);
    take_turns(metrics.merge(status).merge(page::route())).merge(health)
}

/// The sources of the responses about health.
#[derive(Clone)]
struct Context {
    health: Arc<dyn Health>,
    addr: SocketAddr,
    files: Arc<[FileWatch]>,
    /// When the port was opened, which is when the process started.
    started: Mono,
}

async fn live(State(context): State<Context>) -> Response {
    verdict("live", &context.health.live())
}

async fn ready(State(context): State<Context>) -> Response {
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
async fn status(State(context): State<Context>) -> Response {
    let reasons = context.health.ready();
    let mut status = context.health.status();
    if let Value::Object(fields) = &mut status {
        fields.insert("version".into(), json!(crate::VERSION));
        fields.insert("admin_addr".into(), json!(context.addr.to_string()));
        let uptime = SystemClock.now().since(context.started);
        fields.insert("uptime_s".into(), json!(uptime.as_secs()));
        fields.insert("ready".into(), json!(reasons.is_empty()));
        fields.insert("reasons".into(), json!(reasons));
        let refused = context.files.iter().filter_map(|files| {
            let error = files.refused()?;
            Some(json!({ "files": files.name(), "error": error }))
        });
        fields.insert("refused_files".into(), refused.collect());
    }
    Json(status).into_response()
}

async fn write_metrics(State(text): State<Arc<MetricsText>>) -> Response {
    match text.encode().await {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error).into_response(),
    }
}

/// The encoded metrics. They are encoded at low priority and not too often: requests that come
/// meanwhile share the next encoding. So nobody gets values from before the request.
struct MetricsText {
    registry: Registry,
    last: Arc<Mutex<Option<Encoded>>>,
}

struct Encoded {
    started: Instant,
    text: Bytes,
}

impl MetricsText {
    fn new(registry: Registry) -> Self {
        Self {
            registry,
            last: Arc::default(),
        }
    }

    async fn encode(&self) -> Result<Bytes, String> {
        let asked = Instant::now();
        let mut last = Arc::clone(&self.last).lock_owned().await;
        if let Some(last) = &*last {
            if last.started > asked {
                return Ok(last.text.clone());
            }
            sleep_until(last.started + ENCODING_INTERVAL).await;
        }
        let registry = self.registry.clone();
        // A task of its own: if the client leaves, the next request must not encode at once.
        let encoding = tokio::spawn(async move {
            let started = Instant::now();
            let encoded = low_priority::run(move || metrics::encode(&registry)).await;
            let text = encoded.map(|text| text.map(Bytes::from));
            let text = text
                .map_err(|error| error.to_string())?
                .map_err(|error| error.to_string())?;
            *last = Some(Encoded {
                started,
                text: text.clone(),
            });
            Ok(text)
        });
        encoding.await.map_err(|error| error.to_string())?
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use prometheus::{
        IntCounter,
        core::{Collector, Desc},
        proto::MetricFamily,
    };
    use tokio::task::JoinSet;

    use super::*;

    /// A metric that counts how often it is gathered.
    #[derive(Clone)]
    struct Gathered {
        metric: IntCounter,
        count: Arc<AtomicUsize>,
    }

    impl Collector for Gathered {
        fn desc(&self) -> Vec<&Desc> {
            self.metric.desc()
        }

        fn collect(&self) -> Vec<MetricFamily> {
            self.count.fetch_add(1, Ordering::Relaxed);
            self.metric.collect()
        }
    }

    fn counted_metrics() -> (Gathered, MetricsText) {
        let registry = Registry::new();
        let gathered = Gathered {
            metric: IntCounter::new("a_total", "A.").unwrap(),
            count: Arc::default(),
        };
        registry.register(Box::new(gathered.clone())).unwrap();
        (gathered, MetricsText::new(registry))
    }

    #[tokio::test]
    async fn requests_that_are_abandoned_do_not_make_encodings_more_frequent() {
        let (gathered, text) = counted_metrics();
        let text = Arc::new(text);
        let began = Instant::now();
        let mut encodings = 0;
        while encodings < 5 {
            let text = Arc::clone(&text);
            let request = tokio::spawn(async move { text.encode().await });
            tokio::time::sleep(Duration::from_millis(1)).await;
            request.abort();
            encodings = gathered.count.load(Ordering::Relaxed);
        }
        let took = began.elapsed();
        assert!(took >= ENCODING_INTERVAL * 4, "{took:?}");
    }

    #[tokio::test]
    async fn metrics_are_encoded_once_for_many_requests_and_never_from_before_a_request() {
        let (Gathered { metric, count }, text) = counted_metrics();
        let text = Arc::new(text);
        for round in 1..=3 {
            metric.inc();
            let mut requests = JoinSet::new();
            for _ in 0..200 {
                let text = Arc::clone(&text);
                requests.spawn(async move { text.encode().await });
            }
            let line = format!("a_total {round}\n").into_bytes();
            for answer in requests.join_all().await {
                assert!(answer.unwrap().ends_with(&line));
            }
        }
        let encodings = count.load(Ordering::Relaxed);
        // The first request of each round, and one for all others that came meanwhile.
        assert!(encodings <= 6, "{encodings}");
    }
}
