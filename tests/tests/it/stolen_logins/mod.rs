//! Someone uses the NATS login of one of three clocks, or that of the edges. Whatever they publish,
//! no client gets a tick early, noticeably late, twice or not at all, and edges name the login.

mod false_clock;
mod false_edge;
mod messages;
mod rounds;

use std::collections::BTreeSet;
use std::time::Duration;

use tickstorm_client::Quality;
use tickstorm_testkit::Nats;
use tickstorm_timebase::{Clock as _, Mono, SystemClock};
use tokio::task::spawn_blocking;

use self::false_clock::FalseClock;
use self::false_edge::FalseEdge;
use self::rounds::Rounds;
use crate::support::cluster::{Cluster, SETTLING};
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::observer::{Observer, Observers};
use crate::tickstorm::PATIENCE;

/// What users may do, as shipped.
const PERMISSIONS: &str = include_str!("../../../../deploy/nats/permissions.conf");

/// The settings of NATS servers, as shipped.
const NATS_CONF: &str = include_str!("../../../../deploy/nats/nats.conf");

const TIME: &str = "tickstorm.v1.time";
const CLOCKS: [&str; 3] = ["clock-0", "clock-1", "clock-2"];

/// HOLDOVER_MAX, for which alarms are raised. It is short to keep the tests short.
const PROBATION: &str = "8s";

/// The time for which each attack lasts: longer than HOLDOVER_MAX, so that an edge that an attack
/// keeps from the time stops sending.
const ATTACK: Duration = Duration::from_secs(10);

/// The messages per second of a flood. It is more than any limit that it concerns, and little
/// enough for builds without optimisation, of which eight share two cores with NATS.
const FLOOD: u32 = 3_000;

/// The greatest median lateness during an attack, on a machine that may be busy. On an idle one it
/// is below a millisecond. A clock that is wrongly accepted makes it five seconds or more. `cargo
/// xtask abuse` judges the lateness itself.
const LATE_MAX_US: i64 = 250_000;

/// Returns the line of nats.conf that limits the subscriptions of a connection.
fn subscription_limit() -> &'static str {
    let mut lines = NATS_CONF.lines();
    let limit = lines.find(|line| line.starts_with("max_subscriptions:"));
    limit.expect("nats.conf limits subscriptions")
}

/// Starts a NATS server with a login for each clock and one for edges, whose passwords are their
/// names.
fn nats() -> Nats {
    let user = |user: &str, permissions: &str| {
        format!("{{ user: {user}, password: {user}, permissions: ${permissions} }}\n")
    };
    let users = [
        user("clock-0", "CLOCK_0"),
        user("clock-1", "CLOCK_1"),
        user("clock-2", "CLOCK_2"),
        user("edge", "EDGE"),
    ];
    let config = format!(
        "{limit}\nauthorization {{\n  timeout: 10\n  include \"permissions.conf\"\n  \
         users: [\n{}]\n}}\n",
        users.concat(),
        limit = subscription_limit()
    );
    let nats = Nats::create(&["--config", "/server.conf"])
        .with_file("/server.conf", config)
        .with_file("/permissions.conf", PERMISSIONS);
    nats.start();
    nats
}

/// Starts three clocks and two edges, each with its login.
async fn cluster() -> Cluster {
    let login = [("NATS_USER", "edge"), ("NATS_PASSWORD", "edge")];
    let settings = [&login[..], &[("HOLDOVER_MAX", PROBATION)]].concat();
    let mut cluster = Cluster::new(vec![nats()], 3, 2, &settings);
    for (clock, id) in cluster.clocks.iter_mut().zip(CLOCKS) {
        clock.set("NATS_USER", id);
        clock.set("NATS_PASSWORD", id);
    }
    cluster.start().await;
    cluster
}

/// Runs an attack, and asserts that ticks arrived as before.
async fn withstand<T: Send + 'static>(
    observers: &Observers,
    cluster: &Cluster,
    what: &str,
    mut thief: T,
    attack: fn(&mut T),
) -> T {
    let from = observers.plain().count();
    let attacked = spawn_blocking(move || {
        attack(&mut thief);
        thief
    });
    let thief = attacked.await.unwrap();
    let ticks = observers.plain().ticks();
    let mut late: Vec<_> = ticks[from..].iter().map(|tick| tick.late_us).collect();
    late.sort_unstable();
    let median = late[late.len() / 2];
    println!(
        "{what}: {} ticks, median {median} µs late, {late:?}",
        late.len()
    );
    assert!(median <= LATE_MAX_US, "{what}: {late:?}");
    let least = usize::try_from(ATTACK.as_secs()).unwrap() - 1;
    assert!(late.len() >= least, "{what}: only {} ticks", late.len());
    for edge in &cluster.edges {
        let log = edge.log();
        assert!(!log.contains("NATS is lost"), "{what}: {log}");
        assert!(edge.is_ready().await, "{what}");
    }
    thief
}

