//! Tests of every byte of frames of each type. The expected bytes come from another implementation,
//! and docs/protocol.md shows them, so that authors of further implementations can compare theirs.

use std::time::Duration;

use tickstorm_protocol::code::{CloseReason, ErrorCode};
use tickstorm_protocol::frame::{self, FrameType};
use tickstorm_protocol::message::{Auth, Heartbeat, Subscribe, encode_batch};
use tickstorm_protocol::session::server::{self, Greeting, ServerSession};
use tickstorm_timebase::{Epoch, Mode, Mono, Quality, Tick};

use crate::fuzz_drivers::server_session::limits;

const EPOCH_MS: i64 = 1_800_000_000_000;

const AUTH: &str =
    "f57d0101 0000001a 0a0b73747265616d5f75736572120b73747265616d5f70617373 6a2c3cf3";
const AUTH_TOKEN: &str =
    "f57d0101 0000001a 1a0674696c6c2d37220864656d6f2f312e302a06733363726574 98a4719a";
const AUTH_COOKIE: &str = "f57d0101 00000045 \
    0a0b73747265616d5f75736572120b73747265616d5f706173733229\
    01b1ce4da0164ba184000102030405060708090a0b0c0d0e0fee6afb666d4e85fea44b31af714d419c 4930b0d5";
const SUBSCRIBE_EMPTY: &str = "f57d0102 00000000 8415a2d1";
const SUBSCRIBE: &str = "f57d0102 0000000b 08012880a0f1c2b1343001 c0991510";
const HEARTBEAT_EMPTY: &str = "f57d0103 00000000 bc04cd7d";
const HEARTBEAT: &str = "f57d0103 00000004 08e0c65b 6d43a73a";
const BATCH: &str = "f57d0104 00000014 0801120710e8a7f1c2b13418ea849fc5f2a29903 3de7a5af";
const BATCH_REPLAY: &str = "f57d0104 00000025 \
    0801120b080110e0f4f4c2b1341802120b080110c0c9f8c2b13418011880a3a58cf3a29903 b35d9c99";
const ERROR_VERSION: &str = "f57d0105 0000005c \
    0a13554e535550504f525445445f56455253494f4e12336672616d652076657273696f6e20322069\
    73206e6f7420737570706f727465643b206f6e6c792076657273696f6e20312069732201012a0d34\
    3832312d6b376d3271397864 387551c5";
const ERROR_DRAINING: &str = "f57d0105 00000054 \
    0a0f5345525645525f445241494e494e47122f746869732065646765206973206265696e67207368757420646f77\
    6e3b20726573756d65206f6e20616e6f7468657218fa012a0d343832312d6b376d3271397864 54dacadf";
const ACK_AUTH: &str = "f57d0106 00000024 \
    080110987518a09c012206656467652d3030013a0d343832312d6b376d3271397864400a 51b9bf18";
const ACK_COOKIE: &str = "f57d0106 0000004f \
    080110987518a09c012206656467652d3030013a0d343832312d6b376d3271397864400a4a2901b1ce4da0164ba1\
    84000102030405060708090a0b0c0d0e0fee6afb666d4e85fea44b31af714d419c 32c146fd";
/// The cookie in both.
const COOKIE: &str =
    "01b1ce4da0164ba184000102030405060708090a0b0c0d0e0fee6afb666d4e85fea44b31af714d419c";
/// The connection id in all frames that have one.
const CONNECTION_ID: &str = "4821-k7m2q9xd";
const ACK_SUBSCRIBE: &str =
    "f57d0106 0000001a 080210987518a09c012206656467652d302880a0f1c2b1343001 be63ecc6";
const PONG: &str =
    "f57d0107 0000001c 08e0c65b1090a1f1c4f2a2990318a1a1f1c4f2a2990320b40128c413 db283115";
const PONG_UNKNOWN: &str = "f57d0107 0000000a 08e0c65b20ffffffff0f b3dcc6d7";
const GOING_AWAY: &str =
    "f57d0180 00000021 08e05d121c746869732065646765206973206265696e67207368757420646f776e 3c8dc47c";

const ALL: [&str; 17] = [
    AUTH,
    AUTH_TOKEN,
    AUTH_COOKIE,
    SUBSCRIBE_EMPTY,
    SUBSCRIBE,
    HEARTBEAT_EMPTY,
    HEARTBEAT,
    BATCH,
    BATCH_REPLAY,
    ERROR_VERSION,
    ERROR_DRAINING,
    ACK_AUTH,
    ACK_COOKIE,
    ACK_SUBSCRIBE,
    PONG,
    PONG_UNKNOWN,
    GOING_AWAY,
];

fn hex_of(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    out.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn greeting(cookie: &[u8]) -> Greeting<'_> {
    Greeting {
        connection_id: CONNECTION_ID,
        cookie,
    }
}

fn without_spaces(hex: &str) -> String {
    hex.split_whitespace().collect()
}

fn ticks(ticks: &[(i64, Quality)]) -> Vec<Tick> {
    let tick = |&(after_ms, quality)| Tick {
        epoch: Epoch::from_ms(EPOCH_MS + after_ms),
        quality,
    };
    ticks.iter().map(tick).collect()
}

