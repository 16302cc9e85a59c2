//! The frames that the scripted edge sends, including those that a client of today can't know.

use prost::Message;
use tickstorm_protocol::frame::{self, FrameType};
use tickstorm_protocol::message::{
    Ack, DataBatch, ErrorMsg, GoingAway, PROTOCOL_MINOR, Pong, SCHEMA_VERSION, Tick, encode_batch,
};
use tickstorm_timebase::{self as timebase, Epoch, Mode, UnixTime};

use super::pace::{FRAME_RATE, HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT};
use super::part::Refusal;

/// A field of a later version: number 1000, length-delimited, with four bytes.
const UNKNOWN_BYTES: [u8; 7] = [0xC2, 0x3E, 4, b'l', b'a', b't', b'e'];
/// A field of a later version: number 2000, a varint.
const UNKNOWN_VARINT: [u8; 3] = [0x80, 0x7D, 42];
/// The tag of `repeated Tick ticks = 2`, which is length-delimited.
const TICKS_TAG: u8 = 2 << 3 | 2;
/// A quality that no version knows yet.
const UNKNOWN_QUALITY: i32 = 9;
/// An unknown type below 0x80 and two above, of which the last has the largest payload.
const UNKNOWN_TYPES: [(u8, usize); 4] = [(0x42, 3), (0x90, 0), (0x08, 200), (0xFF, 65_536)];

/// What both ACKs tell a client.
pub(super) struct AckTerms<'a> {
    pub(super) edge_id: &'a str,
    pub(super) is_odd: bool,
}

/// Encodes the ACK of AUTH.
pub(super) fn welcome(terms: &AckTerms<'_>, connection_id: &str, cookie: &[u8]) -> Vec<u8> {
    let ack = Ack {
        connection_id: connection_id.to_owned(),
        frame_rate_limit: FRAME_RATE,
        cookie: cookie.to_vec(),
        ..ack(FrameType::Auth, terms)
    };
    let mut out = encode(FrameType::Ack, &ack, terms.is_odd);
    if terms.is_odd {
        let unknown = Ack {
            acked_type: 9,
            ..ack
        };
        out.extend(encode(FrameType::Ack, &unknown, true));
    }
    out
}

/// Encodes the ACK of SUBSCRIBE.
pub(super) fn subscribed(terms: &AckTerms<'_>, start: Epoch) -> Vec<u8> {
    let ack = Ack {
        start_epoch_ms: start.as_ms(),
        ..ack(FrameType::Subscribe, terms)
    };
    encode(FrameType::Ack, &ack, terms.is_odd)
}

fn ack(acked: FrameType, terms: &AckTerms<'_>) -> Ack {
    let millis = |duration: std::time::Duration| u32::try_from(duration.as_millis()).unwrap_or(0);
    Ack {
        acked_type: acked.byte().into(),
        heartbeat_interval_ms: millis(HEARTBEAT_INTERVAL),
        heartbeat_timeout_ms: millis(HEARTBEAT_TIMEOUT),
        edge_id: terms.edge_id.to_owned(),
        protocol_minor: PROTOCOL_MINOR,
        ..Ack::default()
    }
}

/// Encodes a batch of ticks.
pub(super) fn batch(mode: Mode, ticks: &[timebase::Tick], sent: UnixTime) -> Vec<u8> {
    let mut out = Vec::new();
    encode_batch(mode, ticks, sent.as_micros(), &mut out);
    out
}

/// Encodes a batch of ticks with fields and a quality that no client knows.
pub(super) fn odd_batch(mode: Mode, ticks: &[timebase::Tick], sent: UnixTime) -> Vec<u8> {
    let head = DataBatch {
        schema_version: SCHEMA_VERSION,
        sent_unix_us: sent.as_micros(),
        ..DataBatch::default()
    };
    let mut payload = head.encode_to_vec();
    for tick in ticks {
        let mut tick = Tick::new(mode, *tick);
        tick.quality = UNKNOWN_QUALITY;
        let tick = [&tick.encode_to_vec()[..], &UNKNOWN_VARINT, &UNKNOWN_BYTES].concat();
        payload.push(TICKS_TAG);
        payload.push(u8::try_from(tick.len()).expect("a tick has some tens of bytes"));
        payload.extend(tick);
    }
    payload.extend(UNKNOWN_BYTES);
    raw(FrameType::DataBatch.byte(), &payload)
}

/// Encodes a PONG.
pub(super) fn pong(pong: &Pong, is_odd: bool) -> Vec<u8> {
    encode(FrameType::Pong, pong, is_odd)
}

/// Encodes an ERROR.
pub(super) fn error(refusal: Refusal, connection_id: &str, is_odd: bool) -> Vec<u8> {
    let error = ErrorMsg {
        code: refusal.code.to_owned(),
        message: "this is a scenario of tickstorm dev".to_owned(),
        retry_after_ms: refusal.retry_after_ms,
        supported_versions: Vec::new(),
        connection_id: connection_id.to_owned(),
    };
    encode(FrameType::Error, &error, is_odd)
}

/// Encodes GOING_AWAY.
pub(super) fn going_away(deadline: std::time::Duration) -> Vec<u8> {
    let message = GoingAway {
        deadline_ms: u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX),
        reason: "this is a scenario of tickstorm dev".to_owned(),
    };
    encode(FrameType::GoingAway, &message, false)
}

/// Encodes one of several frames that clients skip.
pub(super) fn unknown(turn: usize) -> Vec<u8> {
    let (type_byte, len) = UNKNOWN_TYPES[turn % UNKNOWN_TYPES.len()];
    // The payload looks like the start of a frame, which must not mislead a client.
    let payload: Vec<u8> = frame::MAGIC.into_iter().cycle().take(len).collect();
    raw(type_byte, &payload)
}

/// Makes the checksum of a frame wrong.
pub(super) fn corrupt(mut frame: Vec<u8>) -> Vec<u8> {
    if let Some(last) = frame.last_mut() {
        *last ^= 1;
    }
    frame
}

fn encode(frame_type: FrameType, message: &impl Message, is_odd: bool) -> Vec<u8> {
    let mut payload = message.encode_to_vec();
    if is_odd {
        payload.extend(UNKNOWN_VARINT);
        payload.extend(UNKNOWN_BYTES);
    }
    raw(frame_type.byte(), &payload)
}

fn raw(type_byte: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::encode_raw(type_byte, payload, &mut out);
    out
}