/// Waits until each edge reports one of `reasons` for clock-0, and asserts that it does so for no
/// other clock: in /status, in the metric and in a bounded number of lines of the log.
async fn accuse(cluster: &Cluster, reasons: &[&str]) {
    for edge in &cluster.edges {
        let mut named = None;
        let what = format!("{reasons:?} of clock-0");
        let accuses = async || {
            for reason in reasons {
                if accused(edge, reason).await == BTreeSet::from(["clock-0".to_owned()]) {
                    named = Some((*reason).to_owned());
                }
            }
            named.is_some()
        };
        eventually(&what, SETTLING, accuses).await;
        let reason = named.unwrap();
        for (clock, value) in CLOCKS.into_iter().zip([1.0, 0.0, 0.0]) {
            let metric =
                format!(r#"tickstorm_time_clock_alarm{{clock="{clock}",reason="{reason}"}}"#);
            assert_eq!(edge.metric(&metric).await, value, "{metric}");
        }
        let log = edge.log();
        let lines = log
            .lines()
            .filter(|line| line.contains(&reason) && line.contains("clock-0"));
        assert!((1..=20).contains(&lines.count()), "{reason}: {log}");
        for other in &CLOCKS[1..] {
            let lines = log
                .lines()
                .filter(|line| line.contains("reason") && line.contains(other));
            assert_eq!(lines.count(), 0, "{other}: {log}");
        }
    }
}

/// Returns the clocks for which an edge's /status has this alarm.
async fn accused(edge: &Daemon, reason: &str) -> BTreeSet<String> {
    let status = edge.status().await;
    let alarms = status["alarms"].as_array().unwrap();
    let alarm = alarms.iter().find(|alarm| alarm["reason"] == reason);
    let clocks = alarm.and_then(|alarm| alarm["clocks"].as_array());
    let name = |clock: &serde_json::Value| clock.as_str().unwrap().to_owned();
    clocks.into_iter().flatten().map(name).collect()
}

/// Returns a function that tells whether less than [`ATTACK`] has passed since this call.
fn attack_lasts() -> impl Fn() -> bool {
    let start: Mono = SystemClock.now();
    move || SystemClock.now().since(start) < ATTACK
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_clocks_login_nobody_can_lead_edges_astray_or_go_unnoticed() {
    let cluster = cluster().await;
    let observers = Observers::start(&cluster.edges[0].client().reconnect(false));
    let other = Observer::start("other edge", cluster.edges[1].client().reconnect(false));
    observers.await_first_ticks().await;
    other.await_total(1).await;
    let mut thief = FalseClock::steal(&cluster.nats[0]).await;
    for (what, attack, reasons) in FalseClock::ATTACKS {
        thief = withstand(&observers, &cluster, what, thief, attack).await;
        accuse(&cluster, reasons).await;
    }
    let errors = thief.intruder.errors().concat();
    assert!(
        errors.contains("Permissions Violation for Publish"),
        "{errors}"
    );
    drop(thief);

    // The alarms end, and the clock is used again.
    for edge in &cluster.edges {
        let recovered = async || {
            let status = edge.status().await;
            let follows = edge.following().await.as_deref() == Some("clock-0");
            follows && status["alarms"].as_array().unwrap().is_empty()
        };
        eventually("the alarms end", PATIENCE, recovered).await;
    }
    observers.finish();
    other.finish(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_edges_login_nobody_can_announce_or_answer_or_cost_another_edge_a_round() {
    let cluster = cluster().await;
    let observers = Observers::start(&cluster.edges[0].client().reconnect(false));
    observers.await_first_ticks().await;
    let probe = Rounds::start(&cluster.nats[0]);
    let mut thief = FalseEdge::steal(&cluster.nats[0]).await;
    thief.assert_refused().await;
    for (what, attack) in FalseEdge::ATTACKS {
        thief = withstand(&observers, &cluster, what, thief, attack).await;
    }
    let (rounds, answers) = probe.finish().await;
    assert!(rounds >= 40, "{rounds} rounds");
    assert_eq!(
        answers, [rounds; 3],
        "answers of each clock in {rounds} rounds"
    );
    for clock in &cluster.clocks {
        let log = clock.log();
        assert!(!log.contains("NATS is lost"), "{log}");
        for reason in ["overloaded", "rate_limited", "foreign_reply", "malformed"] {
            let metric = format!("tickstorm_clock_bus_dropped_total{{reason=\"{reason}\"}}");
            let dropped = clock.metric(&metric).await;
            println!("{metric} {dropped}");
            assert!(dropped > 100.0, "{metric} is {dropped}");
        }
    }
    observers.plain().await_quality(Quality::Normal, 3).await;
    observers.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn made_up_clocks_have_no_vote() {
    let mut cluster = Cluster::new(vec![Nats::run(&[])], 3, 1, &[]);
    cluster.start().await;
    let observers = cluster.observers_without_reconnect();
    observers.await_first_ticks().await;
    let thief = FalseClock::without_login(&cluster.nats[0]);
    withstand(
        &observers,
        &cluster,
        "nine made-up clocks",
        thief,
        FalseClock::invent_clocks,
    )
    .await;
    let edge = &cluster.edges[0];
    let dropped = edge
        .metric(r#"tickstorm_bus_dropped_total{reason="unknown_clock"}"#)
        .await;
    assert!(dropped >= 9.0 * 5.0, "{dropped}");
    let status = edge.status().await;
    assert_eq!(status["clocks"].as_array().unwrap().len(), 3, "{status}");
    assert_eq!(status["alarms"].as_array().unwrap().len(), 0, "{status}");
    observers.finish();
}
