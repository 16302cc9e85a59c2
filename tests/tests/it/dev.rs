//! `tickstorm dev`: a complete system in one process, and a client in a second terminal.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use nix::sys::signal::Signal;
use serde_json::Value;
use tickstorm_testkit::TempDir;
use tokio::process::Command;

use crate::tickstorm::{Running, run, tickstorm};

/// Returns a `tickstorm dev` that listens on free ports.
pub(crate) fn dev() -> Command {
    let mut command = tickstorm(&["dev"]);
    command
        .env("LISTEN_ADDR", "127.0.0.1:0")
        .env("ADMIN_ADDR", "127.0.0.1:0");
    command
}

/// A running `tickstorm dev` that has printed its addresses.
pub(crate) struct Dev {
    pub(crate) process: Running,
    pub(crate) clients: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// The lines that it printed first, up to the first empty one.
    pub(crate) introduction: String,
}

impl Dev {
    /// Starts the command and waits until it has printed its addresses.
    pub(crate) async fn start(command: Command) -> Self {
        let mut process = Running::start(command);
        let mut introduction = String::new();
        loop {
            let line = process.line().await;
            if line.is_empty() {
                break;
            }
            introduction.push_str(&line);
            introduction.push('\n');
        }
        let address = |label: &str| {
            introduction
                .lines()
                .find_map(|line| line.trim_start().strip_prefix(label))
                .and_then(|rest| rest.split_whitespace().next())
                .map(|address| {
                    address
                        .trim_start_matches("http://")
                        .trim_end_matches("/status")
                })
                .and_then(|address| address.parse().ok())
                .unwrap_or_else(|| panic!("no address of {label} in:\n{introduction}"))
        };
        Self {
            clients: address("clients"),
            admin: address("admin"),
            introduction,
            process,
        }
    }

    pub(crate) async fn on_free_ports() -> Self {
        Self::start(dev()).await
    }

    /// Starts a `tickstorm dev` that listens for clients on this address.
    pub(crate) async fn on_port(clients: SocketAddr) -> Self {
        let mut command = dev();
        command.env("LISTEN_ADDR", clients.to_string());
        Self::start(command).await
    }

    /// Returns the `epoch_ms` of the next tick that it prints.
    pub(crate) async fn tick(&mut self) -> i64 {
        let line = self.process.line().await;
        let epoch_ms = line
            .split_whitespace()
            .nth(1)
            .and_then(|epoch_ms| epoch_ms.parse().ok());
        epoch_ms.unwrap_or_else(|| panic!("{line:?} is not a tick"))
    }
}

#[tokio::test]
async fn dev_prints_a_tick_every_second_and_a_client_in_another_terminal_prints_the_same() {
    let mut dev = Dev::on_free_ports().await;
    assert!(
        dev.introduction.contains("stream_user"),
        "{}",
        dev.introduction
    );
    assert!(
        dev.introduction.contains("stream_pass"),
        "{}",
        dev.introduction
    );
    let first = dev.tick().await;
    assert_eq!(first % 1_000, 0);

    let addr = dev.clients.to_string();
    let tail = tickstorm(&[
        "tail", "--addr", &addr, "--count", "3", "--within", "10s", "--json",
    ]);
    let tail = run(tail).await;
    assert_eq!(tail.code, Some(0), "{tail:?}");
    let seen: Vec<i64> = tail.stdout.lines().map(epoch_ms).collect();
    assert_eq!(seen.len(), 3, "{tail:?}");

    let mut expected = first + 1_000;
    while expected <= seen[2] {
        assert_eq!(dev.tick().await, expected);
        expected += 1_000;
    }
    assert_eq!(seen, [seen[0], seen[0] + 1_000, seen[0] + 2_000]);
    assert!(seen[0] > first, "{seen:?} arrived after {first}");
}

fn epoch_ms(line: &str) -> i64 {
    let tick: Value = serde_json::from_str(line).unwrap();
    assert_eq!(tick["mode"], "second", "{line}");
    assert!(
        ["normal", "holdover", "replay"].contains(&tick["quality"].as_str().unwrap()),
        "{line}"
    );
    assert!(!tick["edge_id"].as_str().unwrap().is_empty(), "{line}");
    // At the first tick, the client may not know authority time yet. Either both values are known
    // or neither is.
    assert_eq!(
        tick["late_us"].is_i64(),
        tick["error_us"].is_u64(),
        "{line}"
    );
    tick["epoch_ms"].as_i64().unwrap()
}

#[tokio::test]
async fn the_status_page_contains_the_printed_addresses() {
    let dev = Dev::on_free_ports().await;
    let status = http(dev.admin, "/status");
    assert!(status.contains(&format!("\"{}\"", dev.clients)), "{status}");
    assert!(status.contains(&format!("\"{}\"", dev.admin)), "{status}");
}

pub(crate) fn http(addr: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test]
async fn on_ctrl_c_and_sigterm_it_exits_with_code_0() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut dev = Dev::on_free_ports().await;
        dev.tick().await;
        let status = dev.process.end_with(signal).await;
        assert_eq!(status.code(), Some(0), "{signal}");
    }
}

