//! Tests of the client's side: what it sends and when, how it interprets what it receives, and what
//! it refuses.

use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;
use tickstorm_protocol::code::{ErrorCode, Return, UnknownCode};
use tickstorm_protocol::frame::{FrameError, FrameType};
use tickstorm_protocol::message::{self, Ack, Auth, DataBatch, ErrorMsg, Pong};
use tickstorm_protocol::session::Request;
use tickstorm_protocol::session::client::{
    ClientError, ClientEvent, ClientSession, ConnectionId, PongExchange, TickBatch, Welcome,
};
use tickstorm_protocol::session::server::{self, Greeting, Limits, ServerSession, Step};
use tickstorm_timebase::{Epoch, Mode, Mono, Quality, Tick};

use crate::forge;
use crate::fuzz_drivers::server_session::limits;

const START: Mono = Mono::from_nanos(5_000_000_000);
const SECOND: Request = Request {
    mode: Mode::Second,
    ahead: false,
    resume_after: None,
};
const AHEAD: Request = Request {
    mode: Mode::Minute,
    ahead: true,
    resume_after: None,
};

fn ack(acked_type: u32, start_epoch_ms: i64) -> Vec<u8> {
    let ack = Ack {
        acked_type,
        heartbeat_interval_ms: 15_000,
        heartbeat_timeout_ms: 20_000,
        edge_id: "edge-0".to_owned(),
        start_epoch_ms,
        protocol_minor: 3,
        ..Ack::default()
    };
    forge::message(FrameType::Ack, &ack)
}

fn tick(epoch_ms: i64) -> Tick {
    Tick {
        epoch: Epoch::from_ms(epoch_ms),
        quality: Quality::Normal,
    }
}

fn batch(mode: Mode, epochs: &[i64]) -> Vec<u8> {
    let ticks: Vec<Tick> = epochs.iter().copied().map(tick).collect();
    let mut out = Vec::new();
    message::encode_batch(mode, &ticks, 77, &mut out);
    out
}

fn raw_batch(schema_version: u32, ticks: Vec<message::Tick>) -> Vec<u8> {
    let batch = DataBatch {
        schema_version,
        ticks,
        sent_unix_us: 77,
    };
    forge::message(FrameType::DataBatch, &batch)
}

fn receive(session: &mut ClientSession, mut bytes: &[u8]) -> Result<Vec<ClientEvent>, ClientError> {
    let mut events = Vec::new();
    while let Some(event) = session.handle_bytes(&mut bytes, START)? {
        events.push(event);
    }
    assert!(bytes.is_empty(), "the session left input unused");
    Ok(events)
}

/// Returns a session that is subscribed by `request` to the ticks after 10,000.
fn subscribed(request: Request) -> ClientSession {
    let mut session = ClientSession::new();
    session.subscribe(request, &mut Vec::new());
    let events = receive(&mut session, &[ack(1, 0), ack(2, 10_000)].concat());
    assert_eq!(events.map(|events| events.len()), Ok(2));
    session
}

#[test]
fn the_two_sessions_understand_each_other() {
    let limits = limits(0);
    let mut server = ServerSession::new(START);
    let mut client = ClientSession::new();
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    let auth = Auth {
        token: "secret".to_owned(),
        ..Auth::default()
    };
    client.authenticate(&auth, &mut to_server);
    client.subscribe(AHEAD, &mut to_server);
    let mut input = to_server.as_slice();
    let step = server.step(&limits, &mut input, START);
    assert_eq!(step, Step::Auth(auth.into()));
    let greeting = Greeting {
        connection_id: "7-abcdefgh",
        cookie: &[],
    };
    server.accept(&limits, &greeting, START, &mut to_client);
    let step = server.step(&limits, &mut input, START);
    assert_eq!(step, Step::Subscribe(AHEAD));
    let start = Epoch::from_ms(60_000);
    server.subscribed(&limits, start, &mut to_client);
    let events = receive(&mut client, &to_client).unwrap();
    let [ClientEvent::Authenticated(welcome), subscribed] = &events[..] else {
        panic!("{events:?}");
    };
    let id = welcome.connection_id.as_ref().map(ConnectionId::as_str);
    assert_eq!(id, Some("7-abcdefgh"));
    let expected = Welcome {
        edge_id: "edge-0".to_owned(),
        heartbeat_interval: Duration::from_secs(15),
        heartbeat_timeout: Duration::from_secs(20),
        protocol_minor: 1,
        connection_id: welcome.connection_id.clone(),
        frame_rate_limit: NonZeroU32::new(limits.frame_rate),
        cookie: None,
    };
    assert_eq!(welcome, &expected);
    let request = AHEAD;
    assert_eq!(subscribed, &ClientEvent::Subscribed { request, start });
    let mut heartbeat = Vec::new();
    client.poll_heartbeat(START, 0, &mut heartbeat);
    let step = server.step(&limits, &mut heartbeat.as_slice(), START);
    let client_time_us = 5_000_000;
    assert_eq!(step, Step::Heartbeat { client_time_us });
}

