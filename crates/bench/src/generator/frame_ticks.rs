//! What a frame of ticks says, once it has been found to be what the protocol promises.

use prost::Message as _;
use tickstorm_protocol::FrameType;
use tickstorm_protocol::frame::{Frame, FrameError};
use tickstorm_protocol::message::{DataBatch, SCHEMA_VERSION};
use tickstorm_timebase::Mode;

/// The ticks of a frame. They follow each other without a gap, so the first and the last tell all
/// of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameTicks {
    /// From the yardstick, not from the edge's engine.
    pub(crate) bare: bool,
    pub(crate) first_ms: i64,
    pub(crate) last_ms: i64,
    pub(crate) count: u64,
    pub(crate) sent_unix_us: i64,
}

/// Why bytes are no frame that an edge may send.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokenFrame {
    /// Its header or its checksum is wrong.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Its payload is no message.
    #[error(transparent)]
    Payload(#[from] prost::DecodeError),
    /// It is of a type that only clients send.
    #[error("{} came from an edge", .0.name())]
    FromClient(FrameType),
    #[error("a DATA_BATCH without a tick")]
    Empty,
    #[error("schema version {0}")]
    SchemaVersion(u32),
    #[error("a tick that is not of mode {}", .0.name())]
    OtherMode(Mode),
    #[error("a DATA_BATCH with a gap in it")]
    Gap,
}

impl FrameTicks {
    /// Takes the ticks out of a DATA_BATCH, whose mode must be `mode`; `bare` says whose it is.
    pub(super) fn decode(frame: &Frame<'_>, mode: Mode, bare: bool) -> Result<Self, BrokenFrame> {
        let batch = DataBatch::decode(frame.payload())?;
        let (Some(first), Some(last)) = (batch.ticks.first(), batch.ticks.last()) else {
            return Err(BrokenFrame::Empty);
        };
        if batch.schema_version != SCHEMA_VERSION {
            return Err(BrokenFrame::SchemaVersion(batch.schema_version));
        }
        let mut ticks = batch.ticks.iter();
        if ticks.any(|tick| tick.known_mode() != Some(mode)) {
            return Err(BrokenFrame::OtherMode(mode));
        }
        let mut pairs = batch.ticks.windows(2);
        if pairs.any(|pair| pair[1].epoch_ms - pair[0].epoch_ms != mode.period_ms()) {
            return Err(BrokenFrame::Gap);
        }
        Ok(Self {
            bare,
            first_ms: first.epoch_ms,
            last_ms: last.epoch_ms,
            count: batch.ticks.len() as u64,
            sent_unix_us: batch.sent_unix_us,
        })
    }
}
