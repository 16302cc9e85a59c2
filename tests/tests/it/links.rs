//! Connections to NATS that are open and bring nothing, and daemons that are stopped for a while.
//! The daemon that is affected says so, finds another server by itself, and costs no client a tick.

use std::time::Duration;

use serde_json::Value;
use tickstorm_client::Quality;
use tickstorm_testkit::{Nats, Peer};
use tickstorm_timebase::Mode;

use crate::support::cluster::{Cluster, SETTLING};
use crate::support::daemon::{Daemon, PASSWORD, USER};
use crate::support::eventually;
use crate::support::observer::now_us;
use crate::tickstorm::PATIENCE;

/// Returns the reasons of the alarms in a daemon's /status.
async fn alarms(daemon: &Daemon) -> Vec<String> {
    let status = daemon.status().await;
    let alarms = status["alarms"].as_array().unwrap();
    let reason = |alarm: &Value| alarm["reason"].as_str().unwrap().to_owned();
    alarms.iter().map(reason).collect()
}

async fn await_alarm(daemon: &Daemon, reason: &str) {
    let is_raised = async || alarms(daemon).await.iter().any(|one| one == reason);
    eventually(&format!("the alarm {reason}"), PATIENCE, is_raised).await;
    let series = format!("tickstorm_nats_alarm{{reason=\"{reason}\"}}");
    let is_counted = async || daemon.metric(&series).await == 1.0;
    eventually(&series, PATIENCE, is_counted).await;
}

async fn await_no_alarm(daemon: &Daemon, reason: &str) {
    let is_over = async || alarms(daemon).await.iter().all(|one| one != reason);
    eventually(&format!("no alarm {reason}"), PATIENCE, is_over).await;
}

/// Asserts what the metrics of a daemon say of its connection to this server, which is not its
/// first one if it `has_changed`.
async fn assert_connected(daemon: &Daemon, server: &Nats, has_changed: bool) {
    assert_eq!(daemon.metric("tickstorm_nats_connected").await, 1.0);
    let address = server.address();
    let server = format!("tickstorm_nats_server_info{{server=\"{address}\"}}");
    assert_eq!(daemon.metric(&server).await, 1.0);
    let connects = daemon.metric("tickstorm_nats_connects_total").await;
    let disconnects = daemon.metric("tickstorm_nats_disconnects_total").await;
    assert_eq!(connects, disconnects + 1.0);
    assert_eq!(connects > 1.0, has_changed, "{connects}");
}

/// Asserts that a daemon has measured how long its messages take.
async fn assert_round_trips(daemon: &Daemon, message: &str) {
    let of =
        |part: &str| format!("tickstorm_bus_round_trip_seconds_{part}{{message=\"{message}\"}}");
    let is_counted = async || daemon.metric(&of("count")).await > 0.0;
    eventually("a round trip is counted", PATIENCE, is_counted).await;
    assert!(daemon.metric(&of("sum")).await > 0.0);
}

async fn silent_links(daemon: &Daemon) -> f64 {
    daemon.metric("tickstorm_nats_silent_links_total").await
}

async fn await_server(daemon: &Daemon, server: &Nats) {
    let is_on = async || daemon.status().await["nats_link"]["server"] == server.address();
    eventually("the daemon is on that server", PATIENCE, is_on).await;
}

/// Counts the lines of a daemon's log that contain all of these texts.
fn lines_with(daemon: &Daemon, texts: &[&str]) -> usize {
    let log = daemon.log();
    let has_all = |line: &&str| texts.iter().all(|text| line.contains(text));
    log.lines().filter(has_all).count()
}