#[test]
fn ticks_come_in_batches_after_the_start() {
    let mut session = subscribed(AHEAD);
    let bytes = [
        batch(Mode::Minute, &[60_000]),
        batch(Mode::Minute, &[120_000, 240_000]),
    ];
    let event = |epochs: &[i64]| {
        ClientEvent::Batch(TickBatch {
            mode: Mode::Minute,
            ticks: epochs.iter().copied().map(tick).collect(),
            sent_unix_us: 77,
        })
    };
    let events = receive(&mut session, &bytes.concat()).unwrap();
    assert_eq!(events, [event(&[60_000]), event(&[120_000, 240_000])]);
}

#[test]
fn ticks_that_do_not_increase_are_an_error() {
    for (epochs, last, next) in [
        (&[10_000][..], 10_000, 10_000),
        (&[9_000], 10_000, 9_000),
        (&[11_000, 11_000], 11_000, 11_000),
        (&[11_000, 13_000, 12_000], 13_000, 12_000),
    ] {
        let (last, next) = (Epoch::from_ms(last), Epoch::from_ms(next));
        let found = receive(&mut subscribed(SECOND), &batch(Mode::Second, epochs));
        assert_eq!(found, Err(ClientError::NotIncreasing { last, next }));
    }
}

#[test]
fn a_replaced_subscriptions_ticks_end_with_the_ack_of_the_new_one() {
    let mut session = subscribed(SECOND);
    session.subscribe(AHEAD, &mut Vec::new());
    let old = batch(Mode::Second, &[70_000]);
    assert_eq!(receive(&mut session, &old).unwrap().len(), 1);
    let new = [ack(2, 0), batch(Mode::Minute, &[60_000])].concat();
    assert_eq!(receive(&mut session, &new).unwrap().len(), 2);
    let found = receive(&mut session, &old);
    let subscribed = Mode::Minute;
    assert_eq!(
        found,
        Err(ClientError::OtherMode {
            found: 0,
            subscribed
        })
    );
}

#[test]
fn an_unknown_quality_reads_as_normal() {
    let unknown = message::Tick {
        mode: 0,
        epoch_ms: 11_000,
        quality: 9,
    };
    let events = receive(&mut subscribed(SECOND), &raw_batch(1, vec![unknown])).unwrap();
    let ticks = vec![tick(11_000)];
    let expected = TickBatch {
        mode: Mode::Second,
        ticks,
        sent_unix_us: 77,
    };
    assert_eq!(events, [ClientEvent::Batch(expected)]);
}

#[test]
fn a_batch_that_this_version_does_not_understand_is_an_error() {
    let good = message::Tick::new(Mode::Second, tick(11_000));
    let unknown = message::Tick { mode: 2, ..good };
    let subscribed_mode = Mode::Second;
    for (bytes, error) in [
        (
            raw_batch(2, vec![good]),
            ClientError::UnknownSchema { found: 2 },
        ),
        (
            raw_batch(0, vec![good]),
            ClientError::UnknownSchema { found: 0 },
        ),
        (raw_batch(1, vec![]), ClientError::EmptyBatch),
        (
            raw_batch(1, vec![unknown]),
            ClientError::OtherMode {
                found: 2,
                subscribed: subscribed_mode,
            },
        ),
        (
            forge::frame(4, &[0x12]),
            ClientError::MalformedPayload(FrameType::DataBatch),
        ),
    ] {
        assert_eq!(receive(&mut subscribed(SECOND), &bytes), Err(error));
    }
}

