//! Checks that probes use paths and ports that the programs serve, and that each probe checks the
//! right condition: a liveness probe must not restart a program that is merely not ready.

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::containers::setting;
use super::{container, daemon, each_overlay, full_environment, nats_setting};
use crate::support::daemon::Daemon;

struct Probes<'a> {
    startup: &'a Probe,
    readiness: &'a Probe,
    liveness: &'a Probe,
}

fn probes(container: &Container) -> Probes<'_> {
    Probes {
        startup: container.startup_probe.as_ref().expect("a startup probe"),
        readiness: container
            .readiness_probe
            .as_ref()
            .expect("a readiness probe"),
        liveness: container.liveness_probe.as_ref().expect("a liveness probe"),
    }
}

#[tokio::test]
async fn a_daemon_without_nats_passes_its_startup_and_liveness_probes_but_is_not_ready() {
    for name in ["clock-0", "edge"] {
        let manifests = tickstorm_tests::manifests::Manifests::of("prod");
        let probes = probes(container(manifests.workload(name)));
        let mut running = Daemon::new(daemon(container(manifests.workload(name))).unwrap());
        running.start().await;
        for (probe, code) in [
            (probes.startup, 200),
            (probes.liveness, 200),
            (probes.readiness, 503),
        ] {
            let path = path(probe);
            assert_eq!(running.get(path).await.unwrap().0, code, "{name} at {path}");
        }
        assert_eq!(running.terminate().await, Some(0));
    }
}

#[test]
fn probes_are_the_same_in_every_overlay_and_go_to_the_admin_port() {
    each_overlay(|manifests| {
        for workload in ["clock", "edge"]
            .iter()
            .flat_map(|of| manifests.running(of))
        {
            let probes = probes(container(workload));
            let paths = [probes.startup, probes.readiness, probes.liveness].map(path);
            assert_eq!(paths, ["/health/live", "/health/ready", "/health/live"]);
            for probe in [probes.startup, probes.readiness, probes.liveness] {
                let port = &probe.http_get.as_ref().unwrap().port;
                assert_eq!(
                    *port,
                    IntOrString::String("admin".to_owned()),
                    "{}",
                    workload.name
                );
            }
        }
    });
}

#[test]
fn nats_is_probed_inside_its_container_at_its_monitoring_port() {
    let variable = nats_setting("http");
    let variable = variable.strip_prefix('$').expect("a variable");
    each_overlay(|manifests| {
        let nats = manifests.workload("nats");
        let environment = full_environment(manifests, nats);
        let addr = setting(&environment, variable).trim_matches('"');
        assert!(addr.starts_with("127.0.0.1:"), "{addr} has no login");
        let url = format!("http://{addr}/healthz");
        let probes = probes(container(nats));
        for probe in [probes.startup, probes.readiness, probes.liveness] {
            let command = probe
                .exec
                .as_ref()
                .and_then(|exec| exec.command.as_deref())
                .expect("a command");
            assert_eq!(command, ["busybox", "wget", "-q", "-O", "/dev/null", &url]);
        }
    });
}

#[test]
fn probes_leave_time_to_start_and_tolerate_slow_answers() {
    each_overlay(|manifests| {
        for workload in &manifests.workloads {
            let Probes {
                startup,
                readiness,
                liveness,
            } = probes(container(workload));
            assert!(failure_secs(startup) >= 30, "{}", workload.name);
            assert!(failure_secs(liveness) >= 30, "{}", workload.name);
            assert!(
                failure_secs(readiness) <= 10,
                "{} is sent clients for too long after it stopped being ready",
                workload.name
            );
        }
    });
}

/// Returns for how many seconds a probe must fail to count as failed.
fn failure_secs(probe: &Probe) -> i32 {
    probe.period_seconds.unwrap_or(10) * probe.failure_threshold.unwrap_or(3)
}

fn path(probe: &Probe) -> &str {
    let path = probe.http_get.as_ref().and_then(|get| get.path.as_deref());
    path.unwrap_or_else(|| panic!("no HTTP path in {probe:?}"))
}
