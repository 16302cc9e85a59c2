//! A feed's recent frames, numbered from 0. A subscriber that is behind holds a frame number
//! instead of its own queue. If the ring no longer holds that frame, the subscriber is a slow
//! consumer. The unsent tail of a partially sent frame is kept outside the ring, so overwriting the
//! frame does not lose it.

use std::collections::VecDeque;

use bytes::Bytes;
use tickstorm_timebase::Epoch;

use super::FeedId;

/// One encoded DATA_BATCH frame, the same for every subscriber of the feed.
#[derive(Clone, Debug)]
pub(crate) struct FeedFrame {
    /// The header, payload and checksum.
    pub(crate) bytes: Bytes,
    /// The first tick in the frame.
    pub(crate) first: Epoch,
    /// The number of ticks in the frame.
    pub(crate) ticks: u32,
    /// The feed.
    pub(crate) feed: FeedId,
    /// Whether the time of its sends is measured: its first tick is not a REPLAY.
    pub(crate) timed: bool,
}

/// The last `capacity` frames of a feed.
pub(crate) struct Ring {
    frames: VecDeque<FeedFrame>,
    /// The number of the oldest frame in the ring.
    tail: u64,
    capacity: usize,
}

impl Ring {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            frames: VecDeque::new(),
            tail: 0,
            capacity,
        }
    }

    /// Returns the number that the next frame will get.
    pub(crate) fn head(&self) -> u64 {
        self.tail + self.frames.len() as u64
    }

    /// Appends a frame, dropping the oldest one if the ring is full, and returns the new frame's
    /// number.
    pub(crate) fn push(&mut self, frame: FeedFrame) -> u64 {
        if self.frames.len() == self.capacity {
            self.frames.pop_front();
            self.tail += 1;
        }
        self.frames.push_back(frame);
        self.head() - 1
    }

    /// Returns the frames from `number` on, oldest first, or `None` if the ring no longer holds
    /// frame `number`.
    pub(crate) fn from(&self, number: u64) -> Option<impl Iterator<Item = &FeedFrame>> {
        let index = usize::try_from(number.checked_sub(self.tail)?).ok()?;
        Some(self.frames.range(index.min(self.frames.len())..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(epoch: i64) -> FeedFrame {
        let epoch = Epoch::from_ms(epoch);
        FeedFrame {
            bytes: Bytes::new(),
            first: epoch,
            ticks: 1,
            feed: FeedId::ALL[0],
            timed: true,
        }
    }

    #[test]
    fn numbers_keep_increasing_when_old_frames_are_dropped() {
        let mut ring = Ring::new(2);
        assert_eq!(
            (ring.head(), ring.push(frame(0)), ring.push(frame(1))),
            (0, 0, 1)
        );
        assert_eq!((ring.push(frame(2)), ring.head()), (2, 3));
        assert!(ring.from(0).is_none());
        let kept: Vec<_> = ring
            .from(1)
            .expect("kept")
            .map(|frame| frame.first.as_ms())
            .collect();
        assert_eq!(kept, [1, 2]);
        assert_eq!(ring.from(3).expect("no frame is missing").count(), 0);
    }
}
