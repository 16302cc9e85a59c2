//! What a connection still has to write, while its socket takes less than there is: the rest of a frame half sent, control
//! frames, a replay in the making, and a position in the feed's ring. It decides what comes next and keeps every byte exactly
//! once; it does not write.

use bytes::{Buf, Bytes};
use tickstorm_protocol::message::{encode_batch, ticks_per_frame};
use tickstorm_timebase::{Authority, Epoch, Mode, Mono, Plan, Quality, Tick};

/// Control frames that may wait for a full socket; while one does, the connection is not read.
const CONTROL_MAX: usize = 4_096;

/// The slow path's state of one connection.
#[derive(Debug)]
pub(super) struct Outbox {
    /// What lacks of the frame (or control frames) half sent: comes before all else.
    rest: Bytes,
    rest_is_control: bool,
    control: Vec<u8>,
    replay: Option<Replay>,
    /// When the socket last took a byte, in the shard's own time.
    pub(super) progress: Mono,
}

impl Outbox {
    /// One that has nothing to write yet.
    pub(super) fn new(now: Mono) -> Box<Self> {
        Box::new(Self {
            rest: Bytes::new(),
            rest_is_control: false,
            control: Vec::new(),
            replay: None,
            progress: now,
        })
    }

    /// One that goes on with the rest of a data frame.
    pub(super) fn with_rest(rest: Bytes, now: Mono) -> Box<Self> {
        let mut outbox = Self::new(now);
        outbox.rest = rest;
        outbox
    }

    /// Whether control frames wait.
    pub(super) fn holds_control(&self) -> bool {
        self.rest_is_control || !self.control.is_empty()
    }

    /// Appends control frames; they go before replay and feed.
    pub(super) fn push_control(&mut self, frames: &[u8]) {
        debug_assert!(
            self.control.len() <= CONTROL_MAX,
            "not read while control frames wait"
        );
        self.control.extend_from_slice(frames);
    }

    /// Puts `replay` in the place of what was still to be replayed.
    pub(super) fn set_replay(&mut self, replay: Option<Replay>) {
        self.replay = replay;
    }

    /// What is to be written before the feed's frames; empty where nothing is. A frame of a replay is made here, and `made`
    /// told of its ticks.
    pub(super) fn front(
        &mut self,
        max_msg_size: usize,
        authority: Option<(&Authority, Mono)>,
        made: impl FnOnce(usize),
    ) -> &Bytes {
        if self.rest.is_empty() {
            self.rest_is_control = !self.control.is_empty();
            if self.rest_is_control {
                self.rest = Bytes::from(std::mem::take(&mut self.control));
            } else if let Some(replay) = self.replay.as_mut() {
                let (frame, ticks) = replay.next_frame(max_msg_size, authority);
                self.rest = frame;
                made(ticks);
                if replay.is_over() {
                    self.replay = None;
                }
            }
        }
        &self.rest
    }

    /// Whether the feed's own frames may follow what [`Self::front`] gave.
    pub(super) fn feed_may_follow(&self) -> bool {
        self.control.is_empty() && self.replay.is_none()
    }

    /// Takes note that `taken` bytes went out, and gives how many of them were not of the front but of the feed's frames.
    pub(super) fn consume(&mut self, taken: usize, now: Mono) -> usize {
        self.progress = now;
        let front = taken.min(self.rest.len());
        self.rest.advance(front);
        if self.rest.is_empty() {
            self.rest_is_control = false;
        }
        taken - front
    }

    /// Goes on with the rest of a frame of the feed.
    pub(super) fn set_rest(&mut self, rest: Bytes) {
        self.rest = rest;
        self.rest_is_control = false;
    }
}

/// Ticks of the past, as a position: frames are made when the socket takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Replay {
    mode: Mode,
    after: Epoch,
    replay_until: Epoch,
    until: Epoch,
}

impl Replay {
    /// What `plan` sends before the feed; none where that is nothing.
    pub(super) fn of(mode: Mode, plan: &Plan) -> Option<Self> {
        let replay = Self {
            mode,
            after: plan.start,
            replay_until: plan.replay_until,
            until: plan.ahead_until.max(plan.replay_until),
        };
        (!replay.is_over()).then_some(replay)
    }

    fn is_over(&self) -> bool {
        self.mode.next_after(self.after) > self.until
    }

    fn next_frame(
        &mut self,
        max_msg_size: usize,
        authority: Option<(&Authority, Mono)>,
    ) -> (Bytes, usize) {
        let mut ticks = Vec::new();
        while !self.is_over() && ticks.len() < ticks_per_frame(max_msg_size) {
            let epoch = self.mode.next_after(self.after);
            let vouched = authority.is_some_and(|(authority, _)| authority.vouches_for(epoch));
            let quality = match vouched {
                _ if epoch <= self.replay_until => Quality::Replay,
                true => Quality::Normal,
                false => Quality::Holdover,
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
