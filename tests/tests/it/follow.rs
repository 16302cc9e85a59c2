//! `tickstorm tail` over several connections: edges may die, but there is one uninterrupted stream
//! of ticks.

use nix::sys::signal::Signal;
use tickstorm_testkit::ReservedAddr;

use crate::dev::Dev;
use crate::tickstorm::{Running, tickstorm};

/// Returns the `epoch_ms` in a line that `tail` printed.
fn epoch_ms(line: &str) -> i64 {
    let shown = line.split_whitespace().nth(1);
    shown
        .and_then(|epoch_ms| epoch_ms.parse().ok())
        .unwrap_or_else(|| panic!("{line:?} is not a tick"))
}

/// Reads the next `count` ticks, asserts that each is one second after the previous one, and
/// returns the last.
async fn follow(tail: &mut Running, mut last: i64, count: usize) -> i64 {
    for _ in 0..count {
        let next = epoch_ms(&tail.line().await);
        assert_eq!(next, last + 1_000);
        last = next;
    }
    last
}

#[tokio::test]
async fn an_edge_that_is_killed_and_restarted_costs_no_tick() {
    for options in [&[][..], &["--ahead"]] {
        // While the edge is down, no other test can get its port.
        let reserved = ReservedAddr::reserve();
        let mut dev = Dev::on_port(reserved.addr()).await;
        let addr = dev.clients.to_string();
        let mut tail = Running::start(tickstorm(&[&["tail", "--addr", &addr], options].concat()));
        let first = epoch_ms(&tail.line().await);
        let last = follow(&mut tail, first, 1).await;
        dev.process.end_with(Signal::SIGKILL).await;
        let _dev = Dev::on_port(dev.clients).await;
        follow(&mut tail, last, 4).await;
        let said = tail.stderr().await;
        let connected = said.lines().next().unwrap_or_default();
        assert!(
            connected.starts_with("tickstorm: connected to edge ") && connected.ends_with(&addr),
            "{said}"
        );
        assert!(said.contains("reconnecting in"), "{said}");
        assert!(said.contains("reconnected to edge"), "{said}");
        assert!(!said.contains("gap"), "{said}");
    }
}

#[tokio::test]
async fn a_client_that_moves_to_another_edge_misses_no_tick_and_gets_none_twice() {
    let mut one = Dev::on_free_ports().await;
    let two = Dev::on_free_ports().await;
    let (first, second) = (one.clients.to_string(), two.clients.to_string());
    let mut tail = Running::start(tickstorm(&[
        "tail", "--addr", &first, "--addr", &second, "--json",
    ]));
    let epoch = |line: String| -> i64 {
        let tick: serde_json::Value = serde_json::from_str(&line).unwrap();
        tick["epoch_ms"].as_i64().unwrap()
    };
    let mut last = epoch(tail.line().await);
    one.process.end_with(Signal::SIGKILL).await;
    for _ in 0..4 {
        let next = epoch(tail.line().await);
        assert_eq!(next, last + 1_000);
        last = next;
    }
    let said = tail.stderr().await;
    assert!(said.contains(&second), "{said}");
}
