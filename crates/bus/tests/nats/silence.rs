//! Connections that are open and bring nothing: servers that no clock is on, and permissions that
//! are missing or taken away.

use std::sync::Arc;
use std::time::Duration;

use tickstorm_bus::{Bus, ClockEvent, NatsBus, NatsOptions};
use tickstorm_testkit::{Nats, poll_until_async};

use crate::{PATIENCE, announcement, id, options, reply, soon};

const CONFIG: &str = "/nats.conf";

/// Returns a configuration in which the user `clock` may subscribe to `clock_subjects`, and the
/// user `edge` to `edge_subjects`.
fn config(clock_subjects: &str, edge_subjects: &str) -> String {
    let all = r#"">""#;
    config_of((all, clock_subjects), (all, edge_subjects))
}

/// Returns a configuration in which the users `clock` and `edge` may publish to, and subscribe to,
/// these subjects.
fn config_of(clock: (&str, &str), edge: (&str, &str)) -> String {
    let user = |name, (publish, subscribe)| {
        format!(
            "{{user: {name}, password: {name}, permissions: {{publish: [{publish}], subscribe: \
             [{subscribe}]}}}}"
        )
    };
    let (clock, edge) = (user("clock", clock), user("edge", edge));
    format!("authorization {{ users: [{clock}, {edge}] }}")
}

/// The subjects of clock-0.
const CLOCK: &str = r#""tickstorm.v1.time", "tickstorm.v1.tick.*.clock-0""#;
const EDGE: &str = r#""tickstorm.v1.tick.*.*", "tickstorm.v1.answer.*.*""#;
/// No subject that anyone subscribes to.
const NONE: &str = r#""other""#;

fn server(config: &str) -> Nats {
    let nats = Nats::create(&["--config", CONFIG]).with_file(CONFIG, config);
    nats.start();
    nats
}

/// Starts a bus that logs in to these servers as `user`.
fn bus_as(user: &str, servers: &[&Nats]) -> NatsBus {
    let urls: Vec<_> = servers.iter().map(|nats| nats.url()).collect();
    let bus = NatsBus::start(NatsOptions {
        urls: urls.join(","),
        user: user.into(),
        password: user.into(),
        ..options(servers[0])
    });
    bus.expect("valid options")
}

