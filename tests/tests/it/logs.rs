//! Logs on standard error. They delay nothing even if they are not read, and a daemon's last event
//! is the reason why it exits.

use std::net::{Ipv4Addr, TcpListener, TcpStream};

use nix::sys::signal::Signal;

use crate::dev::{Dev, dev};
use crate::support::daemon::Daemon;
use crate::tickstorm::run;

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
