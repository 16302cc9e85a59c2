//! A NATS client that may publish although it is neither a clock nor an edge. All of its messages
//! are dropped, are counted by reason, and harm neither clients nor the daemons nor their memory.

use async_nats::Client;
use futures_util::StreamExt as _;
use tickstorm_bus::message::{
    MESSAGE_BYTES_MAX, decode_request, encode_announcement, encode_reply, encode_request,
};
use tickstorm_bus::{ReplyKey, Subjects};
use tickstorm_client::{Epoch, Mode, Quality};
use tickstorm_testkit::Nats;
use tickstorm_timebase::{Announcement, Reply};
use tokio::time::timeout;

use crate::support::cluster::Cluster;
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::observer::now_us;
use crate::tickstorm::PATIENCE;

const SECOND: &str = "tickstorm.v1.tick.second.clock-0";
const MINUTE: &str = "tickstorm.v1.tick.minute.clock-0";
const SECOND_OF_NOBODY: &str = "tickstorm.v1.tick.second.mallory";
const TIME: &str = "tickstorm.v1.time";

/// How often each message is sent while its drops are counted: so rarely that a clock may send
/// them.
const TIMES: u32 = 2;
/// How often all messages are sent in the flood, as fast as the server accepts them.
const FLOOD: u32 = 2_000;
/// The number of bytes by which a process may grow in the flood.
const GROWTH_MAX: u64 = 64 << 20;

const EDGE_DROPS: &str = "tickstorm_bus_dropped_total";
const CLOCK_DROPS: &str = "tickstorm_clock_bus_dropped_total";

/// A message, and the reason why it is dropped.
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

/// Returns an announcement of a tick `ahead_ms` after the next full minute, which is on both grids.
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

/// Returns messages to the subjects of ticks that edges drop.
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
                "foreign_id",
            ),
        ]);
    }
    let of_nobody = announcement(Mode::Second, "mallory", -600_000);
    messages.push(message(SECOND_OF_NOBODY, of_nobody, "unknown_clock"));
    messages.push(message(SECOND, Vec::new(), "malformed"));
    messages.push(message(MINUTE, Vec::new(), "wrong_subject"));
    messages
}

