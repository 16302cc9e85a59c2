//! Logs on standard error. They delay nothing even if they are not read, and a daemon's last event
//! is the reason why it exits.

use std::net::{Ipv4Addr, TcpListener, TcpStream};

use nix::sys::signal::Signal;
use tokio::process::Command;

use crate::dev::{Dev, dev};
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::tickstorm::{PATIENCE, binary, run};

/// The number of connections, whose events exceed the 64 KiB that a pipe holds.
const CONNECTIONS: usize = 1_000;

#[tokio::test]
async fn logs_that_nobody_reads_delay_neither_ticks_nor_the_exit() {
    let mut command = dev();
    command.env("LOG_LEVEL", "debug").env("SHARDS", "1");
    let mut dev = Dev::start(command).await;
    let mut expected = dev.tick().await;
    for _ in 0..CONNECTIONS {
        // The shard itself logs an event when the connection ends.
        drop(TcpStream::connect(dev.clients).unwrap());
    }
    for _ in 0..5 {
        expected += 1_000;
        assert_eq!(dev.tick().await, expected);
    }
    let status = dev.process.end_with(Signal::SIGTERM).await;
    assert_eq!(status.code(), Some(0));
    let logged = dev.process.stderr().await;
    let count = logged.matches("connection closed").count();
    assert!(
        (1..CONNECTIONS).contains(&count),
        "the pipe was not full: {logged}"
    );
}

#[tokio::test]
async fn the_last_event_is_the_reason_why_a_daemon_exits() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    for (name, setting) in [
        ("tickstorm-clock", "ADMIN_ADDR"),
        ("tickstorm-edge", "ADMIN_ADDR"),
        ("tickstorm-edge", "LISTEN_ADDR"),
    ] {
        let daemon = Daemon::new(name).with(setting, &addr);
        let ended = run(daemon.command(&[])).await;
        assert_eq!(ended.code, Some(69), "{name} {setting}: {ended:?}");
        let last = ended.stderr.lines().last().unwrap_or_default();
        assert!(last.contains(&format!("{setting}={addr}")), "{ended:?}");
    }
}

const DROPPED: &str = "tickstorm_log_lines_dropped_total";

/// Opens a connection, whose end is logged.
fn connect(edge: &Daemon) {
    drop(TcpStream::connect(edge.clients()).unwrap());
}

/// Logs events until the edge has counted lost lines.
async fn lose_lines(edge: &Daemon) {
    eventually("lost lines are counted", PATIENCE, async || {
        connect(edge);
        edge.metric(DROPPED).await > 0.0
    })
    .await;
}

async fn lines(edge: &Daemon, level: &str) -> f64 {
    let series = format!("tickstorm_log_lines_total{{level=\"{level}\"}}");
    edge.metric(&series).await
}

#[tokio::test]
async fn log_lines_are_counted_by_level() {
    let mut edge = Daemon::new("tickstorm-edge");
    edge.start().await;
    edge.logs(r#""message":"listening""#).await;
    for level in ["error", "warn", "info", "debug", "trace"] {
        let counted = async || {
            let shown = format!("\"level\":\"{}\"", level.to_uppercase());
            let written = edge.log().matches(&shown).count();
            lines(&edge, level).await == written as f64
        };
        eventually(level, PATIENCE, counted).await;
    }
    assert!(lines(&edge, "info").await >= 3.0, "{}", edge.log());
    assert_eq!(lines(&edge, "debug").await, 0.0);
}

#[tokio::test]
async fn log_lines_that_cannot_be_written_are_counted() {
    let mut edge = Daemon::new("tickstorm-edge").with("LOG_LEVEL", "debug");
    edge.start_with_stderr("/dev/full").await;
    lose_lines(&edge).await;
    // What is dropped was counted before.
    let dropped = edge.metric(DROPPED).await;
    let mut counted = 0.0;
    for level in ["error", "warn", "info", "debug"] {
        counted += lines(&edge, level).await;
    }
    assert!(counted >= dropped, "{counted} of {dropped}");
    assert_eq!(edge.terminate().await, Some(0));
}

#[tokio::test]
async fn a_log_file_that_is_full_ends_nothing_and_the_loss_is_logged_once_there_is_room() {
    fn limited(command: Command) -> Command {
        let mut limited = Command::new("/bin/sh");
        let std = command.into_std();
        // In blocks of 512 bytes or 1 KiB.
        limited
            .args(["-c", r#"ulimit -f 8; exec "$0" "$@""#])
            .arg(std.get_program())
            .args(std.get_args())
            .env_clear()
            .envs(
                std.get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .kill_on_drop(true);
        limited
    }
    let mut edge = Daemon::new("tickstorm-edge").with("LOG_LEVEL", "debug");
    let executable = binary("tickstorm-edge");
    edge = edge.run_by(executable, limited);
    edge.start().await;
    lose_lines(&edge).await;
    // All of these have been lost before there is room.
    let before = edge.metric(DROPPED).await;
    (0..100).for_each(|_| connect(&edge));
    eventually("each line is counted", PATIENCE, async || {
        edge.metric(DROPPED).await >= before + 100.0
    })
    .await;
    edge.empty_log();
    edge.logs("log lines were dropped").await;
    let log = edge.log();
    let reports = log
        .lines()
        .filter(|line| line.contains("log lines were dropped"));
    let reports: Vec<serde_json::Value> = reports
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{log}")))
        .collect();
    assert!(reports[0]["lines"].as_u64().unwrap() > 0, "{log}");
    assert!(
        reports[0]["error"]
            .as_str()
            .unwrap()
            .contains("File too large"),
        "{log}"
    );
    assert_eq!(edge.terminate().await, Some(0));
}
