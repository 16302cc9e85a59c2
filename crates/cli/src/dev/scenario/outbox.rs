//! [`Outbox`]: the bytes that the edge is about to write to one connection, each at its time, and
//! how it tears frames apart.

use std::collections::VecDeque;
use std::time::Duration;

use tickstorm_timebase::Mono;

/// The pause between the bytes of a frame that is torn: enough for each to travel in a segment of
/// its own, and little enough for a frame of hundreds of bytes.
const BYTE_PAUSE: Duration = Duration::from_millis(1);
/// The pause between the halves of a frame, so that a client surely reads them one by one.
const HALF_PAUSE: Duration = Duration::from_millis(30);
/// The longest frame that is written byte by byte.
const BYTEWISE_LEN_MAX: usize = 300;

/// Something to be done with the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Write {
    Bytes(Vec<u8>),
    /// Shut down the sending side.
    Finish,
    Reset,
}

/// The writes of one connection, in order.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: VecDeque<(Mono, Write)>,
    /// The frames that were torn so far, each of which is torn in another way.
    torn: usize,
}

impl Outbox {
    /// Adds a write at `at`, but not before those that were added earlier.
    pub(super) fn push(&mut self, write: Write, at: Mono) {
        let last = self.queue.back().map_or(Mono::ZERO, |(at, _)| *at);
        self.queue.push_back((at.max(last), write));
    }

    /// Adds a frame that is torn: byte by byte, in two parts at ever another byte, or as one write
    /// with the frame before and half of the frame after it, which `filler` makes.
    pub(super) fn push_torn(&mut self, frame: Vec<u8>, filler: &[u8], mut at: Mono) {
        let turn = self.torn;
        self.torn += 1;
        match turn % 3 {
            0 if frame.len() <= BYTEWISE_LEN_MAX => {
                for byte in frame {
                    self.push(Write::Bytes(vec![byte]), at);
                    at = at + BYTE_PAUSE;
                }
            }
            1 => {
                let (head, tail) = filler.split_at(filler.len() / 2);
                let all = [filler, &frame, head].concat();
                self.push(Write::Bytes(all), at);
                self.push(Write::Bytes(tail.to_vec()), at + HALF_PAUSE);
            }
            _ => {
                let position = 1 + turn % (frame.len() - 1);
                let (head, tail) = frame.split_at(position);
                self.push(Write::Bytes(head.to_vec()), at);
                self.push(Write::Bytes(tail.to_vec()), at + HALF_PAUSE);
            }
        }
    }

    /// Returns the next write that is due.
    pub(super) fn poll(&mut self, now: Mono) -> Option<Write> {
        let (at, _) = self.queue.front()?;
        if *at > now {
            return None;
        }
        self.queue.pop_front().map(|(_, write)| write)
    }

    /// Returns when the next write is due.
    pub(super) fn next_write(&self) -> Mono {
        self.queue.front().map_or(Mono::NEVER, |(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torn_frames_arrive_completely_and_in_order() {
        let mut outbox = Outbox::default();
        let mut expected = Vec::new();
        for turn in 0..60_u8 {
            let frame: Vec<u8> = (0..40).map(|byte| byte ^ turn).collect();
            if turn % 3 == 1 {
                expected.extend_from_slice(b"filler");
            }
            expected.extend_from_slice(&frame);
            if turn % 3 == 1 {
                expected.extend_from_slice(b"filler");
            }
            outbox.push_torn(frame, b"filler", Mono::ZERO);
        }
        let (mut written, mut writes) = (Vec::new(), 0);
        while let Some(write) = outbox.poll(Mono::NEVER) {
            let Write::Bytes(bytes) = write else {
                panic!("{write:?}")
            };
            written.extend(bytes);
            writes += 1;
        }
        assert_eq!(written, expected);
        assert_eq!(writes, 20 * 40 + 40 * 2);
    }
}