#[test]
fn only_an_unknown_schema_keeps_a_client_from_coming_back() {
    assert_eq!(
        ClientError::UnknownSchema { found: 2 }.come_back(),
        Return::No
    );
    assert_eq!(ClientError::EmptyBatch.come_back(), Return::AtOnce);
    let error = FrameError::UnsupportedVersion { found: 2 };
    assert_eq!(ClientError::Frame(error).come_back(), Return::AtOnce);
}

#[test]
fn frames_that_answer_nothing_are_an_error() {
    let mut unauthenticated = ClientSession::new();
    for (bytes, frame_type) in [
        (ack(2, 0), FrameType::Ack),
        (batch(Mode::Second, &[1_000]), FrameType::DataBatch),
        (forge::frame(1, &[]), FrameType::Auth),
        (forge::frame(3, &[]), FrameType::Heartbeat),
    ] {
        let found = receive(&mut unauthenticated, &bytes);
        assert_eq!(found, Err(ClientError::Unexpected(frame_type)));
    }
    let mut session = subscribed(SECOND);
    for again in [ack(1, 0), ack(2, 0)] {
        let found = receive(&mut session, &again);
        assert_eq!(found, Err(ClientError::Unexpected(FrameType::Ack)));
    }
}

#[test]
fn frames_that_a_later_minor_may_send_are_skipped() {
    let mut session = subscribed(SECOND);
    let stream = [
        forge::frame(0x08, b"?"),
        forge::frame(0x81, b"?"),
        ack(0x90, 0),
        batch(Mode::Second, &[11_000]),
    ];
    assert_eq!(receive(&mut session, &stream.concat()).unwrap().len(), 1);
}

#[test]
fn going_away_is_an_event_with_the_time_that_is_left() {
    let mut session = subscribed(SECOND);
    let mut bytes = Vec::new();
    server::going_away(Duration::from_millis(2_500), "a restart", &mut bytes);
    let going_away = ClientEvent::GoingAway {
        within: Duration::from_millis(2_500),
        reason: "a restart".to_owned(),
    };
    bytes.extend(batch(Mode::Second, &[11_000]));
    let events = receive(&mut session, &bytes).unwrap();
    assert_eq!(events.first(), Some(&going_away));
    assert_eq!(events.len(), 2);
}

#[test]
fn frames_that_are_not_valid_are_typed_errors() {
    let mut bad_version = ack(1, 0);
    bad_version[2] = 2;
    let mut bad_checksum = ack(1, 0);
    *bad_checksum.last_mut().unwrap() ^= 1;
    let cases = [
        (b"HTTP/1.1 400 Bad Request".to_vec(), "bad_magic"),
        (bad_version, "unsupported_version"),
        (forge::header(4, 65_537), "message_too_large"),
        (bad_checksum, "bad_checksum"),
    ];
    for (bytes, label) in cases {
        match receive(&mut ClientSession::new(), &bytes) {
            Err(ClientError::Frame(error)) => assert_eq!(error.code().label(), label),
            other => panic!("{other:?} instead of {label}"),
        }
    }
}

