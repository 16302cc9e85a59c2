//! The payloads: the types that prost generates from `stream.proto`, and their conversion to and
//! from timebase's types.
//!
//! The enums of the wire are private to this module: all crates use timebase's [`Mode`] and
//! [`Quality`], and numbers that this version does not know are handled during decoding.

use std::fmt;

use prost::Message;
use tickstorm_timebase::{self as timebase, Epoch, Mode, Quality};
use zeroize::Zeroize;

use crate::frame::{self, FrameType};
use crate::session::Request;

pub use generated::{Ack, Auth, DataBatch, ErrorMsg, GoingAway, Heartbeat, Pong, Subscribe, Tick};

#[expect(
    missing_docs,
    reason = "generated from stream.proto, where the fields are documented"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/tickstorm.v1.rs"));
}

/// The value of `DataBatch.schema_version`. A different number would mean that ticks have a
/// different meaning.
pub const SCHEMA_VERSION: u32 = 1;
/// The value of `Ack.protocol_minor`: the minor revision of version 1 that this side knows.
pub const PROTOCOL_MINOR: u32 = 1;
/// The longest cookie in an `Auth` or `Ack`, in bytes. A longer one is ignored.
pub const COOKIE_LEN_MAX: usize = 64;
/// The longest connection id in an `Ack` or `ErrorMsg`, in bytes. A longer one is ignored.
pub const CONNECTION_ID_LEN_MAX: usize = 40;
/// The largest number of ticks that a DATA_BATCH frame may carry.
pub const BATCH_TICKS_MAX: usize = 1_000;

/// The largest size in bytes of a DataBatch without its ticks: the schema version, and a 64-bit
/// varint with its tag.
const BATCH_OVERHEAD_MAX: usize = 2 + 11;
/// The largest size in bytes of a tick in a DataBatch: tag and length, mode, epoch as a 64-bit
/// varint with its tag, and quality.
const TICK_LEN_MAX: usize = 2 + 2 + 11 + 2;
/// The tag of `repeated Tick ticks = 2`, which is length-delimited.
const TICKS_TAG: u8 = 2 << 3 | 2;

/// Returns how many ticks are sure to fit into one DATA_BATCH frame whose payload may have
/// `max_msg_size` bytes.
#[must_use]
pub const fn ticks_per_frame(max_msg_size: usize) -> usize {
    let fitting = max_msg_size.saturating_sub(BATCH_OVERHEAD_MAX) / TICK_LEN_MAX;
    if fitting < BATCH_TICKS_MAX {
        fitting
    } else {
        BATCH_TICKS_MAX
    }
}

/// Appends a DATA_BATCH frame with 1 to [`ticks_per_frame`] ticks to `out`. Allocates nothing
/// except to grow `out`.
///
/// `sent_unix_us` is the authority time, in microseconds, at which the edge begins to send.
pub fn encode_batch(mode: Mode, ticks: &[timebase::Tick], sent_unix_us: i64, out: &mut Vec<u8>) {
    debug_assert!(
        (1..=BATCH_TICKS_MAX).contains(&ticks.len()),
        "{} ticks in a batch",
        ticks.len()
    );
    // In protobuf, concatenated encodings of one message type decode as the merged message.
    let head = DataBatch {
        schema_version: SCHEMA_VERSION,
        ..DataBatch::default()
    };
    let tail = DataBatch {
        sent_unix_us,
        ..DataBatch::default()
    };
    frame::write(FrameType::DataBatch, out, |out| {
        head.encode(out).expect("a Vec grows as needed");
        for tick in ticks {
            out.push(TICKS_TAG);
            Tick::new(mode, *tick)
                .encode_length_delimited(out)
                .expect("a Vec grows as needed");
        }
        tail.encode(out).expect("a Vec grows as needed");
    });
}

impl Tick {
    /// Converts a tick of `mode`.
    #[must_use]
    pub fn new(mode: Mode, tick: timebase::Tick) -> Self {
        Self {
            mode: mode_number(mode),
            epoch_ms: tick.epoch.as_ms(),
            quality: match tick.quality {
                Quality::Normal => generated::Quality::Normal,
                Quality::Holdover => generated::Quality::Holdover,
                Quality::Replay => generated::Quality::Replay,
            }
            .into(),
        }
    }

    /// Returns the mode, or `None` if this version does not know it.
    #[must_use]
    pub fn known_mode(&self) -> Option<Mode> {
        known_mode(self.mode)
    }

    /// Returns the tick. A quality that this version does not know reads as NORMAL.
    #[must_use]
    pub fn tick(&self) -> timebase::Tick {
        let quality = match generated::Quality::try_from(self.quality) {
            Ok(generated::Quality::Holdover) => Quality::Holdover,
            Ok(generated::Quality::Replay) => Quality::Replay,
            Ok(generated::Quality::Normal) | Err(_) => Quality::Normal,
        };
        timebase::Tick {
            epoch: Epoch::from_ms(self.epoch_ms),
            quality,
        }
    }
}

impl Subscribe {
    /// Returns the request, or `None` if this version does not know the mode.
    #[must_use]
    pub fn request(&self) -> Option<Request> {
        Some(Request {
            mode: known_mode(self.mode)?,
            ahead: self.ahead,
            resume_after: self.resume_after_epoch_ms.map(Epoch::from_ms),
        })
    }
}

impl From<Request> for Subscribe {
    fn from(request: Request) -> Self {
        Self {
            mode: mode_number(request.mode),
            resume_after_epoch_ms: request.resume_after.map(Epoch::as_ms),
            ahead: request.ahead,
        }
    }
}

/// Masks the secrets, which must never appear in a log. An empty field is shown as empty, because a
/// missing secret is the most frequent mistake.
impl fmt::Debug for Auth {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mask = |secret: &[u8]| if secret.is_empty() { "" } else { "***" };
        formatter
            .debug_struct("Auth")
            .field("username", &self.username)
            .field("password", &mask(self.password.as_bytes()))
            .field("client_id", &self.client_id)
            .field("client_version", &self.client_version)
            .field("token", &mask(self.token.as_bytes()))
            .field("cookie", &mask(&self.cookie))
            .finish()
    }
}

/// Wipes the secrets and keeps the other fields.
impl Zeroize for Auth {
    fn zeroize(&mut self) {
        let Self {
            username: _,
            password,
            client_id: _,
            client_version: _,
            token,
            cookie,
        } = self;
        password.zeroize();
        token.zeroize();
        cookie.zeroize();
    }
}

fn mode_number(mode: Mode) -> i32 {
    match mode {
        Mode::Second => generated::Mode::Second,
        Mode::Minute => generated::Mode::Minute,
    }
    .into()
}

fn known_mode(number: i32) -> Option<Mode> {
    generated::Mode::try_from(number)
        .ok()
        .map(|mode| match mode {
            generated::Mode::Second => Mode::Second,
            generated::Mode::Minute => Mode::Minute,
        })
}
