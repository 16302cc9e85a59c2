//! `tickstorm tail` as a probe: its exit codes and its error messages.

use std::net::{Ipv4Addr, TcpListener};

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::dev::Dev;
use crate::tickstorm::{Ended, PATIENCE, binary, run, tickstorm};

async fn tail(args: &[&str]) -> Ended {
    run(tickstorm(&[&["tail"], args].concat())).await
}

#[tokio::test]
async fn ticks_in_time_exit_0() {
    let dev = Dev::on_free_ports().await;
    let addr = dev.clients.to_string();
    let probe = [
        "--addr",
        &addr,
        "--count",
        "3",
        "--within",
        "25s",
        "--max-late",
        "10s",
    ];
    let ended = tail(&probe).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.lines().count() >= 3, "{ended:?}");
    assert_eq!(ended.stderr, "");
}

#[tokio::test]
async fn missed_ticks_come_first_and_a_closed_output_is_no_error() {
    let dev = Dev::on_free_ports().await;
    let addr = dev.clients.to_string();
    let ended = tail(&["--addr", &addr, "--count", "1", "--within", "25s", "--json"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let newest: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let newest = newest["epoch_ms"].as_i64().unwrap();

    let from = (newest - 60_000).to_string();
    let args = [
        "--addr",
        &addr,
        "--resume-after",
        &from,
        "--count",
        "50",
        "--within",
        "25s",
    ];
    let ended = tail(&args).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let epochs: Vec<i64> = ended
        .stdout
        .lines()
        .map(|line| line.split_whitespace().nth(1).unwrap().parse().unwrap())
        .collect();
    let expected: Vec<i64> = (1..=50)
        .map(|second| newest - 60_000 + second * 1_000)
        .collect();
    assert_eq!(epochs, expected);
    assert!(
        ended.stdout.lines().all(|line| line.contains("replay")),
        "{ended:?}"
    );

    let mut command = tickstorm(&["tail", "--addr", &addr, "--resume-after", &from]);
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let status = timeout(PATIENCE, child.wait()).await;
    assert_eq!(status.unwrap().unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_tick_that_is_too_late_exits_1() {
    let dev = Dev::on_free_ports().await;
    let addr = dev.clients.to_string();
    // No tick arrives with a lateness of zero.
    let ended = tail(&["--addr", &addr, "--within", "25s", "--max-late", "0ms"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("late by"), "{ended:?}");
}

#[tokio::test]
async fn an_address_without_a_listener_exits_69() {
    let addr = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let ended = tail(&["--addr", &addr, "--count", "3"]).await;
    assert_eq!(ended.code, Some(69), "{ended:?}");
    assert!(ended.stderr.contains(&addr), "{ended:?}");
}

#[tokio::test]
async fn a_silent_edge_exits_69_when_the_time_is_over() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = silent.local_addr().unwrap().to_string();
    let ended = tail(&["--addr", &addr, "--count", "3", "--within", "200ms"]).await;
    assert_eq!(ended.code, Some(69), "{ended:?}");
    assert!(
        ended.stderr.contains("0 of 3 ticks arrived within 200ms"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_closed_connection_exits_69() {
    let mut dev = Dev::on_free_ports().await;
    let addr = dev.clients.to_string();
    let probe = tickstorm(&["tail", "--addr", &addr, "--within", "25s"]);
    let mut following = crate::tickstorm::Running::start(probe);
    following.line().await;
    dev.process
        .end_with(nix::sys::signal::Signal::SIGTERM)
        .await;
    let (status, stderr) = following.ended().await;
    assert_eq!(status.code(), Some(69), "{stderr}");
    assert!(stderr.contains("closed the connection"), "{stderr}");
}

#[tokio::test]
async fn another_protocol_exits_76() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let answer = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
        socket
    };
    let args = ["--addr", &addr];
    let (ended, _socket) = tokio::join!(tail(&args), answer);
    assert_eq!(ended.code, Some(76), "{ended:?}");
}

#[tokio::test]
async fn a_wrong_password_exits_77_and_is_not_printed() {
    let dev = Dev::on_free_ports().await;
    let addr = dev.clients.to_string();
    let mut command = tickstorm(&["tail", "--addr", &addr, "--count", "1"]);
    command.env("STREAM_PASS", "open sesame");
    let ended = run(command).await;
    assert_eq!(ended.code, Some(77), "{ended:?}");
    assert!(ended.stderr.contains("AUTH_FAILED"), "{ended:?}");
    assert!(!ended.stderr.contains("sesame"), "{ended:?}");
}

#[tokio::test]
async fn a_wrong_command_line_exits_64() {
    for args in [
        &[][..],
        &["bench"],
        &["tail", "--tls-ca", "ca.pem"],
        &["tail", "--tls", "--tls-cert", "own.pem"],
        &["tail", "--count", "many"],
        &["tail", "--addr", "127.0.0.1"],
        &["dev", "now"],
    ] {
        let ended = run(tickstorm(args)).await;
        assert_eq!(ended.code, Some(64), "{args:?}: {ended:?}");
        assert_eq!(ended.stdout, "", "{args:?}");
    }
}

#[tokio::test]
async fn invalid_settings_exit_78() {
    let mut command = tickstorm(&["tail"]);
    command
        .env("STREAM_PASS_FILE", "/nowhere")
        .env("STREAM_TOKEN", "t".repeat(2_000));
    let ended = run(command).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    for name in ["STREAM_PASS_FILE", "/nowhere", "STREAM_TOKEN"] {
        assert!(ended.stderr.contains(name), "no {name}: {ended:?}");
    }
    assert!(!ended.stderr.contains("tttt"), "{ended:?}");
}

#[tokio::test]
async fn help_lists_exit_codes_and_examples_and_only_options_that_exist() {
    let ended = run(tickstorm(&["--help"])).await;
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
    for code in ["64", "69", "76", "77", "78"] {
        assert!(
            ended.stdout.contains(&format!("\n  {code}  ")),
            "no {code}: {ended:?}"
        );
    }
    let ended = run(tickstorm(&["tail", "--help"])).await;
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
    assert!(
        ended
            .stdout
            .contains("--count 3 --within 5s --max-late 100ms"),
        "{ended:?}"
    );
    assert!(
        ended.stdout.contains("--ahead") && ended.stdout.contains("--tls-ca"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn standard_error_that_nobody_reads_does_not_change_an_exit_code() {
    let edge = |args: &[&str]| {
        let mut command = Command::new(binary("tickstorm-edge"));
        command.args(args).env_clear().kill_on_drop(true);
        command
    };
    let mut misconfigured = edge(&["--check-config"]);
    misconfigured.env("LISTEN_ADDR", "nowhere");
    let mut warned = edge(&["--check-config"]);
    warned.env("LISTEN_ADRR", "127.0.0.1:0");
    warned
        .env("NATS_URL", "nats://127.0.0.1:4222")
        .env("STREAM_USER", "user")
        .env("STREAM_PASS", "password");
    let refused = ["--addr", "127.0.0.1:1", "--count", "1"];
    for (mut command, code) in [
        (tickstorm(&[&["tail"], &refused[..]].concat()), 69),
        (tickstorm(&["status", "--admin", "127.0.0.1:1"]), 69),
        (tickstorm(&["tail", "--unknown"]), 64),
        (edge(&["healthcheck"]), 1),
        (misconfigured, 78),
        (warned, 0),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        command.stdout(std::process::Stdio::null()).stderr(writer);
        let status = timeout(PATIENCE, command.status()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(code), "{command:?}");
    }
}
