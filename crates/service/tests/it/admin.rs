use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use prometheus::Registry;
use serde_json::{Value, json};
use tickstorm_service::{
    VERSION,
    admin::{Admin, CONNECTION_TIME_MAX, CONNECTIONS_MIN, Health, Parts},
    metrics,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::{advance, pause, resume, timeout},
};
use tokio_util::sync::CancellationToken;

/// Far longer than any step takes: it only keeps a bug from hanging the test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(crate) struct Component {
    dead: Mutex<Vec<String>>,
    unready: Mutex<Vec<String>>,
}

impl Health for Component {
    fn live(&self) -> Vec<String> {
        self.dead.lock().unwrap().clone()
    }

    fn ready(&self) -> Vec<String> {
        self.unready.lock().unwrap().clone()
    }

    fn status(&self) -> Value {
        json!({ "id": "edge-0" })
    }
}

pub(crate) struct Port {
    pub(crate) addr: SocketAddr,
    stop: CancellationToken,
    served: JoinHandle<()>,
}

impl Port {
    pub(crate) async fn open(health: Arc<dyn Health>, registry: Registry) -> Self {
        let admin = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        Self::serve(admin, health, registry)
    }

    pub(crate) fn serve(admin: Admin, health: Arc<dyn Health>, registry: Registry) -> Self {
        let (addr, stop) = (admin.local_addr(), CancellationToken::new());
        let served = tokio::spawn(admin.serve(registry, health, stop.clone()));
        Self { addr, stop, served }
    }

    pub(crate) async fn with(health: Arc<dyn Health>) -> Self {
        Self::open(health, metrics::registry().unwrap()).await
    }

