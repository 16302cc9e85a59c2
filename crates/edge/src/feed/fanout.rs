//! The hot loop. It sends one frame to every subscriber that is ready for it, or a few frames,
//! joined into one buffer, if several have become due since the previous pass began. Each
//! subscriber costs one `send(2)`, which the caller passes in; there is no lock, no allocation and
//! no logging. Incomplete sends are recorded for the slow path; the loop itself closes and wakes
//! nothing.

use std::os::fd::RawFd;

use bytes::{Bytes, BytesMut};
use nix::errno::Errno;
use tickstorm_timebase::Epoch;

use super::ring::{FeedFrame, Ring};
use super::subscribers::Entry;

/// The number of sends after which the shard does its other work, so that heartbeats and accepts
/// are served during a fan-out. A chunk takes 4 to 9 ms (docs/performance.md), nearly all of it in
/// the kernel's TCP.
pub(crate) const CHUNK: usize = 1_024;
/// The most bytes that are joined into one send.
const JOIN_MAX: usize = 256 * 1_024;

/// A fan-out in progress: one pass over the subscriber array, wrapping around from a starting
/// position that changes with each pass.
pub(crate) struct Sweep {
    /// The number of the first frame to send.
    base: u64,
    /// The frames' bytes, concatenated.
    bytes: Bytes,
    parts: Vec<SweepPart>,
    start: usize,
    len: usize,
    visited: usize,
}

/// One frame of a sweep, and the number of times that the current chunk sent it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SweepPart {
    end: usize,
    pub(crate) first: Epoch,
    pub(crate) ticks: u32,
    pub(crate) timed: bool,
    /// The number of subscribers it was sent to in this chunk.
    pub(crate) sent: u64,
}

/// A subscriber whose socket did not accept all bytes.
#[derive(Debug)]
pub(crate) struct PartialSend {
    pub(crate) owner: u32,
    /// The unsent tail of the partially sent frame; empty at a frame boundary.
    pub(crate) rest: Bytes,
}

/// The work that one chunk leaves to the slow path, which may allocate and close connections.
#[derive(Default)]
pub(crate) struct ChunkOutcome {
    pub(crate) fallen: Vec<PartialSend>,
    pub(crate) failed: Vec<(u32, Errno)>,
    /// Subscribers that are further behind than the limit.
    pub(crate) slow: Vec<u32>,
    /// Bytes written to sockets.
    pub(crate) bytes: u64,
    /// The frames, each with the number of times it was sent.
    pub(crate) parts: Vec<SweepPart>,
}

impl ChunkOutcome {
    /// Returns the number of subscribers that the chunk has put on the slow path.
    pub(super) fn fallen_len(&self) -> usize {
        self.fallen.len() + self.failed.len()
    }

    /// Clears the lists for the next chunk, keeping their memory.
    pub(crate) fn clear(&mut self) {
        self.fallen.clear();
        self.failed.clear();
        self.slow.clear();
        self.parts.clear();
        self.bytes = 0;
    }
}

impl Sweep {
    /// Creates a sweep of the ring's frames, the first of them number `base`. It visits the first
    /// `len` entries, starting at position `start`. Returns `None` if the ring has no such frames.
    pub(crate) fn begin(ring: &Ring, base: u64, start: usize, len: usize) -> Option<Self> {
        let mut frames = Vec::new();
        let mut size = 0;
        for frame in ring.from(base)? {
            if !frames.is_empty() && size + frame.bytes.len() > JOIN_MAX {
                break;
            }
            size += frame.bytes.len();
            frames.push(frame);
        }
        let mut end = 0;
        let parts = frames.iter().map(|frame| {
            end += frame.bytes.len();
            SweepPart {
                end,
                first: frame.first,
                ticks: frame.ticks,
                timed: frame.timed,
                sent: 0,
            }
        });
        let parts = parts.collect();
        let bytes = join(&frames)?;
        Some(Self {
            base,
            bytes,
            parts,
            start,
            len,
            visited: 0,
        })
    }

