//! Checks that edges expect PROXY headers exactly if the load balancers send them.

use tickstorm_tests::manifests::{Manifests, name};

use super::containers::{effective_settings, setting};
use super::each_overlay;

/// The annotations that make balancers send headers, on AWS and on Azure.
const SENDERS: [(&str, &str); 2] = [
    (
        "service.beta.kubernetes.io/aws-load-balancer-proxy-protocol",
        "*",
    ),
    (
        "service.beta.kubernetes.io/azure-pls-proxy-protocol",
        "true",
    ),
];

/// Returns an annotation of the Service that clients connect to.
fn annotation(manifests: &Manifests, wanted: &str) -> Option<String> {
    let services = &manifests.services;
    let edge = services.iter().find(|one| name(&one.metadata) == "edge");
    let annotations = edge.and_then(|one| one.metadata.annotations.as_ref());
    annotations.expect("annotations").get(wanted).cloned()
}

#[test]
fn edges_expect_headers_exactly_if_balancers_send_them() {
    each_overlay(|manifests| {
        let edge = effective_settings(manifests, manifests.workload("edge"), "tickstorm-edge");
        let is_on = setting(&edge, "PROXY_PROTOCOL") == "on";
        for (annotation_name, sends) in SENDERS {
            let value = annotation(manifests, annotation_name);
            assert_eq!(value.as_deref() == Some(sends), is_on, "{annotation_name}");
        }
        assert_eq!(!setting(&edge, "PROXY_TRUSTED").is_empty(), is_on);
    });
}

#[test]
fn a_balancer_that_sends_headers_connects_from_its_own_address_and_checks_the_clients_port() {
    let manifests = Manifests::of("prod-proxy-protocol");
    let aws = |what: &str| {
        let name = format!("service.beta.kubernetes.io/aws-load-balancer-{what}");
        annotation(&manifests, &name).unwrap_or_else(|| panic!("no annotation {name}"))
    };
    // With a header, a check of a node's health check port fails, and so would an HTTP check of the
    // admin port.
    assert_eq!(aws("nlb-target-type"), "ip");
    assert_eq!(aws("healthcheck-protocol"), "tcp");
    assert_eq!(aws("healthcheck-port"), "traffic-port");
    let attributes = aws("target-group-attributes");
    let attributes: Vec<_> = attributes.split(',').collect();
    assert!(
        attributes.contains(&"preserve_client_ip.enabled=false"),
        "{attributes:?}"
    );
    for kept in [
        "target_health_state.unhealthy.connection_termination.enabled=false",
        "deregistration_delay.connection_termination.enabled=false",
    ] {
        assert!(attributes.contains(&kept), "{attributes:?}");
    }
}