#[test]
fn frames_of_clients_are_right_byte_for_byte() {
    let password = Auth {
        username: "stream_user".to_owned(),
        password: "stream_pass".to_owned(),
        ..Auth::default()
    };
    let token = Auth {
        client_id: "till-7".to_owned(),
        client_version: "demo/1.0".to_owned(),
        token: "s3cret".to_owned(),
        ..Auth::default()
    };
    let subscribe = Subscribe {
        mode: 1,
        resume_after_epoch_ms: Some(EPOCH_MS),
        ahead: true,
    };
    let client_time_us = 1_500_000;
    let heartbeat = Heartbeat { client_time_us };
    let hex = hex_of(|out| frame::encode(FrameType::Auth, &password, out));
    assert_eq!(hex, without_spaces(AUTH));
    let hex = hex_of(|out| frame::encode(FrameType::Auth, &token, out));
    assert_eq!(hex, without_spaces(AUTH_TOKEN));
    let with_cookie = Auth {
        cookie: bytes_of(COOKIE),
        ..password
    };
    let hex = hex_of(|out| frame::encode(FrameType::Auth, &with_cookie, out));
    assert_eq!(hex, without_spaces(AUTH_COOKIE));
    let hex = hex_of(|out| frame::encode(FrameType::Subscribe, &Subscribe::default(), out));
    assert_eq!(hex, without_spaces(SUBSCRIBE_EMPTY));
    let hex = hex_of(|out| frame::encode(FrameType::Subscribe, &subscribe, out));
    assert_eq!(hex, without_spaces(SUBSCRIBE));
    let hex = hex_of(|out| frame::encode(FrameType::Heartbeat, &Heartbeat::default(), out));
    assert_eq!(hex, without_spaces(HEARTBEAT_EMPTY));
    let hex = hex_of(|out| frame::encode(FrameType::Heartbeat, &heartbeat, out));
    assert_eq!(hex, without_spaces(HEARTBEAT));
}

#[test]
fn batches_are_right_byte_for_byte() {
    let one = ticks(&[(1_000, Quality::Normal)]);
    let sent_us = (EPOCH_MS + 1_000) * 1_000 + 42;
    let hex = hex_of(|out| encode_batch(Mode::Second, &one, sent_us, out));
    assert_eq!(hex, without_spaces(BATCH));
    let two = ticks(&[(60_000, Quality::Replay), (120_000, Quality::Holdover)]);
    let sent_us = (EPOCH_MS + 150_000) * 1_000;
    let hex = hex_of(|out| encode_batch(Mode::Minute, &two, sent_us, out));
    assert_eq!(hex, without_spaces(BATCH_REPLAY));
}

#[test]
fn answers_of_a_session_are_right_byte_for_byte() {
    let limits = limits(0);
    let mut session = ServerSession::new(Mono::ZERO);
    let auth = bytes_of(AUTH);
    session.step(&limits, &mut auth.as_slice(), Mono::ZERO);
    let hex = hex_of(|out| session.accept(&limits, &greeting(&[]), Mono::ZERO, out));
    assert_eq!(hex, without_spaces(ACK_AUTH));
    let hex = hex_of(|out| session.subscribed(&limits, Epoch::from_ms(EPOCH_MS), out));
    assert_eq!(hex, without_spaces(ACK_SUBSCRIBE));
    let now_us = EPOCH_MS * 1_000 + 250_000;
    let hex = hex_of(|out| server::pong(1_500_000, now_us, now_us + 17, 180, 2_500, out));
    assert_eq!(hex, without_spaces(PONG));
    let hex = hex_of(|out| server::pong(1_500_000, 0, 0, u32::MAX, 0, out));
    assert_eq!(hex, without_spaces(PONG_UNKNOWN));
    let within = Duration::from_secs(12);
    let hex = hex_of(|out| server::going_away(within, "this edge is being shut down", out));
    assert_eq!(hex, without_spaces(GOING_AWAY));
}

#[test]
fn an_ack_with_a_cookie_is_right_byte_for_byte() {
    let limits = limits(0);
    let mut session = ServerSession::new(Mono::ZERO);
    let auth = bytes_of(AUTH_COOKIE);
    session.step(&limits, &mut auth.as_slice(), Mono::ZERO);
    let cookie = bytes_of(COOKIE);
    let hex = hex_of(|out| session.accept(&limits, &greeting(&cookie), Mono::ZERO, out));
    assert_eq!(hex, without_spaces(ACK_COOKIE));
}

#[test]
fn errors_are_right_byte_for_byte() {
    let version = tickstorm_protocol::FrameError::UnsupportedVersion { found: 2 };
    let code = ErrorCode::UnsupportedVersion;
    let hex = hex_of(|out| server::error(code, &version.to_string(), 0, CONNECTION_ID, out));
    assert_eq!(hex, without_spaces(ERROR_VERSION));
    let draining = CloseReason::ServerDraining.to_string();
    let code = ErrorCode::ServerDraining;
    let hex = hex_of(|out| server::error(code, &draining, 250, CONNECTION_ID, out));
    assert_eq!(hex, without_spaces(ERROR_DRAINING));
}

#[test]
fn the_documentation_shows_these_bytes() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/protocol.md");
    let document = without_spaces(&std::fs::read_to_string(path).unwrap());
    for hex in ALL {
        assert!(
            document.contains(&without_spaces(hex)),
            "{path} does not contain {hex}"
        );
    }
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits = without_spaces(hex);
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex");
    (0..digits.len()).step_by(2).map(byte).collect()
}