#[test]
fn a_refusal_is_the_last_event() {
    let mut error = Vec::new();
    let code = ErrorCode::ServerDraining;
    server::error(code, "going", 1_234, "7-abcdefgh", &mut error);
    let mut session = subscribed(SECOND);
    let stream = [error, batch(Mode::Second, &[11_000]), b"rubbish".to_vec()].concat();
    let events = receive(&mut session, &stream).unwrap();
    let [ClientEvent::Refused(refusal)] = &events[..] else {
        panic!("{events:?}");
    };
    let id = refusal.connection_id.as_ref().map(ConnectionId::as_str);
    assert_eq!(id, Some("7-abcdefgh"));
    assert_eq!(refusal.code, Ok(ErrorCode::ServerDraining));
    assert_eq!(refusal.message, "going");
    assert_eq!(refusal.retry_after_ms, 1_234);
    assert!(refusal.supported_versions.is_empty());
    assert_eq!(refusal.come_back(), Return::Elsewhere);
    assert_eq!(session.next_heartbeat(), Mono::NEVER);
}

/// An id is printed and copied, so nothing but a short plain word counts as one.
#[test]
fn a_connection_id_that_no_edge_sends_counts_as_none() {
    let longest = "x".repeat(40);
    for (text, is_id) in [
        ("4821-k7m2q9xd", true),
        (longest.as_str(), true),
        ("", false),
        (&format!("{longest}x"), false),
        ("two words", false),
        ("4821\n", false),
        ("\u{1b}[2J", false),
        ("é", false),
    ] {
        let error = ErrorMsg {
            connection_id: text.to_owned(),
            ..ErrorMsg::default()
        };
        let ack = Ack {
            acked_type: 1,
            connection_id: text.to_owned(),
            ..Ack::default()
        };
        let bytes = [
            forge::message(FrameType::Ack, &ack),
            forge::message(FrameType::Error, &error),
        ];
        let events = receive(&mut ClientSession::new(), &bytes.concat()).unwrap();
        let [
            ClientEvent::Authenticated(welcome),
            ClientEvent::Refused(refusal),
        ] = &events[..]
        else {
            panic!("{events:?}");
        };
        for id in [&welcome.connection_id, &refusal.connection_id] {
            let expected = is_id.then_some(text);
            assert_eq!(id.as_ref().map(ConnectionId::as_str), expected, "{text:?}");
        }
        assert_eq!(welcome.frame_rate_limit, None, "the edge did not say");
    }
}

#[test]
fn an_unknown_code_is_kept_and_means_later() {
    let error = ErrorMsg {
        code: "NEW_TROUBLE".to_owned(),
        ..ErrorMsg::default()
    };
    let bytes = forge::message(FrameType::Error, &error);
    let events = receive(&mut ClientSession::new(), &bytes).unwrap();
    let [ClientEvent::Refused(refusal)] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(refusal.code, Err(UnknownCode("NEW_TROUBLE".to_owned())));
    assert_eq!(refusal.come_back(), Return::Later);
}

#[test]
fn a_pong_carries_the_four_timestamps() {
    let pong = Pong {
        client_time_us: 4_999_000,
        received_unix_us: 20,
        sent_unix_us: 30,
        error_bound_us: 40,
        clock_error_us: 50,
    };
    let bytes = forge::message(FrameType::Pong, &pong);
    let mut session = subscribed(SECOND);
    let read = START + Duration::from_nanos(1);
    let event = session.handle_bytes(&mut bytes.as_slice(), read).unwrap();
    let exchange = PongExchange {
        t1_us: 4_999_000,
        t2_us: 20,
        t3_us: 30,
        t4_us: 5_000_001,
        error_bound_us: 40,
        clock_error_us: 50,
    };
    assert_eq!(event, Some(ClientEvent::Pong(exchange)));
}

/// Returns the times from each HEARTBEAT to the next for the first `count` of them, counted from
/// the ACK of AUTH.
fn heartbeat_intervals(session: &mut ClientSession, random: u32, count: usize) -> Vec<Duration> {
    let mut now = START;
    let mut intervals = Vec::new();
    for _ in 0..count {
        let due = session.next_heartbeat();
        intervals.push(due.since(now));
        let mut early = Vec::new();
        session.poll_heartbeat(
            due.saturating_sub(Duration::from_nanos(1)),
            random,
            &mut early,
        );
        assert!(early.is_empty(), "{early:?}");
        now = due;
        let mut out = Vec::new();
        session.poll_heartbeat(now, random, &mut out);
        assert_eq!(&out[..4], [0xF5, 0x7D, 1, 3]);
    }
    intervals
}

