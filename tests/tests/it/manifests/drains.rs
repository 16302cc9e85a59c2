//! Time to end: whoever needs some is given more than that.

use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tickstorm_tests::manifests::{Update, Workload};

use super::containers::{checked, setting};
use super::{container, each_overlay, nats_setting};

/// What a daemon may take beyond its drain, and NATS beyond its lame duck.
const END: Duration = Duration::from_secs(2);

#[test]
fn an_edge_may_drain_to_its_end() {
    each_overlay(|manifests| {
        let edge = manifests.workload("edge");
        let settings = checked(manifests, edge, "tickstorm-edge");
        let before = pre_stop_sleep(container(edge));
        let drain = ["DRAIN_DELAY", "DRAIN_TIMEOUT"].map(|name| duration(setting(&settings, name)));
        let needed = before + drain.iter().sum::<Duration>() + END;
        assert!(
            grace(edge) > needed,
            "an edge takes {needed:?} to end and has {:?}",
            grace(edge)
        );
    });
}

#[test]
fn a_nats_server_may_send_its_clients_away() {
    each_overlay(|manifests| {
        let nats = manifests.workload("nats");
        let needed = duration(&nats_setting("lame_duck_duration")) + END;
        assert!(
            grace(nats) > needed,
            "a server takes {needed:?} to end and has {:?}",
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
fn a_balancer_hears_of_an_edge_s_end_before_it_closes_its_port() {
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
        // The overlay for one node has a balancer on that node.
        if manifests.replicas(edge) > 1 {
            assert!(
                pre_stop_sleep(container(edge)) > noticed,
                "AWS notices in {noticed:?}"
            );
        }
        assert!(pre_stop_sleep(container(edge)) > Duration::ZERO);
    });
}

#[test]
fn a_rollout_takes_no_edge_away_before_its_successor_is_there() {
    each_overlay(|manifests| {
        let edge = manifests.workload("edge");
        let Update::Surge { surge, unavailable } = &edge.update else {
            panic!("edges are no StatefulSet");
        };
        assert_eq!(
            (surge, unavailable),
            (&IntOrString::Int(1), &IntOrString::Int(0))
        );
        for workload in &manifests.workloads {
            assert!(
                workload.min_ready_seconds > 0,
                "{} is relied on at once",
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

/// Reads what daemons and NATS take for a duration.
fn duration(text: &str) -> Duration {
    let unit = text.trim_start_matches(|digit: char| digit.is_ascii_digit());
    let number: u64 = text[..text.len() - unit.len()].parse().unwrap();
    match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(60 * number),
        _ => panic!("{text} is no duration"),
    }
}
