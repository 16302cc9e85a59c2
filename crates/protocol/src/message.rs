//! The payloads: what prost made of `stream.proto`, and the way from it to timebase's types and back.
//!
//! The wire's enums stay in here. There is one [`Mode`], timebase's; a number that this version doesn't know is dealt with
//! where it is decoded.

use std::fmt;

use prost::Message;
use tickstorm_timebase::{self as timebase, Epoch, Mode, Quality};

use crate::frame::{self, FrameType};
use crate::session::Request;

pub use generated::{Ack, Auth, DataBatch, ErrorMsg, Heartbeat, Pong, Subscribe, Tick};

#[expect(
    missing_docs,
    reason = "generated from stream.proto, whose comments are its own"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/tickstorm.v1.rs"));
}

/// What `DataBatch.schema_version` says; another number would mean that ticks mean something else.
pub const SCHEMA_VERSION: u32 = 1;
/// What `Ack.protocol_minor` says: how much of version 1 this side knows.
pub const PROTOCOL_MINOR: u32 = 0;
/// The most ticks that a DATA_BATCH frame may carry.
pub const BATCH_TICKS_MAX: usize = 1_000;

/// Most bytes of a DataBatch beside its ticks: schema version, and a 64-bit varint with its tag.
const BATCH_OVERHEAD_MAX: usize = 2 + 11;
/// Most bytes of a tick in a DataBatch: tag and length, mode, epoch as a 64-bit varint, quality.
const TICK_LEN_MAX: usize = 2 + 2 + 11 + 2;
/// `repeated Tick ticks = 2`, length-delimited.
const TICKS_TAG: u8 = 2 << 3 | 2;

/// How many ticks fit into one DATA_BATCH frame, whatever they are, where a payload may have `max_msg_size` bytes.
#[must_use]
pub const fn ticks_per_frame(max_msg_size: usize) -> usize {
    let fitting = max_msg_size.saturating_sub(BATCH_OVERHEAD_MAX) / TICK_LEN_MAX;
    if fitting < BATCH_TICKS_MAX {
        fitting
    } else {
        BATCH_TICKS_MAX
    }
}

/// Appends a DATA_BATCH frame with 1 to [`ticks_per_frame`] ticks to `out`, and allocates nothing but its growth.
///
/// `sent_unix_us` is authority time at the beginning of the send, in microseconds.
pub fn encode_batch(mode: Mode, ticks: &[timebase::Tick], sent_unix_us: i64, out: &mut Vec<u8>) {
    debug_assert!(
        (1..=BATCH_TICKS_MAX).contains(&ticks.len()),
        "{} ticks in a batch",
        ticks.len()
    );
    // Encodings of one message, written one after the other, are the encoding of their sum.
    let head = DataBatch {
        schema_version: SCHEMA_VERSION,
        ..DataBatch::default()
    };
    let tail = DataBatch {
        sent_unix_us,
        ..DataBatch::default()
    };
    frame::write(FrameType::DataBatch, out, |out| {
        head.encode(out).expect("a Vec takes what it is given");
        for tick in ticks {
            out.push(TICKS_TAG);
            Tick::new(mode, *tick)
                .encode_length_delimited(out)
                .expect("a Vec takes what it is given");
        }
        tail.encode(out).expect("a Vec takes what it is given");
    });
}

impl Tick {
    /// A tick of the feed of `mode`.
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

    /// The mode, where this version knows it.
    #[must_use]
    pub fn known_mode(&self) -> Option<Mode> {
        known_mode(self.mode)
    }

    /// The tick; a quality that this version doesn't know reads as NORMAL.
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
    /// The request; none where this version doesn't know the mode.
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

/// Masks what must never stand in a log. An empty field is shown as such, since that is what goes wrong most.
impl fmt::Debug for Auth {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mask = |secret: &str| if secret.is_empty() { "" } else { "***" };
        formatter
            .debug_struct("Auth")
            .field("username", &self.username)
            .field("password", &mask(&self.password))
            .field("client_id", &self.client_id)
            .field("client_version", &self.client_version)
            .field("token", &mask(&self.token))
            .finish()
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
