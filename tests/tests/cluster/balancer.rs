//! The load balancer's reload, and what the engine says about the health of its edges.

use tickstorm_tests::clients::Clients;

use crate::engine::{await_ready, client_addr, container, containers, ensure_ready, wait_until};

#[test]
fn a_reload_of_the_balancer_ends_no_connection_and_refuses_no_client() {
    ensure_ready();
    let before = Clients::connect(client_addr(), 300);
    let balancer = container("haproxy");
    let processes = balancer.pids().len();
    balancer.send("USR2");
    let during = Clients::connect(client_addr(), 50);
    // The old process serves its clients beside the new one.
    wait_until("the balancer has another process", || {
        balancer.pids().len() > processes
    });
    await_ready(2);
    let after = Clients::connect(client_addr(), 50);
    // With a hard-stop-after of 3 s, clients were cut off by then.
    before.await_ticks(10);
    for clients in [&before, &during, &after] {
        clients.assert_unbroken();
        assert_eq!(clients.disconnections(), 0);
    }
}

#[test]
fn the_health_of_clocks_and_edges_is_their_readiness() {
    ensure_ready();
    let services = [("edge", "/tickstorm-edge"), ("clock-0", "/tickstorm-clock")];
    for (service, program) in services {
        for container in containers(service) {
            let inspected = container.inspect();
            let test = inspected["Config"]["Healthcheck"]["Test"].clone();
            assert_eq!(
                test,
                serde_json::json!(["CMD", program, "healthcheck", "--ready"])
            );
            assert_eq!(inspected["State"]["Health"]["Status"], "healthy");
        }
    }
}
