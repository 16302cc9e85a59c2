//! Checks that the NetworkPolicies allow exactly the connections in a table, for all pairs of
//! parties and all ports.

use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tickstorm_tests::manifests::{Labels, Manifests, selects};

use super::each_overlay;

const OURS: &[&str] = &["clock", "edge", "nats"];
const OTHERS: &[&str] = &["dns", "prometheus", "impostor", "internet"];

/// Allowed connections: the clients, the server, the protocol, and the server's port.
pub(super) type Connection = (&'static [&'static str], &'static str, &'static str, i32);

/// All connections that a TickStorm pod makes or accepts.
const CONNECTIONS: [Connection; 7] = [
    (&["clock", "edge"], "nats", "TCP", 4222),
    (&["nats"], "nats", "TCP", 6222),
    // Clients may connect from anywhere.
    (OTHERS, "edge", "TCP", 8080),
    (&["prometheus"], "edge", "TCP", 8081),
    (&["prometheus"], "clock", "TCP", 8082),
    (OURS, "dns", "UDP", 53),
    // For long answers.
    (OURS, "dns", "TCP", 53),
];

/// Ports that are also checked and that no connection may use.
const OTHER_PORTS: [i32; 5] = [22, 443, 7777, 8222, 9999];

/// A possible end of a connection.
struct Party {
    name: &'static str,
    /// `None` outside the cluster.
    pod: Option<Pod>,
}

struct Pod {
    namespace: String,
    labels: Labels,
    ports: Vec<(String, i32)>,
}

fn parties(manifests: &Manifests) -> Vec<Party> {
    let ours = manifests.workloads.iter().map(|workload| {
        let program = OURS.iter().find(|program| **program == workload.program());
        let name = *program.unwrap_or_else(|| panic!("unknown workload {}", workload.name));
        let containers = workload.pod.containers.iter();
        let ports = containers.flat_map(|container| container.ports.iter().flatten());
        let ports = ports
            .map(|port| (port.name.clone().unwrap(), port.container_port))
            .collect();
        let namespace = manifests.namespace().to_owned();
        Party {
            name,
            pod: Some(Pod {
                namespace,
                labels: workload.labels.clone(),
                ports,
            }),
        }
    });
    let other = |name, namespace: &str, label: (&str, &str)| {
        let labels = [(label.0.to_owned(), label.1.to_owned())].into();
        let pod = Pod {
            namespace: namespace.to_owned(),
            labels,
            ports: Vec::new(),
        };
        Party {
            name,
            pod: Some(pod),
        }
    };
    let others = [
        other("dns", "kube-system", ("k8s-app", "kube-dns")),
        other("prometheus", "monitoring", ("app", "prometheus")),
        // The labels of a NATS pod, but in a namespace in which they must not count.
        other("impostor", "default", ("app.kubernetes.io/name", "nats")),
        Party {
            name: "internet",
            pod: None,
        },
    ];
    ours.chain(others).collect()
}

#[test]
fn policies_allow_exactly_the_connections_of_the_table() {
    each_overlay(|manifests| assert_allowed(manifests, &[]));
}

