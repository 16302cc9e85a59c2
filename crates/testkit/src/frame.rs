//! Frames as docs/protocol.md draws them, read and written without a line of the edge's own codec, so that the two check
//! each other. Also frames that are wrong on purpose.

use data_encoding::HEXLOWER;

/// AUTH, by the client.
pub const AUTH: u8 = 0x01;
/// SUBSCRIBE, by the client.
pub const SUBSCRIBE: u8 = 0x02;
/// HEARTBEAT, by the client.
pub const HEARTBEAT: u8 = 0x03;
/// DATA_BATCH, by the edge.
pub const DATA_BATCH: u8 = 0x04;
/// ERROR, by the edge.
pub const ERROR: u8 = 0x05;
/// ACK, by the edge.
pub const ACK: u8 = 0x06;
/// PONG, by the edge.
pub const PONG: u8 = 0x07;

const MAGIC: [u8; 2] = [0xF5, 0x7D];
const VERSION: u8 = 1;
const HEADER_LEN: usize = 8;
const CHECKSUM_LEN: usize = 4;
/// The largest payload that an edge may send or take.
const PAYLOAD_MAX: usize = 65_536;

/// One frame whose magic, version, length and checksum were right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawFrame {
    /// Frame type.
    pub kind: u8,
    /// Protobuf.
    pub payload: Vec<u8>,
}

impl RawFrame {
    /// Cuts the first frame off `bytes`, or leaves them alone where it is not complete yet.
    ///
    /// # Panics
    /// Where the bytes can't be the beginning of a valid frame.
    pub fn take(bytes: &mut Vec<u8>) -> Option<Self> {
        let magic = &MAGIC[..bytes.len().min(2)];
        assert!(bytes.starts_with(magic), "bad magic: {}", hex(bytes));
        if let Some(&version) = bytes.get(2) {
            assert_eq!(version, VERSION, "version of {}", hex(bytes));
        }
        let claimed: [u8; 4] = bytes.get(4..HEADER_LEN)?.try_into().ok()?;
        let payload_len = usize::try_from(u32::from_be_bytes(claimed)).ok()?;
        assert!(
            payload_len <= PAYLOAD_MAX,
            "{payload_len} bytes claimed by {}",
            hex(bytes)
        );
        let payload_end = HEADER_LEN + payload_len;
        let frame_end = payload_end + CHECKSUM_LEN;
        let sent: [u8; 4] = bytes.get(payload_end..frame_end)?.try_into().ok()?;
        let expected = crc32c(&bytes[..payload_end]);
        assert_eq!(
            u32::from_be_bytes(sent),
            expected,
            "checksum of {}",
            hex(bytes)
        );
        let frame = Self {
            kind: bytes[3],
            payload: bytes[HEADER_LEN..payload_end].to_vec(),
        };
        bytes.drain(..frame_end);
        Some(frame)
    }

    /// The payload as a message.
    ///
    /// # Panics
    /// Where it is not one.
    #[must_use]
    pub fn decode<M: prost::Message + Default>(&self) -> M {
        M::decode(self.payload.as_slice())
            .unwrap_or_else(|error| panic!("{error} in the payload of {self:?}"))
    }
}

/// The bytes of a good frame.
#[must_use]
pub fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    Forged::new(kind, payload).bytes()
}

/// A frame any part of which can be set wrong; the checksum is right for what the frame then says unless it is spoiled.
#[derive(Clone, Debug)]
pub struct Forged {
    magic: [u8; 2],
    version: u8,
    kind: u8,
    claimed_len: u32,
    payload: Vec<u8>,
    checksum_error: u32,
}

impl Forged {
    /// A good frame to begin with.
    ///
    /// # Panics
    /// Where the payload's length doesn't fit its field.
    #[must_use]
    pub fn new(kind: u8, payload: &[u8]) -> Self {
        Self {
            magic: MAGIC,
            version: VERSION,
            kind,
            claimed_len: u32::try_from(payload.len()).expect("a payload under 4 GiB"),
            payload: payload.to_vec(),
            checksum_error: 0,
        }
    }

