//! A feed's recent frames, numbered from 0 on. Whoever is behind holds a number into this ring
//! instead of a queue of its own; a number that the ring has let go of is the sign of a slow
//! consumer, never of lost bytes.

use std::collections::VecDeque;

use bytes::Bytes;
use tickstorm_timebase::Epoch;

/// One encoded DATA_BATCH as every subscriber of the feed gets it.
#[derive(Clone, Debug)]
pub(crate) struct FeedFrame {
    /// Header, payload and checksum.
    pub(crate) bytes: Bytes,
    /// Its first tick.
    pub(crate) first: Epoch,
    /// How many ticks it carries.
    pub(crate) ticks: u32,
    /// Whether publish_latency_ms counts it: at its time and no REPLAY.
    pub(crate) timed: bool,
}

/// The last `capacity` frames of a feed.
pub(crate) struct Ring {
    frames: VecDeque<FeedFrame>,
    /// Number of the oldest frame kept.
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

    /// The number that the next frame will get.
    pub(crate) fn head(&self) -> u64 {
        self.tail + self.frames.len() as u64
    }

    /// Appends a frame, lets go of the oldest beyond the capacity, and gives the new one's number.
    pub(crate) fn push(&mut self, frame: FeedFrame) -> u64 {
        if self.frames.len() == self.capacity {
            self.frames.pop_front();
            self.tail += 1;
        }
        self.frames.push_back(frame);
        self.head() - 1
    }

    /// The frames from `number` on, oldest first; none where the ring has let go of that one.
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
            timed: true,
        }
    }

    #[test]
    fn numbers_go_on_when_old_frames_go() {
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
        assert_eq!(ring.from(3).expect("nothing lacks").count(), 0);
    }
}
