//! [`FrameCounts`]: how many frames of each type a shard has received and sent. They are plain
//! numbers, which are added to the metrics from time to time.

use std::cell::Cell;

use crate::metrics::{FrameMetrics, ReceivedFrame, SentFrame};

/// The frames of a shard that the metrics do not include yet.
#[derive(Debug, Default)]
pub(super) struct FrameCounts {
    received: [Cell<u64>; ReceivedFrame::ALL.len()],
    sent: [Cell<u64>; SentFrame::ALL.len()],
}

impl FrameCounts {
    /// Counts a frame that was received.
    pub(super) fn count_received(&self, frame: ReceivedFrame) {
        add(&self.received[frame as usize], 1);
    }

    /// Counts a frame that was sent, or that waits only for its socket.
    pub(super) fn count_sent(&self, frame: SentFrame) {
        self.count_sent_times(frame, 1);
    }

    /// Counts `times` frames that were sent.
    pub(super) fn count_sent_times(&self, frame: SentFrame, times: u64) {
        add(&self.sent[frame as usize], times);
    }

    /// Adds the frames since the last call to the metrics.
    pub(super) fn publish(&self, metrics: &FrameMetrics) {
        for frame in ReceivedFrame::ALL {
            let new = self.received[frame as usize].take();
            if new > 0 {
                metrics.received(frame).inc_by(new);
            }
        }
        for frame in SentFrame::ALL {
            let new = self.sent[frame as usize].take();
            if new > 0 {
                metrics.sent(frame).inc_by(new);
            }
        }
    }
}

fn add(count: &Cell<u64>, new: u64) {
    count.set(count.get() + new);
}
