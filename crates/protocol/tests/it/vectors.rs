//! The vectors in `conformance/`: frames for both readers, streams, what a client makes of the
//! bytes of a connection, and when it sends HEARTBEATs.

#![expect(clippy::unwrap_used, reason = "a test that can't continue has failed")]

#[expect(
    unreachable_pub,
    reason = "the file belongs to testkit, where all of this is public"
)]
#[path = "../../../testkit/src/vectors.rs"]
mod reading;

use std::time::Duration;

use data_encoding::HEXLOWER;
use prost::Message;
use serde_json::{Value, json};
use tickstorm_protocol::code::Return;
use tickstorm_protocol::frame::{self, Decoded, Decoder, FrameType, Rules};
use tickstorm_protocol::message::{
    Ack, Auth, DataBatch, ErrorMsg, GoingAway, Heartbeat, Pong, Subscribe,
};
use tickstorm_protocol::session::Request;
use tickstorm_protocol::session::client::{
    ClientError, ClientEvent, ClientSession, ConnectionId, DeviceCookie, Welcome,
};
use tickstorm_timebase::{Epoch, Mode, Mono, Quality};

use crate::forge;

const START: Mono = Mono::from_nanos(5_000_000_000);

#[test]
fn checksums_are_crc32c() {
    for case in reading::cases("frames.json", "checksums") {
        let checksum = crc32c::crc32c(&reading::bytes(&case["hex"]));
        assert_eq!(json!(format!("{checksum:08x}")), case["crc32c"], "{case}");
    }
}

/// Returns the rules under which a frame is read, one for each reader and moment of the case.
fn rules(case: &Value) -> Vec<Rules> {
    let ignorable_max = case["max_msg_size"].as_u64().unwrap_or(65_536);
    let after_auth = Rules {
        // A frame that is skipped is returned nevertheless, so that its end can be seen.
        skips_ignorable: false,
        ..Rules::after_auth(usize::try_from(ignorable_max).unwrap())
    };
    let mut found = Vec::new();
    if case["reader"] != "edge" {
        found.push(Rules::CLIENT);
    }
    if case["reader"] != "client" {
        found.extend(match case["when"].as_str() {
            Some("before_auth") => vec![Rules::BEFORE_AUTH],
            Some("after_auth") => vec![after_auth],
            // The largest frames may only be skipped after authentication.
            None if case["hex"].as_str().unwrap().len() > 20_000 => vec![after_auth],
            None => vec![Rules::BEFORE_AUTH, after_auth],
            Some(other) => panic!("{other}"),
        });
    }
    found
}

/// Reads `bytes` in the given pieces. Returns what each frame is, in the notation of the vectors,
/// and the error with the number of bytes that decided it, which is right if the pieces are single
/// bytes.
fn read<'a>(
    rules: Rules,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> (Vec<Value>, Option<(String, usize)>) {
    let (mut decoder, mut frames, mut position) = (Decoder::default(), Vec::new(), 0);
    for mut piece in pieces {
        position += piece.len();
        loop {
            match decoder.decode_or_skip(rules, &mut piece) {
                Ok(Some(Decoded::Frame(frame))) => {
                    frames.push(shown(frame.type_byte(), frame.payload()));
                }
                Ok(Some(Decoded::Skipped)) => panic!("these rules skip nothing"),
                Ok(None) => break,
                Err(error) => return (frames, Some((error.code().to_string(), position))),
            }
        }
    }
    (frames, None)
}

fn shown(type_byte: u8, payload: &[u8]) -> Value {
    let Some(frame_type) = FrameType::from_byte(type_byte) else {
        return json!({"ok": true, "unknown_type": type_byte});
    };
    match reading::payload(frame_type, payload) {
        Ok(payload) => json!({"ok": true, "type": frame_type.name(), "payload": payload}),
        Err(_) => json!({"ok": false, "error": "MALFORMED_PAYLOAD"}),
    }
}

#[test]
fn frames_are_read_as_the_vectors_say() {
    for case in reading::cases("frames.json", "cases") {
        let bytes = reading::bytes(&case["hex"]);
        for rules in rules(&case) {
            let (mut frames, mut error) = read(rules, bytes.chunks(1));
            if frames.last().is_some_and(|last| last["ok"] == false) {
                frames.pop();
                error = Some(("MALFORMED_PAYLOAD".to_owned(), bytes.len()));
            }
            if case["ok"] == false {
                let after = usize::try_from(case["after_bytes"].as_u64().unwrap()).unwrap();
                let expected = (case["error"].as_str().unwrap().to_owned(), after);
                assert_eq!(error, Some(expected), "{} under {rules:?}", case["id"]);
                continue;
            }
            assert_eq!(error, None, "{} under {rules:?}", case["id"]);
            let [frame] = &frames[..] else {
                panic!("{} is {} frames", case["id"], frames.len());
            };
            for (member, value) in frame.as_object().unwrap() {
                assert_eq!(value, &case[member], "{member} of {}", case["id"]);
            }
        }
    }
}

