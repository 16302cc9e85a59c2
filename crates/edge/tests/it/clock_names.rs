//! Names in CLOCKS that are no clock's.

use tickstorm_testkit::poll_until_async;
use tickstorm_timebase::TimekeeperConfig;

use crate::support::{SOON, TestEdge, config};

#[tokio::test]
async fn a_misspelt_name_in_clocks_is_an_alarm_with_a_sentence_and_a_metric() {
    let plain = config();
    let mut edge = TestEdge::start_without_clock(tickstorm_edge::Config {
        time: TimekeeperConfig {
            clocks: vec!["clokc".parse().unwrap()],
            ..plain.time
        },
        ..plain
    })
    .await;
    // Its id is not that name, so that the edge drops its messages.
    edge.start_clock();
    let health = edge.edge.health();
    assert_eq!(health.status()["alarms"].as_array().unwrap().len(), 0);
    poll_until_async("the alarm is raised", SOON, || {
        health.status()["alarms"][0]["reason"] == "unheard"
    })
    .await;
    let alarm = &health.status()["alarms"][0];
    assert_eq!(alarm["clocks"], serde_json::json!(["clokc"]));
    let message = alarm["message"].as_str().unwrap();
    assert!(message.contains("its name is misspelt."), "{message}");
    edge.metric_reaches("tickstorm_time_clock_alarm", "unheard", 1.0)
        .await;
    edge.metric_reaches("tickstorm_time_alarm", "unheard", 1.0)
        .await;
    edge.stop().await;
}
