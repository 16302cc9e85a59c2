//! Decodes frames, however they were split or coalesced in transit.
//!
//! Each check is made as soon as its last byte has arrived, in the order that the protocol
//! prescribes, so that the error reported never depends on how the bytes were divided into reads.
//! Memory follows the bytes that arrived, never the length that a header claims: a frame that is
//! complete in the reader's buffer is borrowed from it, and only the start of a split frame is
//! kept. Of a frame that will be skipped, only the checksum of what has arrived is kept. Kept bytes
//! are wiped before they are freed, because an AUTH contains a password or a token; the reader's
//! buffer is the caller's to wipe.

use super::kept::Kept;
use super::{
    CHECKSUM_LEN, FRAME_OVERHEAD, Frame, FrameBytes, FrameError, FrameType, HEADER_LEN,
    IGNORABLE_FROM, MAGIC, Rules, VERSION, to_usize,
};

/// A frame that has passed all checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A frame to act on.
    Frame(Frame<'a>),
    /// A frame that the rules skip.
    Skipped,
}

impl<'a> Decoded<'a> {
    fn of(bytes: FrameBytes<'a>, rules: Rules) -> Self {
        let frame = Frame(bytes);
        if rules.skips(frame.type_byte()) {
            Self::Skipped
        } else {
            Self::Frame(frame)
        }
    }
}

/// Decodes frames from a stream of bytes. The decoder owns only bytes that belong to frames not yet
/// returned.
#[derive(Debug, Default)]
pub struct Decoder {
    pending: Pending,
}

/// The input that was consumed and belongs to no frame returned so far.
#[derive(Debug)]
enum Pending {
    /// Bytes that are decoded before any later input.
    Kept(Kept),
    /// The start of a frame that is being skipped.
    Skipping(Box<Skipping>),
}

impl Default for Pending {
    fn default() -> Self {
        Self::Kept(Kept::default())
    }
}

impl Decoder {
    /// Returns the next frame that the rules do not skip, from the kept bytes first and then from
    /// `input`, which is advanced past the bytes used. `None` means that all of `input` has been
    /// used. After an error no further frame can be decoded, because the position in the stream is
    /// lost.
    ///
    /// # Errors
    /// The first check that fails, at the byte that decides it.
    pub fn decode<'a>(
        &mut self,
        rules: Rules,
        input: &mut &'a [u8],
    ) -> Result<Option<Frame<'a>>, FrameError> {
        loop {
            match self.decode_or_skip(rules, input)? {
                Some(Decoded::Frame(frame)) => return Ok(Some(frame)),
                Some(Decoded::Skipped) => {}
                None => return Ok(None),
            }
        }
    }

    /// Does the same as [`decode`](Self::decode), but also returns at the end of each frame that
    /// was skipped.
    ///
    /// # Errors
    /// The first check that fails, at the byte that decides it.
    pub fn decode_or_skip<'a>(
        &mut self,
        rules: Rules,
        input: &mut &'a [u8],
    ) -> Result<Option<Decoded<'a>>, FrameError> {
        loop {
            match &mut self.pending {
                Pending::Kept(kept) if kept.is_empty() => match examine(input, rules)? {
                    Progress::Complete { len } => {
                        let (frame, rest) = input.split_at(len);
                        *input = rest;
                        return Ok(Some(Decoded::of(FrameBytes::Borrowed(frame), rules)));
                    }
                    Progress::Skippable { len } => {
                        self.pending = Pending::Skipping(Skipping::new(len, std::mem::take(input)));
                    }
                    Progress::Incomplete { .. } => {
                        self.keep(std::mem::take(input));
                        return Ok(None);
                    }
                },
                Pending::Kept(kept) => match examine(kept, rules)? {
                    Progress::Complete { len } => {
                        let frame = kept.split_front(len);
                        return Ok(Some(Decoded::of(FrameBytes::Owned(frame), rules)));
                    }
                    Progress::Skippable { len } => {
                        self.pending = Pending::Skipping(Skipping::new(len, kept));
                    }
                    Progress::Incomplete { .. } if input.is_empty() => return Ok(None),
                    Progress::Incomplete { len } => {
                        let (more, rest) = input.split_at(input.len().min(len - kept.len()));
                        *input = rest;
                        kept.append(more, len);
                    }
                },
                Pending::Skipping(skipping) => {
                    skipping.take(input);
                    if skipping.remaining > 0 {
                        return Ok(None);
                    }
                    let checked = skipping.check();
                    self.pending = Pending::Kept(std::mem::take(&mut skipping.later));
                    return checked.map(|()| Some(Decoded::Skipped));
                }
            }
        }
    }

    /// Keeps `rest`, to be decoded before any later input.
    pub fn keep(&mut self, mut rest: &[u8]) {
        let kept = match &mut self.pending {
            Pending::Kept(kept) => kept,
            Pending::Skipping(skipping) => {
                skipping.take(&mut rest);
                &mut skipping.later
            }
        };
        kept.append(rest, usize::MAX);
    }

    /// Returns whether bytes were consumed that belong to no frame returned so far.
    #[must_use]
    pub fn has_kept(&self) -> bool {
        match &self.pending {
            Pending::Kept(kept) => !kept.is_empty(),
            Pending::Skipping(_) => true,
        }
    }

    /// Returns the number of bytes that are allocated for input that belongs to no frame returned
    /// so far.
    #[must_use]
    pub fn buffered(&self) -> usize {
        match &self.pending {
            Pending::Kept(kept) => kept.capacity(),
            Pending::Skipping(skipping) => size_of::<Skipping>() + skipping.later.capacity(),
        }
    }
}