/// Passes the session a PONG whose time is `sent_unix_us`, which is 0 if the edge does not know the
/// time.
fn receive_pong(session: &mut ClientSession, sent_unix_us: i64) {
    let pong = Pong {
        sent_unix_us,
        ..Pong::default()
    };
    receive(session, &forge::message(FrameType::Pong, &pong)).expect("the session accepts a PONG");
}

#[test]
fn no_heartbeat_is_sent_before_authentication() {
    let mut session = ClientSession::new();
    session.authenticate(&Auth::default(), &mut Vec::new());
    session.subscribe(AHEAD, &mut Vec::new());
    assert_eq!(session.next_heartbeat(), Mono::NEVER);
    let mut out = Vec::new();
    session.poll_heartbeat(START, 0, &mut out);
    assert!(out.is_empty(), "{out:?}");
}

#[test]
fn eight_heartbeats_open_a_connection_and_two_thirds_of_the_interval_follow() {
    let ms = Duration::from_millis;
    for (request, random, steady) in [
        (SECOND, 10, ms(10_000)),
        (SECOND, 0, ms(9_000)),
        (SECOND, 20, ms(11_000)),
        (SECOND, u32::MAX, ms(9_000) + ms(100) * (u32::MAX % 21)),
        (AHEAD, 10, ms(2_000)),
        (AHEAD, 0, ms(1_800)),
    ] {
        let mut session = subscribed(request);
        receive_pong(&mut session, 30);
        let intervals = heartbeat_intervals(&mut session, random, 10);
        let mut expected = vec![ms(100); 8];
        expected[0] = Duration::ZERO;
        expected.extend([steady; 2]);
        assert_eq!(intervals, expected, "{request:?}, {random}");
    }
}

#[test]
fn a_client_asks_every_second_until_the_edge_knows_the_time() {
    let mut session = subscribed(SECOND);
    receive_pong(&mut session, 0);
    let intervals = heartbeat_intervals(&mut session, 10, 10);
    assert_eq!(intervals[8..], [Duration::from_secs(1); 2]);
    receive_pong(&mut session, 30);
    let intervals = heartbeat_intervals(&mut session, 10, 2);
    assert_eq!(intervals[1], Duration::from_secs(10));
}

#[test]
fn exact_time_is_sampled_every_two_seconds() {
    let mut session = subscribed(SECOND).with_exact_time();
    receive_pong(&mut session, 30);
    let intervals = heartbeat_intervals(&mut session, 10, 9);
    assert_eq!(intervals[8], Duration::from_secs(2));
}

#[test]
fn a_client_that_switches_to_ahead_does_not_wait_for_its_next_heartbeat() {
    let mut session = subscribed(SECOND);
    receive_pong(&mut session, 30);
    heartbeat_intervals(&mut session, 10, 8);
    assert!(session.next_heartbeat() > START + Duration::from_secs(10));
    session.subscribe(AHEAD, &mut Vec::new());
    receive(&mut session, &ack(2, 0)).unwrap();
    assert_eq!(session.next_heartbeat(), START + Duration::from_secs(2));
}