    /// Returns the number after the last frame of this sweep.
    pub(crate) fn target(&self) -> u64 {
        self.base + self.parts.len() as u64
    }

    /// Visits up to `chunk` entries. Returns true when all entries have been visited. Subscribers
    /// that are more than `behind_max` frames behind are listed in `left.slow`.
    pub(crate) fn run(
        &mut self,
        entries: &mut [Entry],
        chunk: usize,
        behind_max: u64,
        left: &mut ChunkOutcome,
        mut send: impl FnMut(RawFd, &[u8]) -> Result<usize, Errno>,
    ) -> bool {
        self.parts.iter_mut().for_each(|part| part.sent = 0);
        let target = self.target();
        let mut complete = 0_u64;
        let until = self.len.min(self.visited + chunk);
        for visit in self.visited..until {
            let at = self.start + visit;
            let entry = &mut entries[if at < self.len { at } else { at - self.len }];
            let next = entry.ready_for();
            if next == self.base {
                match send(entry.fd(), &self.bytes) {
                    Ok(taken) if taken == self.bytes.len() => {
                        entry.advance(target);
                        complete += 1;
                    }
                    outcome => self.incomplete(entry, 0, outcome, left),
                }
            } else if next < target {
                self.catch_up(entry, left, &mut send);
            } else if entry
                .behind()
                .is_some_and(|next| target.saturating_sub(next) > behind_max)
            {
                left.slow.push(entry.owner());
            }
        }
        self.visited = until;
        self.parts.iter_mut().for_each(|part| part.sent += complete);
        left.bytes += complete * self.bytes.len() as u64;
        left.parts.extend_from_slice(&self.parts);
        until == self.len
    }

    /// Sends to a subscriber that needs only the later ones of several frames.
    #[cold]
    fn catch_up(
        &mut self,
        entry: &mut Entry,
        left: &mut ChunkOutcome,
        send: &mut impl FnMut(RawFd, &[u8]) -> Result<usize, Errno>,
    ) {
        let skipped = usize::try_from(entry.ready_for() - self.base).expect("less than target");
        let from = self.parts[skipped - 1].end;
        let outcome = send(entry.fd(), &self.bytes[from..]);
        self.incomplete(entry, from, outcome, left);
    }

    /// Records how many bytes were sent by a send that started at byte `from`.
    #[cold]
    fn incomplete(
        &mut self,
        entry: &mut Entry,
        from: usize,
        outcome: Result<usize, Errno>,
        left: &mut ChunkOutcome,
    ) {
        let taken = match outcome {
            Ok(taken) => taken,
            Err(Errno::EAGAIN | Errno::EINTR) => 0,
            Err(errno) => {
                entry.fall_behind(entry.ready_for());
                left.failed.push((entry.owner(), errno));
                return;
            }
        };
        left.bytes += taken as u64;
        let at = from + taken;
        let mut next = entry.ready_for();
        let mut rest = Bytes::new();
        let mut begin = from;
        for part in self.parts.iter_mut().filter(|part| part.end > from) {
            if begin >= at && part.end > at {
                break;
            }
            // A frame counts as sent with its first byte, since its tail always follows.
            part.sent += 1;
            next += 1;
            if part.end > at {
                rest = self.bytes.slice(at..part.end);
            }
            begin = part.end;
        }
        if next == self.target() && rest.is_empty() {
            entry.advance(next);
            return;
        }
        entry.fall_behind(next);
        left.fallen.push(PartialSend {
            owner: entry.owner(),
            rest,
        });
    }
}