/// A task that ends when this is dropped.
struct Task {
    bus: Arc<NatsBus>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers every request as clock-0, and announces a tick each 200 ms.
fn run_clock(servers: &[&Nats]) -> Task {
    let bus = Arc::new(bus_as("clock", servers));
    let clock = Arc::clone(&bus);
    let task = tokio::spawn(async move {
        let mut events = clock.clock_events(&id("clock-0"));
        let mut epoch_ms = 0;
        loop {
            let next = tokio::time::timeout(Duration::from_millis(200), events.next());
            match next.await {
                Ok(Some(ClockEvent::Request { nonce, reply_to })) => {
                    let _ = clock.answer(&reply_to, &reply(nonce, "clock-0"));
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(_) => {
                    epoch_ms += 1_000;
                    let _ = clock.announce(&announcement(epoch_ms));
                }
            }
        }
    });
    Task { bus, task }
}

/// Asks each 200 ms.
fn run_edge(servers: &[&Nats]) -> Task {
    let bus = Arc::new(bus_as("edge", servers));
    let edge = Arc::clone(&bus);
    let task = tokio::spawn(async move {
        let mut events = edge.edge_events(&[]);
        for nonce in 0.. {
            let _ = edge.ask(nonce);
            let listen = async { while events.next().await.is_some() {} };
            let _ = tokio::time::timeout(Duration::from_millis(200), listen).await;
        }
    });
    Task { bus, task }
}

impl Task {
    async fn await_heard(&self) {
        let is_heard = || {
            let report = self.bus.link_report();
            let is_refused = !report.refused.is_empty() || !report.refused_publishes.is_empty();
            report.is_heard && !report.is_silent && !is_refused
        };
        poll_until_async("it is heard", PATIENCE, is_heard).await;
    }

    async fn await_refused(&self, subject: &str) {
        let is_refused = || {
            let refused = self.bus.link_report().refused;
            refused.iter().any(|one| one == subject)
        };
        poll_until_async(subject, PATIENCE, is_refused).await;
    }
}

impl Task {
    /// Waits until exactly the messages on this subject are refused.
    async fn await_refused_publish(&self, subject: &str) {
        let is_refused = || {
            let refused = self.bus.link_report().refused_publishes;
            let subjects: Vec<_> = refused.iter().map(|one| &*one.subject).collect();
            subjects == [subject]
        };
        poll_until_async(subject, PATIENCE, is_refused).await;
    }
}

#[tokio::test]
async fn an_edge_leaves_a_server_that_no_clock_is_on() {
    let isolated = Nats::run(&[]);
    let good = Nats::create(&[]);
    // Only the isolated server runs, so that the edge connects to it.
    let edge = run_edge(&[&isolated, &good]);
    let server = || edge.bus.link_report().server;
    let is_on = |nats: &Nats| server() == Some(nats.address());
    poll_until_async("a connection", PATIENCE, || is_on(&isolated)).await;
    good.start();
    let clock = run_clock(&[&good]);
    edge.await_heard().await;
    clock.await_heard().await;
    assert!(is_on(&good), "{:?}", server());
    // On a busy machine, it may have left either server another time.
    assert!(edge.bus.link_report().silent_links >= 1);
    assert_eq!(clock.bus.link_report().silent_links, 0);
}

#[tokio::test]
async fn a_subscription_of_an_edge_that_is_taken_away_comes_back_with_the_permission() {
    let nats = server(&config(CLOCK, EDGE));
    let (clock, edge) = (run_clock(&[&nats]), run_edge(&[&nats]));
    edge.await_heard().await;
    nats.reload(CONFIG, &config(CLOCK, NONE));
    edge.await_refused("tickstorm.v1.tick.second.*").await;
    let is_silent = || edge.bus.link_report().is_silent;
    poll_until_async("silence", PATIENCE, is_silent).await;
    nats.reload(CONFIG, &config(CLOCK, EDGE));
    edge.await_heard().await;
    assert!(edge.bus.link_report().silent_links >= 1);
    clock.await_heard().await;
}

#[tokio::test]
async fn a_clock_whose_subscription_is_refused_reports_it_until_it_is_accepted() {
    let nats = server(&config(r#""tickstorm.v1.tick.*.clock-0""#, EDGE));
    let (clock, edge) = (run_clock(&[&nats]), run_edge(&[&nats]));
    clock.await_refused("tickstorm.v1.time").await;
    // It hears itself, but no edge hears it.
    let hears_itself = || clock.bus.link_report().is_heard;
    poll_until_async("an echo", PATIENCE, hears_itself).await;
    assert!(!edge.bus.link_report().is_heard);
    nats.reload(CONFIG, &config(CLOCK, EDGE));
    clock.await_heard().await;
    edge.await_heard().await;
}

#[tokio::test]
async fn a_clock_that_cannot_hear_itself_moves_to_a_server_where_it_can() {
    let deaf = server(&config(r#""tickstorm.v1.time""#, EDGE));
    let good = Nats::create(&["--config", CONFIG]).with_file(CONFIG, config(CLOCK, EDGE));
    let clock = run_clock(&[&deaf, &good]);
    clock.await_refused("tickstorm.v1.tick.*.clock-0").await;
    assert!(!clock.bus.link_report().is_heard);
    good.start();
    clock.await_heard().await;
    assert_eq!(clock.bus.link_report().server, Some(good.address()));
    assert!(clock.bus.link_report().silent_links >= 1);
}

#[tokio::test]
async fn an_edge_that_hears_clocks_keeps_its_connection() {
    let nats = server(&config(CLOCK, EDGE));
    let (clock, edge) = (run_clock(&[&nats]), run_edge(&[&nats]));
    edge.await_heard().await;
    assert!(edge.bus.take_echo_times().is_empty(), "it is no clock");
    let mut events = edge.bus.edge_events(&[]);
    let first = soon(events.next()).await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    let report = edge.bus.link_report();
    assert_eq!(report.silent_links, 0, "{report:?} after {first:?}");
    assert!(report.is_heard);
    let times = clock.bus.take_echo_times();
    assert!(times.len() >= 5, "{times:?}");
    assert!(times.iter().all(|time| !time.is_zero()), "{times:?}");
}

/// What clock-0 and an edge publish.
const TICKS: &str = r#""tickstorm.v1.tick.*.clock-0""#;
const ANSWERS: &str = r#""tickstorm.v1.answer.*.clock-0""#;
const REQUESTS: &str = r#""tickstorm.v1.time""#;

#[tokio::test]
async fn a_clock_whose_messages_are_refused_reports_it_until_they_are_accepted() {
    let publishing = |clock| config_of((clock, CLOCK), (REQUESTS, EDGE));
    let both = [TICKS, ANSWERS].join(", ");
    for (permitted, refused) in [
        (TICKS, "tickstorm.v1.answer.*.clock-0"),
        (ANSWERS, "tickstorm.v1.tick.second.clock-0"),
    ] {
        let nats = server(&publishing(permitted));
        let (clock, edge) = (run_clock(&[&nats]), run_edge(&[&nats]));
        clock.await_refused_publish(refused).await;
        let ago = clock.bus.link_report().refused_publishes[0].ago;
        assert!(ago < Duration::from_secs(5), "{ago:?}");
        nats.reload(CONFIG, &publishing(&both));
        clock.await_heard().await;
        edge.await_heard().await;
    }
}

#[tokio::test]
async fn an_edge_whose_requests_are_refused_reports_it_until_they_are_accepted() {
    let clock_publishes = [TICKS, ANSWERS].join(", ");
    let publishing = |edge| config_of((&clock_publishes, CLOCK), (edge, EDGE));
    let nats = server(&publishing(NONE));
    let (clock, edge) = (run_clock(&[&nats]), run_edge(&[&nats]));
    edge.await_refused_publish("tickstorm.v1.time").await;
    let is_silent = || edge.bus.link_report().is_silent;
    poll_until_async("silence", PATIENCE, is_silent).await;
    nats.reload(CONFIG, &publishing(REQUESTS));
    edge.await_heard().await;
    clock.await_heard().await;
}
