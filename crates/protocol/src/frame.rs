//! The frame: an 8-byte header, a protobuf payload and a CRC32C. Writes frames, and takes them apart however they were split
//! or coalesced on their way.
//!
//! Each check is made as soon as its last byte is there, in the protocol's order, so that how bytes were cut into reads can
//! never change what is reported. Memory follows the bytes that arrived, never the length that a header claims: a frame that
//! lies whole in the reader's buffer is borrowed from it, and only a split one's beginning is kept.

use std::borrow::Cow;

use crate::code::ErrorCode;

/// Bytes before the payload: magic, version, type, length.
pub const HEADER_LEN: usize = 8;
/// Bytes of a frame with an empty payload: header and checksum.
pub const FRAME_OVERHEAD: usize = HEADER_LEN + CHECKSUM_LEN;
/// What every frame begins with. Neither byte is ASCII, so that text protocols are told apart by their first byte.
pub const MAGIC: [u8; 2] = [0xF5, 0x7D];
/// The only version of the frame there is.
pub const VERSION: u8 = 1;
/// The largest payload in bytes that a frame may have; an edge may be set to take less, a client takes all of it.
pub const PAYLOAD_MAX: usize = 65_536;
/// The largest payload in bytes that a stranger may send: ample for AUTH, and all that he can make an edge keep.
pub const PAYLOAD_MAX_BEFORE_AUTH: usize = 4_096;
/// Types from here on may be ignored by whoever doesn't know them.
pub const IGNORABLE_FROM: u8 = 0x80;

const CHECKSUM_LEN: usize = 4;

/// The frames of version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameType {
    /// Client: who it is.
    Auth = 0x01,
    /// Client: what it wants.
    Subscribe = 0x02,
    /// Client: that it lives; asks for the time.
    Heartbeat = 0x03,
    /// Edge: ticks.
    DataBatch = 0x04,
    /// Edge: why it closes; its last frame.
    Error = 0x05,
    /// Edge: answers AUTH and SUBSCRIBE.
    Ack = 0x06,
    /// Edge: answers HEARTBEAT.
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

    /// The number in a frame's header.
    #[must_use]
    pub const fn byte(self) -> u8 {
        self as u8
    }

    /// The type with this number, where version 1 has one.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.byte() == byte)
    }

    /// The name in the protocol's text.
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

/// Appends a frame with `message` as its payload to `out`. A frame too large to be sent is a defect of its maker.
pub fn encode(frame_type: FrameType, message: &impl prost::Message, out: &mut Vec<u8>) {
    write(frame_type, out, |out| {
        message.encode(out).expect("a Vec takes what it is given");
    });
}

/// Appends a frame whose payload `payload` appends.
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

/// One frame whose checks all held; the payload is not looked at yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<'a>(Cow<'a, [u8]>);

impl Frame<'_> {
    /// The type as it was sent.
    #[must_use]
    pub fn type_byte(&self) -> u8 {
        self.0[3]
    }

    /// The type, where version 1 has it.
    #[must_use]
    pub fn frame_type(&self) -> Option<FrameType> {
        FrameType::from_byte(self.type_byte())
    }

    /// The protobuf message.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.0[HEADER_LEN..self.0.len() - CHECKSUM_LEN]
    }
}

/// What a frame was refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not the beginning of a frame.
    #[error(
        "byte {position} of a frame was 0x{found:02X}, but a frame begins with the bytes 0xF5 0x7D: \
         is the other side speaking another protocol, or TLS?"
    )]
    BadMagic {
        /// 0 or 1.
        position: usize,
        /// The byte that was there.
        found: u8,
    },
    /// A frame of another version.
    #[error("frame version {found} is not supported; only version 1 is")]
    UnsupportedVersion {
        /// The version that was there.
        found: u8,
    },
    /// A type that can't be ignored.
    #[error(
        "frame type 0x{found:02X} is unknown; version 1 has 0x01 to 0x07, and only types from 0x80 on may be skipped"
    )]
    UnknownType {
        /// The type that was there.
        found: u8,
    },
    /// A length beyond the limit of the moment.
    #[error(
        "a payload of {claimed} bytes was announced; at most {allowed} are allowed here (4096 before authentication)"
    )]
    TooLarge {
        /// The length that was there.
        claimed: u32,
        /// The limit in bytes.
        allowed: usize,
    },
    /// Bytes that changed on their way, or a checksum that was computed otherwise.
    #[error(
        "the frame's checksum was 0x{found:08X}, but CRC32C over header and payload is 0x{computed:08X}"
    )]
    BadChecksum {
        /// The checksum that was there.
        found: u32,
        /// The checksum that the frame should have.
        computed: u32,
    },
}