#[test]
fn frames_are_written_as_the_vectors_say() {
    let mut written = 0;
    for case in reading::cases("frames.json", "cases") {
        if case["canonical"] != true {
            continue;
        }
        let bytes = reading::bytes(&case["hex"]);
        let payload = &bytes[8..bytes.len() - 4];
        let frame_type = reading::frame_type(&case["type"]);
        let again = match frame_type {
            FrameType::Auth => encoded(frame_type, &Auth::decode(payload).unwrap()),
            FrameType::Subscribe => encoded(frame_type, &Subscribe::decode(payload).unwrap()),
            FrameType::Heartbeat => encoded(frame_type, &Heartbeat::decode(payload).unwrap()),
            FrameType::DataBatch => encoded(frame_type, &DataBatch::decode(payload).unwrap()),
            FrameType::Error => encoded(frame_type, &ErrorMsg::decode(payload).unwrap()),
            FrameType::Ack => encoded(frame_type, &Ack::decode(payload).unwrap()),
            FrameType::Pong => encoded(frame_type, &Pong::decode(payload).unwrap()),
            FrameType::GoingAway => encoded(frame_type, &GoingAway::decode(payload).unwrap()),
        };
        assert_eq!(again, bytes, "{}", case["id"]);
        written += 1;
    }
    assert!(written > 20, "{written} canonical frames");
}

fn encoded(frame_type: FrameType, message: &impl Message) -> Vec<u8> {
    let mut out = Vec::new();
    frame::encode(frame_type, message, &mut out);
    out
}

#[test]
fn streams_are_read_alike_however_they_are_cut() {
    for case in reading::cases("frames.json", "streams") {
        let bytes = reading::bytes(&case["hex"]);
        for rules in rules(&case) {
            let (frames, error) = read(rules, bytes.chunks(1));
            assert_eq!(json!(frames), case["frames"], "{}", case["id"]);
            let expected = case["error"].as_str().map(|code| {
                let after = usize::try_from(case["after_bytes"].as_u64().unwrap()).unwrap();
                (code.to_owned(), after)
            });
            assert_eq!(error, expected, "{}", case["id"]);
            for at in 0..=bytes.len() {
                let (head, tail) = bytes.split_at(at);
                let (found, code) = read(rules, [head, tail].into_iter());
                assert_eq!(found, frames, "{} split at {at}", case["id"]);
                let code = code.map(|(code, _)| code);
                assert_eq!(code, error.as_ref().map(|(code, _)| code.clone()));
            }
        }
    }
}

fn mode(value: &Value) -> Mode {
    match value["mode"].as_str() {
        Some("MINUTE") => Mode::Minute,
        Some("SECOND") | None => Mode::Second,
        Some(other) => panic!("{other} is no mode"),
    }
}

fn request(value: &Value) -> Request {
    let resume = &value["resume_after_epoch_ms"];
    Request {
        mode: mode(value),
        ahead: value["ahead"] == true,
        resume_after: (!resume.is_null()).then(|| Epoch::from_ms(reading::integer(resume))),
    }
}

/// Returns a client on whose connection AUTH and the SUBSCRIBEs of a case have been sent.
fn session(case: &Value) -> ClientSession {
    let mut session = ClientSession::new();
    session.authenticate(&Auth::default(), &mut Vec::new());
    for subscribe in case["subscribes"].as_array().unwrap() {
        session.subscribe(request(subscribe), &mut Vec::new());
    }
    session
}

#[test]
fn a_client_interprets_a_connection_as_the_vectors_say() {
    for case in reading::cases("sessions.json", "client_sessions") {
        let bytes = reading::bytes(&case["hex"]);
        // Gaps are found by what outlives connections.
        let expected = case["events"].as_array().unwrap().iter();
        let expected: Vec<&Value> = expected.filter(|event| event["gap"].is_null()).collect();
        for piece in [bytes.len().max(1), 1] {
            let (events, ends) = conversation(&case, &bytes, piece);
            let events: Vec<&Value> = events.iter().collect();
            assert_eq!(events, expected, "{} in pieces of {piece}", case["id"]);
            match ends {
                Some((come_back, broke)) => {
                    assert_eq!(case["ends"]["come_back"], come_back, "{}", case["id"]);
                    let expected = case["ends"]["broke_the_protocol"] == true;
                    assert_eq!(broke, expected, "{}", case["id"]);
                }
                None => {
                    let goes_on = case["ends"].is_null() || !case["closes"].is_null();
                    assert!(goes_on, "{} does not end", case["id"]);
                }
            }
        }
    }
}

/// Returns the events of a connection, and how the client comes back if it ends by itself, and
/// whether the edge broke the protocol.
fn conversation(case: &Value, bytes: &[u8], piece: usize) -> (Vec<Value>, Option<(Value, bool)>) {
    let mut session = session(case);
    let (mut events, mut ends) = (Vec::new(), None);
    for mut rest in bytes.chunks(piece) {
        loop {
            match session.handle_bytes(&mut rest, START) {
                Ok(Some(event)) => {
                    if let ClientEvent::Refused(refusal) = &event {
                        ends = Some((come_back(refusal.come_back(), case), false));
                    }
                    show(&event, &mut events);
                }
                Ok(None) => break,
                Err(error) => {
                    let broke = !matches!(error, ClientError::UnknownSchema { .. });
                    return (events, Some((come_back(error.come_back(), case), broke)));
                }
            }
        }
    }
    (events, ends)
}

