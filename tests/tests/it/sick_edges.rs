//! Edges that are connected and of no use, edges that refuse a client which others accept, and
//! clients that stop: `tickstorm tail` with real edges.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tickstorm_testkit::ReservedAddr;
use tokio::join;
use tokio::time::sleep;

use crate::dev::{Dev, dev};
use crate::support::observer::now_us;
use crate::tickstorm::{Running, tickstorm};

/// The lateness that is tolerated for any tick after an edge was started again, which takes seconds
/// on a busy machine.
const LATE_MAX: Duration = Duration::from_secs(14);

/// The lateness that is promised for any tick if an edge is stopped. The client leaves it 4 s
/// after a tick was due, and waits for up to 0.5 s; without that, it would take 20 s.
const SILENT_EDGE_LATE_MAX: Duration = Duration::from_secs(6);

/// A busy machine delays a client that finds another edge by no more than this many times the
/// lateness at a client that stays: it connects, logs in, subscribes and reads a tick.
const DELAYS_OF_A_MOVE: u32 = 4;

/// How long a client stops: longer than samples of the time count.
const STOPPED_FOR: Duration = Duration::from_secs(35);

/// Starts `tail` at these edges.
fn start_tail(addresses: &[&str], options: &[&str]) -> Running {
    let mut args = vec!["tail", "--json"];
    for address in addresses {
        args.extend(["--addr", address]);
    }
    args.extend(options);
    Running::start(tickstorm(&args))
}

/// Returns the next tick and how late its line was read.
async fn tick(tail: &mut Running) -> (i64, Duration) {
    let tick: Value = serde_json::from_str(&tail.line().await).unwrap();
    let epoch_ms = tick["epoch_ms"].as_i64().unwrap();
    let late_us = now_us() - epoch_ms * 1_000;
    let late = Duration::from_micros(u64::try_from(late_us).unwrap_or(0));
    (epoch_ms, late)
}

/// Reads `count` ticks, and asserts that none is missing, doubled or too late.
async fn follow(tail: &mut Running, last: i64, count: usize) -> i64 {
    let (last, latest) = latest(tail, last, count).await;
    assert!(latest < LATE_MAX, "a tick up to {last} was {latest:?} late");
    last
}

/// Reads `count` ticks, and asserts that none is missing or doubled. Returns the last one, and how
/// late the latest was.
async fn latest(tail: &mut Running, mut last: i64, count: usize) -> (i64, Duration) {
    let mut latest = Duration::ZERO;
    for _ in 0..count {
        let (next, late) = tick(tail).await;
        assert_eq!(next, last + 1_000);
        (last, latest) = (next, latest.max(late));
    }
    (last, latest)
}

#[tokio::test]
async fn an_edge_that_stands_still_is_left_for_another() {
    let (one, two) = (Dev::on_free_ports().await, Dev::on_free_ports().await);
    let (first, second) = (one.clients.to_string(), two.clients.to_string());
    for options in [&[][..], &["--ahead"]] {
        let mut tail = start_tail(&[&first, &second], options);
        let (last, _) = tick(&mut tail).await;
        let last = follow(&mut tail, last, 2).await;
        // Its sockets stay open, so nothing but its silence tells.
        one.process.send(Signal::SIGSTOP);
        let unaffected = async {
            let mut witness = start_tail(&[&second], &[]);
            let (last, _) = tick(&mut witness).await;
            latest(&mut witness, last, 8).await
        };
        let ((_, late), (_, usual)) = join!(latest(&mut tail, last, 10), unaffected);
        one.process.send(Signal::SIGCONT);
        let late_max = SILENT_EDGE_LATE_MAX + DELAYS_OF_A_MOVE * usual;
        assert!(late < late_max, "{late:?} late, and {usual:?} elsewhere");
        let said = tail.stderr().await;
        assert!(said.contains("the edge sent nothing for"), "{said}");
        assert!(said.contains(&format!("at {second}")), "{said}");
    }
}

#[tokio::test]
async fn max_late_sees_a_tick_that_is_late_because_the_client_was_stopped() {
    let dev = Dev::on_free_ports().await;
    let address = dev.clients.to_string();
    let start = |options: &[&str]| {
        let options = [&["--max-late", "10s"], options].concat();
        start_tail(&[&address], &options)
    };
    let mut tails = [start(&[]), start(&["--ahead"])];
    for tail in &mut tails {
        let (last, _) = tick(tail).await;
        follow(tail, last, 3).await;
    }
    for tail in &tails {
        tail.send(Signal::SIGSTOP);
    }
    sleep(STOPPED_FOR).await;
    for mut tail in tails {
        tail.send(Signal::SIGCONT);
        let (status, said) = tail.ended().await;
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("was late by"), "{said}");
    }
}

#[tokio::test]
async fn an_edge_with_an_old_password_is_passed_over() {
    let mut command = dev();
    command.env("STREAM_PASS", "an old password");
    let old = Dev::start(command).await;
    let reserved = ReservedAddr::reserve();
    let mut good = Dev::on_port(reserved.addr()).await;
    let (refusing, working) = (old.clients.to_string(), good.clients.to_string());

    let mut at_first = start_tail(&[&refusing, &working], &[]);
    let (last, _) = tick(&mut at_first).await;
    follow(&mut at_first, last, 1).await;
    drop(at_first);

    let mut later = start_tail(&[&working, &refusing], &[]);
    let (last, _) = tick(&mut later).await;
    let last = follow(&mut later, last, 1).await;
    good.process.end_with(Signal::SIGKILL).await;
    let mut good = Dev::on_port(good.clients).await;
    let last = follow(&mut later, last, 3).await;
    // The refusing edge is left alone now, so this does not cost a minute either.
    good.process.end_with(Signal::SIGKILL).await;
    let _good = Dev::on_port(good.clients).await;
    follow(&mut later, last, 3).await;
    let said = later.stderr().await;
    assert_eq!(said.matches("AUTH_FAILED").count(), 1, "{said}");
}
