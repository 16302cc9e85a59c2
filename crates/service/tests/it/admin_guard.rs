//! The guard of the admin port over real sockets, and the token in its file.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    routing::{get, post},
};
use tickstorm_service::{
    admin::Admin,
    env::Settings,
    error_chain::ErrorChain,
    exit, metrics,
    settings::{ADMIN_ADDR, ADMIN_TOKEN_FILE, COMMON},
};
use tickstorm_testkit::TempDir;
use tokio::time::{sleep, timeout};

use crate::admin::{Component, PATIENCE, Port};

const OLD: &str = "old-token-0123456789";
const NEW: &str = "new-token-0123456789";

fn settings(token_file: Option<&std::path::Path>) -> Settings {
    let addr = (ADMIN_ADDR.name(), "127.0.0.1:0".into());
    let file = token_file.map(|file| (ADMIN_TOKEN_FILE.name(), file.to_owned()));
    Settings::from_vars([addr].into_iter().chain(file), &[COMMON], &[]).unwrap()
}

async fn open(settings: &Settings) -> Port {
    let registry = metrics::registry().unwrap();
    let admin = Admin::from_settings(settings, &registry).await.unwrap();
    let routes = Router::new()
        .route("/clients", get(|| async { "clients" }))
        .route("/change", post(|| async { "changed" }));
    let admin = admin.with_routes(routes);
    Port::serve(admin, Arc::new(Component::default()), registry)
}

async fn with_token(port: &Port, token: &str) -> u16 {
    let request = format!("GET /clients HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\r\n");
    port.send(&request).await.code
}

async fn refused(port: &Port, reason: &str) -> u64 {
    let name = format!("tickstorm_admin_requests_refused_total{{reason=\"{reason}\"}} ");
    metric(port, &name).await
}

async fn metric(port: &Port, name: &str) -> u64 {
    let body = port.get("/metrics").await.body;
    let value = body.lines().find_map(|line| line.strip_prefix(name));
    value
        .unwrap_or_else(|| panic!("no {name}: {body}"))
        .parse()
        .unwrap()
}

#[tokio::test]
async fn a_web_page_gets_nothing_from_guarded_paths() {
    let port = open(&settings(None)).await;
    let own = port.addr;
    for (request, code) in [
        (format!("GET /clients HTTP/1.1\r\nHost: {own}\r\n\r\n"), 200),
        (
            format!("GET http://{own}/clients HTTP/1.1\r\nHost: {own}\r\n\r\n"),
            200,
        ),
        (
            "GET /clients HTTP/1.0\r\nHost: localhost.\r\n\r\n".into(),
            200,
        ),
        ("POST /change HTTP/1.1\r\nHost: [::1]:1\r\n\r\n".into(), 200),
        // A page whose own name was pointed at loopback.
        (
            "GET /clients HTTP/1.1\r\nHost: evil.example:8081\r\n\r\n".into(),
            403,
        ),
        (
            "POST /change HTTP/1.1\r\nHost: evil.example\r\n\r\n".into(),
            403,
        ),
        (
            format!("GET http://evil.example/clients HTTP/1.1\r\nHost: {own}\r\n\r\n"),
            403,
        ),
        // A page that asks across origins.
        (
            format!("POST /change HTTP/1.1\r\nHost: {own}\r\nOrigin: null\r\n\r\n"),
            403,
        ),
        (
            format!("OPTIONS /change HTTP/1.1\r\nHost: {own}\r\nOrigin: http://a\r\n\r\n"),
            403,
        ),
        // These do not say which host they are meant for.
        ("GET /clients HTTP/1.0\r\n\r\n".into(), 403),
        (
            "GET /clients HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n".into(),
            403,
        ),
        (
            "GET /status HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://a\r\n\r\n".into(),
            200,
        ),
        ("GET /metrics HTTP/1.0\r\n\r\n".into(), 200),
    ] {
        let response = port.send(&request).await;
        assert_eq!(response.code, code, "{request}: {response:?}");
    }
    assert_eq!(refused(&port, "host").await, 5);
    assert_eq!(refused(&port, "origin").await, 2);
    assert_eq!(refused(&port, "token").await, 0);
    port.stop().await;
}

#[tokio::test]
async fn a_changed_token_is_used_and_a_file_that_cannot_be_used_is_not() {
    let dir = TempDir::new("admin-guard");
    let file = dir.write("token", OLD);
    let port = open(&settings(Some(&file))).await;
    assert_eq!(with_token(&port, OLD).await, 200);
    assert_eq!(with_token(&port, NEW).await, 401);
    assert_eq!(port.get("/health").await.code, 200);
    let response = port
        .send("GET /clients HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(response.code, 401);
    assert!(
        response.head.contains("\r\nwww-authenticate: bearer\r\n"),
        "{response:?}"
    );
    assert_eq!(refused(&port, "token").await, 2);

    dir.write("token", "short");
    let is_refused = async {
        let name = r#"tickstorm_admin_token_reloads_total{result="failed"} "#;
        while metric(&port, name).await == 0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, is_refused)
        .await
        .expect("the file is read again");
    assert_eq!(with_token(&port, OLD).await, 200);
    assert_eq!(with_token(&port, "short").await, 401);

    dir.write("token", format!("{NEW}\n"));
    let is_used = async {
        while with_token(&port, NEW).await != 200 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, is_used)
        .await
        .expect("the new token is used");
    assert_eq!(with_token(&port, OLD).await, 401);
    port.stop().await;
}

#[tokio::test]
async fn a_token_file_that_cannot_be_used_is_an_error_at_start() {
    let dir = TempDir::new("admin-guard");
    let file = dir.write("token", "short");
    let registry = metrics::registry().unwrap();
    let error = Admin::from_settings(&settings(Some(&file)), &registry).await;
    let error = error.unwrap_err();
    assert_eq!(error.exit_code(), exit::CONFIG);
    let error = ErrorChain(&error).to_string();
    assert!(
        error.contains("ADMIN_TOKEN_FILE=") && error.contains("16 to 1024"),
        "{error}"
    );

    let vars = [
        (ADMIN_ADDR.name(), "127.0.0.1:0"),
        (ADMIN_TOKEN_FILE.name(), "/nowhere/token"),
    ];
    let error = Settings::from_vars(vars, &[COMMON], &[])
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("ADMIN_TOKEN_FILE=/nowhere/token: "),
        "{error}"
    );
}
