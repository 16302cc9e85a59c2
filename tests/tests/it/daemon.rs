//! `tickstorm-clock` and `tickstorm-edge` as processes without NATS: their output, their health,
//! and their exit codes. They must not exit because NATS is missing.

use std::fs;
use std::net::{SocketAddr, TcpStream};

use nix::sys::signal::Signal;
use serde_json::Value;
use tickstorm_testkit::poll_until_async;

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
    let documented: Vec<&str> = document
        .lines()
        .filter(|line| line.starts_with("| `tickstorm_"))
        .collect();
    let mut expected = Vec::new();
    for name in DAEMONS {
        let mut running = Daemon::new(name);
        running.start().await;
        let (_, metrics) = running.get("/metrics").await.unwrap();
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
    assert_eq!(
        documented,
        expected,
        "the metrics table in docs/operations.md should be:\n\
         | Metric | Type | Meaning |\n|---|---|---|\n{}",
        expected.join("\n")
    );
}
