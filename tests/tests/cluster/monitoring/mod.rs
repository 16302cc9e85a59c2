//! The cluster with `compose/monitoring.yml`: Prometheus scrapes everything, each alert is raised
//! when its condition is made to happen in the running cluster, reaches Alertmanager, and ends when
//! the cause has ended, and each query of the dashboards returns data.
//!
//! `cargo xtask compose-test` divides all durations of Prometheus and of its rules by 15: an alert
//! that waits for five minutes waits for 20 s here. Otherwise the rules are those of
//! `deploy/prometheus`.

mod dashboards;
mod expected;
mod misfits;
mod outage;
mod pages;
mod peers;
mod targets;
mod time;

use std::collections::BTreeSet;
use std::panic;
use std::thread;
use std::time::Duration;

use crate::engine::{ensure_ready, wait_until};
use expected::observed;
use pages::{prometheus_alerts, query, rule_names, scrape_states};

/// The alerts whose condition is not made to happen here, with the reason. All of them have tests
/// with made-up series in `deploy/prometheus/tests`.
const NOT_RAISED: [(&str, &str); 4] = [
    (
        "TickstormAutoscalerWithoutMetric",
        "it needs the metrics of an autoscaler of Kubernetes",
    ),
    (
        "TickstormClockUndisciplined",
        "whether a time service disciplines this machine's clock is not for a test to change",
    ),
    (
        "TickstormMemory",
        "the kernel's own memory for a small process is more than a tenth of so low a limit: it \
         takes pages of the program away instead, or kills it",
    ),
    (
        "TickstormSloBurnsSlowly",
        "its windows of hours and days are half an hour and five hours even here",
    ),
];

/// Alerts that are true on some machines although the cluster is healthy: if no time service
/// disciplines the machine's clock, or if other programs keep its cores busy.
const OF_THE_MACHINE: [&str; 2] = ["TickstormClockUndisciplined", "TickstormTicksLate"];

/// The time for which a healthy cluster is watched. Nearly all alerts wait for less than that.
const HEALTHY: Duration = Duration::from_secs(20);

/// The parts of the test, of which each makes the conditions of some alerts happen, and ends them.
/// Those of a group have nothing in common, and run at the same time.
type Part = (&'static str, fn());

const MISFITS: [Part; 8] = [
    ("a full edge", misfits::full_edge),
    ("an edge with bad clients", misfits::bad_clients),
    ("an edge that pauses", misfits::pausing_edge),
    ("an edge with bad files", misfits::bad_files),
    ("daemons with a wrong login", misfits::wrong_logins),
    ("a clock with few files", misfits::few_files),
    (
        "an edge that does not finish its drain",
        misfits::stuck_drain,
    ),
    ("a clock that is wrong", time::wrong_clock),
];

#[test]
fn all_targets_are_up_and_a_healthy_cluster_raises_no_alert() {
    ensure_monitored();
    let watched = format!(
        r#"max_over_time(ALERTS{{alertstate="firing", alertname!~"{}"}}[{}s])"#,
        OF_THE_MACHINE.join("|"),
        HEALTHY.as_secs()
    );
    let mut raised = Vec::new();
    let waited = panic::catch_unwind(panic::AssertUnwindSafe(|| {
        wait_until("no alert was raised for a while", || {
            raised = query(&watched);
            raised.is_empty()
        });
    }));
    assert!(waited.is_ok(), "{raised:#?}");
    let undisciplined = r#"tickstorm_clock_alarm{reason="undisciplined"} == 1"#;
    let is_undisciplined = !query(undisciplined).is_empty();
    let alerts = prometheus_alerts();
    let mut names = alerts.iter().map(|alert| &alert.labels["alertname"]);
    assert_eq!(
        names.any(|name| name == OF_THE_MACHINE[0]),
        is_undisciplined
    );
}

#[test]
fn each_alert_is_raised_by_its_cause_and_ends_with_it() {
    ensure_monitored();
    let outcome = run_together(&MISFITS);
    assert!(outcome.is_empty(), "failed, as printed above: {outcome:?}");
    outage::no_clock_and_one_nats_server_less();
    misfits::await_end_of_late_ticks();

    let all: BTreeSet<_> = rule_names();
    let listed: BTreeSet<_> = NOT_RAISED
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    let observed = observed();
    let in_both: Vec<_> = observed.intersection(&listed).collect();
    assert!(
        in_both.is_empty(),
        "raised, but listed as not raised: {in_both:?}"
    );
    let known = &observed | &listed;
    assert_eq!(
        all, known,
        "alerts that exist, and alerts that are raised here or listed"
    );
}

#[test]
fn each_query_of_the_dashboards_returns_data() {
    ensure_monitored();
    dashboards::check();
}

/// Brings the cluster up, and waits until Prometheus can scrape all of it and nothing else.
fn ensure_monitored() {
    ensure_ready();
    targets::clear();
    wait_until("Prometheus scrapes each container once", || {
        let states = scrape_states();
        let of = |job: &str| states.iter().filter(|target| target.job == job).count();
        let jobs = [
            ("tickstorm-edge", 2),
            ("tickstorm-clock", 3),
            ("nats", 3),
            ("haproxy", 1),
            ("prometheus", 1),
            ("alertmanager", 1),
        ];
        jobs.iter().all(|&(job, count)| of(job) == count)
            && states.iter().all(|target| target.health == "up")
    });
}

/// Runs parts at the same time, and returns the names of those that failed.
fn run_together(parts: &[Part]) -> Vec<&'static str> {
    let running: Vec<_> = parts
        .iter()
        .map(|&(name, run)| {
            let thread = thread::Builder::new().name(name.to_owned());
            (name, thread.spawn(run).unwrap())
        })
        .collect();
    let ended = running.into_iter();
    ended
        .filter_map(|(name, part)| part.join().is_err().then_some(name))
        .collect()
}