/// A frame that is being skipped: all of its bytes that have arrived, reduced to what the check of
/// its checksum needs.
#[derive(Debug)]
struct Skipping {
    /// The number of the frame's bytes that have not arrived.
    remaining: usize,
    /// The CRC32C of the header and the payload, as far as they have arrived.
    computed: u32,
    /// The bytes of the checksum that have arrived.
    found: u32,
    /// Bytes that follow the frame. They were given to [`Decoder::keep`].
    later: Kept,
}

impl Skipping {
    /// Starts to skip a frame of `len` bytes, of which `start` has arrived.
    fn new(len: usize, mut start: &[u8]) -> Box<Self> {
        let mut this = Box::new(Self {
            remaining: len,
            computed: 0,
            found: 0,
            later: Kept::default(),
        });
        this.take(&mut start);
        this
    }

    /// Takes the bytes of the frame from the start of `input`.
    fn take(&mut self, input: &mut &[u8]) {
        let covered = self.remaining.saturating_sub(CHECKSUM_LEN);
        let (covered, rest) = input.split_at(input.len().min(covered));
        self.computed = crc32c::crc32c_append(self.computed, covered);
        self.remaining -= covered.len();
        let (checksum, rest) = rest.split_at(rest.len().min(self.remaining));
        self.found = checksum
            .iter()
            .fold(self.found, |found, byte| found << 8 | u32::from(*byte));
        self.remaining -= checksum.len();
        *input = rest;
    }

    /// Checks the checksum of a frame that has arrived completely.
    fn check(&self) -> Result<(), FrameError> {
        check(self.found, self.computed)
    }
}

/// The state of the frame at the start of some bytes.
enum Progress {
    /// The first `len` bytes are a frame that has passed all checks.
    Complete { len: usize },
    /// All bytes are the start of a frame of `len` bytes that will be skipped. No check has failed
    /// so far.
    Skippable { len: usize },
    /// No check has failed so far; the next check needs `len` bytes in all.
    Incomplete { len: usize },
}

/// Makes all the checks for which `bytes` suffice, in the order that the protocol prescribes.
fn examine(bytes: &[u8], rules: Rules) -> Result<Progress, FrameError> {
    for (position, (&found, &expected)) in bytes.iter().zip(&MAGIC).enumerate() {
        if found != expected {
            return Err(FrameError::BadMagic { position, found });
        }
    }
    if let Some(&found) = bytes.get(2) {
        if found != VERSION {
            return Err(FrameError::UnsupportedVersion { found });
        }
    }
    if let Some(&found) = bytes.get(3) {
        let is_refused = found < IGNORABLE_FROM && !rules.unknown_types;
        if is_refused && FrameType::from_byte(found).is_none() {
            return Err(FrameError::UnknownType { found });
        }
    }
    let Some((header, _)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Ok(Progress::Incomplete { len: HEADER_LEN });
    };
    let [_, _, _, type_byte, l0, l1, l2, l3] = *header;
    let claimed = u32::from_be_bytes([l0, l1, l2, l3]);
    let allowed = rules.payload_max_of(type_byte);
    if to_usize(claimed) > allowed {
        return Err(FrameError::TooLarge { claimed, allowed });
    }
    let len = FRAME_OVERHEAD + to_usize(claimed);
    let Some((frame, _)) = bytes.split_at_checked(len) else {
        return Ok(if rules.skips(type_byte) {
            Progress::Skippable { len }
        } else {
            Progress::Incomplete { len }
        });
    };
    let Some((covered, &checksum)) = frame.split_last_chunk::<CHECKSUM_LEN>() else {
        return Ok(Progress::Incomplete { len });
    };
    check(u32::from_be_bytes(checksum), crc32c::crc32c(covered))?;
    Ok(Progress::Complete { len })
}

fn check(found: u32, computed: u32) -> Result<(), FrameError> {
    if found == computed {
        Ok(())
    } else {
        Err(FrameError::BadChecksum { found, computed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An edge holds 100,000 decoders in memory.
    #[test]
    fn a_decoder_is_no_larger_than_the_bytes_it_keeps_need() {
        assert_eq!(size_of::<Decoder>(), size_of::<Vec<u8>>());
    }
}
