//! What a connection still has to write, while its socket takes less than there is: the rest of a
//! frame half sent, control frames, a replay in the making, and a position in the feed's ring. It
//! decides what comes next and keeps every byte exactly once; it does not write.

use bytes::{Buf, Bytes};
use tickstorm_timebase::{Authority, Mono};

use super::replay::Replay;

/// Control frames that may wait for a full socket; while one does, the connection is not read.
const CONTROL_MAX: usize = 4_096;

/// The slow path's state of one connection.
#[derive(Debug)]
pub(super) struct Outbox {
    /// What lacks of the frame (or control frames) half sent: comes before all else.
    rest: Bytes,
    rest_is_control: bool,
    /// The ticks of the replay's frame in `rest`, until its first byte is out: till then it may
    /// still be given up.
    untouched: Option<usize>,
    control: Vec<u8>,
    /// A frame for this subscriber alone, before the feed's: empty for nearly all.
    own: Bytes,
    replay: Option<Replay>,
    /// When the socket last took a byte, in the shard's own time.
    pub(super) progress: Mono,
    /// Whether the socket has been offered something, so that its readiness for output is reported.
    is_started: bool,
}

impl Outbox {
    /// One that has nothing to write yet.
    pub(super) fn new(now: Mono) -> Box<Self> {
        Box::new(Self {
            rest: Bytes::new(),
            rest_is_control: false,
            untouched: None,
            control: Vec::new(),
            own: Bytes::new(),
            replay: None,
            progress: now,
            is_started: false,
        })
    }

    /// One that goes on with the rest of a data frame.
    pub(super) fn with_rest(rest: Bytes, now: Mono) -> Box<Self> {
        let mut outbox = Self::new(now);
        outbox.rest = rest;
        outbox
    }

    /// Notes that the socket is about to be offered what there is. True the first time.
    pub(super) fn start(&mut self) -> bool {
        !std::mem::replace(&mut self.is_started, true)
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

    /// Puts `replay` in the place of what was still to be replayed; only a frame half sent is
    /// finished.
    pub(super) fn set_replay(&mut self, replay: Option<Replay>) {
        if self.untouched.take().is_some() {
            self.rest = Bytes::new();
        }
        self.own = Bytes::new();
        self.replay = replay;
    }

    /// Sends `own` before the feed's frames.
    pub(super) fn set_own(&mut self, own: Bytes) {
        self.own = own;
    }

    /// What is to be written before the feed's frames; empty where nothing is. A frame of a replay
    /// is made here.
    pub(super) fn front(
        &mut self,
        max_msg_size: usize,
        authority: Option<(&Authority, Mono)>,
    ) -> &Bytes {
        if self.rest.is_empty() {
            self.rest_is_control = !self.control.is_empty();
            if self.rest_is_control {
                self.rest = Bytes::from(std::mem::take(&mut self.control));
            } else if !self.own.is_empty() {
                self.rest = std::mem::take(&mut self.own);
            } else if let Some(replay) = self.replay.as_mut() {
                let (frame, ticks) = replay.next_frame(max_msg_size, authority);
                self.rest = frame;
                self.untouched = Some(ticks);
                if replay.is_over() {
                    self.replay = None;
                }
            }
        }
        &self.rest
    }

    /// Whether the feed's own frames may follow what [`Self::front`] gave.
    pub(super) fn feed_may_follow(&self) -> bool {
        self.control.is_empty() && self.own.is_empty() && self.replay.is_none()
    }

    /// Takes note that `taken` bytes, some at least, went out, and gives how many of them were not
    /// of the front but of the feed's frames. Where a frame of a replay went out, or began to,
    /// `replayed` is told of its ticks.
    pub(super) fn consume(
        &mut self,
        taken: usize,
        now: Mono,
        replayed: impl FnOnce(usize),
    ) -> usize {
        self.progress = now;
        let front = taken.min(self.rest.len());
        if let Some(ticks) = self.untouched.take_if(|_| front > 0) {
            replayed(ticks);
        }
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

    /// A socket that takes `room` bytes, written to as a shard writes; gives what it got. `feed` is
    /// what the feed's ring holds.
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
                outbox.set_rest(frame.slice(of_feed..));
            }
            of_feed = of_feed.saturating_sub(frame.len());
        }
        bytes
    }

    #[test]
    fn half_a_frame_goes_first_then_control_then_replay_then_the_feed_wherever_writes_end() {
        let half = batch(1_000);
        let (ack, pong) = (frame(ACK, &[8, 2]), frame(PONG, &[8, 7]));
        for room in 1..=200 {
            let mut outbox = Outbox::with_rest(half.slice(5..), Mono::ZERO);
            outbox.set_replay(Replay::of(Mode::Second, &plan(10, 12, 12)));
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
    fn control_frames_are_held_until_their_last_byte_is_out() {
        let mut outbox = Outbox::new(Mono::ZERO);
        let pong = frame(PONG, &[]);
        outbox.push_control(&pong);
        for _ in 0..pong.len() {
            assert!(outbox.holds_control());
            write(&mut outbox, &mut vec![batch(0)], 1);
        }
        assert!(!outbox.holds_control());
        // The rest of a data frame holds nobody up.
        write(&mut outbox, &mut vec![batch(0)], 3);
        assert!(!outbox.holds_control());
    }

    #[test]
    fn progress_is_when_the_socket_last_took_something() {
        let mut outbox = Outbox::new(Mono::from_nanos(5));
        outbox.push_control(&frame(PONG, &[]));
        assert_eq!(outbox.front(MAX_MSG_SIZE, None).len(), 12);
        assert_eq!(outbox.progress, Mono::from_nanos(5));
        outbox.consume(1, Mono::from_nanos(9), |_| {});
        assert_eq!(outbox.progress, Mono::from_nanos(9));
    }

    #[test]
    fn a_new_replay_takes_the_place_of_the_old_one_behind_the_frame_half_sent() {
        let mut outbox = Outbox::new(Mono::ZERO);
        outbox.set_replay(Replay::of(Mode::Second, &plan(0, 3_000, 3_000)));
        let mut sent = write(&mut outbox, &mut Vec::new(), 100);
        outbox.set_replay(Replay::of(Mode::Second, &plan(2_990, 3_000, 3_000)));
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
    fn a_frame_of_the_old_replay_of_which_no_byte_went_out_is_dropped_and_not_counted() {
        let mut outbox = Outbox::new(Mono::ZERO);
        outbox.set_replay(Replay::of(Mode::Second, &plan(0, 10, 10)));
        // Made for a socket that then took nothing.
        assert!(!outbox.front(MAX_MSG_SIZE, None).is_empty());
        outbox.set_replay(Replay::of(Mode::Minute, &plan(0, 120, 120)));
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
        assert_eq!(counted, [2], "each frame once, with its first byte");
    }

    #[test]
    fn a_replay_of_nothing_is_none() {
        assert_eq!(Replay::of(Mode::Second, &plan(60, 60, 60)), None);
        assert_eq!(Replay::of(Mode::Minute, &plan(60, 119, 119)), None);
        assert!(Replay::of(Mode::Minute, &plan(60, 120, 120)).is_some());
    }

    proptest! {
        #[test]
        fn a_replay_is_complete_in_frames_of_bounded_size_and_its_ticks_have_their_quality(
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
            outbox.set_replay(Replay::of(Mode::Second, &plan));
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
            prop_assert!(ticks.iter().map(|tick| tick.epoch_ms).eq((first..=base + ahead).map(|n| n * 1_000)));
            for tick in ticks {
                let second = tick.epoch_ms / 1_000;
                // The clock has announced 10 s.
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
