//! [`Outbox`]: the output that a connection's socket has not accepted yet: the unsent tail of a
//! partially written frame, control frames, and a replay whose frames are still to be made. The
//! frames of the feed follow from its ring. The outbox decides which bytes are next and yields
//! every byte exactly once; it does not write.

use bytes::{Buf, Bytes};
use tickstorm_timebase::{Authority, Mono};

use super::replay::Replay;

/// The maximum size, in bytes, of the control frames that wait for a full socket. While any wait,
/// the connection is not read.
const CONTROL_MAX: usize = 4_096;

/// The unsent output of a connection on the slow path.
#[derive(Debug)]
pub(super) struct Outbox {
    /// The bytes to write next: what is unsent of one data frame, or of one or more control frames.
    front: Bytes,
    front_kind: FrontKind,
    control: Vec<u8>,
    /// A frame for this subscriber alone, sent before the feed's frames. Nearly always empty.
    own: Bytes,
    /// The replay, until its last frame is completely written.
    replay: Option<Replay>,
    /// Whether output was offered to the socket, which will report when it is writable again. If
    /// not, output that is left waits for the replays' share of the shard's time.
    pub(super) waits_for_socket: bool,
    /// The time since which output that is left waits for the replays' share.
    queued: Mono,
    /// The time at which the socket last accepted a byte or, if it has accepted none since, at
    /// which the outbox began to wait for it, in the shard's time.
    pub(super) progress: Mono,
}

/// The kind of output at the front of an outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FrontKind {
    /// A frame of the feed, or one for this subscriber alone.
    Data,
    Control,
    /// A frame of the replay.
    Replay {
        /// The number of its ticks while no byte of it has been sent. Such a frame can still be
        /// dropped.
        unsent_ticks: Option<usize>,
    },
}

impl Outbox {
    /// Creates an outbox with nothing to write yet.
    pub(super) fn new(now: Mono) -> Box<Self> {
        Box::new(Self {
            front: Bytes::new(),
            front_kind: FrontKind::Data,
            control: Vec::new(),
            own: Bytes::new(),
            replay: None,
            waits_for_socket: false,
            queued: now,
            progress: now,
        })
    }

    /// Creates an outbox that starts with the unsent tail of a data frame.
    pub(super) fn with_tail(tail: Bytes, now: Mono) -> Box<Self> {
        let mut outbox = Self::new(now);
        outbox.front = tail;
        outbox
    }

    /// Notes that the socket accepts no more output for now, and will report when it does. The time
    /// for which the output has waited for the shard is not the client's.
    pub(super) fn wait_for_socket(&mut self, now: Mono) {
        if !self.waits_for_socket {
            self.waits_for_socket = true;
            self.progress = self.progress + now.since(self.queued);
        }
    }

    /// Notes that the output waits for the replays' share of the shard's time.
    pub(super) fn wait_for_turn(&mut self, now: Mono) {
        if std::mem::replace(&mut self.waits_for_socket, false) {
            self.queued = now;
        }
    }

    /// Returns whether neither a partially written frame nor a control frame waits.
    pub(super) fn is_between_frames(&self) -> bool {
        self.front.is_empty() && self.control.is_empty()
    }

    /// Returns whether any control frame is not completely written.
    pub(super) fn holds_control(&self) -> bool {
        self.front_kind == FrontKind::Control || !self.control.is_empty()
    }

    /// Returns whether the next output belongs to the replay, and no control frame waits behind it.
    /// Ticks that an ahead feed has already sent are due, so they do not count as a replay.
    pub(super) fn is_replaying(&self) -> bool {
        let is_next = match self.front_kind {
            FrontKind::Replay { .. } => true,
            FrontKind::Data => {
                let replay = self.replay.as_ref();
                self.front.is_empty()
                    && self.own.is_empty()
                    && replay.is_some_and(Replay::holds_past_ticks)
            }
            FrontKind::Control => false,
        };
        is_next && self.control.is_empty()
    }

    /// Returns how much memory it holds for control frames.
    pub(super) fn buffered(&self) -> usize {
        let front = (self.front_kind == FrontKind::Control).then_some(self.front.len());
        self.control.capacity() + front.unwrap_or(0)
    }

