//! The ticks of a frame, once it has been checked against what the protocol promises.

use prost::Message as _;
use tickstorm_protocol::FrameType;
use tickstorm_protocol::frame::{Frame, FrameError};
use tickstorm_protocol::message::{DataBatch, SCHEMA_VERSION};
use tickstorm_timebase::Mode;

/// The ticks of a frame. They have no gap between them, so the first and the last describe all of
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameTicks {
    /// Whether the bare loop sent it, not the edge.
    pub(crate) bare: bool,
    pub(crate) first_ms: i64,
    pub(crate) last_ms: i64,
    pub(crate) count: u64,
    pub(crate) sent_unix_us: i64,
}

/// The reason why bytes are not a frame that an edge may send.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokenFrame {
    /// The header or the checksum is wrong.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The payload can't be decoded.
    #[error(transparent)]
    Payload(#[from] prost::DecodeError),
    /// Only clients send frames of this type.
    #[error("the edge sent {}, which only clients may send", .0.name())]
    FromClient(FrameType),
    #[error("DATA_BATCH without ticks")]
    Empty,
    #[error("unknown schema version {0}")]
    SchemaVersion(u32),
    #[error("tick of another mode than {}", .0.name())]
    OtherMode(Mode),
    #[error("DATA_BATCH with a gap between its ticks")]
    Gap,
}

impl FrameTicks {
    /// Decodes the ticks of a DATA_BATCH, which must be of mode `mode`. `bare` is stored as given.
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
