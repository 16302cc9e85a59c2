//! `tickstorm-clock` and `tickstorm-edge` as processes without NATS: their output, their health,
//! and their exit codes. They must not exit because NATS is missing.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tickstorm_client::TlsOptions;
use tickstorm_testkit::{CertificateAuthority, TempDir, poll_until_async};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;

use crate::support::daemon::Daemon;
use crate::tickstorm::{Ended, PATIENCE, run};

const DAEMONS: [&str; 2] = ["tickstorm-clock", "tickstorm-edge"];

#[tokio::test]
async fn without_nats_a_daemon_is_alive_but_not_ready_and_healthcheck_agrees() {
    for name in DAEMONS {
        let mut running = Daemon::new(name);
        running.start().await;
        assert!(running.is_live().await, "{name}");
        assert!(!running.is_ready().await, "{name}");
        let mut probe = Daemon::new(name);
        // A probe ignores errors in other settings.
        probe.set("ADMIN_ADDR", &running.admin().to_string());
        probe.set("STREAM_USER", "");
        probe.set("TICK_LEAD_MS", "no");
        for args in [&["healthcheck"], &["-health-check"]] {
            let ended = run(probe.command(args)).await;
            assert_eq!(ended.code, Some(0), "{name} {args:?}: {ended:?}");
        }
        let ended = run(probe.command(&["healthcheck", "--ready"])).await;
        assert_eq!(ended.code, Some(1), "{name}: {ended:?}");
        assert!(ended.stderr.contains("not ready"), "{name}: {ended:?}");
        assert_eq!(running.terminate().await, Some(0), "{name}");
        let ended = run(probe.command(&["healthcheck"])).await;
        assert_eq!(ended.code, Some(1), "{name}: {ended:?}");
    }
}

#[tokio::test]
async fn healthcheck_asks_an_admin_port_with_tls() {
    let dir = TempDir::new("admin_tls");
    // The probe does not check the certificate, whose name is not that of the port.
    let certificate = CertificateAuthority::new().issue("admin.test");
    let tls = [
        (
            "ADMIN_TLS_CERT_FILE",
            dir.write("admin.crt", &certificate.certificate),
        ),
        (
            "ADMIN_TLS_KEY_FILE",
            dir.write("admin.key", &certificate.key),
        ),
    ];
    let other = CertificateAuthority::new().issue("admin.test");
    let other = dir.write("other.key", &other.key);
    for name in DAEMONS {
        let mut running = Daemon::new(name);
        for (setting, file) in &tls {
            running.set(setting, file.to_str().unwrap());
        }
        running.start().await;
        let (code, body) = running.get("/health/live").await.unwrap();
        assert_eq!(
            (code, &*body),
            (400, "this port serves HTTPS only\n"),
            "{name}"
        );
        let ended = run(running.command(&["healthcheck"])).await;
        assert_eq!(ended.code, Some(0), "{name}: {ended:?}");
        let ended = run(running.command(&["healthcheck", "--ready"])).await;
        assert_eq!(ended.code, Some(1), "{name}: {ended:?}");
        assert!(ended.stderr.contains("not ready"), "{name}: {ended:?}");
        assert!(ended.stderr.contains("https://"), "{name}: {ended:?}");
        let plain = Daemon::new(name).with("ADMIN_ADDR", &running.admin().to_string());
        let ended = run(plain.command(&["healthcheck"])).await;
        assert_eq!(ended.code, Some(1), "{name}: {ended:?}");
        assert!(ended.stderr.contains("HTTPS only"), "{name}: {ended:?}");
        let command = running.command(&["healthcheck"]);
        assert_eq!(running.terminate().await, Some(0), "{name}");
        let ended = run(command).await;
        assert_eq!(ended.code, Some(1), "{name}: {ended:?}");

        running.set("ADMIN_TLS_KEY_FILE", other.to_str().unwrap());
        let ended = run(running.command(&[])).await;
        assert_eq!(ended.code, Some(78), "{name}: {ended:?}");
        assert!(
            ended.stderr.contains("can't be used together"),
            "{name}: {ended:?}"
        );
    }
}