/// Asserts that the policies allow the connections of the table and `further` ones, and no others.
pub(super) fn assert_allowed(manifests: &Manifests, further: &[Connection]) {
    let policies = Policies {
        all: &manifests.policies,
        namespace: manifests.namespace(),
    };
    let parties = parties(manifests);
    let allowed: Vec<_> = CONNECTIONS.iter().chain(further).collect();
    let ports = allowed.iter().map(|(.., port)| *port).chain(OTHER_PORTS);
    let ports: BTreeSet<_> = ports.collect();
    let mut wrong = Vec::new();
    for (from, to) in pairs(&parties) {
        for (&port, protocol) in ports.iter().flat_map(|port| [(port, "TCP"), (port, "UDP")]) {
            let is_listed = allowed.iter().any(|connection| {
                connection.0.contains(&from.name)
                    && (to.name, protocol, port) == (connection.1, connection.2, connection.3)
            });
            if policies.allow(from, to, protocol, port) != is_listed {
                let outcome = if is_listed { "refused" } else { "allowed" };
                wrong.push(format!(
                    "{} → {} on {protocol} port {port} is {outcome}",
                    from.name, to.name
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Returns all pairs in which at least one party is a TickStorm pod. The policies do not apply to
/// connections between other parties.
fn pairs(parties: &[Party]) -> impl Iterator<Item = (&Party, &Party)> {
    let all = parties
        .iter()
        .flat_map(|from| parties.iter().map(move |to| (from, to)));
    all.filter(|(from, to)| [from, to].iter().any(|party| OURS.contains(&party.name)))
}

struct Policies<'a> {
    all: &'a [NetworkPolicy],
    namespace: &'a str,
}

impl Policies<'_> {
    /// Returns whether a connection is allowed, both by the egress rules of the client and by the
    /// ingress rules of the server.
    fn allow(&self, from: &Party, to: &Party, protocol: &str, port: i32) -> bool {
        let wanted = Wanted {
            protocol,
            port,
            target: to,
        };
        let leaves = self.of(from, "Egress").is_none_or(|specs| {
            let mut rules = specs.iter().flat_map(|spec| spec.egress.iter().flatten());
            rules.any(|rule| {
                wanted.port_in(rule.ports.as_ref()) && self.peer_in(rule.to.as_ref(), to)
            })
        });
        let enters = self.of(to, "Ingress").is_none_or(|specs| {
            let mut rules = specs.iter().flat_map(|spec| spec.ingress.iter().flatten());
            rules.any(|rule| {
                wanted.port_in(rule.ports.as_ref()) && self.peer_in(rule.from.as_ref(), from)
            })
        });
        leaves && enters
    }

    /// Returns the policies that apply to a party. `None` means that no policy applies and
    /// everything is allowed.
    fn of(&self, party: &Party, direction: &str) -> Option<Vec<&NetworkPolicySpec>> {
        let pod = party
            .pod
            .as_ref()
            .filter(|pod| pod.namespace == self.namespace)?;
        let specs = self.all.iter().filter_map(|policy| policy.spec.as_ref());
        let own: Vec<_> = specs
            .filter(|spec| {
                spec.policy_types
                    .iter()
                    .flatten()
                    .any(|one| one == direction)
            })
            .filter(|spec| {
                spec.pod_selector
                    .as_ref()
                    .is_none_or(|selector| selects(selector, &pod.labels))
            })
            .collect();
        (!own.is_empty()).then_some(own)
    }

    fn peer_in(&self, peers: Option<&Vec<NetworkPolicyPeer>>, party: &Party) -> bool {
        // A missing list allows all peers.
        peers.is_none_or(|peers| peers.iter().any(|peer| self.is_peer(peer, party)))
    }

    fn is_peer(&self, peer: &NetworkPolicyPeer, party: &Party) -> bool {
        assert!(peer.ip_block.is_none(), "not implemented: {peer:?}");
        let Some(pod) = &party.pod else { return false };
        let in_namespace = match &peer.namespace_selector {
            None => pod.namespace == self.namespace,
            Some(selector) => {
                let label = (
                    "kubernetes.io/metadata.name".to_owned(),
                    pod.namespace.clone(),
                );
                selects(selector, &[label].into())
            }
        };
        in_namespace
            && peer
                .pod_selector
                .as_ref()
                .is_none_or(|selector| selects(selector, &pod.labels))
    }
}

struct Wanted<'a> {
    protocol: &'a str,
    port: i32,
    target: &'a Party,
}

impl Wanted<'_> {
    fn port_in(&self, ports: Option<&Vec<NetworkPolicyPort>>) -> bool {
        ports.is_none_or(|ports| ports.iter().any(|port| self.is_port(port)))
    }

    fn is_port(&self, port: &NetworkPolicyPort) -> bool {
        let number = match &port.port {
            None => true,
            Some(IntOrString::Int(number)) => *number == self.port,
            // A name refers to a port of the server's pod.
            Some(IntOrString::String(name)) => {
                let ports = self.target.pod.iter().flat_map(|pod| &pod.ports);
                ports
                    .into_iter()
                    .any(|(known, number)| known == name && *number == self.port)
            }
        };
        number && port.protocol.as_deref().unwrap_or("TCP") == self.protocol
    }
}