    /// Sends `request` as it is, and reads until the connection is closed.
    pub(crate) async fn send(&self, request: &str) -> Response {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        Response::read(stream).await
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.served)
            .await
            .expect("the port stops")
            .unwrap();
    }
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) code: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Response {
    pub(crate) async fn read(mut stream: impl AsyncRead + Unpin) -> Self {
        let mut text = String::new();
        let read = timeout(PATIENCE, stream.read_to_string(&mut text)).await;
        read.expect("the connection is closed after the response")
            .unwrap();
        let (head, body) = text
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("{text:?}"));
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self {
            code,
            head: head.to_ascii_lowercase(),
            body: body.into(),
        }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

#[tokio::test]
async fn health_is_200_or_503_with_the_reasons() {
    let component = Arc::new(Component::default());
    let port = Port::with(component.clone()).await;
    for (path, word) in [
        ("/health", "live"),
        ("/health/live", "live"),
        ("/health/ready", "ready"),
    ] {
        let response = port.get(path).await;
        assert_eq!(response.code, 200, "{response:?}");
        assert_eq!(response.json(), json!({ "status": word, "reasons": [] }));
        assert!(
            response.head.contains("\r\nconnection: close"),
            "{response:?}"
        );
    }
    component
        .unready
        .lock()
        .unwrap()
        .push("time is unknown".into());
    assert_eq!(
        port.get("/health").await.code,
        200,
        "a component that is not ready is still alive"
    );
    let response = port.get("/health/ready").await;
    assert_eq!(response.code, 503);
    assert_eq!(
        response.json(),
        json!({ "status": "not ready", "reasons": ["time is unknown"] })
    );
    component
        .dead
        .lock()
        .unwrap()
        .push("a shard is stalled".into());
    for path in ["/health", "/health/live"] {
        let response = port.get(path).await;
        assert_eq!(response.code, 503);
        assert_eq!(response.json()["reasons"], json!(["a shard is stalled"]));
    }
    port.stop().await;
}

#[tokio::test]
async fn metrics_are_in_prometheus_text_format() {
    let port = Port::with(Arc::new(Component::default())).await;
    let response = port.get("/metrics").await;
    assert_eq!(response.code, 200);
    assert!(
        response
            .head
            .contains("\r\ncontent-type: text/plain; version=0.0.4"),
        "{response:?}"
    );
    let labels = format!(r#"version="{VERSION}"}} 1"#);
    let mut builds = response.body.lines();
    let is_build =
        |line: &str| line.starts_with("tickstorm_build_info{") && line.ends_with(&labels);
    assert!(builds.any(is_build), "{response:?}");
    port.stop().await;
}

#[tokio::test]
async fn status_adds_the_fields_of_the_process_to_those_of_the_component() {
    let component = Arc::new(Component::default());
    component
        .unready
        .lock()
        .unwrap()
        .push("time is unknown".into());
    let port = Port::with(component).await;
    let expected = json!({
        "id": "edge-0",
        "version": VERSION,
        "admin_addr": port.addr.to_string(),
        "ready": false,
        "reasons": ["time is unknown"],
        "refused_files": [],
    });
    let mut status = port.get("/status").await.json();
    let uptime = status["uptime_s"].take();
    assert!(uptime.as_u64().unwrap() < 3_600, "{uptime}");
    status.as_object_mut().unwrap().remove("uptime_s");
    assert_eq!(status, expected);
    port.stop().await;
}

#[tokio::test]
async fn the_page_may_run_and_load_nothing_but_its_own() {
    let port = Port::with(Arc::new(Component::default())).await;
    for request in [
        "GET / HTTP/1.1\r\nHost: edge.example\r\nOrigin: http://a.example\r\n\r\n",
        "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let response = port.send(request).await;
        assert_eq!(response.code, 200, "{response:?}");
        for header in [
            "content-type: text/html; charset=utf-8",
            "content-security-policy: default-src 'none'; connect-src 'self'; img-src data:; \
             script-src 'sha256-",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
        ] {
            let line = format!("\r\n{header}");
            assert!(
                response.head.contains(&line),
                "no {header}: {}",
                response.head
            );
        }
        for absent in ["unsafe", "cookie", "access-control"] {
            assert!(!response.head.contains(absent), "{}", response.head);
        }
        let is_whole = response.body.trim_end().ends_with("</html>");
        assert_eq!(is_whole, request.starts_with("GET"), "{}", response.body);
    }
    port.stop().await;
}

#[tokio::test]
async fn several_parts_are_healthy_if_all_are_and_keep_their_names() {
    let (edge, clock) = (
        Arc::new(Component::default()),
        Arc::new(Component::default()),
    );
    let parts = Parts::new().with("edge", edge).with("clock", clock.clone());
    let port = Port::with(Arc::new(parts)).await;
    assert_eq!(port.get("/health/ready").await.code, 200);
    clock.unready.lock().unwrap().push("not connected".into());
    let response = port.get("/health/ready").await;
    assert_eq!(
        (response.code, &response.json()["reasons"]),
        (503, &json!(["clock: not connected"]))
    );
    let status = port.get("/status").await.json();
    assert_eq!(status["edge"]["id"], "edge-0");
    assert_eq!(status["clock"]["id"], "edge-0");
    assert_eq!(status["ready"], false);
    port.stop().await;
}

#[tokio::test]
async fn head_works_and_other_methods_and_paths_are_refused() {
    let port = Port::with(Arc::new(Component::default())).await;
    let head = port.send("HEAD /health HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((head.code, head.body.as_str()), (200, ""));
    assert_eq!(
        port.send("POST /health HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .code,
        405
    );
    assert_eq!(
        port.send("DELETE /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .code,
        405
    );
    for path in ["/index.html", "/healthz", "/health/", "/metrics/x"] {
        assert_eq!(port.get(path).await.code, 404, "{path}");
    }
    port.stop().await;
}

#[tokio::test]
async fn bytes_that_are_not_http_or_too_long_are_refused_and_disturb_no_other_client() {
    let port = Port::with(Arc::new(Component::default())).await;
    assert_eq!(port.send("\u{5}\u{1}hello\r\n\r\n").await.code, 400);
    let mut stream = TcpStream::connect(port.addr).await.unwrap();
    let endless = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(1 << 16));
    // The port may close the connection before it has read all of this, and the reset may then
    // discard the response: only the end of the connection is certain.
    let _ = stream.write_all(endless.as_bytes()).await;
    let _ = timeout(PATIENCE, stream.read_to_end(&mut Vec::new()))
        .await
        .expect("the connection is closed");
    assert_eq!(port.get("/health").await.code, 200);
    port.stop().await;
}

/// Idle connections take all places. Each is closed when its time limit passes, or when it has to
/// give way.
#[tokio::test]
async fn clients_that_send_nothing_or_only_half_a_header_lose_their_place() {
    let port = Port::with(Arc::new(Component::default())).await;
    let mut idle = Vec::new();
    for i in 0..CONNECTIONS_MIN {
        let mut stream = TcpStream::connect(port.addr).await.unwrap();
        if i % 2 == 0 {
            stream.write_all(b"GET /health HTTP/1.1\r\n").await.unwrap();
        }
        idle.push(stream);
    }
    assert_eq!(port.get("/health").await.code, 200);
    for mut stream in idle {
        let closed = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
        closed.expect("an idle connection is closed").unwrap();
    }
    port.stop().await;
}

/// The response is larger than the socket buffers, and the client reads none of it.
#[tokio::test]
async fn a_client_that_does_not_read_its_response_is_cut_off() {
    const RESPONSE_BYTES_MIN: usize = 20_000_000;
    let registry = Registry::new();
    let labels = metrics::counters(&registry, "a_total", "A.", &["label"]).unwrap();
    for i in 0..1_000 {
        let label = format!("{i}{}", "x".repeat(RESPONSE_BYTES_MIN / 1_000));
        labels.with_label_values(&[&label]).inc();
    }
    let port = Port::open(Arc::new(Component::default()), registry).await;
    let mut stream = TcpStream::connect(port.addr).await.unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    stream.readable().await.unwrap();
    pause();
    advance(CONNECTION_TIME_MAX).await;
    resume();
    let mut bytes = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes))
        .await
        .expect("the connection is closed");
    assert!(bytes.len() < RESPONSE_BYTES_MIN, "{}", bytes.len());
    port.stop().await;
}

#[tokio::test]
async fn stopping_closes_the_port_and_idle_connections() {
    let port = Port::with(Arc::new(Component::default())).await;
    let addr = port.addr;
    let mut idle = TcpStream::connect(addr).await.unwrap();
    assert_eq!(port.get("/health").await.code, 200);
    port.stop().await;
    // The connection ends with an end of file or a reset, but without a response, since no header
    // had arrived.
    let mut bytes = Vec::new();
    let _ = timeout(PATIENCE, idle.read_to_end(&mut bytes))
        .await
        .expect("the connection is closed");
    assert!(bytes.is_empty(), "{bytes:?}");
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn the_error_names_a_port_that_is_in_use() {
    let taken = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addr = taken.local_addr();
    let error = Admin::bind(addr).await.unwrap_err().to_string();
    assert!(error.contains(&format!("ADMIN_ADDR={addr}")), "{error}");
}
