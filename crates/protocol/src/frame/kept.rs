//! [`Kept`]: input that belongs to unfinished frames. It may contain a password or a token, so it
//! is wiped before its memory is freed, also when it moves because it grows, and it can't be
//! printed.

use std::fmt;
use std::mem;
use std::ops::Deref;

use zeroize::Zeroizing;

/// Bytes that have arrived and have not been decoded yet, or a frame made of them.
#[derive(Clone)]
pub(super) enum Kept {
    Whole(Zeroizing<Vec<u8>>),
    /// Bytes from which frames have been taken. They are boxed, because a decoder must not be
    /// larger than the usual case needs.
    Rest(Box<Rest>),
}

/// Bytes of which the first are used up.
#[derive(Clone)]
pub(super) struct Rest {
    bytes: Zeroizing<Vec<u8>>,
    start: usize,
}

impl Kept {
    /// Appends `more`. The buffer grows by doubling, so that bytes which trickle in are not copied
    /// each time, but not beyond `wanted` bytes in all: it is never more than twice as large as
    /// what has arrived.
    pub(super) fn append(&mut self, more: &[u8], wanted: usize) {
        let new = self.len() + more.len();
        let doubled = self.len().saturating_mul(2).min(wanted);
        if let Self::Whole(bytes) = self {
            if bytes.capacity() >= new {
                bytes.extend_from_slice(more);
                return;
            }
        }
        // `reserve` would free the old buffer without wiping it.
        let mut grown = Zeroizing::new(Vec::with_capacity(doubled.max(new)));
        grown.extend_from_slice(self);
        grown.extend_from_slice(more);
        *self = Self::Whole(grown);
    }

    /// Removes the first `len` bytes, and returns them. The others move only when they are less
    /// than half of the buffer: with each of many frames, it would take much longer to move all
    /// that follow than to decode them.
    pub(super) fn split_front(&mut self, len: usize) -> Self {
        if len == self.len() && matches!(self, Self::Whole(_)) {
            return mem::take(self);
        }
        let front = Zeroizing::new(self[..len].to_vec());
        let mut rest = match mem::take(self) {
            Self::Whole(bytes) => Box::new(Rest { bytes, start: 0 }),
            Self::Rest(rest) => rest,
        };
        rest.start += len;
        *self = if rest.start > rest.bytes.len() / 2 {
            Self::Whole(Zeroizing::new(rest.bytes[rest.start..].to_vec()))
        } else {
            Self::Rest(rest)
        };
        Self::Whole(front)
    }

    /// Returns the number of bytes that are allocated.
    pub(super) fn capacity(&self) -> usize {
        match self {
            Self::Whole(bytes) => bytes.capacity(),
            Self::Rest(rest) => size_of::<Rest>() + rest.bytes.capacity(),
        }
    }
}

impl Default for Kept {
    fn default() -> Self {
        Self::Whole(Zeroizing::default())
    }
}

impl Deref for Kept {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Rest(rest) => &rest.bytes[rest.start..],
        }
    }
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Kept {}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taking_frames_off_the_front_moves_the_rest_only_a_few_times() {
        const FRAMES: usize = 200;
        const LEN: usize = 80;
        let bytes: Vec<u8> = (0..=255).cycle().take(FRAMES * LEN).collect();
        let mut kept = Kept::default();
        kept.append(&bytes, usize::MAX);
        let mut moves = 0;
        for expected in bytes.chunks(LEN) {
            let before = kept.as_ptr();
            assert_eq!(*kept.split_front(LEN), *expected);
            moves += usize::from(kept.as_ptr() != before.wrapping_add(LEN));
            assert!(kept.capacity() <= 2 * kept.len() + LEN + size_of::<Rest>());
        }
        assert!(kept.is_empty());
        assert!(moves <= 9, "moved {moves} times");
    }

    #[test]
    fn more_can_be_appended_after_a_frame_was_taken() {
        let mut kept = Kept::default();
        kept.append(b"frame and more", usize::MAX);
        assert_eq!(*kept.split_front(5), *b"frame");
        kept.append(b" bytes", usize::MAX);
        assert_eq!(*kept, *b" and more bytes");
        assert_eq!(*kept.split_front(15), *b" and more bytes");
        assert_eq!(kept, Kept::default());
    }
}