impl FrameError {
    /// The code by which an edge reports this.
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

/// What a reader takes: the two sides differ in it, and an edge before and after authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The largest payload in bytes.
    pub payload_max: usize,
    /// Whether types below [`IGNORABLE_FROM`] that version 1 doesn't have are passed on (a client skips them) or refused.
    pub unknown_types: bool,
}

impl Rules {
    /// A client's rules.
    pub const CLIENT: Self = Self {
        payload_max: PAYLOAD_MAX,
        unknown_types: true,
    };

    /// An edge's rules, with its limit of the moment.
    #[must_use]
    pub const fn edge(payload_max: usize) -> Self {
        Self {
            payload_max,
            unknown_types: false,
        }
    }
}

/// Takes frames out of a stream of bytes. Owns nothing but the bytes of frames that are not taken yet.
#[derive(Debug, Default)]
pub struct Decoder {
    kept: Vec<u8>,
}

impl Decoder {
    /// Takes the next frame: from what was kept, then from `input`, which is advanced past what was used. `None` means that
    /// `input` is used up. After an error the stream has no frames any more; the position in it is lost.
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
                Progress::Whole { len } => {
                    let (frame, rest) = input.split_at(len);
                    *input = rest;
                    Ok(Some(Frame(Cow::Borrowed(frame))))
                }
                Progress::Wants { .. } => {
                    self.keep(std::mem::take(input));
                    Ok(None)
                }
            };
        }
        loop {
            match examine(&self.kept, rules)? {
                Progress::Whole { len } => {
                    let rest = self.kept.split_off(len);
                    let frame = std::mem::replace(&mut self.kept, rest);
                    return Ok(Some(Frame(Cow::Owned(frame))));
                }
                Progress::Wants { .. } if input.is_empty() => return Ok(None),
                Progress::Wants { len } => {
                    let (more, rest) = input.split_at(input.len().min(len - self.kept.len()));
                    *input = rest;
                    self.append(more, len);
                }
            }
        }
    }

    /// Keeps `rest` to be taken before any later input.
    pub fn keep(&mut self, rest: &[u8]) {
        self.append(rest, usize::MAX);
    }

    /// Whether bytes are kept that belong to no frame taken so far.
    #[must_use]
    pub fn has_kept(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Grows by doubling, so that bytes that trickle in aren't copied each time, but not beyond `wanted` bytes: what is kept
    /// is never twice as large as what arrived.
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

/// How far the bytes at hand go.
enum Progress {
    /// The first `len` bytes are a frame whose checks all hold.
    Whole { len: usize },
    /// No check has failed so far; the next one can be made once there are `len` bytes.
    Wants { len: usize },
}

/// Makes all checks, in their order, that `bytes` are enough for.
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
        return Ok(Progress::Wants { len: HEADER_LEN });
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
        return Ok(Progress::Wants { len });
    };
    let Some((covered, &checksum)) = frame.split_last_chunk::<CHECKSUM_LEN>() else {
        return Ok(Progress::Wants { len });
    };
    let (found, computed) = (u32::from_be_bytes(checksum), crc32c::crc32c(covered));
    if found != computed {
        return Err(FrameError::BadChecksum { found, computed });
    }
    Ok(Progress::Whole { len })
}

/// TickStorm runs on Linux with 32-bit pointers at least; a length that would not fit is beyond every limit anyway.
fn to_usize(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
