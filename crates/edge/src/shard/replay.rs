//! [`Replay`]: the ticks that a new subscriber gets before those of its feed, stored as a position
//! rather than a queue. They are the past ticks that it has asked for and, on an ahead feed, the
//! ticks that the feed has already sent.

use bytes::Bytes;
use tickstorm_protocol::message::{encode_batch, ticks_per_frame};
use tickstorm_timebase::{Authority, Epoch, Mode, Mono, Plan, Quality, Tick};

/// The ticks still to be replayed. A frame is made only when the socket can accept it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Replay {
    mode: Mode,
    after: Epoch,
    replay_until: Epoch,
    until: Epoch,
}

impl Replay {
    /// Creates the replay that `plan` requires before the feed's ticks; `None` if it requires none.
    pub(super) fn from_plan(mode: Mode, plan: &Plan) -> Option<Self> {
        let replay = Self {
            mode,
            after: plan.start,
            replay_until: plan.replay_until,
            until: plan.ahead_until.max(plan.replay_until),
        };
        (!replay.is_over()).then_some(replay)
    }

    pub(super) fn is_over(&self) -> bool {
        self.mode.next_after(self.after) > self.until
    }

    /// Returns whether any tick is left that must be sent as REPLAY. The others are those of an
    /// ahead feed, which are due now.
    pub(super) fn holds_past_ticks(&self) -> bool {
        self.mode.next_after(self.after) <= self.replay_until
    }

    /// Returns the number of ticks that are left.
    pub(super) fn ticks(&self) -> u32 {
        let [after, until] = [self.after, self.until].map(|at| self.mode.floor(at).as_ms());
        let ticks = until.saturating_sub(after) / self.mode.period_ms();
        u32::try_from(ticks.max(0)).unwrap_or(u32::MAX)
    }

    /// Returns the number of past ticks that are left. The others are those that an ahead feed has
    /// already sent, which every subscriber gets.
    pub(super) fn past_ticks(&self) -> u32 {
        let past = Self {
            until: self.replay_until,
            ..*self
        };
        past.ticks()
    }

    /// Adds the ticks up to and including `until`, which the feed has sent meanwhile.
    pub(super) fn extend(&mut self, until: Epoch) {
        self.until = self.until.max(until);
    }

    /// Makes the next frame, and returns it with the number of its ticks.
    pub(super) fn next_frame(
        &mut self,
        max_msg_size: usize,
        authority: Option<(&Authority, Mono)>,
    ) -> (Bytes, usize) {
        let mut ticks = Vec::new();
        while !self.is_over() && ticks.len() < ticks_per_frame(max_msg_size) {
            let epoch = self.mode.next_after(self.after);
            let quality = if epoch <= self.replay_until {
                Quality::Replay
            } else {
                authority.map_or(Quality::Holdover, |(time, now)| time.quality(epoch, now))
            };
            ticks.push(Tick { epoch, quality });
            self.after = epoch;
        }
        let sent_unix_us = authority.map_or(0, |(time, now)| time.time_at(now).as_micros());
        let mut frame = Vec::new();
        encode_batch(self.mode, &ticks, sent_unix_us, &mut frame);
        (Bytes::from(frame), ticks.len())
    }
}
