//! An outage: the clocks of the cluster fail one after the other, and a NATS server as well.

use tickstorm_tests::clients::Clients;

use super::expected::{alert, await_ended, await_inhibited, await_raised};
use crate::engine::{client_addr, container, containers};

/// So many that their mean is above 50 although they have not been there for the entire window.
const CLIENTS: usize = 150;

/// Kills clocks until there is none, and brings everything back.
pub(super) fn no_clock_and_one_nats_server_less() {
    let clients = Clients::connect(client_addr(), CLIENTS);
    let [first, second, third] = ["clock-0", "clock-1", "clock-2"].map(container);
    let nats = container("nats-2");
    nats.kill();
    second.kill();
    third.kill();
    let of_two = [
        alert("TickstormNatsDown").with("instance", "nats-2"),
        alert("TickstormNoMajority"),
        alert("TickstormClockSilent").with("clock", "clock-1"),
        alert("TickstormTargetDown").with("instance", "clock-1:8082"),
    ];
    await_raised(&of_two);

    first.kill();
    let edges: Vec<_> = containers("edge")
        .iter()
        .map(|edge| format!("{}:8081", edge.ip()))
        .collect();
    let of_edges = edges.iter().flat_map(|edge| {
        [
            "TickstormHoldover",
            "TickstormTimeLost",
            "TickstormEdgeNotReady",
        ]
        .map(|name| alert(name).with("instance", edge))
    });
    let no_edge = alert("TickstormNoEdgeReady");
    let fewer_edges = alert("TickstormEdgesMissing");
    let mut of_all: Vec<_> = of_edges.collect();
    of_all.extend([
        alert("TickstormJobDown").with("job", "tickstorm-clock"),
        no_edge.clone(),
        alert("TickstormBalancerWithoutEdges"),
        alert("TickstormConnectionsDropped"),
        fewer_edges.clone(),
    ]);
    await_raised(&of_all);
    await_inhibited(&fewer_edges, &no_edge);

    for killed in [&nats, &first, &second, &third] {
        killed.start();
    }
    await_ended(&of_two);
    await_ended(&of_all);
    drop(clients);
}
