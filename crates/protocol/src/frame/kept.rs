//! [`Kept`]: input that belongs to unfinished frames. It may contain a password or a token, so it
//! is wiped before its memory is freed, also when it moves because it grows, and it can't be
//! printed.

use std::fmt;
use std::ops::Deref;

use zeroize::Zeroizing;

/// Bytes that have arrived and have not been decoded yet, or a frame made of them.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Kept(Zeroizing<Vec<u8>>);

impl Kept {
    /// Appends `more`. The buffer grows by doubling, so that bytes which trickle in are not copied
    /// each time, but not beyond `wanted` bytes in all: it is never more than twice as large as
    /// what has arrived.
    pub(super) fn append(&mut self, more: &[u8], wanted: usize) {
        let new = self.len() + more.len();
        if self.capacity() < new {
            let doubled = self.len().saturating_mul(2).min(wanted);
            // `reserve` would free the old buffer without wiping it.
            let mut grown = Zeroizing::new(Vec::with_capacity(doubled.max(new)));
            grown.extend_from_slice(&self.0);
            self.0 = grown;
        }
        self.0.extend_from_slice(more);
    }

    /// Removes the first `len` bytes, and returns them.
    pub(super) fn split_front(&mut self, len: usize) -> Self {
        let rest = self.0.split_off(len);
        Self(std::mem::replace(&mut self.0, Zeroizing::new(rest)))
    }

    /// Returns the number of bytes that are allocated.
    pub(super) fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

impl Deref for Kept {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}