/// Concatenates the frames; a single frame is not copied.
fn join(frames: &[&FeedFrame]) -> Option<Bytes> {
    match frames {
        [] => None,
        [one] => Some(one.bytes.clone()),
        several => {
            let mut joined = BytesMut::new();
            several
                .iter()
                .for_each(|frame| joined.extend_from_slice(&frame.bytes));
            Some(joined.freeze())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::FeedId;
    use super::*;

    const LENS: [usize; 3] = [7, 1, 12];

    /// Creates a sweep of three frames in which no byte occurs twice.
    fn sweep() -> (Ring, Sweep) {
        let mut ring = Ring::new(8);
        let mut bytes = Bytes::from_iter(0..20);
        for (n, len) in LENS.into_iter().enumerate() {
            ring.push(FeedFrame {
                bytes: bytes.split_to(len),
                first: Epoch::from_ms(0),
                ticks: u32::try_from(n).unwrap() + 1,
                feed: FeedId::ALL[0],
                timed: true,
            });
        }
        let sweep = Sweep::begin(&ring, 0, 0, 0).unwrap();
        (ring, sweep)
    }

    #[test]
    fn a_send_may_start_at_any_frame_and_end_at_any_byte() {
        for skipped in 0..LENS.len() {
            let from = LENS[..skipped].iter().sum::<usize>();
            for taken in 0..=20 - from {
                let (ring, mut sweep) = sweep();
                let mut subscribers = super::super::Subscribers::default();
                subscribers.join(5, 1, skipped as u64, false);
                let mut left = ChunkOutcome::default();
                let entry = subscribers.entry(0);
                sweep.incomplete(entry, from, Ok(taken), &mut left);
                let rest = left
                    .fallen
                    .first()
                    .map_or(Bytes::new(), |fallen| fallen.rest.clone());
                let next = entry.behind().unwrap_or(entry.ready_for());
                let mut sent_and_due = Vec::from_iter(0..u8::try_from(from + taken).unwrap());
                sent_and_due.extend_from_slice(&rest);
                for frame in ring.from(next).unwrap() {
                    sent_and_due.extend_from_slice(&frame.bytes);
                }
                assert!(
                    sent_and_due.iter().copied().eq(0..20),
                    "{taken} bytes starting at frame {skipped}: {sent_and_due:?}"
                );
                assert_eq!(entry.behind().is_some(), taken < 20 - from);
                assert_eq!(left.fallen.len(), usize::from(taken < 20 - from));
                assert_eq!(left.bytes, taken as u64);
                let counted = sweep.parts.iter().map(|part| part.sent).sum::<u64>();
                assert_eq!(
                    counted,
                    next - skipped as u64,
                    "a frame counts with its first byte"
                );
            }
        }
    }

    #[test]
    fn eagain_and_eintr_mean_a_full_socket_and_any_other_error_ends_the_connection() {
        for (errno, failed) in [
            (Errno::EAGAIN, false),
            (Errno::EINTR, false),
            (Errno::EPIPE, true),
            (Errno::ECONNRESET, true),
        ] {
            let (_, mut sweep) = sweep();
            let mut subscribers = super::super::Subscribers::default();
            subscribers.join(5, 1, 0, false);
            let mut left = ChunkOutcome::default();
            sweep.incomplete(subscribers.entry(0), 0, Err(errno), &mut left);
            assert_eq!(
                (left.failed.len(), left.fallen.len()),
                if failed { (1, 0) } else { (0, 1) }
            );
            assert_eq!(
                subscribers.entry(0).behind(),
                Some(0),
                "{errno}: the sweep does not send to it again"
            );
        }
    }

    #[test]
    fn the_bytes_joined_into_one_send_are_bounded() {
        let mut ring = Ring::new(8);
        for _ in 0..3 {
            ring.push(FeedFrame {
                bytes: vec![0; JOIN_MAX / 2].into(),
                first: Epoch::from_ms(0),
                ticks: 1,
                feed: FeedId::ALL[0],
                timed: true,
            });
        }
        assert_eq!(Sweep::begin(&ring, 0, 0, 0).unwrap().target(), 2);
        assert_eq!(Sweep::begin(&ring, 2, 0, 0).unwrap().target(), 3);
        assert!(Sweep::begin(&ring, 3, 0, 0).is_none());
    }
}