#[tokio::test]
async fn a_long_rsa_key_causes_one_warning_for_each_port_that_uses_it() {
    let dir = TempDir::new("rsa");
    let [certificate, key] = ["rsa.crt", "rsa.key"].map(|name| dir.path().join(name));
    let mut openssl = Command::new("openssl");
    openssl
        .args([
            "req", "-x509", "-newkey", "rsa:3072", "-nodes", "-days", "30",
        ])
        .args(["-subj", "/CN=edge.test", "-out"])
        .arg(&certificate)
        .arg("-keyout")
        .arg(&key);
    let made = run(openssl).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    let [certificate, key] = [&certificate, &key].map(|path| path.to_str().unwrap());
    for name in DAEMONS {
        let mut running = Daemon::new(name)
            .with("ADMIN_TLS_CERT_FILE", certificate)
            .with("ADMIN_TLS_KEY_FILE", key);
        if name == "tickstorm-edge" {
            running.set("TLS_ENABLED", "true");
            running.set("TLS_CERT_FILE", certificate);
            running.set("TLS_KEY_FILE", key);
        }
        running.start().await;
        // The last of the events at start.
        running.logs(r#""message":"listening""#).await;
        let log = running.log();
        let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
        assert_eq!(
            count("\"ADMIN_TLS_CERT_FILE has a long RSA key"),
            1,
            "{name}: {log}"
        );
        let is_edge = name == "tickstorm-edge";
        let expected = usize::from(is_edge);
        assert_eq!(
            count("\"TLS_CERT_FILE has a long RSA key"),
            expected,
            "{name}: {log}"
        );
    }
}

#[tokio::test]
async fn each_port_beyond_loopback_without_tls_causes_one_warning_at_start() {
    for name in DAEMONS {
        let mut running = Daemon::new(name);
        let admin = format!("0.0.0.0:{}", running.admin().port());
        let clients = format!("0.0.0.0:{}", running.clients().port());
        running.set("ADMIN_ADDR", &admin);
        running.set("LISTEN_ADDR", &clients);
        running.set("NATS_URL", "nats://nats.invalid,nats://203.0.113.1");
        if name == "tickstorm-edge" {
            running.set("CLOCKS", "clock-0");
        }
        running.start().await;
        // The last of the events at start.
        running.logs(r#""message":"listening""#).await;
        let log = running.log();
        let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
        assert_eq!(count("set ADMIN_TLS_CERT_FILE"), 1, "{name}: {log}");
        assert_eq!(count("set NATS_CA_FILE"), 1, "{name}: {log}");
        let is_edge = name == "tickstorm-edge";
        assert_eq!(
            count("set TLS_ENABLED"),
            usize::from(is_edge),
            "{name}: {log}"
        );
    }
}

#[tokio::test]
async fn on_sigint_and_sigterm_a_daemon_exits_with_code_0() {
    for name in DAEMONS {
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let mut running = Daemon::new(name);
            running.start().await;
            running.send(signal);
            assert_eq!(running.ended().await, Some(0), "{name} {signal}");
        }
    }
}

#[tokio::test]
async fn on_a_second_signal_a_draining_edge_exits_immediately_with_code_1() {
    let mut running = Daemon::new("tickstorm-edge").with("DRAIN_DELAY", "10m");
    running.start().await;
    running.send(Signal::SIGTERM);
    running.logs("draining").await;
    assert!(!running.is_ready().await);
    running.send(Signal::SIGTERM);
    assert_eq!(running.ended().await, Some(1));
}

#[tokio::test]
async fn with_port_0_the_output_the_event_listening_and_the_status_contain_the_bound_port() {
    let mut running = Daemon::new("tickstorm-edge").with("LISTEN_ADDR", "127.0.0.1:0");
    running.start().await;
    let printed = running.stdout();
    let addr = printed
        .lines()
        .find_map(|line| line.trim().strip_prefix("clients"))
        .and_then(|addr| addr.trim().parse::<SocketAddr>().ok());
    let addr = addr.unwrap_or_else(|| panic!("no address of clients in {printed:?}"));
    TcpStream::connect(addr).unwrap();
    assert_eq!(running.status().await["listen_addr"], addr.to_string());
    assert_eq!(listening(&running).await["listen_addr"], addr.to_string());
}

#[tokio::test]
async fn the_event_listening_is_logged_once_with_all_bound_addresses() {
    for name in DAEMONS {
        let mut running = Daemon::new(name);
        running.start().await;
        let event = listening(&running).await;
        assert_eq!(event["admin_addr"], running.admin().to_string(), "{event}");
        let clients = (name == "tickstorm-edge").then(|| running.clients().to_string());
        let named = event.get("listen_addr").and_then(Value::as_str);
        assert_eq!(named, clients.as_deref(), "{event}");
    }
}

/// Waits for the event `listening`, since the admin port may answer before it is logged. Asserts
/// that it is logged only once.
async fn listening(daemon: &Daemon) -> Value {
    daemon.logs(r#""message":"listening""#).await;
    let log = daemon.log();
    let events: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|event: &Value| event["message"] == "listening")
        .collect();
    match &events[..] {
        [event] => event.clone(),
        other => panic!("expected one event, found {other:?} in {log}"),
    }
}

#[tokio::test]
async fn after_sigusr1_debug_events_are_logged() {
    let mut running = Daemon::new("tickstorm-edge");
    running.start().await;
    let clients = running.clients();
    drop(TcpStream::connect(clients).unwrap());
    running.send(Signal::SIGUSR1);
    running.logs("debug logging is on").await;
    let connect = || {
        drop(TcpStream::connect(clients).unwrap());
        running.log().contains("\"level\":\"DEBUG\"")
    };
    poll_until_async("a connection's end is logged", PATIENCE, connect).await;
}

#[tokio::test]
async fn check_config_shows_every_setting_and_no_secret() {
    for (name, line) in DAEMONS.into_iter().zip([
        "ADMIN_ADDR=127.0.0.1:8082 (default)",
        "ADMIN_ADDR=127.0.0.1:8081 (default)",
    ]) {
        let mut command = Daemon::new(name).command(&["--check-config"]);
        command
            .env_remove("ADMIN_ADDR")
            .env("NATS_TOKEN", "open sesame")
            .env("CLOCKS", "clock-0")
            .env("NATS_URL", "nats://ada:sesame@a,nats://b");
        let ended = run(command).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        for line in [
            line,
            "NATS_TOKEN=*** (env)",
            "NATS_URL=***@a,nats://b (env)",
        ] {
            assert!(
                ended.stdout.lines().any(|shown| shown == line),
                "no {line}: {ended:?}"
            );
        }
        assert!(!ended.stdout.contains("sesame"), "{ended:?}");
    }
}

#[tokio::test]
async fn all_invalid_settings_are_reported_together_with_exit_code_78() {
    for name in DAEMONS {
        for args in [&[][..], &["--check-config"]] {
            let mut command = Daemon::new(name).command(args);
            command
                .env("ADMIN_ADDR", "everywhere")
                .env("LOG_LEVEL", "loud")
                .env("NATS_SUBJECT_PREFIX", "a b");
            let ended = run(command).await;
            assert_eq!(ended.code, Some(78), "{ended:?}");
            for setting in ["ADMIN_ADDR", "LOG_LEVEL", "NATS_SUBJECT_PREFIX"] {
                assert!(ended.stderr.contains(setting), "no {setting}: {ended:?}");
            }
            assert_eq!(ended.stdout, "");
        }
    }
}

#[tokio::test]
async fn a_daemon_prints_its_name_and_version_and_rejects_unknown_arguments() {
    for name in DAEMONS {
        let ended = run(Daemon::new(name).command(&["--version"])).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stdout.starts_with(&format!("{name} ")), "{ended:?}");
        for args in [
            &["now"][..],
            &["--check-config", "healthcheck"],
            &["--nonsense"],
        ] {
            let Ended { code, stdout, .. } = run(Daemon::new(name).command(args)).await;
            assert_eq!((code, &*stdout), (Some(64), ""), "{name} {args:?}");
        }
    }
}

