use std::io;
use std::sync::{Arc, Mutex};

use tickstorm_timebase::{Announcement, Clock, Epoch, ManualClock, Mono};
use tokio::io::{AsyncBufReadExt, BufReader, DuplexStream, Lines};

use super::*;
use crate::message::{self, DropReason};
use crate::silence::SILENCE_MIN;
use crate::subject::{Subjects, Topic};
use crate::{EdgeEvent, Events, ReplyKey};

/// The server's end of a connection.
type Server = Lines<BufReader<ReadHalf<DuplexStream>>>;

fn switchboard() -> Switchboard {
    Switchboard {
        subjects: Subjects::new("tickstorm"),
        endpoints: Mutex::default(),
        changed: tokio::sync::Notify::new(),
    }
}

fn transport(near: DuplexStream) -> Transport {
    Transport {
        stream: Box::new(near),
        decoder: Decoder::default(),
        has_headers: false,
        addr: ([127, 0, 0, 1], 4_222).into(),
    }
}

/// Starts a connection of an edge, which logs to `log`. Returns both halves of the server's end.
fn connect(log: Dispatch) -> (Server, WriteHalf<DuplexStream>) {
    let switchboard = Arc::new(switchboard());
    let events = switchboard.lock().subscribers.add_edge(&[], false);
    serve(switchboard, SystemClock, log, events)
}

/// Starts a connection for `switchboard`, which sees pauses by `clock`, and keeps `events`.
fn serve<E: Send + 'static>(
    switchboard: Arc<Switchboard>,
    clock: impl Clock + Send + 'static,
    log: Dispatch,
    events: E,
) -> (Server, WriteHalf<DuplexStream>) {
    let (near, far) = tokio::io::duplex(65_536);
    let transport = transport(near);
    let errors = KnownErrors::default();
    let mut connection = NatsConnection::new(transport, SILENCE_MIN, None, errors, log);
    connection.pauses = PauseWatch::new(clock);
    tokio::spawn(async move {
        let _events = events;
        connection.serve(&switchboard).await;
    });
    let (input, output) = split(far);
    (BufReader::new(input).lines(), output)
}

