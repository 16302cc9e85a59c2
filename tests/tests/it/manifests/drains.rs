//! Checks that grace periods and preStop hooks leave enough time for an orderly shutdown.

use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tickstorm_tests::manifests::{Update, Workload};

use super::containers::{effective_settings, setting};
use super::{container, each_overlay, nats_setting};

/// The time that a daemon may take to exit after its drain, and NATS after its lame duck mode.
const EXIT: Duration = Duration::from_secs(2);

#[test]
fn an_edges_grace_period_is_longer_than_its_drain() {
    each_overlay(|manifests| {
        let edge = manifests.workload("edge");
        let settings = effective_settings(manifests, edge, "tickstorm-edge");
        let before = pre_stop_sleep(container(edge));
        let drain = ["DRAIN_DELAY", "DRAIN_TIMEOUT"].map(|name| duration(setting(&settings, name)));
        let needed = before + drain.iter().sum::<Duration>() + EXIT;
        assert!(
            grace(edge) > needed,
            "an edge may take {needed:?} to exit, but its grace period is {:?}",
            grace(edge)
        );
    });
}

#[test]
fn a_nats_servers_grace_period_is_longer_than_its_lame_duck_mode() {
    each_overlay(|manifests| {
        let nats = manifests.workload("nats");
        let needed = duration(&nats_setting("lame_duck_duration")) + EXIT;
        assert!(
            grace(nats) > needed,
            "a NATS server may take {needed:?} to exit, but its grace period is {:?}",
            grace(nats)
        );
        let lifecycle = container(nats).lifecycle.as_ref().expect("a preStop");
        let stop = lifecycle
            .pre_stop
            .as_ref()
            .and_then(|stop| stop.exec.as_ref())
            .expect("a command");
        assert_eq!(
            stop.command.as_deref().unwrap_or_default(),
            ["nats-server", "--signal", "ldm=1"]
        );
    });
}

#[test]
fn a_balancer_notices_that_an_edge_terminates_before_its_drain_begins() {
    each_overlay(|manifests| {
        let service = manifests
            .services
            .iter()
            .find(|one| one.metadata.name.as_deref() == Some("edge"));
        let annotations = service
            .and_then(|one| one.metadata.annotations.as_ref())
            .expect("annotations");
        let number = |what: &str| -> u64 {
            annotations[&format!("service.beta.kubernetes.io/aws-load-balancer-healthcheck-{what}")]
                .parse()
                .unwrap()
        };
        let noticed = Duration::from_secs(number("interval") * number("unhealthy-threshold"));
        let edge = manifests.workload("edge");
        // In the overlay for a cluster of one node, the balancer is on that node.
        if manifests.replicas(edge) > 1 {
            assert!(
                pre_stop_sleep(container(edge)) > noticed,
                "AWS takes {noticed:?} to notice"
            );
        }
        assert!(pre_stop_sleep(container(edge)) > Duration::ZERO);
    });
}

#[test]
fn a_rollout_removes_no_edge_before_its_successor_is_available() {
    each_overlay(|manifests| {
        let edge = manifests.workload("edge");
        let Update::Surge { surge, unavailable } = &edge.update else {
            panic!("the edges are a StatefulSet instead of a Deployment");
        };
        assert_eq!(
            (surge, unavailable),
            (&IntOrString::Int(1), &IntOrString::Int(0))
        );
        for workload in &manifests.workloads {
            assert!(
                workload.min_ready_seconds > 0,
                "{} counts as available immediately",
                workload.name
            );
        }
    });
}

fn grace(workload: &Workload) -> Duration {
    let seconds = workload
        .pod
        .termination_grace_period_seconds
        .expect("a grace period");
    Duration::from_secs(seconds.try_into().unwrap())
}

fn pre_stop_sleep(container: &Container) -> Duration {
    let stop = container
        .lifecycle
        .as_ref()
        .and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    let sleep = stop
        .and_then(|stop| stop.sleep.as_ref())
        .map_or(0, |sleep| sleep.seconds);
    Duration::from_secs(sleep.try_into().unwrap())
}

/// Parses a duration as daemons and NATS write it.
fn duration(text: &str) -> Duration {
    let unit = text.trim_start_matches(|digit: char| digit.is_ascii_digit());
    let number: u64 = text[..text.len() - unit.len()].parse().unwrap();
    match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(60 * number),
        _ => panic!("{text} is not a duration"),
    }
}
