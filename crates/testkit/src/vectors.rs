//! The vectors in `conformance/`, whose README.md describes them, and payloads in their notation.
//!
//! protocol's tests include this file by its path, since they do without an async runtime.

use std::path::Path;

use data_encoding::HEXLOWER;
use prost::{DecodeError, Message};
use serde_json::{Map, Value, json};
use tickstorm_protocol::frame::FrameType;
use tickstorm_protocol::message::{
    Ack, Auth, DataBatch, ErrorMsg, GoingAway, Heartbeat, Pong, Subscribe, Tick,
};

/// Returns the cases in a list of a file, for instance `cases` in `frames.json`.
///
/// # Panics
/// Panics if there are none.
#[must_use]
pub fn cases(file: &str, list: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../conformance")
        .join(file);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("can't read {}: {error}", path.display()));
    let mut content: Value = serde_json::from_str(&text).expect("the vectors are JSON");
    assert_eq!(content["format"], 1, "the format of {file}");
    let Value::Array(cases) = content[list].take() else {
        panic!("{list} of {file} is no list");
    };
    assert!(!cases.is_empty(), "{list} of {file} is empty");
    cases
}

/// Returns the bytes of a hexadecimal string.
///
/// # Panics
/// Panics if it is none.
#[must_use]
pub fn bytes(hex: &Value) -> Vec<u8> {
    let digits = hex.as_str().expect("a hexadecimal string");
    HEXLOWER
        .decode(digits.as_bytes())
        .expect("hexadecimal digits")
}

/// Returns an integer, which is a number or, if it has 64 bits, a string.
///
/// # Panics
/// Panics if it is neither.
#[must_use]
pub fn integer(value: &Value) -> i64 {
    value
        .as_i64()
        .or_else(|| value.as_str()?.parse().ok())
        .unwrap_or_else(|| panic!("{value} is no integer"))
}

/// Returns the ends of an interval. A single integer is also an interval.
///
/// # Panics
/// Panics if the value is neither.
#[must_use]
pub fn interval(value: &Value) -> (i64, i64) {
    match value {
        Value::Array(ends) => (integer(&ends[0]), integer(&ends[1])),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            (integer(value), integer(value))
        }
    }
}

/// Returns the type with a name such as `PONG`.
///
/// # Panics
/// Panics if there is none.
#[must_use]
pub fn frame_type(name: &Value) -> FrameType {
    FrameType::ALL
        .into_iter()
        .find(|known| name == known.name())
        .unwrap_or_else(|| panic!("{name} is no frame type"))
}

/// Decodes a payload, and returns the message in the notation of the vectors.
///
/// # Errors
/// The payload does not decode.
pub fn payload(frame_type: FrameType, payload: &[u8]) -> Result<Value, DecodeError> {
    Ok(Value::Object(match frame_type {
        FrameType::Auth => auth(&Auth::decode(payload)?),
        FrameType::Subscribe => subscribe(&Subscribe::decode(payload)?),
        FrameType::Heartbeat => {
            Fields::default()
                .wide("client_time_us", Heartbeat::decode(payload)?.client_time_us)
                .0
        }
        FrameType::DataBatch => batch(&DataBatch::decode(payload)?),
        FrameType::Error => error(&ErrorMsg::decode(payload)?),
        FrameType::Ack => ack(&Ack::decode(payload)?),
        FrameType::Pong => pong(&Pong::decode(payload)?),
        FrameType::GoingAway => {
            let away = GoingAway::decode(payload)?;
            Fields::default()
                .number("deadline_ms", away.deadline_ms)
                .text("reason", &away.reason)
                .0
        }
    }))
}

/// The fields of a message, without those that have their default value.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(mut self, name: &str, is_default: bool, value: Value) -> Self {
        if !is_default {
            self.0.insert(name.to_owned(), value);
        }
        self
    }

    fn text(self, name: &str, text: &str) -> Self {
        self.put(name, text.is_empty(), json!(text))
    }

    fn bytes(self, name: &str, bytes: &[u8]) -> Self {
        self.put(name, bytes.is_empty(), json!(HEXLOWER.encode(bytes)))
    }

    fn number(self, name: &str, number: u32) -> Self {
        self.put(name, number == 0, json!(number))
    }

    fn wide(self, name: &str, number: i64) -> Self {
        self.put(name, number == 0, json!(number.to_string()))
    }

    fn named(self, name: &str, number: i32, names: &[&str]) -> Self {
        let known = usize::try_from(number).ok().and_then(|at| names.get(at));
        self.put(
            name,
            number == 0,
            known.map_or(json!(number), |known| json!(known)),
        )
    }

    fn list(self, name: &str, list: Vec<Value>) -> Self {
        self.put(name, list.is_empty(), Value::Array(list))
    }
}

const MODES: &[&str] = &["SECOND", "MINUTE"];
const QUALITIES: &[&str] = &["NORMAL", "HOLDOVER", "REPLAY"];

fn auth(auth: &Auth) -> Map<String, Value> {
    Fields::default()
        .text("username", &auth.username)
        .text("password", &auth.password)
        .text("client_id", &auth.client_id)
        .text("client_version", &auth.client_version)
        .text("token", &auth.token)
        .bytes("cookie", &auth.cookie)
        .0
}

fn subscribe(subscribe: &Subscribe) -> Map<String, Value> {
    let resume = subscribe.resume_after_epoch_ms;
    Fields::default()
        .named("mode", subscribe.mode, MODES)
        .put(
            "resume_after_epoch_ms",
            resume.is_none(),
            json!(resume.unwrap_or_default().to_string()),
        )
        .put("ahead", !subscribe.ahead, json!(true))
        .0
}

fn batch(batch: &DataBatch) -> Map<String, Value> {
    let tick = |tick: &Tick| {
        Fields::default()
            .named("mode", tick.mode, MODES)
            .wide("epoch_ms", tick.epoch_ms)
            .named("quality", tick.quality, QUALITIES)
            .0
            .into()
    };
    Fields::default()
        .number("schema_version", batch.schema_version)
        .list("ticks", batch.ticks.iter().map(tick).collect())
        .wide("sent_unix_us", batch.sent_unix_us)
        .0
}

fn error(error: &ErrorMsg) -> Map<String, Value> {
    let versions = error.supported_versions.iter();
    Fields::default()
        .text("code", &error.code)
        .text("message", &error.message)
        .number("retry_after_ms", error.retry_after_ms)
        .list(
            "supported_versions",
            versions.map(|each| json!(each)).collect(),
        )
        .text("connection_id", &error.connection_id)
        .0
}

fn ack(ack: &Ack) -> Map<String, Value> {
    Fields::default()
        .number("acked_type", ack.acked_type)
        .number("heartbeat_interval_ms", ack.heartbeat_interval_ms)
        .number("heartbeat_timeout_ms", ack.heartbeat_timeout_ms)
        .text("edge_id", &ack.edge_id)
        .wide("start_epoch_ms", ack.start_epoch_ms)
        .number("protocol_minor", ack.protocol_minor)
        .text("connection_id", &ack.connection_id)
        .number("frame_rate_limit", ack.frame_rate_limit)
        .bytes("cookie", &ack.cookie)
        .0
}

fn pong(pong: &Pong) -> Map<String, Value> {
    Fields::default()
        .wide("client_time_us", pong.client_time_us)
        .wide("received_unix_us", pong.received_unix_us)
        .wide("sent_unix_us", pong.sent_unix_us)
        .number("error_bound_us", pong.error_bound_us)
        .number("clock_error_us", pong.clock_error_us)
        .0
}
