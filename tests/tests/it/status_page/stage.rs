//! An admin port on which the page is that of a real edge, and everything else was written for a
//! test.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::dev::http;
use crate::support::daemon::Daemon;

/// The stage.
pub(super) struct Stage {
    addr: SocketAddr,
    answers: Arc<Answers>,
}

/// What the port answers.
struct Answers {
    page: String,
    status: Mutex<String>,
    metrics: String,
    asked: AtomicUsize,
}

impl Answers {
    /// Returns the answer to a request, and counts it.
    fn to(&self, request: &[u8]) -> String {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if request.starts_with(b"GET / ") {
            self.page.clone()
        } else if request.starts_with(b"GET /status ") {
            self.status.lock().unwrap().clone()
        } else if request.starts_with(b"GET /metrics ") {
            self.metrics.clone()
        } else {
            "HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n".to_owned()
        }
    }
}

impl Stage {
    /// Opens the port, which answers with this status and these metrics.
    pub(super) async fn open(status: Value, metrics: &str) -> Self {
        let mut edge = Daemon::new("tickstorm-edge");
        edge.start().await;
        let page = http(edge.admin(), "/");
        assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
        let answers = Arc::new(Answers {
            page,
            status: Mutex::new(status_answer(&status)),
            metrics: answer("text/plain", metrics),
            asked: AtomicUsize::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::clone(&answers);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { addr, answers }
    }

    /// Changes the status.
    pub(super) fn set_status(&self, status: &Value) {
        *self.answers.status.lock().unwrap() = status_answer(status);
    }

    /// Returns the address of the port.
    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns how many requests it has answered.
    pub(super) fn asked(&self) -> usize {
        self.answers.asked.load(Ordering::Relaxed)
    }
}

fn answer(kind: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

fn status_answer(status: &Value) -> String {
    answer("application/json", &status.to_string())
}

async fn serve(mut stream: TcpStream, answers: Arc<Answers>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut bytes = [0; 4_096];
        match stream.read(&mut bytes).await {
            // Browsers also open connections that they do not use.
            Ok(0) | Err(_) => return,
            Ok(read) => request.extend_from_slice(&bytes[..read]),
        }
    }
    let answer = answers.to(&request);
    // A page that was left has no use for an answer.
    let _ = stream.write_all(answer.as_bytes()).await;
}

/// Returns the status of an edge that serves its clients, and has something of everything that the
/// page can show.
pub(super) fn sick_edge() -> Value {
    let clock = |id: &str,
                 rank: u32,
                 state: &str,
                 offset_us: Option<i64>,
                 bound_us: Option<u32>| {
        json!({
            "id": id, "rank": rank, "state": state, "offset_us": offset_us, "bound_us": bound_us,
        })
    };
    json!({
        "id": "edge-7f8b9c5d-x2k9p",
        "version": "0.1.0",
        "ready": true,
        "reasons": [],
        "refused_files": [],
        "uptime_s": 273_840,
        "admin_addr": "10.0.3.17:8081",
        "listen_addr": "10.0.3.17:8080",
        "draining": false,
        "holdover": false,
        "connections": 61_234,
        "max_connections": 100_000,
        "shards": 4,
        "accept_queue": { "length": 3, "overflows": 0, "overflowed_in_last_minute": false },
        "authority": {
            "unix_us": 1_795_265_939_123_456_i64, "bound_us": 214, "following": "clock-0",
            "rate_ppm": -3.21,
        },
        "clocks": [
            clock("clock-0", 0, "accepted", Some(0), Some(198)),
            clock("clock-1", 1, "false", Some(5_000_012), Some(205)),
            clock("clock-2", 2, "silent", None, None),
        ],
        "nats_link": {
            "server": "nats-1.example:4222", "heard": true, "refused": [], "silent_links": 0,
        },
        "logins": { "judged_in_last_minute": 57, "refused_in_last_minute": 2 },
        "alarms": [{
            "reason": "falseticker",
            "message": "A clock disagreed with a majority or two hosts answered under its id less \
                than HOLDOVER_MAX ago, so its time is not used.",
            "action": "Look at chronyc tracking on the clock's host. If the host is right, \
                someone else may use its NATS login.",
            "clocks": ["clock-1"],
        }],
        "memory": {
            "buffered_bytes": 1_572_864,
            "buffered_limit_bytes": 67_108_864,
            "kernel_bytes": 251_658_240,
            "kernel_limit_bytes": 402_653_184,
            "alarms": [{
                "reason": "kernel_memory",
                "message": "Within the last minute, connections with full sockets were closed to \
                    stay below the bound on the kernel's TCP memory.",
            }],
        },
        "tls": {
            "enabled": true,
            "certificate": { "not_after": "2026-11-30T00:00:00Z" },
            "alarms": [{
                "reason": "reload_failed",
                "message": "The files can't be used, so earlier ones stay in use: they do not \
                    belong together.",
            }],
            "warnings": ["TLS_CERT_FILE=/etc/tls/edge.crt: certificate CN=edge expires in 9 days"],
        },
    })
}

/// Returns the status of an edge that has nothing wrong.
pub(super) fn well_edge() -> Value {
    let mut status = sick_edge();
    for (id, offset_us) in [(0, 0), (1, -412), (2, 87)] {
        let clock = &mut status["clocks"][id];
        clock["state"] = json!("accepted");
        clock["offset_us"] = json!(offset_us);
        clock["bound_us"] = json!(201);
    }
    for section in ["", "/memory", "/tls"] {
        *status.pointer_mut(&format!("{section}/alarms")).unwrap() = json!([]);
    }
    status["tls"]["warnings"] = json!([]);
    status["tls"]["certificate"]["not_after"] = json!("2027-02-19T00:00:00Z");
    status
}

/// The metrics that go with both.
pub(super) const METRICS: &str = r#"# HELP tickstorm_connections Open sockets, by state.
# TYPE tickstorm_connections gauge
tickstorm_connections{state="handshake"} 12
tickstorm_connections{state="authenticated"} 0
tickstorm_connections{state="subscribed"} 61222
tickstorm_connections{state="lingering"} 0
# TYPE tickstorm_time_offset_seconds gauge
tickstorm_time_offset_seconds -0.00125
# TYPE tickstorm_release_lateness_seconds histogram
tickstorm_release_lateness_seconds_bucket{mode="second",delivery="at_time",le="0.0001"} 900
tickstorm_release_lateness_seconds_bucket{mode="second",delivery="at_time",le="0.00025"} 900
tickstorm_release_lateness_seconds_bucket{mode="second",delivery="at_time",le="0.0005"} 990
tickstorm_release_lateness_seconds_bucket{mode="second",delivery="at_time",le="0.001"} 998
tickstorm_release_lateness_seconds_bucket{mode="second",delivery="at_time",le="+Inf"} 1000
tickstorm_release_lateness_seconds_bucket{mode="minute",delivery="ahead",le="0.0001"} 0
tickstorm_release_lateness_seconds_bucket{mode="minute",delivery="ahead",le="+Inf"} 0
tickstorm_release_lateness_seconds_bucket{mode="second",delivery="ahead",le="0.0001"} 1000
tickstorm_release_lateness_seconds_bucket{mode="second",delivery="ahead",le="+Inf"} 1000
# TYPE tickstorm_publish_latency_ms histogram
tickstorm_publish_latency_ms_bucket{mode="second",delivery="at_time",le="1"} 3000
tickstorm_publish_latency_ms_bucket{mode="second",delivery="at_time",le="5"} 60000
tickstorm_publish_latency_ms_bucket{mode="second",delivery="at_time",le="+Inf"} 60000
tickstorm_publish_latency_ms_bucket{mode="second",delivery="ahead",le="1"} 2000
tickstorm_publish_latency_ms_bucket{mode="second",delivery="ahead",le="+Inf"} 2000
# TYPE tickstorm_ahead_margin_seconds histogram
tickstorm_ahead_margin_seconds_bucket{mode="second",le="-0.05"} 0
tickstorm_ahead_margin_seconds_bucket{mode="second",le="0"} 1
tickstorm_ahead_margin_seconds_bucket{mode="second",le="0.7"} 20
tickstorm_ahead_margin_seconds_bucket{mode="second",le="0.8"} 2000
tickstorm_ahead_margin_seconds_bucket{mode="second",le="+Inf"} 2000
tickstorm_ahead_margin_seconds_bucket{mode="minute",le="-0.05"} 0
tickstorm_ahead_margin_seconds_bucket{mode="minute",le="+Inf"} 0
"#;
