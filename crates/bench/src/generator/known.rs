//! Recognises frames by their bytes. A new frame is checked in full: magic, version, type, length,
//! CRC32C, protobuf. A later frame that equals it byte for byte is the same frame. Every frame of
//! every client is thus verified at the cost of a comparison.

use std::collections::VecDeque;

use prost::Message as _;
use tickstorm_protocol::FrameType;
use tickstorm_protocol::frame::{Decoder, Frame, Rules};
use tickstorm_protocol::message::{Ack, ErrorMsg, Pong};
use tickstorm_timebase::Mode;

use super::arrivals::FrameArrivals;
use super::frame_ticks::{BrokenFrame, FrameTicks};
use crate::frame::BARE;

/// The number of frames of ticks that are remembered: more than the shards have in progress at a
/// time, even in a burst.
const KNOWN_MAX: usize = 128;

/// A frame of ticks, and its arrivals.
pub(super) struct KnownFrame {
    bytes: Vec<u8>,
    pub(super) ticks: FrameTicks,
    pub(super) arrivals: FrameArrivals,
}

/// The result of looking for a frame at the front of the input.
pub(super) enum TakenFrame<'a> {
    /// A frame of ticks.
    Ticks(&'a mut KnownFrame),
    Ack(Ack),
    Pong(Pong),
    Refused(ErrorMsg),
    /// A frame that a client may ignore.
    Ignored,
    /// The input ends inside a frame.
    Incomplete,
    /// The input violates the protocol.
    Broken(BrokenFrame),
}

/// The most recent frames of ticks.
pub(super) struct KnownFrames {
    mode: Mode,
    known: VecDeque<KnownFrame>,
    /// The index of the frame that arrived last: the next frame is nearly always the same.
    last: usize,
}

impl KnownFrames {
    pub(super) fn new(mode: Mode) -> Self {
        Self {
            mode,
            known: VecDeque::new(),
            last: 0,
        }
    }

    /// Consumes one frame of `input`. A frame that has to be forgotten to make room moves to
    /// `retired`.
    pub(super) fn take(
        &mut self,
        input: &mut &[u8],
        retired: &mut Vec<KnownFrame>,
    ) -> TakenFrame<'_> {
        if input.is_empty() {
            return TakenFrame::Incomplete;
        }
        let is = |known: &KnownFrame| input.starts_with(&known.bytes);
        let index = if self.known.get(self.last).is_some_and(is) {
            Some(self.last)
        } else {
            // Each shard encodes its own frame; recent ones are most likely.
            self.known.iter().rposition(is)
        };
        if let Some(index) = index {
            self.last = index;
            let known = &mut self.known[index];
            *input = &input[known.bytes.len()..];
            return TakenFrame::Ticks(known);
        }
        self.take_new(input, retired)
    }

    /// Forgets the frames whose last arrival was before `at_ns`.
    pub(super) fn retire(&mut self, at_ns: u64, retired: &mut Vec<KnownFrame>) {
        while self
            .known
            .front()
            .is_some_and(|known| known.arrivals.last_ns() < at_ns)
        {
            retired.extend(self.known.pop_front());
        }
    }

    #[cold]
    fn take_new(&mut self, input: &mut &[u8], retired: &mut Vec<KnownFrame>) -> TakenFrame<'_> {
        let whole = *input;
        let mut decoder = Decoder::default();
        let frame = match decoder.decode(Rules::CLIENT, input) {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                *input = whole;
                return TakenFrame::Incomplete;
            }
            Err(error) => return TakenFrame::Broken(error.into()),
        };
        let bytes = &whole[..whole.len() - input.len()];
        match decode(&frame, self.mode) {
            Ok(DecodedFrame::Ticks(ticks)) => {
                if self.known.len() == KNOWN_MAX {
                    retired.extend(self.known.pop_front());
                }
                self.known.push_back(KnownFrame {
                    bytes: bytes.to_vec(),
                    ticks,
                    arrivals: FrameArrivals::default(),
                });
                let known = self.known.back_mut();
                TakenFrame::Ticks(known.expect("the frame was just added"))
            }
            Ok(DecodedFrame::Ack(ack)) => TakenFrame::Ack(ack),
            Ok(DecodedFrame::Pong(pong)) => TakenFrame::Pong(pong),
            Ok(DecodedFrame::Refused(error)) => TakenFrame::Refused(error),
            Ok(DecodedFrame::Ignored) => TakenFrame::Ignored,
            Err(broken) => TakenFrame::Broken(broken),
        }
    }
}