/// Plays the session's HEARTBEATs for two minutes of each schedule against the rate limit of an
/// edge that keeps to the rule for its settings, and of one that does not.
#[test]
fn a_client_keeps_to_the_frame_rate_that_the_edge_allows() {
    for (rate, interval_ms) in [
        (1, 2_000),
        (1, 100),
        (2, 15_000),
        (3, 100),
        (10, 200),
        (10, 100),
    ] {
        for (request, sent_unix_us, random) in [
            (SECOND, 30, 0),
            (SECOND, 0, 0),
            (AHEAD, 30, 0),
            (AHEAD, 0, 20),
            (SECOND, 30, 20),
        ] {
            let limits = Limits {
                frame_rate: rate,
                heartbeat_interval: Duration::from_millis(interval_ms),
                // The least burst is the hardest to keep to.
                heartbeat_timeout: Duration::from_millis(interval_ms + 1),
                ..limits(0)
            };
            let (mut edge, mut out) = (ServerSession::new(START), Vec::new());
            let mut session = ClientSession::new();
            session.authenticate(&Auth::default(), &mut out);
            session.subscribe(request, &mut out);
            let mut input = &out[..];
            assert!(matches!(
                edge.step(&limits, &mut input, START),
                Step::Auth(_)
            ));
            let mut answers = Vec::new();
            edge.accept(&limits, &Greeting::default(), START, &mut answers);
            edge.caught_up();
            assert_eq!(
                edge.step(&limits, &mut input, START),
                Step::Subscribe(request)
            );
            edge.subscribed(&limits, Epoch::from_ms(0), &mut answers);
            receive(&mut session, &answers).unwrap();
            let mut now = START;
            while now.since(START) < Duration::from_secs(120) {
                now = now.max(session.next_heartbeat());
                let mut heartbeat = Vec::new();
                session.poll_heartbeat(now, random, &mut heartbeat);
                let step = edge.step(&limits, &mut &heartbeat[..], now);
                assert!(
                    matches!(step, Step::Heartbeat { .. }),
                    "rate {rate}, interval {interval_ms} ms, {request:?}: {step:?}"
                );
                receive_pong(&mut session, sent_unix_us);
            }
        }
    }
}

#[test]
fn an_edge_that_asks_for_no_interval_is_not_flooded() {
    let mut session = ClientSession::new();
    let ack = Ack {
        acked_type: 1,
        ..Ack::default()
    };
    receive(&mut session, &forge::message(FrameType::Ack, &ack)).unwrap();
    let intervals = heartbeat_intervals(&mut session, 0, 9);
    assert!(intervals[8] > Duration::from_millis(50), "{intervals:?}");
}

/// Returns all events and the error that a stream leads to, if it arrives in pieces of `piece`
/// bytes.
fn conversation(stream: &[u8], piece: usize) -> (Vec<ClientEvent>, Option<ClientError>) {
    let mut session = ClientSession::new();
    session.subscribe(SECOND, &mut Vec::new());
    session.subscribe(AHEAD, &mut Vec::new());
    let mut events = Vec::new();
    for mut bytes in stream.chunks(piece) {
        loop {
            match session.handle_bytes(&mut bytes, START) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
    }
    (events, None)
}

fn edge_frame() -> impl Strategy<Value = Vec<u8>> {
    let epochs = prop::collection::btree_set((0..50i64).prop_map(|n| n * 60_000), 1..20);
    prop_oneof![
        (1..3u32, 0..60_000i64).prop_map(|(kind, start)| ack(kind, start)),
        (any::<bool>(), epochs).prop_map(|(minute, epochs)| {
            let mode = if minute { Mode::Minute } else { Mode::Second };
            batch(mode, &epochs.into_iter().collect::<Vec<_>>())
        }),
        Just(forge::frame(7, &[])),
        (any::<u8>(), prop::collection::vec(any::<u8>(), 0..30))
            .prop_map(|(kind, payload)| forge::frame(kind, &payload)),
    ]
}

proptest! {
    #[test]
    fn a_client_sees_the_same_however_its_input_is_cut(
        frames in prop::collection::vec(edge_frame(), 0..12),
        perturbed: Option<(prop::sample::Index, u8)>,
    ) {
        let opening = [ack(1, 0), ack(2, 0)];
        let mut stream = [opening.concat(), frames.concat()].concat();
        if let Some((at, flip)) = perturbed {
            let at = at.index(stream.len());
            stream[at] ^= flip;
        }
        let expected = conversation(&stream, usize::MAX);
        for piece in [1, 3, 20] {
            prop_assert_eq!(&conversation(&stream, piece), &expected);
        }
    }

    #[test]
    fn a_client_survives_any_bytes(stream: Vec<u8>) {
        let expected = conversation(&stream, usize::MAX);
        prop_assert_eq!(conversation(&stream, 1), expected);
    }
}
