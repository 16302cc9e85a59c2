//! An edge whose password is outdated: it refuses clients that log in elsewhere, and says so.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tickstorm_testkit::{Peer, PeerOptions, frame};

use crate::support::daemon::{Daemon, PASSWORD, USER};
use crate::support::eventually;

const ALARM: &str = r#"tickstorm_auth_alarm{reason="logins_refused"}"#;
/// The log is summarised, and the alarm ends, within a minute. The rest is for a busy machine.
const TIME_MAX: Duration = Duration::from_secs(150);

#[tokio::test]
async fn an_edge_that_refuses_most_logins_raises_an_alarm_and_names_the_users_once_a_minute() {
    let mut edge = Daemon::new("tickstorm-edge")
        .with("AUTH_RATE_LIMIT", "0")
        .with("STREAM_PASS", "an outdated password");
    edge.start().await;
    let before = edge.status().await["reasons"].clone();
    assert_eq!(edge.metric(ALARM).await, 0.0);
    for number in 1..=30 {
        let options = PeerOptions {
            from: Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, number))),
            ..PeerOptions::default()
        };
        let mut peer = Peer::connect_with(edge.clients(), options).await;
        if number <= 28 {
            peer.auth(USER, PASSWORD).await;
        } else {
            peer.auth_token("a token that must not be shown").await;
        }
        peer.expect_refusal("AUTH_FAILED").await;
    }
    let is_raised = async || edge.metric(ALARM).await > 0.0;
    eventually("the alarm is raised", TIME_MAX, is_raised).await;
    let status = edge.status().await;
    let alarms = status["alarms"].as_array().unwrap();
    let alarm = alarms
        .iter()
        .find(|alarm| alarm["reason"] == "logins_refused");
    let message = alarm.unwrap()["message"].as_str().unwrap();
    assert!(
        message.contains("credentials of this edge may be outdated"),
        "{message}"
    );
    assert_eq!(status["logins"]["refused_in_last_minute"], 30);
    assert_eq!(
        status["reasons"], before,
        "it does not make the edge unready"
    );

    let has_ended = async || edge.metric(ALARM).await == 0.0;
    eventually("the alarm ends", TIME_MAX, has_ended).await;
    let ended = "the login alarm has ended";
    eventually(ended, TIME_MAX, async || edge.log().contains(ended)).await;
    let is_summarised = async || edge.log().contains("logins were refused within");
    eventually("the refused logins are summarised", TIME_MAX, is_summarised).await;
    let log = edge.log();
    assert_eq!(
        log.matches("logins were refused within").count(),
        1,
        "{log}"
    );
    let summary = log
        .lines()
        .find(|line| line.contains("logins were refused within"));
    let summary = summary.unwrap();
    for part in [
        r#""refused":30"#,
        r#""addresses":30"#,
        r#""with_token":2"#,
        "'ada': 28",
        "WARN",
    ] {
        assert!(summary.contains(part), "{part} in {summary}");
    }
    for secret in [PASSWORD, "an outdated password", "a token that must"] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[tokio::test]
async fn an_edge_that_accepts_logins_raises_no_alarm() {
    let mut edge = Daemon::new("tickstorm-edge");
    edge.start().await;
    for _ in 0..30 {
        let mut peer = Peer::connect(edge.clients()).await;
        peer.auth(USER, PASSWORD).await;
        peer.expect_ack(frame::AUTH).await;
    }
    let status = edge.status().await;
    assert_eq!(status["logins"]["judged_in_last_minute"], 30);
    assert_eq!(status["logins"]["refused_in_last_minute"], 0);
    assert_eq!(edge.metric(ALARM).await, 0.0);
}