/// Returns the next SUB that arrives within `time`. Pings are answered.
async fn next_sub(
    server: &mut Server,
    output: &mut WriteHalf<DuplexStream>,
    time: Duration,
) -> Option<String> {
    let until = Instant::now() + time;
    loop {
        let line = tokio::time::timeout_at(until, server.next_line())
            .await
            .ok()?;
        let line = line.unwrap().expect("the connection stays");
        if line == "PING" {
            output.write_all(encode::PONG).await.unwrap();
        } else {
            return Some(line);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_subscription_is_made_again_until_it_is_accepted() {
    let (mut server, mut output) = connect(Dispatch::none());
    let mut subscribed = Vec::new();
    for _ in 0..3 {
        let sub = next_sub(&mut server, &mut output, Duration::from_secs(1)).await;
        subscribed.push(sub.unwrap());
    }
    let minutes = "SUB tickstorm.v1.tick.minute.* 2";
    assert!(
        subscribed.iter().any(|sub| sub == minutes),
        "{subscribed:?}"
    );
    let refusal =
        b"-ERR 'Permissions Violation for Subscription to \"tickstorm.v1.tick.minute.*\"'\r\n";
    for _ in 0..3 {
        output.write_all(refusal).await.unwrap();
        let again = next_sub(&mut server, &mut output, 2 * RESUBSCRIBE_INTERVAL).await;
        assert_eq!(again.as_deref(), Some(minutes));
    }
    let further = next_sub(&mut server, &mut output, 3 * RESUBSCRIBE_INTERVAL).await;
    assert_eq!(further, None, "it was not refused again");
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_the_protocol_is_not_logged_as_an_error_that_nats_reported() {
    let log = TestLog::default();
    let (mut server, mut output) = connect(log.subscriber());
    output.write_all(b"-ERR 'Slow'\r\nHELLO\r\n").await.unwrap();
    while let Ok(Some(_)) = server.next_line().await {}
    let text = log.text();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].contains("NATS reported an error"), "{text}");
    assert!(lines[0].contains("Slow"), "{text}");
    assert!(
        lines[1].contains("NATS did not keep to its protocol"),
        "{text}"
    );
}

/// Lets this time pass while nothing is subscribed to.
async fn pass(server: &mut Server, output: &mut WriteHalf<DuplexStream>, seconds: u64) {
    let further = next_sub(server, output, Duration::from_secs(seconds)).await;
    assert_eq!(further, None);
}

#[tokio::test(start_paused = true)]
async fn refused_messages_are_logged_once_per_subject_and_when_they_are_accepted_again() {
    let (log, switchboard) = (TestLog::default(), Arc::new(switchboard()));
    let id: ClockId = "clock-0".parse().unwrap();
    let events = switchboard.lock().subscribers.add_clock(&id, false);
    let shared = Arc::clone(&switchboard);
    let (mut server, mut output) = serve(shared, SystemClock, log.subscriber(), events);
    for _ in 0..2 {
        let sub = next_sub(&mut server, &mut output, Duration::from_secs(1)).await;
        assert!(sub.is_some());
    }
    let token = |number: u8| ReplyKey::from([number; 16]).token();
    for number in 0..100 {
        let subject = switchboard.subjects.answer(token(number), &id);
        let refusal = format!("-ERR 'Permissions Violation for Publish to \"{subject}\"'\r\n");
        output.write_all(refusal.as_bytes()).await.unwrap();
    }
    let sent = Topic::Answer(token(0), "clock-0");
    pass(&mut server, &mut output, 1).await;
    let refused = |switchboard: &Switchboard| {
        let report = switchboard.lock().refused_publishes.report(Mono::ZERO);
        let subjects = report.into_iter().map(|refused| refused.subject);
        subjects.collect::<Vec<_>>()
    };
    assert_eq!(refused(&switchboard), ["tickstorm.v1.answer.*.clock-0"]);
    switchboard.lock().refused_publishes.handle_sent(sent);
    pass(&mut server, &mut output, 9).await;
    assert_eq!(refused(&switchboard).len(), 1);
    pass(&mut server, &mut output, 2).await;
    assert_eq!(refused(&switchboard), [""; 0]);
    let text = log.text();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    let texts = [
        "NATS refuses what this process",
        "NATS accepts what this process",
    ];
    for (line, expected) in lines.into_iter().zip(texts) {
        assert!(line.contains(expected), "{text}");
        let subject = r#"subject="tickstorm.v1.answer.*.clock-0""#;
        assert!(line.contains(subject), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_server_reports_is_cut_and_escaped() {
    let log = TestLog::default();
    let (mut server, mut output) = connect(log.subscriber());
    let long = "\u{1b}\u{e4}".repeat(20_000);
    let error = format!("-ERR 'Permissions Violation for Publish to \"{long}\"'\r\nHELLO\r\n");
    output.write_all(error.as_bytes()).await.unwrap();
    while let Ok(Some(_)) = server.next_line().await {}
    let text = log.text();
    assert!(
        text.contains("Permissions Violation for Publish to"),
        "{text}"
    );
    assert!(text.len() < 3_000, "{}", text.len());
    assert!(!text.contains('\u{1b}'), "{text}");
}

/// Returns how many announcements arrive at once, and how many are dropped for their rate.
async fn announced(events: &mut Events<EdgeEvent>) -> (u64, u64) {
    let (mut arrived, mut dropped) = (0, 0);
    let soon = Duration::from_millis(100);
    while let Ok(event) = tokio::time::timeout(soon, events.next()).await {
        match event.expect("the bus stays") {
            EdgeEvent::Announcement(..) => arrived += 1,
            EdgeEvent::Dropped { reason, count, .. } => {
                assert_eq!(reason, DropReason::RateLimited);
                dropped += count;
            }
            EdgeEvent::Connected => {}
            other @ (EdgeEvent::Reply(_) | EdgeEvent::Disconnected) => panic!("{other:?}"),
        }
    }
    (arrived, dropped)
}

/// The edge is stopped for longer than NATS's announcements fit into a burst.
#[tokio::test(start_paused = true)]
async fn what_piled_up_in_a_pause_accuses_no_clock_and_what_comes_later_may() {
    let (clock, switchboard) = (ManualClock::new(Mono::ZERO), Arc::new(switchboard()));
    let id: ClockId = "clock-0".parse().unwrap();
    let ids = [id.clone()];
    let mut events = switchboard.lock().subscribers.add_edge(&ids, false);
    let shared = Arc::clone(&switchboard);
    let (mut server, mut output) = serve(shared, clock.clone(), Dispatch::none(), ());
    for _ in 0..3 {
        let sub = next_sub(&mut server, &mut output, Duration::from_secs(1)).await;
        assert!(sub.is_some());
    }
    let subject = switchboard.subjects.tick(Mode::Second, &id);
    let payload = message::encode_announcement(&Announcement {
        mode: Mode::Second,
        epoch: Epoch::from_ms(1_000),
        clock_id: id,
        rank: 0,
        sent_unix_us: 0,
        timeline: 1,
    });
    let mut message = format!("MSG {subject} 1 {}\r\n", payload.len()).into_bytes();
    message.extend([&payload[..], b"\r\n"].concat());
    for (stalled, suspended) in [(150, 0), (0, 150)] {
        clock.advance(Duration::from_secs(stalled));
        clock.suspend(Duration::from_secs(suspended));
        output.write_all(&message.repeat(164)).await.unwrap();
        assert_eq!(announced(&mut events).await, (164, 0));
        pass(&mut server, &mut output, 3).await;
    }
    output.write_all(&message.repeat(400)).await.unwrap();
    let (arrived, dropped) = announced(&mut events).await;
    assert_eq!(arrived + dropped, 400);
    assert!(dropped > 200, "{dropped}");
}

#[tokio::test]
async fn the_end_of_a_silence_is_logged_once_by_what_was_missing() {
    for (missing, expected) in [
        (Missing::Answers, "clocks are heard over NATS again"),
        (
            Missing::OwnAnnouncements,
            "this clock's announcements come back over NATS again",
        ),
    ] {
        let (near, _far) = tokio::io::duplex(65_536);
        let recovery = Recovery {
            server: "nats.example:4222".to_owned(),
            missing,
        };
        let (log, errors) = (TestLog::default(), KnownErrors::default());
        let mut connection = NatsConnection::new(
            transport(near),
            SILENCE_MIN,
            Some(recovery),
            errors,
            log.subscriber(),
        );
        let switchboard = switchboard();
        assert!(connection.look(&switchboard).is_ok());
        assert_eq!(log.text(), "", "nothing is heard yet");
        switchboard.lock().handle_sign();
        for _ in 0..2 {
            assert!(connection.look(&switchboard).is_ok());
        }
        let text = log.text();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("server=nats.example:4222"), "{text}");
    }
}

#[test]
fn each_error_is_logged_once_and_only_so_many() {
    let mut known = KnownErrors::default();
    let logged = |known: &mut KnownErrors| {
        let errors = (0..2 * ERRORS_LOGGED_MAX).map(|number| format!("error {number}"));
        errors.filter(|error| known.insert(error)).count()
    };
    assert_eq!(logged(&mut known), ERRORS_LOGGED_MAX);
    assert_eq!(logged(&mut known), 0);
}

/// The log of a connection.
#[derive(Clone, Default)]
struct TestLog(Arc<Mutex<Vec<u8>>>);

impl TestLog {
    fn subscriber(&self) -> Dispatch {
        let log = self.clone();
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || log.clone())
            .finish()
            .into()
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for TestLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
