//! Single failures that must not make a client miss a tick or receive one twice: an edge, the clock
//! that edges follow, or any NATS server is killed or disconnected.

use std::time::Duration;

use tickstorm_tests::clients::Clients;

use crate::engine::{Container, NATS, await_ready, client_addr, container, ensure_ready};

/// Enough clients for both edges to have some, and few enough to examine each disconnection.
const CLIENTS: usize = 40;

/// The time for which a container is disconnected.
const CUT: Duration = Duration::from_secs(10);

#[test]
fn an_edge_a_clock_and_each_nats_server_killed_in_turn_cost_no_tick() {
    ensure_ready();
    let clients = Clients::connect(client_addr(), CLIENTS);
    for victim in victims() {
        println!("killing {victim}");
        victim.kill();
        // Ticks continue without it.
        clients.await_ticks(3);
        victim.start();
        await_ready(2);
        clients.assert_unbroken();
    }
    assert!(
        clients.disconnections() > 0,
        "the edge that was killed had no client"
    );
}

#[test]
fn an_edge_a_clock_and_each_nats_server_cut_off_for_10_s_in_turn_cost_no_tick() {
    ensure_ready();
    let clients = Clients::connect(client_addr(), CLIENTS);
    for victim in victims() {
        println!("cutting {victim} off");
        victim.cut_off_for(CUT);
        await_ready(2);
        clients.assert_unbroken();
    }
    // The clients of the edge that was cut off received nothing until they had left it.
    let silence = clients.longest_silence();
    assert!(
        silence >= CUT / 3,
        "the edge that was cut off had no client: no client waited longer than {silence:?}"
    );
}

/// Returns an edge, the clock that edges follow, and all NATS servers, since clocks and edges may
/// be connected to any of these.
fn victims() -> Vec<Container> {
    let services = ["edge", "clock-0"].into_iter().chain(NATS);
    services.map(container).collect()
}
