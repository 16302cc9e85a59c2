//! The frame: an 8-byte header, a protobuf payload and a CRC32C. This module writes frames, and
//! decodes them however they were split or coalesced in transit.
//!
//! Each check is made as soon as its last byte has arrived, in the order that the protocol
//! prescribes, so that the error reported never depends on how the bytes were divided into reads.
//! Memory follows the bytes that arrived, never the length that a header claims: a frame that is
//! complete in the reader's buffer is borrowed from it, and only the start of a split frame is
//! kept. Of a frame that will be skipped, only the checksum of what has arrived is kept. Kept bytes
//! are wiped before they are freed, because an AUTH contains a password or a token; the reader's
//! buffer is the caller's to wipe.

mod kept;

use std::fmt;

use self::kept::Kept;
use crate::code::ErrorCode;

/// The number of bytes before the payload: magic, version, type and length.
pub const HEADER_LEN: usize = 8;
/// The length in bytes of a frame with an empty payload: header and checksum.
pub const FRAME_OVERHEAD: usize = HEADER_LEN + CHECKSUM_LEN;
/// The first bytes of every frame. Neither is ASCII, so a text protocol is recognised by its first
/// byte.
pub const MAGIC: [u8; 2] = [0xF5, 0x7D];
/// The only version of the frame format.
pub const VERSION: u8 = 1;
/// The largest payload of a frame, in bytes. An edge may be configured to send and skip less; a
/// client accepts all of it.
pub const PAYLOAD_MAX: usize = 65_536;
/// The largest payload in bytes of a frame that an edge keeps in memory while it arrives. It is
/// ample for AUTH, the longest message of a client.
pub const KEPT_PAYLOAD_MAX: usize = 4_096;
/// The lowest frame type that every receiver skips if it does not know it.
pub const IGNORABLE_FROM: u8 = 0x80;

const CHECKSUM_LEN: usize = 4;

/// The frame types of version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameType {
    /// Sent by a client: its credentials.
    Auth = 0x01,
    /// Sent by a client: the ticks that it wants.
    Subscribe = 0x02,
    /// Sent by a client: a sign of life, which also asks for the time.
    Heartbeat = 0x03,
    /// Sent by an edge: ticks.
    DataBatch = 0x04,
    /// Sent by an edge: the reason why it closes the connection. Always its last frame.
    Error = 0x05,
    /// Sent by an edge: the answer to AUTH or SUBSCRIBE.
    Ack = 0x06,
    /// Sent by an edge: the answer to HEARTBEAT.
    Pong = 0x07,
}

impl FrameType {
    /// All types, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Auth,
        Self::Subscribe,
        Self::Heartbeat,
        Self::DataBatch,
        Self::Error,
        Self::Ack,
        Self::Pong,
    ];

    /// Returns the type's number in a frame header.
    #[must_use]
    pub const fn byte(self) -> u8 {
        self as u8
    }

    /// Returns the type with this number, or `None` if version 1 has none.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.byte() == byte)
    }

    /// Returns the type's name in the protocol's documentation.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auth => "AUTH",
            Self::Subscribe => "SUBSCRIBE",
            Self::Heartbeat => "HEARTBEAT",
            Self::DataBatch => "DATA_BATCH",
            Self::Error => "ERROR",
            Self::Ack => "ACK",
            Self::Pong => "PONG",
        }
    }
}

/// Appends a frame with `message` as its payload to `out`. The caller must not encode a payload
/// larger than [`PAYLOAD_MAX`].
pub fn encode(frame_type: FrameType, message: &impl prost::Message, out: &mut Vec<u8>) {
    write(frame_type, out, |out| {
        message.encode(out).expect("a Vec grows as needed");
    });
}

/// Appends a frame to `out`, with the payload that `payload` appends to the same buffer.
pub(crate) fn write(frame_type: FrameType, out: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    let [m0, m1] = MAGIC;
    out.extend_from_slice(&[m0, m1, VERSION, frame_type.byte(), 0, 0, 0, 0]);
    let payload_start = out.len();
    payload(out);
    let len = u32::try_from(out.len() - payload_start).expect("payloads are far below 4 GiB");
    debug_assert!(to_usize(len) <= PAYLOAD_MAX, "a payload of {len} bytes");
    out[payload_start - 4..payload_start].copy_from_slice(&len.to_be_bytes());
    let checksum = crc32c::crc32c(&out[start..]);
    out.extend_from_slice(&checksum.to_be_bytes());
}

/// One frame that has passed all checks. Its payload has not been decoded yet.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame<'a>(FrameBytes<'a>);

#[derive(Clone)]
enum FrameBytes<'a> {
    /// The frame was complete in the reader's buffer.
    Borrowed(&'a [u8]),
    /// The frame arrived in pieces.
    Owned(Kept),
}

impl FrameBytes<'_> {
    fn get(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl PartialEq for FrameBytes<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for FrameBytes<'_> {}

impl fmt::Debug for Frame<'_> {
    /// Omits the payload, which may contain a password or a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (type_byte, payload) = (self.type_byte(), self.payload().len());
        write!(
            f,
            "Frame(type 0x{type_byte:02X}, payload of {payload} bytes)"
        )
    }
}

