use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tickstorm_bus::{LinkReport, RefusedPublish};
use tickstorm_clock::Replica;

use crate::{Cluster, RunningClock, config};

#[tokio::test(start_paused = true)]
async fn a_clock_is_ready_while_it_is_connected() {
    let mut cluster = Cluster::new(0).await;
    let clock = cluster.start("clock-0");
    let health = clock.replica.health();
    assert_eq!(
        health.ready().len(),
        1,
        "the clock has not been notified of its connection yet"
    );
    cluster.hear(Duration::from_millis(10)).await;
    assert_eq!(health.ready(), [""; 0]);
    cluster.bus.cut("clock-0");
    cluster.hear(Duration::from_millis(10)).await;
    assert_eq!(health.ready().len(), 1);
    assert_eq!(clock.status("id"), "clock-0");
}

#[tokio::test(start_paused = true)]
async fn a_clock_is_alive_while_its_loop_turns_connected_or_not() {
    let mut cluster = Cluster::new(0).await;
    let clock = cluster.start("clock-0");
    let health = clock.replica.health();
    cluster.bus.cut("clock-0");
    cluster.hear(Duration::from_secs(60)).await;
    assert_eq!(health.live(), [""; 0]);
    clock.replica.stop().await;
    cluster.hear(Duration::from_secs(9)).await;
    assert_eq!(health.live(), [""; 0]);
    cluster.hear(Duration::from_secs(2)).await;
    assert_eq!(health.live().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_does_not_hear_itself_is_not_ready_and_says_so() {
    let mut cluster = Cluster::new(0).await;
    let clock = cluster.start("clock-0");
    let health = clock.replica.health();
    cluster.hear(Duration::from_millis(10)).await;
    assert_eq!(health.ready(), [""; 0]);
    let reasons = |clock: &RunningClock| {
        let alarms = clock.status("alarms");
        let alarms = alarms.as_array().expect("a list");
        let reason = |alarm: &Value| alarm["reason"].as_str().expect("a reason").to_owned();
        alarms.iter().map(reason).collect::<Vec<_>>()
    };
    // At the start, or after a reconnect, its first announcement is still on its way.
    let mut report = LinkReport {
        server: Some("nats:4222".to_owned()),
        ..LinkReport::default()
    };
    cluster.bus.set_link_report("clock-0", report.clone());
    let deaf = "the clock's own announcements do not come back from NATS";
    assert_eq!(health.ready(), [deaf]);
    assert!(!reasons(&clock).contains(&"nats_silent".to_owned()));
    report.is_silent = true;
    cluster.bus.set_link_report("clock-0", report.clone());
    assert_eq!(health.ready(), [deaf]);
    assert!(reasons(&clock).contains(&"nats_silent".to_owned()));

    report.is_heard = true;
    report.is_silent = false;
    report.refused = vec!["tickstorm.v1.time".to_owned()];
    cluster.bus.set_link_report("clock-0", report.clone());
    let refused = "NATS refuses the subscription to tickstorm.v1.time";
    assert_eq!(health.ready(), [refused]);
    assert!(reasons(&clock).contains(&"nats_refused".to_owned()));
    assert_eq!(clock.status("nats_link")["refused"][0], "tickstorm.v1.time");
    assert_eq!(health.live(), [""; 0]);

    report.refused.clear();
    report.refused_publishes = vec![RefusedPublish {
        subject: "tickstorm.v1.answer.*.clock-0".to_owned(),
        ago: Duration::from_millis(1_500),
    }];
    cluster.bus.set_link_report("clock-0", report);
    let refused = "NATS refuses what the clock sends to tickstorm.v1.answer.*.clock-0";
    assert_eq!(health.ready(), [refused]);
    assert!(reasons(&clock).contains(&"nats_refused".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_registry_serves_one_clock() {
    let cluster = Cluster::new(0).await;
    let clock = cluster.start("clock-0");
    let link = Arc::new(cluster.bus.link("clock-1"));
    assert!(Replica::start(config("clock-1"), link, &clock.registry).is_err());
}