fn come_back(class: Return, case: &Value) -> Value {
    let resumes = !case["subscribes"][0]["resume_after_epoch_ms"].is_null();
    json!(match class {
        Return::RetryResumeOnce if resumes => "once more with it, then without",
        Return::No | Return::RetryResumeOnce => "no",
        Return::AtOnce => "at once",
        Return::AtOnceWithoutResume => "at once, without the resume point",
        Return::Later => "later",
        Return::Elsewhere => "another edge, later",
    })
}

fn show(event: &ClientEvent, events: &mut Vec<Value>) {
    events.push(match event {
        ClientEvent::Authenticated(welcome) => json!({"authenticated": show_welcome(welcome)}),
        ClientEvent::Subscribed { start, .. } => {
            json!({"subscribed": {"start_epoch_ms": start.as_ms().to_string()}})
        }
        ClientEvent::Batch(batch) => {
            events.extend(batch.ticks.iter().map(|tick| {
                json!({"tick": {
                    "mode": batch.mode.name().to_uppercase(),
                    "epoch_ms": tick.epoch.as_ms().to_string(),
                    "quality": match tick.quality {
                        Quality::Normal => "NORMAL",
                        Quality::Holdover => "HOLDOVER",
                        Quality::Replay => "REPLAY",
                    },
                }})
            }));
            return;
        }
        ClientEvent::Pong(pong) => {
            json!({"pong": {"client_time_us": pong.t1_us.to_string()}})
        }
        ClientEvent::GoingAway { within, .. } => {
            let deadline_ms = u64::try_from(within.as_millis()).unwrap();
            json!({"going_away": {"deadline_ms": deadline_ms}})
        }
        ClientEvent::Refused(refusal) => json!({"error": {
            "code": match &refusal.code {
                Ok(code) => code.as_str(),
                Err(unknown) => &unknown.0,
            },
            "retry_after_ms": refusal.retry_after_ms,
            "connection_id": refusal.connection_id.as_ref().map(ConnectionId::as_str),
        }}),
    });
}

fn show_welcome(welcome: &Welcome) -> Value {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap();
    let cookie = welcome.cookie.as_ref().map(DeviceCookie::as_bytes);
    json!({
        "edge_id": welcome.edge_id,
        "heartbeat_interval_ms": millis(welcome.heartbeat_interval),
        "heartbeat_timeout_ms": millis(welcome.heartbeat_timeout),
        "protocol_minor": welcome.protocol_minor,
        "connection_id": welcome.connection_id.as_ref().map(ConnectionId::as_str),
        "frame_rate_limit": welcome.frame_rate_limit,
        "cookie": cookie.map(|bytes| HEXLOWER.encode(bytes)),
    })
}

#[test]
fn heartbeats_are_sent_when_the_vectors_say() {
    for case in reading::cases("sessions.json", "heartbeats") {
        for random in [0, 10, 20, u32::MAX] {
            follow_heartbeats(&case, random);
        }
    }
}

fn follow_heartbeats(case: &Value, random: u32) {
    let mut session = ClientSession::new();
    if case["after_rate_limited"] == true {
        session = session.sparing();
    }
    session.subscribe(request(case), &mut Vec::new());
    let ack = Ack {
        acked_type: 1,
        heartbeat_interval_ms: u32::try_from(case["heartbeat_interval_ms"].as_u64().unwrap())
            .unwrap(),
        frame_rate_limit: u32::try_from(case["frame_rate_limit"].as_u64().unwrap_or(0)).unwrap(),
        ..Ack::default()
    };
    receive(&mut session, FrameType::Ack, &ack, START);
    let pongs = case["pong_has_time"].as_array().unwrap();
    let mut last = START;
    for (number, expected) in case["intervals_ms"].as_array().unwrap().iter().enumerate() {
        let now = session.next_heartbeat();
        let mut out = Vec::new();
        session.poll_heartbeat(now, random, &mut out);
        assert_eq!(&out[..4], [0xF5, 0x7D, 1, 3]);
        let waited = i64::try_from(now.since(last).as_millis()).unwrap();
        let (least, most) = reading::interval(expected);
        assert!(
            (least..=most).contains(&waited),
            "{}: HEARTBEAT {number} after {waited} ms instead of {expected}, random {random}",
            case["id"],
        );
        let has_time = pongs.get(number).or(pongs.last()).unwrap() == true;
        let pong = Pong {
            received_unix_us: i64::from(has_time),
            sent_unix_us: i64::from(has_time),
            ..Pong::default()
        };
        receive(&mut session, FrameType::Pong, &pong, now);
        last = now;
    }
}

fn receive(session: &mut ClientSession, frame_type: FrameType, message: &impl Message, now: Mono) {
    let bytes = forge::message(frame_type, message);
    let event = session.handle_bytes(&mut bytes.as_slice(), now);
    assert!(matches!(event, Ok(Some(_))), "{event:?}");
}
