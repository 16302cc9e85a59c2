//! The frame: an 8-byte header, a protobuf payload and a CRC32C. This module writes frames, and
//! decodes them however they were split or coalesced in transit.
//!
//! Each check is made as soon as its last byte has arrived, in the order that the protocol
//! prescribes, so that the error reported never depends on how the bytes were divided into reads.
//! Memory follows the bytes that arrived, never the length that a header claims: a frame that is
//! complete in the reader's buffer is borrowed from it, and only the start of a split frame is
//! kept.

use std::borrow::Cow;

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
/// The largest payload of a frame, in bytes. An edge may be configured to accept less; a client
/// accepts all of it.
pub const PAYLOAD_MAX: usize = 65_536;
/// The largest payload in bytes that a client may send before it is authenticated. It is ample for
/// AUTH, and it is all that an unauthenticated client can make an edge hold in memory.
pub const PAYLOAD_MAX_BEFORE_AUTH: usize = 4_096;
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<'a>(Cow<'a, [u8]>);

impl Frame<'_> {
    /// Returns the number of the frame's type, known or not.
    #[must_use]
    pub fn type_byte(&self) -> u8 {
        self.0[3]
    }

    /// Returns the frame's type, or `None` if version 1 does not have it.
    #[must_use]
    pub fn frame_type(&self) -> Option<FrameType> {
        FrameType::from_byte(self.type_byte())
    }

    /// Returns the payload: an encoded protobuf message.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.0[HEADER_LEN..self.0.len() - CHECKSUM_LEN]
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
        "the header claims a payload of {claimed} bytes; \
         at most {allowed} bytes are allowed here (4096 before authentication)"
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

/// The frames that a receiver accepts. Clients and edges differ, and an edge accepts larger
/// payloads after authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The largest payload that is accepted, in bytes.
    pub payload_max: usize,
    /// Whether unknown types below [`IGNORABLE_FROM`] are decoded (a client then skips them) rather
    /// than refused.
    pub unknown_types: bool,
}

impl Rules {
    /// The rules of a client.
    pub const CLIENT: Self = Self {
        payload_max: PAYLOAD_MAX,
        unknown_types: true,
    };

    /// Returns the rules of an edge whose limit is currently `payload_max` bytes.
    #[must_use]
    pub const fn edge(payload_max: usize) -> Self {
        Self {
            payload_max,
            unknown_types: false,
        }
    }
}

/// Decodes frames from a stream of bytes. The decoder owns only bytes that belong to frames not yet
/// returned.
#[derive(Debug, Default)]
pub struct Decoder {
    kept: Vec<u8>,
}

impl Decoder {
    /// Returns the next frame, from the kept bytes first and then from `input`, which is advanced
    /// past the bytes used. `None` means that all of `input` has been used. After an error no
    /// further frame can be decoded, because the position in the stream is lost.
    ///
    /// # Errors
    /// The first check that fails, at the byte that decides it.
    pub fn decode<'a>(
        &mut self,
        rules: Rules,
        input: &mut &'a [u8],
    ) -> Result<Option<Frame<'a>>, FrameError> {
        if self.kept.is_empty() {
            return match examine(input, rules)? {
                Progress::Complete { len } => {
                    let (frame, rest) = input.split_at(len);
                    *input = rest;
                    Ok(Some(Frame(Cow::Borrowed(frame))))
                }
                Progress::Incomplete { .. } => {
                    self.keep(std::mem::take(input));
                    Ok(None)
                }
            };
        }
        loop {
            match examine(&self.kept, rules)? {
                Progress::Complete { len } => {
                    let rest = self.kept.split_off(len);
                    let frame = std::mem::replace(&mut self.kept, rest);
                    return Ok(Some(Frame(Cow::Owned(frame))));
                }
                Progress::Incomplete { .. } if input.is_empty() => return Ok(None),
                Progress::Incomplete { len } => {
                    let (more, rest) = input.split_at(input.len().min(len - self.kept.len()));
                    *input = rest;
                    self.append(more, len);
                }
            }
        }
    }

    /// Keeps `rest`, to be decoded before any later input.
    pub fn keep(&mut self, rest: &[u8]) {
        self.append(rest, usize::MAX);
    }

    /// Returns whether bytes are kept that belong to no frame returned so far.
    #[must_use]
    pub fn has_kept(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Appends `more` to the kept bytes. The buffer grows by doubling, so that bytes which trickle
    /// in are not copied each time, but not beyond `wanted` bytes in all: the buffer is never more
    /// than twice as large as what has arrived.
    fn append(&mut self, more: &[u8], wanted: usize) {
        let (old, new) = (self.kept.len(), self.kept.len() + more.len());
        if self.kept.capacity() < new && old > 0 {
            let doubled = old.saturating_mul(2).min(wanted);
            self.kept.reserve_exact(doubled.max(new) - old);
        } else {
            self.kept.reserve_exact(more.len());
        }
        self.kept.extend_from_slice(more);
    }
}

/// The state of the frame at the start of some bytes.
enum Progress {
    /// The first `len` bytes are a frame that has passed all checks.
    Complete { len: usize },
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
    let [.., l0, l1, l2, l3] = *header;
    let claimed = u32::from_be_bytes([l0, l1, l2, l3]);
    if to_usize(claimed) > rules.payload_max {
        return Err(FrameError::TooLarge {
            claimed,
            allowed: rules.payload_max,
        });
    }
    let len = FRAME_OVERHEAD + to_usize(claimed);
    let Some((frame, _)) = bytes.split_at_checked(len) else {
        return Ok(Progress::Incomplete { len });
    };
    let Some((covered, &checksum)) = frame.split_last_chunk::<CHECKSUM_LEN>() else {
        return Ok(Progress::Incomplete { len });
    };
    let (found, computed) = (u32::from_be_bytes(checksum), crc32c::crc32c(covered));
    if found != computed {
        return Err(FrameError::BadChecksum { found, computed });
    }
    Ok(Progress::Complete { len })
}

/// Converts a length from the wire. Every supported system has pointers of at least 32 bits; a
/// length that does not fit a `usize` would exceed every limit anyway.
fn to_usize(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
