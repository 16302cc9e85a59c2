//! Edges that are added, removed and replaced in an orderly way while clients are connected.

use std::collections::BTreeMap;
use std::time::Duration;

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
    let moved = clients.moved().len() + late.moved().len();
    let drained = clients.drained().len() + late.drained().len();
    assert!(moved + drained > 0, "the removed edge had no client");
}

/// The most by which a roll may delay a tick, beyond the usual lateness at the client that gets it
/// last.
const DELAY_MAX: Duration = Duration::from_millis(100);
/// What starting the containers may add on a machine with two cores, on which the clients, in a
/// program that is not optimized, and all of the cluster run as well. It delays clients that stay
/// where they are as much as clients that move. Before edges sent GOING_AWAY, a roll alone took
/// more.
const NOISE_MAX: Duration = Duration::from_secs(2);

#[test]
fn a_rolling_restart_under_2_000_clients_costs_no_tick_and_spreads_their_moves() {
    ensure_ready();
    let clients = Clients::connect(client_addr(), 2_000);
    clients.take_lateness();
    for _ in 0..2 {
        clients.await_ticks(30);
    }
    let mut before: Vec<_> = clients.take_lateness().iter().map(|l| l.worst()).collect();
    roll_edges();
    await_ready(2);
    clients.assert_unbroken();
    let during = clients.take_lateness();
    before.sort_unstable();
    let usual = before[before.len() / 2];
    let delayed = during.iter().filter(|l| l.worst() > usual + DELAY_MAX);
    let delayed = delayed.count();
    let worst = during.iter().map(|l| l.worst()).max().unwrap_or_default();
    // What moves cost: what else the machine does delays all clients.
    let move_cost = during.iter().map(|l| l.moving.saturating_sub(l.settled));
    let move_cost = move_cost.max().unwrap_or_default();
    let (moved, drained) = (clients.moved(), clients.drained());
    let busiest = busiest_second(&moved);
    println!(
        "{} moves, {busiest} in the busiest second, {} clients drained; the latest tick of a \
         second: {usual:?} at the median and {:?} at most before, {worst:?} at most during the \
         roll, {delayed} of {} ticks delayed; clients that moved got a tick at most {move_cost:?} \
         after those that did not",
        moved.len(),
        drained.len(),
        before.last().copied().unwrap_or_default(),
        during.len(),
    );
    assert!(moved.len() >= 1_990, "only {} moves", moved.len());
    // A client that finds no other edge in time, on a busy machine, is closed at the end.
    assert!(drained.len() <= 10, "{} did not move", drained.len());
    // Each client moves at a random moment of the time that its edge gives it. If all moved at the
    // same time, all moves would fall into two seconds.
    assert!(
        busiest * 4 < moved.len(),
        "{busiest} of {} moves fall into one second",
        moved.len()
    );
    // A machine that has too much to do delays both, and not by exactly as much.
    let costly = during
        .iter()
        .filter(|l| l.moving > l.settled * 2 + DELAY_MAX);
    assert_eq!(costly.count(), 0, "{during:?}");
    assert!(worst <= usual + DELAY_MAX + NOISE_MAX, "{during:?}");
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