/// The table in docs/operations.md has a row for each metric of each daemon, with its type and
/// help.
#[tokio::test]
async fn the_documented_metrics_are_the_ones_that_the_daemons_export() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
    let document = fs::read_to_string(path).unwrap();
    let mut documented: Vec<&str> = document
        .lines()
        .filter(|line| line.starts_with("| `tickstorm_"))
        .collect();
    let mut expected = Vec::new();
    let (dir, authority) = (TempDir::new("tls"), CertificateAuthority::new());
    let issued = authority.issue("edge.test");
    let written = |name, content: &str| dir.write(name, content).display().to_string();
    let certificate = written("edge.crt", &issued.certificate);
    let key = written("edge.key", &issued.key);
    let token = written("token", "0123456789abcdef");
    let trusting = TlsOptions::new().ca_file(written("ca.pem", authority.certificate()));
    for name in DAEMONS {
        // Some metrics exist only with TLS, or with a token.
        let mut running = Daemon::new(name)
            .with("ADMIN_TLS_CERT_FILE", &certificate)
            .with("ADMIN_TLS_KEY_FILE", &key)
            .with("ADMIN_TOKEN_FILE", &token);
        if name == "tickstorm-edge" {
            running.set("TLS_ENABLED", "true");
            running.set("TLS_CERT_FILE", &certificate);
            running.set("TLS_KEY_FILE", &key);
            // Some exist only for the clocks that an edge knows.
            running.set("CLOCKS", "clock-0");
        }
        running.start().await;
        // The last metric to appear, with the first report on the clocks.
        let last = (name == "tickstorm-edge").then_some("tickstorm_time_clock_alarm");
        let get = get_metrics_with(last.unwrap_or_default(), running.admin(), &trusting);
        let metrics = timeout(PATIENCE, get).await.expect("all metrics");
        let helps = metrics
            .lines()
            .filter_map(|line| line.strip_prefix("# HELP "));
        for (metric, help) in helps.filter_map(|line| line.split_once(' ')) {
            let kind = metrics
                .lines()
                .find_map(|line| line.strip_prefix(&format!("# TYPE {metric} ")))
                .unwrap();
            let row = format!("| `{metric}` | {kind} | {help} |");
            if !expected.contains(&row) {
                expected.push(row);
            }
        }
    }
    // Without a limit of memory, this metric does not exist.
    const OPTIONAL: &str = "| `tickstorm_memory_limit_bytes` |";
    if !expected.iter().any(|row| row.starts_with(OPTIONAL)) {
        documented.retain(|row| !row.starts_with(OPTIONAL));
    }
    assert_eq!(
        documented,
        expected,
        "the metrics table in docs/operations.md should be:\n\
         | Metric | Type | Meaning |\n|---|---|---|\n{}",
        expected.join("\n")
    );
}

/// Returns the metrics of a daemon once they contain this text.
async fn get_metrics_with(text: &str, addr: SocketAddr, trusting: &TlsOptions) -> String {
    loop {
        let metrics = get_over_tls(addr, "/metrics", trusting).await;
        if metrics.contains(text) {
            return metrics;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Returns the answer to a GET request over TLS. The server's certificate is for `edge.test`.
async fn get_over_tls(addr: SocketAddr, path: &str, trusting: &TlsOptions) -> String {
    let provider = aws_lc_rs::default_provider();
    let connector = TlsConnector::from(Arc::new(trusting.client_config(provider).unwrap()));
    let socket = tokio::net::TcpStream::connect(addr).await.unwrap();
    let name = "edge.test".try_into().unwrap();
    let mut stream = connector.connect(name, socket).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let reading = timeout(PATIENCE, stream.read_to_string(&mut answer)).await;
    reading.expect("the answer ends").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    answer
}
