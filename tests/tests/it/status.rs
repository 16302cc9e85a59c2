//! `tickstorm status`: what it shows of real programs, and its exit code.

use std::net::TcpListener;
use std::time::Duration;
use std::{fs, thread};

use serde_json::Value;
use tickstorm_testkit::{CertificateAuthority, ReservedAddr, TempDir};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::{Instant, timeout};

use crate::dev::Dev;
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::tickstorm::{Ended, PATIENCE, run, tickstorm};

async fn status(args: &[&str]) -> Ended {
    run(tickstorm(&[&["status"], args].concat())).await
}

fn json(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

#[tokio::test]
async fn a_system_that_serves_is_shown_in_80_columns_and_as_json() {
    let mut dev = Dev::on_free_ports().await;
    dev.tick().await;
    let admin = dev.admin.to_string();
    let ended = status(&["--admin", &admin, "--json"]).await;
    let shown = json(&ended);
    let port = &shown["ports"][0];
    assert_eq!(port["admin"], format!("http://{admin}"));
    assert_eq!(port["status"]["listen_addr"], dev.clients.to_string());
    // A machine whose clock is not disciplined has one alarm.
    let alarms = shown["alarms"].as_array().unwrap();
    let is_only_undisciplined = alarms
        .iter()
        .all(|alarm| alarm["reason"] == "undisciplined");
    assert!(is_only_undisciplined, "{shown}");
    let (verdict, code) = if alarms.is_empty() {
        ("well", 0)
    } else {
        ("wrong", 1)
    };
    assert_eq!(shown["verdict"], verdict, "{shown}");
    assert_eq!(ended.code, Some(code), "{ended:?}");
    assert_eq!(shown["problems"], Value::Array(Vec::new()), "{shown}");

    let text = status(&["--admin", &admin]).await;
    assert_eq!(text.code, Some(code), "{text:?}");
    for part in [
        "CLOCKS, AS EDGES SEE THEM",
        "\n*  ",
        "EDGES",
        "ready",
        "Follows",
    ] {
        assert!(text.stdout.contains(part), "no {part:?}: {text:?}");
    }
    let is_fitting = |line: &str| line.chars().count() <= 80 && !line.contains('\x1b');
    assert!(text.stdout.lines().all(is_fitting), "{text:?}");
    let verdict = format!("{}{}", text.stdout, text.stderr).to_ascii_lowercase();
    let expected = if code == 0 {
        "all is well: 1 edge, 1 clock"
    } else {
        "something is wrong: 1 alarm"
    };
    assert!(verdict.contains(expected), "{text:?}");
}

#[tokio::test]
async fn a_daemon_that_is_not_ready_is_exit_code_1_and_one_that_is_gone_69() {
    let mut edge = Daemon::edge("edge-0", "nats://127.0.0.1:1");
    edge.start().await;
    let admin = edge.admin().to_string();
    let ended = status(&["--admin", &admin]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let problem = format!("edge-0 (http://{admin}) is not ready: the time is unknown");
    let text = ended
        .stdout
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    assert!(text.contains(&problem), "{ended:?}");
    assert!(ended.stderr.contains("something is wrong"), "{ended:?}");

    // The same without --admin, by the environment of the daemon.
    let mut command = tickstorm(&["status", "--json"]);
    command.env("ADMIN_ADDR", &admin);
    let ended = run(command).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert_eq!(json(&ended)["ports"][0]["status"]["id"], "edge-0");

    let gone = ReservedAddr::reserve();
    let both = format!("{admin},{}", gone.addr());
    let ended = status(&["--admin", &both, "--json"]).await;
    assert_eq!(ended.code, Some(69), "{ended:?}");
    let shown = json(&ended);
    assert_eq!(shown["verdict"], "unreachable");
    assert_eq!(shown["ports"][0]["status"]["id"], "edge-0");
    let error = shown["ports"][1]["error"].as_str().unwrap();
    assert!(error.contains("refused"), "{error}");
}

#[tokio::test]
async fn ports_that_are_silent_are_waited_for_together() {
    let silent: Vec<_> = (0..10)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let addrs = silent
        .iter()
        .map(|port| port.local_addr().unwrap().to_string());
    let addrs = addrs.collect::<Vec<_>>().join(",");
    let start = Instant::now();
    let ended = status(&["--admin", &addrs]).await;
    let took = start.elapsed();
    assert_eq!(ended.code, Some(69), "{ended:?}");
    // One after the other, they would take ten times 2 s.
    assert!(took < Duration::from_secs(15), "{took:?}");
    let silent = ended
        .stdout
        .matches("no complete response within 2s")
        .count();
    assert_eq!(silent, 10, "{ended:?}");
    assert!(
        ended.stderr.contains("10 ports without an answer"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn watching_leaves_no_thread_behind_whatever_a_port_does() {
    let closing = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let addrs = [&closing, &silent].map(|port| port.local_addr().unwrap().to_string());
    thread::spawn(move || closing.incoming().for_each(drop));
    let mut command = tickstorm(&["status", "--watch", "--json", "--admin", &addrs.join(",")]);
    let mut watching = command.spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        let line = timeout(PATIENCE, lines.next_line()).await;
        let line = line.expect("it repeats").unwrap().unwrap();
        assert!(line.contains("no complete response within 2s"), "{line}");
    }
    let threads = format!("/proc/{}/task", watching.id().unwrap());
    // Between two rounds, there is nothing to wait for.
    let is_alone = async || fs::read_dir(&threads).unwrap().count() == 1;
    eventually("one thread is left", PATIENCE, is_alone).await;
}

#[tokio::test]
async fn a_port_with_tls_is_checked_unless_it_should_not_be() {
    let dir = TempDir::new("status_tls");
    let authority = CertificateAuthority::new();
    let certificate = authority.issue("localhost");
    let (ca, files) = (
        dir.write("ca.pem", authority.certificate()),
        [
            (
                "ADMIN_TLS_CERT_FILE",
                dir.write("a.crt", &certificate.certificate),
            ),
            ("ADMIN_TLS_KEY_FILE", dir.write("a.key", &certificate.key)),
        ],
    );
    let other = dir.write("other.pem", CertificateAuthority::new().certificate());
    let mut clock = Daemon::clock("clock-0", "nats://127.0.0.1:1");
    for (name, path) in &files {
        clock.set(name, path.to_str().unwrap());
    }
    clock.start().await;
    let admin = format!("https://localhost:{}", clock.admin().port());
    let args = |more: &[&'static str]| {
        let mut args = vec!["--admin".to_owned(), admin.clone(), "--json".to_owned()];
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        args
    };
    for (more, path, code) in [
        (&["--tls-ca"][..], Some(&ca), 1),
        (&["--tls-ca"], Some(&other), 69),
        (&["--insecure"], None, 1),
    ] {
        let mut args = args(more);
        args.extend(path.map(|path| path.display().to_string()));
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let ended = status(&args).await;
        assert_eq!(ended.code, Some(code), "{args:?}: {ended:?}");
        let shown = json(&ended);
        if code == 1 {
            assert_eq!(shown["ports"][0]["status"]["id"], "clock-0");
        } else {
            let error = shown["ports"][0]["error"].as_str().unwrap();
            assert!(error.contains("certificate"), "{error}");
        }
    }
    let ended = status(&["--admin", "https://localhost:1", "--tls-ca", "/nowhere"]).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(ended.stderr.contains("/nowhere"), "{ended:?}");
}

#[tokio::test]
async fn what_is_no_admin_port_is_refused_or_told() {
    for admin in ["8081", "ftp://localhost:1", "localhost:1/status"] {
        let ended = status(&["--admin", admin]).await;
        assert_eq!(ended.code, Some(64), "{ended:?}");
        assert!(
            ended.stderr.contains("expected a host and a port"),
            "{ended:?}"
        );
    }
    let mut edge = Daemon::new("tickstorm-edge");
    edge.start().await;
    // The port for clients speaks another protocol.
    let ended = status(&["--admin", &edge.clients().to_string()]).await;
    assert_eq!(ended.code, Some(69), "{ended:?}");
    assert!(ended.stdout.contains("does not answer"), "{ended:?}");
}