impl Frame<'_> {
    /// Returns the number of the frame's type, known or not.
    #[must_use]
    pub fn type_byte(&self) -> u8 {
        self.0.get()[3]
    }

    /// Returns the frame's type, or `None` if version 1 does not have it.
    #[must_use]
    pub fn frame_type(&self) -> Option<FrameType> {
        FrameType::from_byte(self.type_byte())
    }

    /// Returns the payload: an encoded protobuf message.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        let bytes = self.0.get();
        &bytes[HEADER_LEN..bytes.len() - CHECKSUM_LEN]
    }
}

/// The reason why a frame was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The bytes are not the start of a frame.
    #[error(
        "byte {position} of a frame was 0x{found:02X}, \
         but a frame starts with the bytes 0xF5 0x7D: \
         is the other side using another protocol, or TLS?"
    )]
    BadMagic {
        /// The position of the byte in the frame, 0 or 1.
        position: usize,
        /// The byte that was received.
        found: u8,
    },
    /// The frame is of another protocol version.
    #[error("frame version {found} is not supported; only version 1 is")]
    UnsupportedVersion {
        /// The version in the header.
        found: u8,
    },
    /// The type is unknown and must not be ignored.
    #[error(
        "frame type 0x{found:02X} is unknown; \
         version 1 has 0x01 to 0x07, and only unknown types from 0x80 upwards are skipped"
    )]
    UnknownType {
        /// The type in the header.
        found: u8,
    },
    /// The payload exceeds the limit that applies at this point of the connection.
    #[error(
        "the header claims a payload of {claimed} bytes; at most {allowed} bytes are allowed here \
         (4096 from a client, except for types from 0x80 upwards after authentication)"
    )]
    TooLarge {
        /// The payload length in the header.
        claimed: u32,
        /// The limit in bytes.
        allowed: usize,
    },
    /// The frame was corrupted in transit, or its sender computed the checksum differently.
    #[error(
        "the frame's checksum was 0x{found:08X}, \
         but the CRC32C of its header and payload is 0x{computed:08X}"
    )]
    BadChecksum {
        /// The checksum at the end of the frame.
        found: u32,
        /// The checksum that the frame should have had.
        computed: u32,
    },
}

impl FrameError {
    /// Returns the code with which an edge reports this error.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::BadMagic { .. } => ErrorCode::BadMagic,
            Self::UnsupportedVersion { .. } => ErrorCode::UnsupportedVersion,
            Self::UnknownType { .. } => ErrorCode::UnknownType,
            Self::TooLarge { .. } => ErrorCode::MessageTooLarge,
            Self::BadChecksum { .. } => ErrorCode::BadChecksum,
        }
    }
}

/// The frames that a receiver accepts. Clients and edges differ, and an edge accepts more after
/// authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The largest payload that is accepted of a type below [`IGNORABLE_FROM`], in bytes.
    pub payload_max: usize,
    /// The largest payload that is accepted of any other type, in bytes.
    pub ignorable_payload_max: usize,
    /// Whether types from [`IGNORABLE_FROM`] upwards are skipped, rather than decoded like others.
    pub skips_ignorable: bool,
    /// Whether unknown types below [`IGNORABLE_FROM`] are decoded (a client then ignores them)
    /// rather than refused.
    pub unknown_types: bool,
}

impl Rules {
    /// The rules of a client.
    pub const CLIENT: Self = Self {
        payload_max: PAYLOAD_MAX,
        ignorable_payload_max: PAYLOAD_MAX,
        skips_ignorable: false,
        unknown_types: true,
    };

    /// The rules of an edge before authentication.
    pub const BEFORE_AUTH: Self = Self {
        payload_max: KEPT_PAYLOAD_MAX,
        ignorable_payload_max: KEPT_PAYLOAD_MAX,
        skips_ignorable: false,
        unknown_types: false,
    };

    /// Returns the rules of an edge after authentication. It skips payloads of up to
    /// `ignorable_payload_max` bytes.
    #[must_use]
    pub const fn after_auth(ignorable_payload_max: usize) -> Self {
        Self {
            payload_max: KEPT_PAYLOAD_MAX,
            ignorable_payload_max,
            skips_ignorable: true,
            unknown_types: false,
        }
    }

    const fn payload_max_of(self, type_byte: u8) -> usize {
        if type_byte < IGNORABLE_FROM {
            self.payload_max
        } else {
            self.ignorable_payload_max
        }
    }

    const fn skips(self, type_byte: u8) -> bool {
        self.skips_ignorable && type_byte >= IGNORABLE_FROM
    }
}

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
    if let Some(&found) = bytes.get(2)
        && found != VERSION
    {
        return Err(FrameError::UnsupportedVersion { found });
    }
    if let Some(&found) = bytes.get(3)
        && found < IGNORABLE_FROM
        && !rules.unknown_types
        && FrameType::from_byte(found).is_none()
    {
        return Err(FrameError::UnknownType { found });
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

/// Converts a length from the wire. Every supported system has pointers of at least 32 bits; a
/// length that does not fit a `usize` would exceed every limit anyway.
fn to_usize(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
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
