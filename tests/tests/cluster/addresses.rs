//! Limits by address behind the load balancer, which announces the address of each client.

use tickstorm_testkit::peer;
use tickstorm_tests::clients::Clients;

use crate::engine::{NATS, client_addr, container, ensure_ready};

/// Enough failures to reach AUTH_RATE_LIMIT, which is 10, on each of the two edges, whether they
/// refuse further attempts or first let some of them wait.
const ATTEMPTS: usize = 80;

/// Sends its first argument to the load balancer as often as its second argument says, all at the
/// same time, and prints the capital letters of the answers. The connections stay open long enough
/// for delayed answers.
const ATTACK: &str = r#"
    count=0
    while [ "$count" -lt "$2" ]; do
        { printf "$1"; sleep 10; } | busybox nc haproxy 8080 &
        count=$((count + 1))
    done | busybox tr -cd 'A-Z_\n'
"#;

#[test]
fn of_two_addresses_behind_the_balancer_one_attacks_the_limit_and_the_other_is_served() {
    ensure_ready();
    // All clients on this host have one address, and the attacker's container has another.
    let clients = Clients::connect(client_addr(), 20);
    let answers = attack();
    let refused = answers.matches("AUTH_RATE_LIMITED").count();
    println!("{refused} of {ATTEMPTS} attempts were refused unjudged");
    assert!(refused > 0, "the attacker was not limited: {answers}");
    let late = Clients::connect(client_addr(), 20);
    clients.assert_unbroken();
    late.assert_unbroken();
    assert_eq!(clients.disconnections() + late.disconnections(), 0);
}

/// Makes attempts with a wrong password from a container in the cluster's network, and returns the
/// edges' answers.
fn attack() -> String {
    let auth = peer::auth("stream_user", "wrong");
    let auth: String = auth.iter().map(|byte| format!("\\{byte:03o}")).collect();
    let attempts = ATTEMPTS.to_string();
    container(NATS[0]).exec(&["busybox", "sh", "-c", ATTACK, "sh", &auth, &attempts])
}