    /// Another magic.
    #[must_use]
    pub fn magic(mut self, magic: [u8; 2]) -> Self {
        self.magic = magic;
        self
    }

    /// Another version.
    #[must_use]
    pub fn version(mut self, version: u8) -> Self {
        self.version = version;
        self
    }

    /// A length that the payload doesn't have.
    #[must_use]
    pub fn claiming(mut self, len: u32) -> Self {
        self.claimed_len = len;
        self
    }

    /// A checksum that differs from the right one in its last bit.
    #[must_use]
    pub fn bad_checksum(mut self) -> Self {
        self.checksum_error = 1;
        self
    }

    /// Magic, version, type and length.
    #[must_use]
    pub fn header(&self) -> [u8; HEADER_LEN] {
        let [m0, m1] = self.magic;
        let [l0, l1, l2, l3] = self.claimed_len.to_be_bytes();
        [m0, m1, self.version, self.kind, l0, l1, l2, l3]
    }

    /// Header, payload and checksum.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = [&self.header(), self.payload.as_slice()].concat();
        let checksum = crc32c(&bytes) ^ self.checksum_error;
        bytes.extend_from_slice(&checksum.to_be_bytes());
        bytes
    }
}

/// CRC32C (Castagnoli) by its definition, a table for speed.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        let [low, ..] = crc.to_le_bytes();
        CRC_TABLE[usize::from(low ^ byte)] ^ (crc >> 8)
    })
}

static CRC_TABLE: [u32; 256] = crc_table();

const fn crc_table() -> [u32; 256] {
    /// The polynomial, bits reversed.
    const CASTAGNOLI: u32 = 0x82F6_3B78;
    let mut table = [0; 256];
    let mut index: u32 = 0;
    while index < 256 {
        let mut crc = index;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                CASTAGNOLI ^ (crc >> 1)
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[index as usize] = crc;
        index += 1;
    }
    table
}

/// The beginning of `bytes`, for messages.
fn hex(bytes: &[u8]) -> String {
    /// Enough for a small frame.
    const SHOWN: usize = 64;
    let shown = HEXLOWER.encode(&bytes[..bytes.len().min(SHOWN)]);
    format!("{shown} ({} bytes)", bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
    }

    #[test]
    fn a_frame_is_taken_when_its_last_byte_is_there_and_not_before() {
        let frame = frame(PONG, b"some bytes");
        let mut bytes = Vec::new();
        for &byte in &frame {
            assert_eq!(RawFrame::take(&mut bytes), None);
            bytes.push(byte);
        }
        bytes.extend_from_slice(&frame);
        let expected = Some(RawFrame {
            kind: PONG,
            payload: b"some bytes".to_vec(),
        });
        assert_eq!(RawFrame::take(&mut bytes), expected);
        assert_eq!(RawFrame::take(&mut bytes), expected);
        assert!(bytes.is_empty(), "{bytes:?}");
    }

    #[test]
    fn a_forged_frame_differs_where_it_was_told_to() {
        let forged = Forged::new(AUTH, b"abc")
            .magic([1, 2])
            .version(3)
            .claiming(4 << 28);
        assert_eq!(forged.header(), [1, 2, 3, AUTH, 0x40, 0, 0, 0]);
        let good = Forged::new(AUTH, b"abc").bytes();
        let bad = Forged::new(AUTH, b"abc").bad_checksum().bytes();
        assert_eq!(good[..11], bad[..11]);
        assert_ne!(good, bad);
    }

    #[test]
    #[should_panic(expected = "checksum")]
    fn a_spoiled_checksum_is_noticed() {
        RawFrame::take(&mut Forged::new(ACK, b"abc").bad_checksum().bytes());
    }
}