    /// Appends control frames, which precede the replay and the feed's frames.
    pub(super) fn push_control(&mut self, frames: &[u8]) {
        debug_assert!(
            self.control.len() <= CONTROL_MAX,
            "a connection is not read while control frames wait"
        );
        self.control.extend_from_slice(frames);
    }

    /// Replaces the current replay, and the subscriber's own frame, with `replay`. A partially
    /// written frame is still completed.
    pub(super) fn set_replay(&mut self, replay: Option<Replay>) {
        if let FrontKind::Replay { unsent_ticks } = self.front_kind {
            if unsent_ticks.is_some() {
                self.front = Bytes::new();
            }
            self.front_kind = FrontKind::Data;
        }
        self.own = Bytes::new();
        self.replay = replay;
    }

    /// Returns the replay, if there is one.
    pub(super) fn replay(&self) -> Option<&Replay> {
        self.replay.as_ref()
    }

    /// Returns the replay, if there is one, to extend it.
    pub(super) fn replay_mut(&mut self) -> Option<&mut Replay> {
        self.replay.as_mut()
    }

    /// Sets a frame for this subscriber alone, to be sent before the feed's frames.
    pub(super) fn set_own_frame(&mut self, own: Bytes) {
        self.own = own;
    }

    /// Returns the bytes to write before the feed's frames; empty if there are none. Makes the next
    /// frame of the replay if no other output precedes it.
    pub(super) fn front(
        &mut self,
        max_msg_size: usize,
        authority: Option<(&Authority, Mono)>,
    ) -> &Bytes {
        if self.front.is_empty() {
            if !self.control.is_empty() {
                self.front_kind = FrontKind::Control;
                self.front = Bytes::from(std::mem::take(&mut self.control));
            } else if !self.own.is_empty() {
                self.front = std::mem::take(&mut self.own);
            } else if let Some(replay) = self.replay.as_mut() {
                let (frame, ticks) = replay.next_frame(max_msg_size, authority);
                self.front = frame;
                self.front_kind = FrontKind::Replay {
                    unsent_ticks: Some(ticks),
                };
            }
        }
        &self.front
    }

    /// Returns whether the feed's frames may directly follow the bytes that [`Self::front`]
    /// returned.
    pub(super) fn feed_may_follow(&self) -> bool {
        let replay_is_over = self.replay.as_ref().is_none_or(Replay::is_over);
        self.control.is_empty() && self.own.is_empty() && replay_is_over
    }

    /// Records that the socket accepted `taken` bytes, at least 1, and returns how many of them
    /// came after the front, from the feed's frames. Calls `replayed` with the number of ticks in a
    /// frame of the replay when its first byte was sent.
    pub(super) fn consume(
        &mut self,
        taken: usize,
        now: Mono,
        replayed: impl FnOnce(usize),
    ) -> usize {
        self.progress = now;
        self.queued = now;
        let front = taken.min(self.front.len());
        if let FrontKind::Replay { unsent_ticks } = &mut self.front_kind
            && let Some(ticks) = unsent_ticks.take_if(|_| front > 0)
        {
            replayed(ticks);
        }
        self.front.advance(front);
        if self.front.is_empty() {
            self.front_kind = FrontKind::Data;
            self.replay.take_if(|replay| replay.is_over());
        }
        taken - front
    }