enum DecodedFrame {
    Ticks(FrameTicks),
    Ack(Ack),
    Pong(Pong),
    Refused(ErrorMsg),
    Ignored,
}

fn decode(frame: &Frame<'_>, mode: Mode) -> Result<DecodedFrame, BrokenFrame> {
    if frame.type_byte() == BARE {
        return FrameTicks::decode(frame, Mode::Second, true).map(DecodedFrame::Ticks);
    }
    let payload = frame.payload();
    match frame.frame_type() {
        Some(FrameType::DataBatch) => {
            FrameTicks::decode(frame, mode, false).map(DecodedFrame::Ticks)
        }
        Some(FrameType::Ack) => Ok(DecodedFrame::Ack(Ack::decode(payload)?)),
        Some(FrameType::Pong) => Ok(DecodedFrame::Pong(Pong::decode(payload)?)),
        Some(FrameType::Error) => Ok(DecodedFrame::Refused(ErrorMsg::decode(payload)?)),
        Some(other @ (FrameType::Auth | FrameType::Subscribe | FrameType::Heartbeat)) => {
            Err(BrokenFrame::FromClient(other))
        }
        Some(FrameType::GoingAway) | None => Ok(DecodedFrame::Ignored),
    }
}

#[cfg(test)]
mod tests {
    use tickstorm_protocol::message::encode_batch;
    use tickstorm_timebase::{Epoch, Quality, Tick};

    use super::*;

    fn frame(seconds: &[i64]) -> Vec<u8> {
        let ticks = seconds.iter().map(|second| Tick {
            epoch: Epoch::from_ms(second * 1_000),
            quality: Quality::Normal,
        });
        let mut bytes = Vec::new();
        encode_batch(Mode::Second, &Vec::from_iter(ticks), 7, &mut bytes);
        bytes
    }

    fn first_and_last(taken: TakenFrame<'_>) -> Option<(i64, i64)> {
        if let TakenFrame::Ticks(known) = taken {
            Some((known.ticks.first_ms, known.ticks.last_ms))
        } else {
            None
        }
    }

    #[test]
    fn whole_frames_are_consumed_and_a_partial_one_is_left() {
        let (mut frames, mut retired) = (KnownFrames::new(Mode::Second), Vec::new());
        let bytes = [frame(&[1]), frame(&[2, 3]), frame(&[1])].concat();
        let mut input = &bytes[..bytes.len() - 1];
        for expected in [Some((1_000, 1_000)), Some((2_000, 3_000))] {
            assert_eq!(
                first_and_last(frames.take(&mut input, &mut retired)),
                expected
            );
        }
        let left = input.len();
        assert!(matches!(
            frames.take(&mut input, &mut retired),
            TakenFrame::Incomplete
        ));
        assert_eq!((input.len(), left), (left, frame(&[1]).len() - 1));
        assert_eq!(frames.known.len(), 2);
    }

    #[test]
    fn a_changed_byte_in_a_known_frame_is_noticed() {
        let (mut frames, mut retired) = (KnownFrames::new(Mode::Second), Vec::new());
        let good = frame(&[1, 2]);
        assert!(first_and_last(frames.take(&mut &good[..], &mut retired)).is_some());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            let taken = frames.take(&mut &bad[..], &mut retired);
            assert!(
                matches!(taken, TakenFrame::Broken(_) | TakenFrame::Incomplete),
                "byte {at}"
            );
        }
    }

    #[test]
    fn a_batch_with_a_gap_or_of_another_mode_is_broken() {
        let mut frames = KnownFrames::new(Mode::Second);
        let taken = frames.take(&mut &frame(&[1, 3])[..], &mut Vec::new());
        assert!(matches!(taken, TakenFrame::Broken(BrokenFrame::Gap)));
        let mut frames = KnownFrames::new(Mode::Minute);
        let taken = frames.take(&mut &frame(&[60])[..], &mut Vec::new());
        assert!(matches!(
            taken,
            TakenFrame::Broken(BrokenFrame::OtherMode(_))
        ));
    }
}
