//! The metric of frames, and the types that it tells apart.

use prometheus::{IntCounter, Registry};
use tickstorm_protocol::frame::FrameType;
use tickstorm_service::metrics::{RegisterError, counters};

/// The number of frames that were received and sent, by type.
pub(crate) struct FrameMetrics {
    received: [IntCounter; ReceivedFrame::ALL.len()],
    sent: [IntCounter; SentFrame::ALL.len()],
}

impl FrameMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, RegisterError> {
        let frames = counters(
            registry,
            "tickstorm_frames_total",
            "Frames received from clients and sent to them, by type; a DATA_BATCH counts once per \
             subscriber. Received frames whose type the edge skips have the type other, and those \
             that are not valid do not count.",
            &["type", "direction"],
        )?;
        let received = |frame: ReceivedFrame| [frame.label(), "received"];
        let sent = |frame: SentFrame| [frame.label(), "sent"];
        Ok(Self {
            received: ReceivedFrame::ALL.map(|frame| frames.with_label_values(&received(frame))),
            sent: SentFrame::ALL.map(|frame| frames.with_label_values(&sent(frame))),
        })
    }

    /// Returns the counter of a type of received frame.
    pub(crate) fn received(&self, frame: ReceivedFrame) -> &IntCounter {
        &self.received[frame as usize]
    }

    /// Returns the counter of a type of sent frame.
    pub(crate) fn sent(&self, frame: SentFrame) -> &IntCounter {
        &self.sent[frame as usize]
    }
}

/// The type of a received frame, in the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReceivedFrame {
    Auth,
    Subscribe,
    Heartbeat,
    /// A client may not send this one and the next three.
    DataBatch,
    Error,
    Ack,
    Pong,
    /// A type that the edge skips or does not know.
    Other,
}

impl ReceivedFrame {
    /// All types, in declaration order.
    pub(crate) const ALL: [Self; 8] = [
        Self::Auth,
        Self::Subscribe,
        Self::Heartbeat,
        Self::DataBatch,
        Self::Error,
        Self::Ack,
        Self::Pong,
        Self::Other,
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Subscribe => "subscribe",
            Self::Heartbeat => "heartbeat",
            Self::DataBatch => "data_batch",
            Self::Error => "error",
            Self::Ack => "ack",
            Self::Pong => "pong",
            Self::Other => "other",
        }
    }
}

/// Converts the type that the session reports.
impl From<Option<FrameType>> for ReceivedFrame {
    fn from(frame_type: Option<FrameType>) -> Self {
        match frame_type {
            Some(FrameType::Auth) => Self::Auth,
            Some(FrameType::Subscribe) => Self::Subscribe,
            Some(FrameType::Heartbeat) => Self::Heartbeat,
            Some(FrameType::DataBatch) => Self::DataBatch,
            Some(FrameType::Error) => Self::Error,
            Some(FrameType::Ack) => Self::Ack,
            Some(FrameType::Pong) => Self::Pong,
            Some(FrameType::GoingAway) | None => Self::Other,
        }
    }
}

/// The type of a sent frame, in the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SentFrame {
    DataBatch,
    Error,
    Ack,
    Pong,
    GoingAway,
}

impl SentFrame {
    /// All types, in declaration order.
    pub(crate) const ALL: [Self; 5] = [
        Self::DataBatch,
        Self::Error,
        Self::Ack,
        Self::Pong,
        Self::GoingAway,
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::DataBatch => "data_batch",
            Self::Error => "error",
            Self::Ack => "ack",
            Self::Pong => "pong",
            Self::GoingAway => "going_away",
        }
    }
}
