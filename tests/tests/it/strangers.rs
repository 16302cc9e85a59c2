//! Whoever may publish on NATS and should not: whatever comes on the subjects and in the inboxes is dropped, counted by its reason, and
//! does no harm to clients, processes and their memory.

use async_nats::Client;
use futures_util::StreamExt as _;
use tickstorm_bus::message::{
    MESSAGE_BYTES_MAX, decode_request, encode_announcement, encode_reply, encode_request,
};
use tickstorm_client::{Epoch, Mode, Quality};
use tickstorm_testkit::Nats;
use tickstorm_timebase::{Announcement, Reply};
use tokio::time::timeout;

use crate::support::cluster::Cluster;
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::witness::now_us;
use crate::tickstorm::PATIENCE;

const SECOND: &str = "tickstorm.v1.tick.second";
const MINUTE: &str = "tickstorm.v1.tick.minute";
const TIME: &str = "tickstorm.v1.time";

/// How often each message is sent whose drops are counted.
const TIMES: u32 = 3;
/// How often all of them are sent together, as fast as the server takes them.
const FLOOD: u32 = 2_000;
/// What a process may hold more after a flood than before.
const GROWTH_MAX: u64 = 64 << 20;

const EDGE_DROPS: &str = "tickstorm_bus_dropped_total";
const CLOCK_DROPS: &str = "tickstorm_clock_bus_dropped_total";

/// A message, and why it is dropped.
struct Message {
    subject: String,
    reply_to: Option<String>,
    payload: Vec<u8>,
    reason: &'static str,
}

fn message(subject: &str, payload: Vec<u8>, reason: &'static str) -> Message {
    Message {
        subject: subject.to_owned(),
        reply_to: None,
        payload,
        reason,
    }
}

/// A clock's word about the tick that is due `ahead_ms` after the next full minute, which both grids have.
fn announcement(mode: Mode, clock_id: &str, ahead_ms: i64) -> Vec<u8> {
    let now_us = now_us();
    let minute_ms = (now_us / 60_000_000 + 1) * 60_000;
    encode_announcement(&Announcement {
        mode,
        epoch: Epoch::from_ms(minute_ms + ahead_ms),
        clock_id: clock_id.parse().unwrap(),
        rank: 0,
        sent_unix_us: now_us,
        timeline: 1,
    })
}

/// What edges drop of the ticks' subjects.
fn announcements() -> Vec<Message> {
    let year_ms = 366 * 86_400_000;
    let mut messages = Vec::new();
    for (subject, mode, other) in [
        (SECOND, Mode::Second, Mode::Minute),
        (MINUTE, Mode::Minute, Mode::Second),
    ] {
        let nameless = [0x08, u8::from(mode == Mode::Minute)].to_vec();
        messages.extend([
            message(subject, b"what time is it?".to_vec(), "malformed"),
            message(subject, nameless, "malformed"),
            message(subject, vec![0; MESSAGE_BYTES_MAX + 1], "oversized"),
            message(subject, announcement(other, "clock-0", 0), "wrong_subject"),
            message(subject, announcement(mode, "clock-0", 1), "off_grid"),
            message(
                subject,
                announcement(mode, "clock-0", year_ms),
                "too_far_ahead",
            ),
            message(
                subject,
                announcement(mode, "mallory", -600_000),
                "unknown_clock",
            ),
        ]);
    }
    messages.push(message(SECOND, Vec::new(), "malformed"));
    messages.push(message(MINUTE, Vec::new(), "wrong_subject"));
    messages
}

/// What clocks drop of the requests' subject.
fn requests() -> Vec<Message> {
    let asking = |reply_to: &str, payload, reason| Message {
        reply_to: Some(reply_to.to_owned()),
        ..message(TIME, payload, reason)
    };
    vec![
        message(TIME, encode_request(1), "malformed"),
        asking(SECOND, encode_request(2), "malformed"),
        asking("_INBOX.x", b"what time is it?".to_vec(), "malformed"),
        asking("_INBOX.x", vec![0; MESSAGE_BYTES_MAX + 1], "oversized"),
    ]
}

fn reply(nonce: u64, clock_id: &str) -> Vec<u8> {
    let hour_ahead = now_us() + 3_600_000_000;
    encode_reply(&Reply {
        nonce,
        clock_id: clock_id.parse().unwrap(),
        rank: 0,
        received_unix_us: hour_ahead,
        sent_unix_us: hour_ahead,
        clock_error_us: 0,
        synchronized: true,
        timeline: 1,
    })
}

