//! The metrics that the real daemons export, connected by NATS and with everything turned on that
//! has metrics of its own.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tickstorm_client::TlsOptions;
use tickstorm_testkit::{CertificateAuthority, Nats, TempDir, tool};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;

use crate::support::daemon::Daemon;
use crate::tickstorm::PATIENCE;

/// Returns what a clock and an edge export, in this order.
async fn exported() -> [String; 2] {
    let (dir, authority) = (TempDir::new("metrics"), CertificateAuthority::new());
    let issued = authority.issue("edge.test");
    let written = |name, content: &str| dir.write(name, content).display().to_string();
    let certificate = written("edge.crt", &issued.certificate);
    let key = written("edge.key", &issued.key);
    let token = written("token", "0123456789abcdef");
    let trusting = TlsOptions::new().ca_file(written("ca.pem", authority.certificate()));
    let admin = |daemon: Daemon| {
        daemon
            .with("ADMIN_TLS_CERT_FILE", &certificate)
            .with("ADMIN_TLS_KEY_FILE", &key)
            .with("ADMIN_TOKEN_FILE", &token)
    };
    let nats = Nats::run(&[]);
    let mut clock = admin(Daemon::clock("clock-0", &nats.url()));
    // Some metrics exist only for the clocks that an edge knows.
    let mut edge = admin(Daemon::edge("edge-0", &nats.url()))
        .with("TLS_ENABLED", "true")
        .with("TLS_CERT_FILE", &certificate)
        .with("TLS_KEY_FILE", &key)
        .with("CLOCKS", "clock-0");
    clock.start().await;
    edge.start().await;
    // The last metrics to appear: those of the connection, and of the first report on the clocks.
    let connected = "\ntickstorm_nats_server_info{";
    let clock = metrics_with(&[connected], clock.admin(), &trusting).await;
    let reported = "\ntickstorm_time_clock_alarm{";
    let edge = metrics_with(&[connected, reported], edge.admin(), &trusting).await;
    [clock, edge]
}

/// Returns the metrics of a daemon once they contain these texts.
async fn metrics_with(texts: &[&str], addr: SocketAddr, trusting: &TlsOptions) -> String {
    let get = async {
        loop {
            let metrics = get_over_tls(addr, "/metrics", trusting).await;
            if texts.iter().all(|text| metrics.contains(text)) {
                return metrics;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, get).await.expect("all metrics")
}

/// Returns the body of the answer to a GET request over TLS. The server's certificate is for
/// `edge.test`.
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
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    body.to_owned()
}

/// The table in docs/operations.md has a row for each metric of each daemon, with its type and
/// help.
#[tokio::test]
async fn the_documented_metrics_are_the_ones_that_the_daemons_export() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
    let document = fs::read_to_string(path).unwrap();
    let mut documented: Vec<&str> = document
        .lines()
        .filter(|line| line.starts_with("| `tickstorm_") || line.starts_with("| `process_"))
        .collect();
    let mut expected = Vec::new();
    for metrics in Box::pin(exported()).await {
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
    let optional = "| `tickstorm_memory_limit_bytes` |";
    if !expected.iter().any(|row| row.starts_with(optional)) {
        documented.retain(|row| !row.starts_with(optional));
    }
    assert_eq!(
        documented,
        expected,
        "the metrics table in docs/operations.md should be:\n\
         | Metric | Type | Meaning |\n|---|---|---|\n{}",
        expected.join("\n")
    );
}

/// The only metric with a name against Prometheus's conventions: it is a requirement, and its unit
/// is the millisecond.
const ALLOWED: &str = "tickstorm_publish_latency_ms ";

#[tokio::test]
async fn promtool_finds_nothing_wrong_with_the_metrics_except_one_name() {
    let promtool = tool("promtool");
    let version = Command::new(&promtool).arg("--version").output().await;
    if version.is_err() {
        let ci = env::var("CI").unwrap_or_default();
        let may_skip = ["", "0", "false"].contains(&ci.as_str());
        assert!(may_skip, "promtool is missing, and CI is set");
        eprintln!("SKIPPED: promtool is missing; Debian's package prometheus contains it");
        return;
    }
    let mut found = Vec::new();
    for metrics in Box::pin(exported()).await {
        let mut child = Command::new(&promtool)
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(metrics.as_bytes()).await.unwrap();
        drop(stdin);
        let ended = timeout(PATIENCE, child.wait_with_output()).await;
        let ended = ended.expect("promtool ends").unwrap();
        let output = [ended.stdout, ended.stderr].concat();
        let output = String::from_utf8(output).unwrap();
        assert_eq!(ended.status.success(), output.is_empty(), "{output}");
        found.extend(output.lines().map(str::to_owned));
    }
    let (allowed, wrong): (Vec<_>, Vec<_>) =
        found.iter().partition(|line| line.starts_with(ALLOWED));
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(!allowed.is_empty(), "promtool has checked names");
}

/// The largest answer to a scrape, in bytes. Prometheus reads it every few seconds from each edge.
const ANSWER_MAX: usize = 1_000_000;

#[tokio::test]
async fn the_metrics_of_an_edge_with_many_clocks_and_shards_are_below_a_megabyte() {
    let nats = Nats::run(&[]);
    let mut clock = Daemon::clock("clock-0", &nats.url());
    let names: Vec<_> = (0..64).map(|number| format!("clock-{number}")).collect();
    // As many clocks as are allowed, and more shards than most machines have cores.
    let mut edge = Daemon::edge("edge-0", &nats.url())
        .with("SHARDS", "64")
        .with("CLOCKS", &names.join(","));
    clock.start().await;
    edge.start().await;
    let all_clocks = "\ntickstorm_time_clock_alarm{clock=\"clock-63\"";
    let get = async {
        loop {
            match edge.get("/metrics").await {
                Ok((200, metrics)) if metrics.contains(all_clocks) => return metrics,
                Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let metrics = timeout(PATIENCE, get).await.expect("metrics of all clocks");
    let shards = metrics
        .matches("\ntickstorm_shard_loop_lag_seconds")
        .count();
    assert!(shards >= 64, "{shards} lines of shards");
    assert!(metrics.len() < ANSWER_MAX, "{} bytes", metrics.len());
}
