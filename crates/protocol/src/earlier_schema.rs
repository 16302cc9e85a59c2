//! Recognises a SUBSCRIBE in the schema of the earlier Go server. Its fields 2, 3 and 4 are
//! reserved in `stream.proto`, and its modes have other numbers, so such a SUBSCRIBE would decode,
//! and might be served ticks of the wrong mode.

use std::fmt;

use crate::message::Subscribe;

/// The number of MINUTE in the earlier schema, where SECOND is 1 and 0 is not allowed.
const EARLIER_MINUTE: i32 = 2;

/// What shows that a SUBSCRIBE is in the earlier schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlierSchema {
    /// It has `repeated string symbols = 2`.
    Symbols,
    /// It has `int64 start_time_ms = 3`.
    StartTime,
    /// It has `map<string, string> metadata = 4`.
    Metadata,
    /// Its mode is 2.
    MinuteMode,
}

impl EarlierSchema {
    /// Returns the first sign in a SUBSCRIBE and the payload from which it was decoded; `None` if
    /// there is none. A field counts whatever its type and value.
    pub(crate) fn find(subscribe: &Subscribe, payload: &[u8]) -> Option<Self> {
        let is_minute = subscribe.mode == EARLIER_MINUTE;
        first_field(payload).or_else(|| is_minute.then_some(Self::MinuteMode))
    }
}

impl fmt::Display for EarlierSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Symbols => "field 2, symbols",
            Self::StartTime => "field 3, start_time_ms",
            Self::Metadata => "field 4, metadata",
            Self::MinuteMode => "mode 2",
        })
    }
}

/// Returns the first field of the earlier schema in a payload that decodes as protobuf. Fields
/// inside of a group belong to that group, not to the message.
fn first_field(mut payload: &[u8]) -> Option<EarlierSchema> {
    let mut depth = 0_usize;
    while !payload.is_empty() {
        let key = take_varint(&mut payload)?;
        match (depth, key >> 3) {
            (0, 2) => return Some(EarlierSchema::Symbols),
            (0, 3) => return Some(EarlierSchema::StartTime),
            (0, 4) => return Some(EarlierSchema::Metadata),
            (_, _) => {}
        }
        let value_len = match key & 7 {
            0 => {
                take_varint(&mut payload)?;
                0
            }
            1 => 8,
            2 => usize::try_from(take_varint(&mut payload)?).ok()?,
            3 => {
                depth += 1;
                0
            }
            4 => {
                depth = depth.checked_sub(1)?;
                0
            }
            5 => 4,
            _ => return None,
        };
        payload = payload.get(value_len..)?;
    }
    None
}

/// Takes a varint of at most ten bytes off the start of `bytes`.
fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}
