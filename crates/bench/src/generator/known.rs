//! Frames as they come, looked at once. A frame that is new is checked in full: magic, version, type, length, CRC32C, protobuf; all
//! later ones that are equal to it byte for byte are it. So every frame of every client is verified, at the cost of a comparison.

use std::collections::VecDeque;

use prost::Message as _;
use tickstorm_protocol::FrameType;
use tickstorm_protocol::frame::{Decoder, Frame, Rules};
use tickstorm_protocol::message::{Ack, ErrorMsg, Pong};
use tickstorm_timebase::Mode;

use super::arrivals::FrameArrivals;
use super::frame_ticks::{BrokenFrame, FrameTicks};
use crate::frame::BARE;

/// Frames of ticks that are remembered: more than shards have under way at once, in a burst too.
const KNOWN_MAX: usize = 128;

/// A frame of ticks, and how it came.
pub(super) struct KnownFrame {
    bytes: Vec<u8>,
    pub(super) ticks: FrameTicks,
    pub(super) arrivals: FrameArrivals,
}

/// What was taken off the input.
pub(super) enum TakenFrame<'a> {
    /// Ticks, as the frame at this place.
    Ticks(&'a mut KnownFrame),
    Ack(Ack),
    Pong(Pong),
    Refused(ErrorMsg),
    /// A frame that a client may ignore.
    Ignored,
    /// The input ends before its next frame does.
    Incomplete,
    /// The input is no protocol.
    Broken(BrokenFrame),
}

/// The newest frames of ticks.
pub(super) struct KnownFrames {
    mode: Mode,
    known: VecDeque<KnownFrame>,
    /// Where the last one that came was: the next is nearly always the same.
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

    /// Takes one frame off `input`. What it had to forget for that goes to `retired`.
    pub(super) fn take(
        &mut self,
        input: &mut &[u8],
        retired: &mut Vec<KnownFrame>,
    ) -> TakenFrame<'_> {
        if input.is_empty() {
            return TakenFrame::Incomplete;
        }
        let is = |known: &KnownFrame| input.starts_with(&known.bytes);
        let place = if self.known.get(self.last).is_some_and(is) {
            Some(self.last)
        } else {
            // Each shard has its own; the newest ones come.
            self.known.iter().rposition(is)
        };
        if let Some(place) = place {
            self.last = place;
            let known = &mut self.known[place];
            *input = &input[known.bytes.len()..];
            return TakenFrame::Ticks(known);
        }
        self.take_new(input, retired)
    }

    /// Forgets those that have last come before `at_ns`.
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
        match understand(&frame, self.mode) {
            Ok(Understood::Ticks(ticks)) => {
                if self.known.len() == KNOWN_MAX {
                    retired.extend(self.known.pop_front());
                }
                self.known.push_back(KnownFrame {
                    bytes: bytes.to_vec(),
                    ticks,
                    arrivals: FrameArrivals::default(),
                });
                let known = self.known.back_mut();
                TakenFrame::Ticks(known.expect("it has just been put there"))
            }
            Ok(Understood::Ack(ack)) => TakenFrame::Ack(ack),
            Ok(Understood::Pong(pong)) => TakenFrame::Pong(pong),
            Ok(Understood::Refused(error)) => TakenFrame::Refused(error),
            Ok(Understood::Ignored) => TakenFrame::Ignored,
            Err(broken) => TakenFrame::Broken(broken),
        }
    }
}

enum Understood {
    Ticks(FrameTicks),
    Ack(Ack),
    Pong(Pong),
    Refused(ErrorMsg),
    Ignored,
}

fn understand(frame: &Frame<'_>, mode: Mode) -> Result<Understood, BrokenFrame> {
    if frame.type_byte() == BARE {
        return FrameTicks::decode(frame, Mode::Second, true).map(Understood::Ticks);
    }
    let payload = frame.payload();
    match frame.frame_type() {
        Some(FrameType::DataBatch) => FrameTicks::decode(frame, mode, false).map(Understood::Ticks),
        Some(FrameType::Ack) => Ok(Understood::Ack(Ack::decode(payload)?)),
        Some(FrameType::Pong) => Ok(Understood::Pong(Pong::decode(payload)?)),
        Some(FrameType::Error) => Ok(Understood::Refused(ErrorMsg::decode(payload)?)),
        Some(other @ (FrameType::Auth | FrameType::Subscribe | FrameType::Heartbeat)) => {
            Err(BrokenFrame::FromClient(other))
        }
        None => Ok(Understood::Ignored),
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
    fn frames_are_taken_one_by_one_and_a_half_one_is_left() {
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
    fn a_changed_byte_is_noticed_however_well_the_frame_is_known() {
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
    fn a_batch_with_a_gap_in_itself_or_of_another_mode_is_broken() {
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