#[tokio::test]
async fn an_edge_that_starts_on_an_isolated_server_finds_the_clocks_on_another_one() {
    let (isolated, good) = (Nats::run(&[]), Nats::create(&[]));
    let urls = format!("{},{}", isolated.url(), good.url());
    let mut clock = Daemon::clock("clock-0", &good.url());
    let mut edge = Daemon::edge("edge-0", &urls).with("CLOCKS", "clock-0");
    edge.start().await;
    await_server(&edge, &isolated).await;
    clock.start().await;
    await_alarm(&edge, "nats_silent").await;
    good.start();
    let is_ready = async || edge.is_ready().await;
    eventually("the edge knows the time", PATIENCE, is_ready).await;
    await_server(&edge, &good).await;
    await_no_alarm(&edge, "nats_silent").await;
    assert!(silent_links(&edge).await >= 1.0);
    let address = isolated.address();
    let warned = lines_with(
        &edge,
        &["no clock of CLOCKS answers over this connection", &address],
    );
    assert_eq!(warned, 1, "{}", edge.log());
    edge.logs("clocks are heard over NATS again").await;
    let is_ready = async || clock.is_ready().await;
    eventually("the clock hears itself", PATIENCE, is_ready).await;
    assert_eq!(silent_links(&clock).await, 0.0);
    assert_connected(&clock, &good, false).await;
    assert_connected(&edge, &good, true).await;
    assert_round_trips(&clock, "announcement").await;
    assert_round_trips(&edge, "request").await;
    for daemon in [&clock, &edge] {
        assert_eq!(daemon.metric("tickstorm_ready").await, 1.0);
    }
    let of_clock = r#"tickstorm_time_clock_followed{clock="clock-0"}"#;
    assert_eq!(edge.metric(of_clock).await, 1.0);
    let of_clock = r#"tickstorm_time_clock_state{clock="clock-0",state="accepted"}"#;
    assert_eq!(edge.metric(of_clock).await, 1.0);
}

#[tokio::test]
async fn an_edge_that_falls_back_to_an_isolated_server_returns_without_losing_a_tick() {
    let nats = vec![Nats::run(&[]), Nats::create(&[])];
    let mut cluster = Cluster::new(nats, 1, 1, &[]);
    cluster.clocks[0].set("NATS_URL", &cluster.nats[0].url());
    cluster.start().await;
    let observers = cluster.observers_without_reconnect();
    observers.await_first_ticks().await;
    let edge = &cluster.edges[0];
    cluster.nats[0].kill();
    cluster.nats[1].start();
    await_server(edge, &cluster.nats[1]).await;
    cluster.nats[0].start();
    await_server(edge, &cluster.nats[0]).await;
    cluster.settled().await;
    observers.plain().await_quality(Quality::Normal, 2).await;
    assert!(silent_links(edge).await >= 1.0);
    let address = cluster.nats[1].address();
    let warned = lines_with(
        edge,
        &["no clock of CLOCKS answers over this connection", &address],
    );
    assert_eq!(warned, 1, "{}", edge.log());
    observers.finish();
}

const CONFIG: &str = "/nats.conf";

/// Returns a configuration in which the user of the clock may subscribe to `clock`, and that of the
/// edge to `edge`.
fn config(clock: &str, edge: &str) -> String {
    let all = r#"">""#;
    config_of((all, clock), (all, edge))
}