    /// Sets the unsent tail of a frame of the feed, to be written next.
    pub(super) fn set_front(&mut self, tail: Bytes) {
        self.front = tail;
        self.front_kind = FrontKind::Data;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tickstorm_protocol::message::{DataBatch, encode_batch};
    use tickstorm_testkit::frame::{ACK, DATA_BATCH, PONG, RawFrame, frame};
    use tickstorm_timebase::{Epoch, Mode, Plan, Quality, Tick};

    use super::*;
    use crate::feed::tests::authority;

    const MAX_MSG_SIZE: usize = 65_536;

    fn plan(start: i64, replay_until: i64, ahead_until: i64) -> Plan {
        let [start, replay_until, ahead_until] =
            [start, replay_until, ahead_until].map(|second| Epoch::from_ms(second * 1_000));
        Plan {
            start,
            replay_until,
            ahead_until,
        }
    }

    fn batch(epoch: i64) -> Bytes {
        let tick = Tick {
            epoch: Epoch::from_ms(epoch),
            quality: Quality::Normal,
        };
        let mut bytes = Vec::new();
        encode_batch(Mode::Second, &[tick], 0, &mut bytes);
        bytes.into()
    }

    /// Writes to a socket that accepts `room` bytes, as a shard does, and returns the bytes that it
    /// accepted. `feed` holds the frames of the feed's ring.
    fn write(outbox: &mut Outbox, feed: &mut Vec<Bytes>, room: usize) -> Vec<u8> {
        let front = outbox.front(MAX_MSG_SIZE, None).clone();
        let mut bytes = front.to_vec();
        let frames = if outbox.feed_may_follow() {
            feed.clone()
        } else {
            Vec::new()
        };
        frames.iter().for_each(|frame| bytes.extend(frame));
        bytes.truncate(room);
        let mut of_feed = outbox.consume(bytes.len(), Mono::ZERO, |_| {});
        for frame in frames {
            if of_feed == 0 {
                break;
            }
            feed.remove(0);
            if of_feed < frame.len() {
                outbox.set_front(frame.slice(of_feed..));
            }
            of_feed = of_feed.saturating_sub(frame.len());
        }
        bytes
    }

    #[test]
    fn output_order_is_partial_frame_control_replay_feed_wherever_writes_end() {
        let half = batch(1_000);
        let (ack, pong) = (frame(ACK, &[8, 2]), frame(PONG, &[8, 7]));
        for room in 1..=200 {
            let mut outbox = Outbox::with_tail(half.slice(5..), Mono::ZERO);
            outbox.set_replay(Replay::from_plan(Mode::Second, &plan(10, 12, 12)));
            outbox.push_control(&ack);
            outbox.push_control(&pong);
            let mut feed = vec![batch(13_000), batch(14_000)];
            let mut sent = half[..5].to_vec();
            loop {
                let bytes = write(&mut outbox, &mut feed, room);
                if bytes.is_empty() {
                    break;
                }
                sent.extend(bytes);
            }
            let frames: Vec<_> = std::iter::from_fn(|| RawFrame::take(&mut sent)).collect();
            let kinds: Vec<_> = frames.iter().map(|frame| frame.kind).collect();
            assert_eq!(
                kinds,
                [DATA_BATCH, ACK, PONG, DATA_BATCH, DATA_BATCH, DATA_BATCH]
            );
            let of_replay: DataBatch = frames[3].decode();
            assert_eq!(of_replay.ticks.len(), 2);
            assert!(sent.is_empty() && feed.is_empty(), "writes of {room} bytes");
        }
    }

    #[test]
    fn control_frames_are_held_until_their_last_byte_is_sent() {
        let mut outbox = Outbox::new(Mono::ZERO);
        let pong = frame(PONG, &[]);
        outbox.push_control(&pong);
        for _ in 0..pong.len() {
            assert!(outbox.holds_control());
            write(&mut outbox, &mut vec![batch(0)], 1);
        }
        assert!(!outbox.holds_control());
        // The tail of a data frame does not block reading.
        write(&mut outbox, &mut vec![batch(0)], 3);
        assert!(!outbox.holds_control());
    }

    #[test]
    fn progress_is_when_the_socket_last_accepted_bytes() {
        let mut outbox = Outbox::new(Mono::from_nanos(5));
        outbox.push_control(&frame(PONG, &[]));
        assert_eq!(outbox.front(MAX_MSG_SIZE, None).len(), 12);
        assert_eq!(outbox.progress, Mono::from_nanos(5));
        outbox.consume(1, Mono::from_nanos(9), |_| {});
        assert_eq!(outbox.progress, Mono::from_nanos(9));
    }

    #[test]
    fn a_new_replay_replaces_the_old_one_after_the_partially_sent_frame() {
        let mut outbox = Outbox::new(Mono::ZERO);
        outbox.set_replay(Replay::from_plan(Mode::Second, &plan(0, 3_000, 3_000)));
        let mut sent = write(&mut outbox, &mut Vec::new(), 100);
        outbox.set_replay(Replay::from_plan(Mode::Second, &plan(2_990, 3_000, 3_000)));
        outbox.push_control(&frame(ACK, &[]));
        while !outbox.front(MAX_MSG_SIZE, None).is_empty() {
            sent.extend(write(&mut outbox, &mut Vec::new(), 1_000));
        }
        let frames: Vec<_> = std::iter::from_fn(|| RawFrame::take(&mut sent)).collect();
        let ticks = |at: usize| frames[at].decode::<DataBatch>().ticks.len();
        assert_eq!(
            (frames.len(), ticks(0), frames[1].kind, ticks(2)),
            (3, 1_000, ACK, 10)
        );
    }

    #[test]
    fn an_unsent_frame_of_the_old_replay_is_dropped_and_not_counted() {
        let mut outbox = Outbox::new(Mono::ZERO);
        outbox.set_replay(Replay::from_plan(Mode::Second, &plan(0, 10, 10)));
        // Makes a frame, of which the socket then accepts nothing.
        assert!(!outbox.front(MAX_MSG_SIZE, None).is_empty());
        outbox.set_replay(Replay::from_plan(Mode::Minute, &plan(0, 120, 120)));
        outbox.push_control(&frame(ACK, &[]));
        let (mut sent, mut counted) = (Vec::new(), Vec::new());
        loop {
            let front = outbox.front(MAX_MSG_SIZE, None).clone();
            let Some(byte) = front.first() else { break };
            sent.push(*byte);
            outbox.consume(1, Mono::ZERO, |ticks| counted.push(ticks));
        }
        let frames: Vec<_> = std::iter::from_fn(|| RawFrame::take(&mut sent)).collect();
        let kinds: Vec<_> = frames.iter().map(|frame| frame.kind).collect();
        assert_eq!(kinds, [ACK, DATA_BATCH]);
        assert_eq!(frames[1].decode::<DataBatch>().ticks.len(), 2);
        assert_eq!(
            counted,
            [2],
            "each frame is counted once, with its first byte"
        );
    }

    #[test]
    fn an_empty_replay_is_none() {
        assert_eq!(Replay::from_plan(Mode::Second, &plan(60, 60, 60)), None);
        assert_eq!(Replay::from_plan(Mode::Minute, &plan(60, 119, 119)), None);
        assert!(Replay::from_plan(Mode::Minute, &plan(60, 120, 120)).is_some());
    }

    proptest! {
        #[test]
        fn a_replay_is_complete_with_bounded_frames_and_the_right_qualities(
            replayed in 0_i64..2_500,
            ahead in 0_i64..12,
            off_grid_ms in -999_i64..=0,
            max_msg_size in 4_096_usize..=65_536,
            is_known: bool,
        ) {
            let (authority, now) = authority();
            let base = authority.time_at(now).as_millis() / 1_000;
            let mut plan = plan(base - replayed, base, base + ahead);
            plan.start = Epoch::from_ms(plan.start.as_ms() + off_grid_ms);
            let mut outbox = Outbox::new(now);
            outbox.set_replay(Replay::from_plan(Mode::Second, &plan));
            let mut ticks = Vec::new();
            let mut counted = 0;
            loop {
                let known = is_known.then_some((&authority, now));
                let mut bytes = outbox.front(max_msg_size, known).to_vec();
                if bytes.is_empty() {
                    break;
                }
                outbox.consume(bytes.len(), now, |ticks| counted += ticks);
                let frame = RawFrame::take(&mut bytes).unwrap();
                prop_assert!(bytes.is_empty() && frame.payload.len() <= max_msg_size);
                let batch: DataBatch = frame.decode();
                prop_assert!((1..=1_000).contains(&batch.ticks.len()));
                let sent_unix_us = if is_known { authority.time_at(now).as_micros() } else { 0 };
                prop_assert_eq!(batch.sent_unix_us, sent_unix_us);
                ticks.extend(batch.ticks);
            }
            prop_assert!(outbox.feed_may_follow());
            prop_assert_eq!(counted, ticks.len());
            let first = base - replayed + i64::from(off_grid_ms == 0);
            let epochs = ticks.iter().map(|tick| tick.epoch_ms);
            prop_assert!(epochs.eq((first..=base + ahead).map(|second| second * 1_000)));
            for tick in ticks {
                let second = tick.epoch_ms / 1_000;
                // The clock has announced ticks up to 10 s ahead.
                let expected = match second - base {
                    ..=0 => 2,
                    1..=10 if is_known => 0,
                    _ => 1,
                };
                prop_assert_eq!(tick.quality, expected, "{:?} at {}", tick, base);
            }
        }
    }
}
