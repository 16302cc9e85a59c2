//! Micro-batches: the first tick after a quiet time is sent immediately, and further ticks within
//! the batch window are sent together when it ends. A single tick never waits, and the ticks of a
//! burst are never sent one at a time.

use std::time::Duration;

use tickstorm_protocol::message::BATCH_TICKS_MAX;
use tickstorm_timebase::{Authority, Epoch, Mono, Quality, Tick};

/// A tick that is waiting to be put into a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) epoch: Epoch,
    /// The quality it came with, if any. Otherwise authority time decides it when the frame is
    /// made.
    pub(crate) quality: Option<Quality>,
}

impl Pending {
    /// Returns the tick as it goes into a frame made at `now`.
    pub(crate) fn tick_at(&self, authority: &Authority, now: Mono) -> Tick {
        Tick {
            epoch: self.epoch,
            quality: self
                .quality
                .unwrap_or_else(|| authority.quality(self.epoch, now)),
        }
    }
}

/// The ticks that have been released but are not in a frame yet.
pub(crate) struct Batch {
    window: Duration,
    pending: Vec<Pending>,
    /// The end of the window in which ticks are collected. If it is in the past, the feed is quiet.
    open_until: Mono,
}

impl Batch {
    pub(crate) fn new(window: Duration) -> Self {
        Self {
            window,
            pending: Vec::new(),
            open_until: Mono::ZERO,
        }
    }

    /// Adds a tick that has been released.
    pub(crate) fn push(&mut self, tick: Pending) {
        self.pending.push(tick);
    }

    /// Returns when the pending ticks are due to be sent, or `None` if there are none. Once they
    /// fill the largest frame they do not wait for the window to end, so that waiting for it can't
    /// make the batch grow without bound.
    pub(crate) fn due(&self) -> Option<Mono> {
        match self.pending.len() {
            0 => None,
            BATCH_TICKS_MAX.. => Some(Mono::ZERO),
            _ => Some(self.open_until),
        }
    }

    /// Takes up to `max` pending ticks, oldest first, to be sent at `now`, and opens the next
    /// window.
    pub(crate) fn take(&mut self, now: Mono, max: usize) -> Vec<Pending> {
        self.open_until = now + self.window;
        let rest = self.pending.split_off(max.min(self.pending.len()));
        std::mem::replace(&mut self.pending, rest)
    }

    /// Drops all pending ticks, because authority time was stepped back.
    pub(crate) fn clear(&mut self) {
        self.pending.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(ms: i64) -> Pending {
        Pending {
            epoch: Epoch::from_ms(ms),
            quality: None,
        }
    }

    fn at(micros: u64) -> Mono {
        Mono::from_nanos(1_000_000_000 + micros * 1_000)
    }

    #[test]
    fn a_single_tick_never_waits() {
        let mut batch = Batch::new(Duration::from_millis(5));
        for second in 0..3 {
            let now = at(second * 1_000_000);
            assert_eq!(batch.due(), None);
            batch.push(tick(0));
            assert!(batch.due().expect("pending") <= now);
            assert_eq!(batch.take(now, 10_000).len(), 1);
        }
    }

    #[test]
    fn ticks_within_the_window_are_sent_together_when_it_ends() {
        let mut batch = Batch::new(Duration::from_millis(5));
        batch.push(tick(0));
        batch.take(at(0), 10);
        batch.push(tick(1));
        batch.push(tick(2));
        assert_eq!(batch.due(), Some(at(5_000)));
        assert_eq!(batch.take(at(5_000), 10).len(), 2);
        batch.push(tick(3));
        assert_eq!(batch.due(), Some(at(10_000)), "windows follow each other");
    }

    #[test]
    fn a_full_frame_does_not_wait() {
        let mut batch = Batch::new(Duration::from_millis(100));
        batch.push(tick(0));
        batch.take(at(0), 10);
        for ms in 0..i64::try_from(BATCH_TICKS_MAX).unwrap() {
            batch.push(tick(ms));
        }
        assert!(batch.due().expect("pending") <= at(1));
    }

    #[test]
    fn ten_thousand_ticks_per_second_make_two_hundred_frames() {
        let mut batch = Batch::new(Duration::from_millis(5));
        let (mut frames, mut ticks) = (0, 0);
        for n in 0..10_000_u64 {
            let now = at(n * 100);
            if batch.due().is_some_and(|due| due <= now) {
                frames += 1;
                ticks += batch.take(now, 10_000).len();
            }
            batch.push(tick(0));
            if batch.due().is_some_and(|due| due <= now) {
                frames += 1;
                ticks += batch.take(now, 10_000).len();
            }
        }
        ticks += batch.take(at(1_005_000), 10_000).len();
        assert_eq!(ticks, 10_000);
        assert!((195..=205).contains(&frames), "{frames} frames");
    }
}
