//! Edges that are added, removed and replaced in an orderly way while clients are connected.

use std::collections::BTreeMap;

use tickstorm_tests::clients::Clients;
use tickstorm_timebase::Mono;

use crate::engine::{await_ready, client_addr, ensure_ready, roll_edges, scale_edges};

#[test]
fn adding_and_removing_a_third_edge_costs_no_tick() {
    ensure_ready();
    let clients = Clients::connect(client_addr(), 40);
    scale_edges(3);
    await_ready(3);
    // The new edge has no clients, so the balancer sends more than half of the new ones to it.
    let late = Clients::connect(client_addr(), 30);
    scale_edges(2);
    await_ready(2);
    clients.assert_unbroken();
    late.assert_unbroken();
    let drained = clients.drained().len() + late.drained().len();
    assert!(drained > 0, "the removed edge had no client");
}

#[test]
fn a_rolling_restart_under_500_clients_costs_no_tick_and_spreads_their_moves() {
    ensure_ready();
    let clients = Clients::connect(client_addr(), 500);
    roll_edges();
    await_ready(2);
    clients.assert_unbroken();
    let drained = clients.drained();
    assert!(
        drained.len() >= 500,
        "only {} of 500 clients were sent away",
        drained.len()
    );
    // Each of the two drains lasts ten seconds. If edges sent all clients away at the same time,
    // all moves would fall into two seconds. The bound between the two allows for a machine under
    // load.
    let busiest = busiest_second(&drained);
    println!("{} moves, {busiest} in the busiest second", drained.len());
    assert!(
        busiest * 5 < drained.len(),
        "{busiest} of {} moves fall into one second",
        drained.len()
    );
}

/// Returns the largest number of moments that fall into the same second.
fn busiest_second(moments: &[Mono]) -> usize {
    let mut count_by_second = BTreeMap::<u64, usize>::new();
    for moment in moments {
        *count_by_second
            .entry(moment.as_nanos() / 1_000_000_000)
            .or_default() += 1;
    }
    count_by_second.into_values().max().unwrap_or_default()
}