#[tokio::test]
async fn a_port_in_use_is_reported_with_its_setting() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    for setting in ["LISTEN_ADDR", "ADMIN_ADDR"] {
        let mut command = dev();
        command.env(setting, &addr);
        let ended = run(command).await;
        assert_eq!(ended.code, Some(69), "{setting}: {ended:?}");
        assert!(ended.stderr.contains(setting), "{ended:?}");
        assert!(ended.stderr.contains(&addr), "{ended:?}");
    }
}

#[tokio::test]
async fn a_password_that_was_set_is_never_printed() {
    let mut command = dev();
    command
        .env("STREAM_PASS", "open sesame")
        .env("LOG_LEVEL", "trace");
    let mut dev = Dev::start(command).await;
    let tick = dev.process.line_with("second").await;
    let printed = format!("{}{tick}{}", dev.introduction, dev.process.stderr().await);
    assert!(!printed.contains("sesame"), "{printed}");
    assert!(!printed.contains("stream_pass"), "{printed}");
    assert!(printed.contains("STREAM_PASS"), "{printed}");
}

#[tokio::test]
async fn other_machines_cannot_log_in_with_the_default_password() {
    let (own, known) = ("open sesame", "stream_pass");
    for (addr, name, password, is_refused) in [
        ("0.0.0.0:0", "STREAM_USER", "ada", true),
        ("[::]:0", "STREAM_USER", "ada", true),
        ("192.0.2.1:0", "STREAM_USER", "ada", true),
        ("0.0.0.0:0", "STREAM_PASS", known, true),
        ("0.0.0.0:0", "STREAM_PASS", own, false),
        ("127.0.0.2:0", "STREAM_PASS", known, false),
        ("[::1]:0", "STREAM_USER", "ada", false),
        ("[::ffff:127.0.0.1]:0", "STREAM_USER", "ada", false),
    ] {
        let mut command = tickstorm(&["dev", "--check-config"]);
        command.env("LISTEN_ADDR", addr).env(name, password);
        let ended = run(command).await;
        let expected = if is_refused { 78 } else { 0 };
        assert_eq!(ended.code, Some(expected), "{addr} {name}: {ended:?}");
        for part in [addr, "set STREAM_PASS or STREAM_PASS_FILE", "127.0.0.1"] {
            assert_eq!(ended.stderr.contains(part), is_refused, "{part}: {ended:?}");
        }
    }
    let mut command = tickstorm(&["dev"]);
    command
        .env("LISTEN_ADDR", "0.0.0.0:0")
        .env("STREAM_PASS", own)
        .env("STREAM_PASS_PREVIOUS", known);
    let ended = run(command).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(
        ended.stderr.contains("STREAM_PASS_PREVIOUS is"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn check_config_shows_every_setting_and_no_secret() {
    let mut command = tickstorm(&["dev", "--check-config"]);
    command
        .env("STREAM_PASS", "open sesame")
        .env("CLOCK_ID", "clock-7");
    let ended = run(command).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for line in [
        "LISTEN_ADDR=127.0.0.1:8080 (default)",
        "ADMIN_ADDR=127.0.0.1:8081 (default)",
        "STREAM_USER=stream_user (default)",
        "CLOCK_ID=clock-7 (env)",
    ] {
        assert!(
            ended.stdout.lines().any(|shown| shown == line),
            "no {line:?}: {ended:?}"
        );
    }
    assert!(!ended.stdout.contains("sesame"), "{ended:?}");
}

#[tokio::test]
async fn all_invalid_settings_are_reported_together_with_exit_code_78() {
    for args in [&["dev"][..], &["dev", "--check-config"]] {
        let mut command = tickstorm(args);
        command
            .env("LISTEN_ADDR", "everywhere")
            .env("HEARTBEAT_INTERVAL", "15")
            .env("TICK_LEAD_MS", "1")
            .env("STREAM_PASS", "open sesame")
            .env("STREAM_PASS_FILE", "/nowhere");
        let ended = run(command).await;
        assert_eq!(ended.code, Some(78), "{ended:?}");
        for name in [
            "LISTEN_ADDR",
            "everywhere",
            "HEARTBEAT_INTERVAL",
            "TICK_LEAD_MS",
            "STREAM_PASS_FILE",
        ] {
            assert!(ended.stderr.contains(name), "no {name}: {ended:?}");
        }
        assert!(!ended.stderr.contains("sesame"), "{ended:?}");
        assert_eq!(ended.stdout, "");
    }
}

#[tokio::test]
async fn if_only_tokens_are_accepted_its_own_client_also_needs_one() {
    // SHA-256 of "open sesame".
    const HASH: &str = "41ef4bb0b23661e66301aac36066912dac037827b4ae63a7b1165a5aa93ed4eb";
    let dir = TempDir::new("tokens");
    let tokens = dir.write("tokens", format!("ada {HASH}\n"));

    let mut command = dev();
    command.env("STREAM_TOKENS_FILE", &tokens);
    let ended = run(command).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(ended.stderr.contains("STREAM_TOKEN"), "{ended:?}");

    let mut command = dev();
    command
        .env("STREAM_TOKENS_FILE", &tokens)
        .env("STREAM_TOKEN", "open sesame");
    let mut dev = Dev::start(command).await;
    assert_eq!(dev.tick().await % 1_000, 0);
}
