//! Tests of the whole port: what each combination of route, peer, Host, Origin and token gets.

use axum::routing::{delete, get, post};
use serde_json::{Value, json};
use tickstorm_testkit::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{places::Places, *};
use crate::settings::{ADMIN_TOKEN_FILE, COMMON};

const TOKEN: &str = "0123456789abcdef";

struct Component;

impl Health for Component {
    fn live(&self) -> Vec<String> {
        Vec::new()
    }

    fn ready(&self) -> Vec<String> {
        Vec::new()
    }

    fn status(&self) -> Value {
        json!({})
    }
}

/// A port whose clients can pretend to have any address.
struct Port {
    router: Router,
    listener: TcpListener,
}

impl Port {
    async fn open(token: Option<&str>) -> Self {
        let dir = TempDir::new("admin-port");
        let mut vars = vec![(ADMIN_ADDR.name(), "127.0.0.1:0".into())];
        if let Some(token) = token {
            vars.push((ADMIN_TOKEN_FILE.name(), dir.write("token", token)));
        }
        let settings = Settings::from_vars(vars, &[COMMON], &[]).unwrap();
        let registry = Registry::new();
        let admin = Admin::from_settings(&settings, &registry).await.unwrap();
        let added = Router::new()
            .route("/connections", get(|| async {}))
            .route("/connections/{id}", delete(|| async {}))
            .route("/drain", post(|| async {}));
        let admin = admin.with_routes(added);
        Self {
            router: admin.router(registry, Arc::new(Component)),
            listener: admin.listener,
        }
    }

    async fn ask(&self, peer: IpAddr, request: &str) -> (u16, String) {
        self.ask_at(&Places::new(2, Duration::ZERO), peer, request)
            .await
    }

    async fn ask_at(&self, places: &Arc<Places>, peer: IpAddr, request: &str) -> (u16, String) {
        let addr = self.listener.local_addr().unwrap();
        let mut client = TcpStream::connect(addr).await.unwrap();
        let (stream, _) = self.listener.accept().await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        let connection = Connection {
            stream,
            peer,
            tls: None,
            router: self.router.clone(),
            stop: CancellationToken::new(),
        };
        let place = places.take(peer).await;
        // Boxed, because it is a large future.
        Box::pin(connection.serve(place)).await;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        (answer[9..12].parse().unwrap(), answer)
    }
}

/// A request, and what it gets.
struct Case {
    is_guarded: bool,
    is_peer_local: bool,
    is_host_local: bool,
    has_origin: bool,
    has_right_token: bool,
}

impl Case {
    fn expected(&self, port_has_token: bool) -> u16 {
        let is_local = self.is_peer_local && self.is_host_local && !self.has_origin;
        match (self.is_guarded, port_has_token) {
            (false, _) => 200,
            (true, true) if self.has_right_token => 200,
            (true, true) => 401,
            (true, false) if is_local => 200,
            (true, false) => 403,
        }
    }
}

#[tokio::test]
async fn each_route_is_open_to_those_for_whom_it_is_meant() {
    let routes = [
        (false, "GET /"),
        (false, "GET /health"),
        (false, "GET /health/live"),
        (false, "HEAD /health/ready"),
        (false, "GET /status"),
        (true, "GET /connections"),
        (true, "HEAD /connections"),
        (true, "DELETE /connections/1"),
        (true, "POST /drain"),
    ];
    let peers = [
        (true, "127.0.0.1"),
        (true, "::ffff:127.0.0.1"),
        (false, "192.0.2.1"),
    ];
    let hosts = [
        (true, "Host: localhost:8081\r\n"),
        (true, "Host: [::1]\r\n"),
        (false, "Host: evil.example\r\n"),
        (false, ""),
        (false, "Host: localhost\r\nHost: evil.example\r\n"),
    ];
    let origins = [(false, ""), (true, "Origin: http://localhost:8081\r\n")];
    let tokens = [
        (false, ""),
        (false, "Authorization: Bearer 0123456789abcdeg\r\n"),
        (true, "Authorization: Bearer 0123456789abcdef\r\n"),
    ];
    for port_token in [None, Some(TOKEN)] {
        let port = Port::open(port_token).await;
        let mut cases = Vec::new();
        for (is_guarded, route) in routes {
            for (is_peer_local, peer) in peers {
                for (is_host_local, host) in hosts {
                    for (has_origin, origin) in origins {
                        for (has_right_token, token) in tokens {
                            let case = Case {
                                is_guarded,
                                is_peer_local,
                                is_host_local,
                                has_origin,
                                has_right_token,
                            };
                            let claims = "X-Forwarded-For: 127.0.0.1\r\n";
                            let headers = format!("{host}{origin}{token}{claims}");
                            cases.push((case, peer, format!("{route} HTTP/1.1\r\n{headers}\r\n")));
                        }
                    }
                }
            }
        }
        for (case, peer, request) in cases {
            let (code, answer) = port.ask(peer.parse().unwrap(), &request).await;
            let expected = case.expected(port_token.is_some());
            assert_eq!(code, expected, "{port_token:?} {peer} {request}: {answer}");
            let asks_for_token = answer.contains("\r\nwww-authenticate: Bearer");
            assert_eq!(asks_for_token, code == 401, "{answer}");
        }
    }
}

#[tokio::test]
async fn a_guarded_path_tells_nothing_about_its_methods() {
    let port = Port::open(None).await;
    let remote = IpAddr::from([192, 0, 2, 1]);
    for method in ["GET", "PUT", "OPTIONS", "DELETE"] {
        let request = format!("{method} /drain HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(port.ask(remote, &request).await.0, 403, "{method}");
        let expected = 405;
        assert_eq!(port.ask([127, 0, 0, 1].into(), &request).await.0, expected);
    }
}

#[tokio::test]
async fn beside_too_many_long_answers_only_health_is_answered() {
    let port = Port::open(None).await;
    let peer = IpAddr::from([127, 0, 0, 1]);
    let places = Places::new(2, Duration::ZERO);
    let long = places.take(peer).await;
    long.answer().start().unwrap();
    for (route, code) in [
        ("GET /metrics", 503),
        ("GET /status", 503),
        ("GET /connections", 503),
        ("POST /drain", 503),
        ("GET /health", 200),
        ("GET /health/ready", 200),
        ("GET /other", 404),
    ] {
        let request = format!("{route} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let (answered, answer) = port.ask_at(&places, peer, &request).await;
        assert_eq!(answered, code, "{route}: {answer}");
        let asks_to_retry = answer.contains("\r\nretry-after: 1\r\n");
        assert_eq!(asks_to_retry, code == 503, "{answer}");
    }
    drop(long);
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(port.ask_at(&places, peer, request).await.0, 200);
}