#[tokio::test]
async fn what_strangers_publish_is_dropped_counted_by_reason_and_harmless() {
    let mut cluster = Cluster::new(vec![Nats::run(&[])], 1, 1, &[]);
    cluster.start().await;
    let audience = cluster.steadfast_audience();
    audience.is_there().await;
    let stranger = Box::pin(async_nats::connect(cluster.nats[0].url()));
    let stranger = stranger.await.unwrap();
    let (edge, clock) = (&cluster.edges[0], &cluster.clocks[0]);
    let memory = [edge.memory_peak(), clock.memory_peak()];

    each_is_counted(&stranger, edge, EDGE_DROPS, &announcements()).await;
    each_is_counted(&stranger, clock, CLOCK_DROPS, &requests()).await;
    let (nonce, inbox) = overheard(&stranger).await;
    let answers = [
        message(&inbox, b"late".to_vec(), "malformed"),
        message(&inbox, vec![0; MESSAGE_BYTES_MAX + 1], "oversized"),
        message(&inbox, reply(!nonce, "clock-0"), "unknown_request"),
    ];
    each_is_counted(&stranger, edge, EDGE_DROPS, &answers).await;
    // A valid answer of a clock that has no vote: it comes in time or too late.
    publish(&stranger, &message(&inbox, reply(nonce, "mallory"), "")).await;
    // As large as the server lets through.
    let largest = stranger.server_info().max_payload;
    for subject in [SECOND, MINUTE, TIME] {
        publish(&stranger, &message(subject, vec![0; largest], "oversized")).await;
    }

    for round in 0..FLOOD {
        for message in announcements().iter().chain(&requests()).chain(&answers) {
            publish(&stranger, message).await;
        }
        if round % 100 == 0 {
            stranger.flush().await.unwrap();
        }
    }
    stranger.flush().await.unwrap();

    audience.plain().sees_quality(Quality::Normal, 3).await;
    let status = edge.status().await;
    let known: Vec<_> = status["clocks"].as_array().unwrap().iter().collect();
    assert!(known.len() == 1 && known[0]["id"] == "clock-0", "{known:?}");
    assert_eq!(known[0]["state"], "accepted", "{known:?}");
    assert!(edge.is_ready().await && clock.is_ready().await);
    for (daemon, before) in [edge, clock].into_iter().zip(memory) {
        let after = daemon.memory_peak();
        assert!(after < before + GROWTH_MAX, "{before}, then {after} bytes");
        println!("memory: {before}, at most {after} bytes");
    }
    audience.testify();
}

/// Sends each message some times, and waits until its drops stand at the admin port.
async fn each_is_counted(stranger: &Client, daemon: &Daemon, metric: &str, messages: &[Message]) {
    for message in messages {
        let Message {
            subject, reason, ..
        } = message;
        let before = dropped(daemon, metric, reason).await;
        for _ in 0..TIMES {
            publish(stranger, message).await;
        }
        stranger.flush().await.unwrap();
        let expected = before + f64::from(TIMES);
        let what = format!("{metric} counts {TIMES} more {reason} of {subject}");
        let counted = async || dropped(daemon, metric, reason).await >= expected;
        eventually(&what, PATIENCE, counted).await;
        let after = dropped(daemon, metric, reason).await;
        assert!(after < expected + 0.5, "{after}, not {expected}: {what}");
    }
}

/// A metric that has no such reason yet counts as 0.
async fn dropped(daemon: &Daemon, metric: &str, reason: &str) -> f64 {
    let (code, body) = daemon.get("/metrics").await.unwrap();
    assert_eq!(code, 200, "{body}");
    let name = format!(r#"{metric}{{reason="{reason}"}} "#);
    let value = body.lines().find_map(|line| line.strip_prefix(&name));
    value.map_or(0.0, |value| value.parse().unwrap())
}

/// The nonce of an edge's request, and where it wants the answer: a stranger who may subscribe hears it.
async fn overheard(stranger: &Client) -> (u64, String) {
    let mut requests = stranger.subscribe(TIME).await.unwrap();
    let request = timeout(PATIENCE, requests.next()).await.unwrap().unwrap();
    let nonce = decode_request(&request.payload).unwrap();
    (nonce, request.reply.unwrap().to_string())
}

async fn publish(stranger: &Client, message: &Message) {
    let (subject, payload) = (message.subject.clone(), message.payload.clone().into());
    let published = match message.reply_to.clone() {
        Some(inbox) => stranger.publish_with_reply(subject, inbox, payload).await,
        None => stranger.publish(subject, payload).await,
    };
    published.unwrap();
}
