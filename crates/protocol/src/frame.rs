//! The frame: an 8-byte header, a protobuf payload and a CRC32C. This module writes frames, and
//! says which frames a receiver accepts. The [`Decoder`] reads them.

mod decoder;
mod kept;

use std::fmt;

use self::kept::Kept;
use crate::code::ErrorCode;

pub use self::decoder::{Decoded, Decoder};

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
    /// Sent by an edge: it will close the connection soon, and the client should move to another
    /// edge meanwhile. Receivers that do not know this type skip it.
    GoingAway = 0x80,
}

impl FrameType {
    /// All types, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Auth,
        Self::Subscribe,
        Self::Heartbeat,
        Self::DataBatch,
        Self::Error,
        Self::Ack,
        Self::Pong,
        Self::GoingAway,
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
            Self::GoingAway => "GOING_AWAY",
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

/// Appends a frame with any type and any payload of at most [`PAYLOAD_MAX`] bytes to `out`, valid
/// or not as a message. Only an edge that tries its clients sends such frames.
pub fn encode_raw(type_byte: u8, payload: &[u8], out: &mut Vec<u8>) {
    write_raw(type_byte, out, |out| out.extend_from_slice(payload));
}

/// Appends a frame to `out`, with the payload that `payload` appends to the same buffer.
pub(crate) fn write(frame_type: FrameType, out: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
    write_raw(frame_type.byte(), out, payload);
}

fn write_raw(type_byte: u8, out: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    let [m0, m1] = MAGIC;
    out.extend_from_slice(&[m0, m1, VERSION, type_byte, 0, 0, 0, 0]);
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

/// Converts a length from the wire. Every supported system has pointers of at least 32 bits; a
/// length that does not fit a `usize` would exceed every limit anyway.
fn to_usize(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
