//! Edges that come and go on purpose, under clients that stay.

use std::collections::BTreeMap;

use tickstorm_tests::crowd::Crowd;
use tickstorm_timebase::Mono;

use crate::engine::{await_ready, be_ready, client_addr, roll_edges, scale_edges};

#[test]
fn a_third_edge_that_comes_and_goes_costs_no_tick() {
    be_ready();
    let crowd = Crowd::gather(client_addr(), 40);
    scale_edges(3);
    await_ready(3);
    // Who comes now goes to the edge that has nobody.
    let late = Crowd::gather(client_addr(), 10);
    scale_edges(2);
    await_ready(2);
    crowd.assert_unbroken();
    late.assert_unbroken();
    let drained = crowd.drained().len() + late.drained().len();
    assert!(drained > 0, "the edge that went had no client");
}

#[test]
fn a_rolling_restart_under_500_clients_costs_no_tick_and_spreads_their_moves() {
    be_ready();
    let crowd = Crowd::gather(client_addr(), 500);
    roll_edges();
    await_ready(2);
    crowd.assert_unbroken();
    let drained = crowd.drained();
    assert!(
        drained.len() >= 500,
        "only {} were sent away",
        drained.len()
    );
    // Two drains of ten seconds each: sent away at once they would be two seconds' worth. Bounds for a machine under load.
    let busiest = busiest_second(&drained);
    println!("{} moves, {busiest} in the busiest second", drained.len());
    assert!(
        busiest * 5 < drained.len(),
        "{busiest} of {} in one second",
        drained.len()
    );
}

/// The most of these moments that lie in one second.
fn busiest_second(moments: &[Mono]) -> usize {
    let mut count_by_second = BTreeMap::<u64, usize>::new();
    for moment in moments {
        *count_by_second
            .entry(moment.as_nanos() / 1_000_000_000)
            .or_default() += 1;
    }
    count_by_second.into_values().max().unwrap_or_default()
}