/// Returns messages to the subject of time requests that clocks drop.
fn requests() -> Vec<Message> {
    let request = |reply_to: &str, payload, reason| Message {
        reply_to: Some(reply_to.to_owned()),
        ..message(TIME, payload, reason)
    };
    let (key, other_key) = (ReplyKey::random(), ReplyKey::random());
    let own = &*Subjects::new("tickstorm").reply(key.token());
    vec![
        message(TIME, encode_request(1, &key), "malformed"),
        request(SECOND, encode_request(2, &key), "malformed"),
        request(own, b"what time is it?".to_vec(), "malformed"),
        request(own, vec![0; MESSAGE_BYTES_MAX + 1], "oversized"),
        request(own, encode_request(3, &other_key), "foreign_reply"),
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
async fn messages_of_a_rogue_publisher_are_dropped_counted_by_reason_and_harmless() {
    let mut cluster = Cluster::new(vec![Nats::run(&[])], 1, 1, &[]);
    cluster.start().await;
    let observers = cluster.observers_without_reconnect();
    observers.await_first_ticks().await;
    let rogue = Box::pin(async_nats::connect(cluster.nats[0].url()));
    let rogue = rogue.await.unwrap();
    let (edge, clock) = (&cluster.edges[0], &cluster.clocks[0]);
    let memory = [edge.memory_peak(), clock.memory_peak()];

    assert_counted(&rogue, edge, EDGE_DROPS, &announcements()).await;
    assert_counted(&rogue, clock, CLOCK_DROPS, &requests()).await;
    let (nonce, reply_subject) = overhear_request(&rogue).await;
    let of_clock = &*format!("{reply_subject}.clock-0");
    let of_nobody = &*format!("{reply_subject}.mallory");
    let answers = [
        message(of_clock, b"late".to_vec(), "malformed"),
        message(of_clock, vec![0; MESSAGE_BYTES_MAX + 1], "oversized"),
        message(of_clock, reply(!nonce, "clock-0"), "unknown_request"),
        message(of_clock, reply(nonce, "mallory"), "foreign_id"),
        message(of_nobody, reply(nonce, "mallory"), "unknown_clock"),
    ];
    assert_counted(&rogue, edge, EDGE_DROPS, &answers).await;
    // The largest messages that the server accepts.
    let largest = rogue.server_info().max_payload;
    for subject in [SECOND, MINUTE, TIME] {
        publish(&rogue, &message(subject, vec![0; largest], "oversized")).await;
    }

    // In a flood under its id, the clock itself is not heard. Under any other it is.
    let of_nobody = announcements().into_iter().map(|message| Message {
        subject: SECOND_OF_NOBODY.to_owned(),
        ..message
    });
    let flood: Vec<_> = of_nobody
        .chain(requests())
        .chain(
            answers
                .into_iter()
                .filter(|answer| answer.subject.ends_with(".mallory")),
        )
        .collect();
    for round in 0..FLOOD {
        for message in &flood {
            publish(&rogue, message).await;
        }
        if round % 100 == 0 {
            rogue.flush().await.unwrap();
        }
    }
    rogue.flush().await.unwrap();

    observers.plain().await_quality(Quality::Normal, 3).await;
    let status = edge.status().await;
    let known: Vec<_> = status["clocks"].as_array().unwrap().iter().collect();
    assert!(known.len() == 1 && known[0]["id"] == "clock-0", "{known:?}");
    assert_eq!(known[0]["state"], "accepted", "{known:?}");
    assert!(edge.is_ready().await && clock.is_ready().await);
    for (daemon, before) in [edge, clock].into_iter().zip(memory) {
        let after = daemon.memory_peak();
        let growth = format!("peak memory: {before} bytes before, {after} bytes after");
        assert!(after < before + GROWTH_MAX, "{growth}");
        println!("{growth}");
    }
    observers.finish();
}

/// Sends each message several times and asserts that the daemon's metric counts exactly these
/// drops.
async fn assert_counted(rogue: &Client, daemon: &Daemon, metric: &str, messages: &[Message]) {
    for message in messages {
        let Message {
            subject, reason, ..
        } = message;
        let before = dropped(daemon, metric, reason).await;
        for _ in 0..TIMES {
            publish(rogue, message).await;
        }
        rogue.flush().await.unwrap();
        let expected = before + f64::from(TIMES);
        let what = format!("{metric} counts {TIMES} more {reason} messages to {subject}");
        let counted = async || dropped(daemon, metric, reason).await >= expected;
        eventually(&what, PATIENCE, counted).await;
        let after = dropped(daemon, metric, reason).await;
        assert!(
            after < expected + 0.5,
            "{after} instead of {expected}: {what}"
        );
    }
}

/// Returns how many messages were dropped for a reason, which is 0 if the metric does not have that
/// reason yet.
async fn dropped(daemon: &Daemon, metric: &str, reason: &str) -> f64 {
    let (code, body) = daemon.get("/metrics").await.unwrap();
    assert_eq!(code, 200, "{body}");
    let name = format!(r#"{metric}{{reason="{reason}"}} "#);
    let value = body.lines().find_map(|line| line.strip_prefix(&name));
    value.map_or(0.0, |value| value.parse().unwrap())
}

/// Returns the nonce and the reply subject of an edge's time request, which anyone who may
/// subscribe receives.
async fn overhear_request(rogue: &Client) -> (u64, String) {
    let mut requests = rogue.subscribe(TIME).await.unwrap();
    let request = timeout(PATIENCE, requests.next()).await.unwrap().unwrap();
    let (nonce, _) = decode_request(&request.payload).unwrap();
    (nonce, request.reply.unwrap().to_string())
}

async fn publish(rogue: &Client, message: &Message) {
    let (subject, payload) = (message.subject.clone(), message.payload.clone().into());
    let published = match message.reply_to.clone() {
        Some(reply_to) => rogue.publish_with_reply(subject, reply_to, payload).await,
        None => rogue.publish(subject, payload).await,
    };
    published.unwrap();
}