/// Returns a configuration in which the users of the clock and of the edge may publish to, and
/// subscribe to, these subjects.
fn config_of(clock: (&str, &str), edge: (&str, &str)) -> String {
    let user = |user, password, (publish, subscribe)| {
        let permissions = format!(r#"{{publish: [{publish}], subscribe: [{subscribe}]}}"#);
        format!("{{user: {user}, password: {password}, permissions: {permissions}}}")
    };
    let (clock, edge) = (user("clock-0", "clock", clock), user("edge", "edge", edge));
    format!("authorization {{ users: [{clock}, {edge}] }}")
}

const CLOCK_SUBJECTS: &str = r#""tickstorm.v1.time", "tickstorm.v1.tick.*.clock-0""#;
const EDGE_SUBJECTS: &str = r#""tickstorm.v1.tick.*.*", "tickstorm.v1.answer.*.*""#;
/// No subject that anyone subscribes to.
const NONE: &str = r#""other""#;

/// Returns a cluster of a clock and an edge, with a login for each, that is not started yet.
fn with_logins(config: &str) -> Cluster {
    let nats = Nats::create(&["--config", CONFIG]).with_file(CONFIG, config);
    nats.start();
    let mut cluster = Cluster::new(vec![nats], 1, 1, &[]);
    cluster.clocks[0].set("NATS_USER", "clock-0");
    cluster.clocks[0].set("NATS_PASSWORD", "clock");
    cluster.edges[0].set("NATS_USER", "edge");
    cluster.edges[0].set("NATS_PASSWORD", "edge");
    cluster
}

#[tokio::test]
async fn a_permission_that_is_taken_away_and_given_back_costs_no_tick() {
    let good = config(CLOCK_SUBJECTS, EDGE_SUBJECTS);
    let mut cluster = with_logins(&good);
    cluster.start().await;
    let observers = cluster.observers_without_reconnect();
    observers.await_first_ticks().await;
    let edge = &cluster.edges[0];
    for edge_subjects in [NONE, r#""tickstorm.v1.tick.*.*""#] {
        cluster.nats[0].reload(CONFIG, &config(CLOCK_SUBJECTS, edge_subjects));
        await_alarm(edge, "nats_refused").await;
        await_alarm(edge, "nats_silent").await;
        cluster.nats[0].reload(CONFIG, &good);
        await_no_alarm(edge, "nats_silent").await;
        await_no_alarm(edge, "nats_refused").await;
        cluster.settled().await;
    }
    observers.plain().await_quality(Quality::Normal, 2).await;
    observers.finish();
}

#[tokio::test]
async fn a_clock_whose_subscription_is_refused_is_not_ready_and_says_so() {
    let mut cluster = with_logins(&config(CLOCK_SUBJECTS, EDGE_SUBJECTS));
    cluster.start().await;
    let clock = &cluster.clocks[0];
    assert!(clock.is_ready().await);
    for (subjects, reason) in [
        (
            r#""tickstorm.v1.tick.*.clock-0""#,
            "NATS refuses the subscription to tickstorm.v1.time",
        ),
        (
            r#""tickstorm.v1.time""#,
            "the clock's own announcements do not come back from NATS",
        ),
    ] {
        cluster.nats[0].reload(CONFIG, &config(subjects, EDGE_SUBJECTS));
        await_alarm(clock, "nats_refused").await;
        let is_told = async || {
            let (code, reasons) = clock.get("/health/ready").await.unwrap();
            code == 503 && reasons.contains(reason)
        };
        eventually(reason, PATIENCE, is_told).await;
        assert!(clock.is_live().await);
        assert!(lines_with(clock, &["Permissions Violation for Subscription"]) >= 1);
        let good = config(CLOCK_SUBJECTS, EDGE_SUBJECTS);
        cluster.nats[0].reload(CONFIG, &good);
        let is_ready = async || clock.is_ready().await;
        eventually("the clock is ready again", PATIENCE, is_ready).await;
        await_no_alarm(clock, "nats_refused").await;
    }
}

#[tokio::test]
async fn daemons_whose_messages_are_refused_say_so_and_such_a_clock_is_not_ready() {
    let answers = r#""tickstorm.v1.answer.*.clock-0""#;
    let ticks = r#""tickstorm.v1.tick.*.clock-0""#;
    let (both, requests) = (format!("{answers}, {ticks}"), r#""tickstorm.v1.time""#);
    let publishing = |clock: &str, edge| config_of((clock, CLOCK_SUBJECTS), (edge, EDGE_SUBJECTS));
    let good = publishing(&both, requests);
    let mut cluster = with_logins(&good);
    cluster.start().await;
    let (clock, edge) = (&cluster.clocks[0], &cluster.edges[0]);
    for (bad, daemon, subject) in [
        (
            publishing(ticks, requests),
            clock,
            "tickstorm.v1.answer.*.clock-0",
        ),
        (
            publishing(answers, requests),
            clock,
            "tickstorm.v1.tick.second.clock-0",
        ),
        (publishing(&both, NONE), edge, "tickstorm.v1.time"),
    ] {
        cluster.nats[0].reload(CONFIG, &bad);
        await_alarm(daemon, "nats_refused").await;
        let is_told = async || {
            let refused = &daemon.status().await["nats_link"]["refused_publishes"];
            let refused = refused.as_array().expect("a list").iter();
            refused.into_iter().any(|one| one["subject"] == subject)
        };
        eventually(subject, PATIENCE, is_told).await;
        let (code, reasons) = clock.get("/health/ready").await.unwrap();
        let is_clocks = std::ptr::eq(daemon, clock);
        assert_eq!(code == 503, is_clocks, "{reasons}");
        let reason = format!("NATS refuses what the clock sends to {subject}");
        assert_eq!(reasons.contains(&reason), is_clocks, "{reasons}");
        assert!(daemon.is_live().await);
        let count = |text: &str| lines_with(daemon, &[text, subject]);
        assert_eq!(
            count("NATS refuses what this process publishes"),
            1,
            "{}",
            daemon.log()
        );
        cluster.nats[0].reload(CONFIG, &good);
        await_no_alarm(daemon, "nats_refused").await;
        cluster.settled().await;
        assert!(clock.is_ready().await);
    }
}

/// Sends heartbeats for a while, and asserts that each answer's time is right to within its error
/// bound. Returns how many answers had a time.
async fn assert_true_times(peer: &mut Peer, pongs: usize) -> usize {
    let mut known = 0;
    for _ in 0..pongs {
        let before_us = now_us();
        peer.heartbeat(before_us).await;
        let pong = loop {
            let frame = peer.expect_frame().await;
            if frame.kind == tickstorm_testkit::frame::PONG {
                break frame.decode::<tickstorm_protocol::message::Pong>();
            }
        };
        let after_us = now_us();
        if pong.sent_unix_us == 0 {
            assert_eq!(pong.error_bound_us, u32::MAX, "{pong:?}");
        } else {
            known += 1;
            // The clock reads the clock of this host, with an error of microseconds.
            let bound_us = i64::from(pong.error_bound_us) + 100;
            let range = before_us - bound_us..=after_us + bound_us;
            assert!(
                range.contains(&pong.sent_unix_us),
                "{pong:?} not in {range:?}"
            );
        }
        tokio::time::sleep(Duration::from_millis(120)).await;
    }
    known
}

/// An edge that is stopped for longer than its samples count, and, the second time, also for longer
/// than HOLDOVER_MAX.
#[tokio::test]
async fn an_edge_that_was_stopped_sends_no_wrong_time_and_every_tick() {
    for holdover_max in ["60s", "5s"] {
        let settings = [("HOLDOVER_MAX", holdover_max)];
        let mut cluster = Cluster::new(vec![Nats::run(&[])], 1, 1, &settings);
        cluster.start().await;
        let edge = &cluster.edges[0];
        let observers = cluster.observers_without_reconnect();
        observers.await_first_ticks().await;
        let mut peer = Peer::connect(edge.clients()).await;
        peer.enter(USER, PASSWORD, Mode::Second).await;
        assert_eq!(assert_true_times(&mut peer, 3).await, 3);
        edge.pause();
        tokio::time::sleep(Duration::from_secs(12)).await;
        edge.unpause();
        let known = assert_true_times(&mut peer, 30).await;
        assert!(known > 0);
        cluster.settled().await;
        observers.plain().await_quality(Quality::Normal, 3).await;
        observers.finish();
        assert_eq!(silent_links(edge).await, 0.0, "{}", edge.log());
    }
}

#[tokio::test]
async fn a_clock_that_was_stopped_keeps_its_connection_and_is_ready_again() {
    let mut cluster = Cluster::new(vec![Nats::run(&[])], 1, 1, &[]);
    cluster.start().await;
    let clock = &cluster.clocks[0];
    clock.pause();
    tokio::time::sleep(Duration::from_secs(12)).await;
    clock.unpause();
    let is_ready = async || clock.is_ready().await;
    eventually("the clock is ready", SETTLING, is_ready).await;
    cluster.settled().await;
    assert_eq!(silent_links(clock).await, 0.0, "{}", clock.log());
}
