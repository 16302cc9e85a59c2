//! What may break, one at a time, without a client's missing or doubling a tick: an edge, the clock that edges follow, each NATS
//! server; dead, or out of reach.

use std::time::Duration;

use tickstorm_tests::crowd::Crowd;

use crate::engine::{Container, NATS, await_ready, be_ready, client_addr, container};

/// Enough to be on both edges, few enough for their ends to be looked at one by one.
const CLIENTS: usize = 40;

/// How long a server is out of reach.
const CUT: Duration = Duration::from_secs(10);

#[test]
fn an_edge_a_clock_and_each_nats_server_killed_in_turn_cost_no_tick() {
    be_ready();
    let crowd = Crowd::gather(client_addr(), CLIENTS);
    for victim in victims() {
        println!("killing {victim}");
        victim.kill();
        // Whatever it was, the others tell the time.
        crowd.await_news(3);
        victim.start();
        await_ready(2);
        crowd.assert_unbroken();
    }
    assert!(crowd.ends() > 0, "the edge that was killed had no client");
}

#[test]
fn an_edge_a_clock_and_each_nats_server_cut_off_for_10_s_in_turn_cost_no_tick() {
    be_ready();
    let crowd = Crowd::gather(client_addr(), CLIENTS);
    for victim in victims() {
        println!("cutting {victim} off");
        victim.cut_off_for(CUT);
        await_ready(2);
        crowd.assert_unbroken();
    }
    // Its clients either stayed and were silent for as long, or came back from elsewhere after that.
    let silence = crowd.silence();
    assert!(
        silence >= CUT / 2,
        "the edge that was cut off had no client: nobody waited longer than {silence:?}"
    );
}

/// Edges follow the first clock, and what connects to NATS is on any of its servers.
fn victims() -> Vec<Container> {
    let services = ["edge", "clock-0"].into_iter().chain(NATS);
    services.map(container).collect()
}
