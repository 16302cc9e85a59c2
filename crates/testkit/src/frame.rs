//! Frames as docs/protocol.md specifies them, including deliberately invalid ones. Nothing here
//! uses the edge's own codec, so that the two check each other.

use data_encoding::HEXLOWER;

/// AUTH, sent by the client.
pub const AUTH: u8 = 0x01;
/// SUBSCRIBE, sent by the client.
pub const SUBSCRIBE: u8 = 0x02;
/// HEARTBEAT, sent by the client.
pub const HEARTBEAT: u8 = 0x03;
/// DATA_BATCH, sent by the edge.
pub const DATA_BATCH: u8 = 0x04;
/// ERROR, sent by the edge.
pub const ERROR: u8 = 0x05;
/// ACK, sent by the edge.
pub const ACK: u8 = 0x06;
/// PONG, sent by the edge.
pub const PONG: u8 = 0x07;
/// From the edge: it will close the connection.
pub const GOING_AWAY: u8 = 0x80;

const MAGIC: [u8; 2] = [0xF5, 0x7D];
const VERSION: u8 = 1;
const HEADER_LEN: usize = 8;
const CHECKSUM_LEN: usize = 4;
/// The largest payload that an edge may send or accept, in bytes.
const PAYLOAD_MAX: usize = 65_536;

/// A frame whose magic, version, length and checksum were valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawFrame {
    /// The frame type.
    pub kind: u8,
    /// The protobuf message.
    pub payload: Vec<u8>,
}

impl RawFrame {
    /// Removes the first frame from `bytes` and returns it, or leaves `bytes` unchanged if the
    /// frame is not complete yet.
    ///
    /// # Panics
    /// Panics if the bytes can't be the start of a valid frame.
    pub fn take(bytes: &mut Vec<u8>) -> Option<Self> {
        let magic = &MAGIC[..bytes.len().min(2)];
        assert!(bytes.starts_with(magic), "bad magic: {}", hex(bytes));
        if let Some(&version) = bytes.get(2) {
            assert_eq!(version, VERSION, "wrong version in {}", hex(bytes));
        }
        let claimed: [u8; 4] = bytes.get(4..HEADER_LEN)?.try_into().ok()?;
        let payload_len = usize::try_from(u32::from_be_bytes(claimed)).ok()?;
        assert!(
            payload_len <= PAYLOAD_MAX,
            "payload length {payload_len} exceeds {PAYLOAD_MAX} in {}",
            hex(bytes)
        );
        let payload_end = HEADER_LEN + payload_len;
        let frame_end = payload_end + CHECKSUM_LEN;
        let sent: [u8; 4] = bytes.get(payload_end..frame_end)?.try_into().ok()?;
        let expected = crc32c(&bytes[..payload_end]);
        assert_eq!(
            u32::from_be_bytes(sent),
            expected,
            "wrong checksum in {}",
            hex(bytes)
        );
        let frame = Self {
            kind: bytes[3],
            payload: bytes[HEADER_LEN..payload_end].to_vec(),
        };
        bytes.drain(..frame_end);
        Some(frame)
    }

    /// Decodes the payload.
    ///
    /// # Panics
    /// Panics if it is not a message of type `M`.
    #[must_use]
    pub fn decode<M: prost::Message + Default>(&self) -> M {
        M::decode(self.payload.as_slice())
            .unwrap_or_else(|error| panic!("{error} in the payload of {self:?}"))
    }
}

/// Encodes a valid frame.
#[must_use]
pub fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    Forged::new(kind, payload).bytes()
}

/// A frame builder that can set any field to a wrong value. The checksum covers the fields as set,
/// unless [`Self::bad_checksum`] was called.
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
    /// Starts from a valid frame.
    ///
    /// # Panics
    /// Panics if the payload's length does not fit into its field.
    #[must_use]
    pub fn new(kind: u8, payload: &[u8]) -> Self {
        Self {
            magic: MAGIC,
            version: VERSION,
            kind,
            claimed_len: u32::try_from(payload.len()).expect("the payload is shorter than 4 GiB"),
            payload: payload.to_vec(),
            checksum_error: 0,
        }
    }

    /// Sets the magic.
    #[must_use]
    pub fn magic(mut self, magic: [u8; 2]) -> Self {
        self.magic = magic;
        self
    }

    /// Sets the version.
    #[must_use]
    pub fn version(mut self, version: u8) -> Self {
        self.version = version;
        self
    }

    /// Sets the length field, independently of the payload.
    #[must_use]
    pub fn claiming(mut self, len: u32) -> Self {
        self.claimed_len = len;
        self
    }

    /// Makes the checksum wrong in its last bit.
    #[must_use]
    pub fn bad_checksum(mut self) -> Self {
        self.checksum_error = 1;
        self
    }

    /// Encodes the header: magic, version, type and length.
    #[must_use]
    pub fn header(&self) -> [u8; HEADER_LEN] {
        let [m0, m1] = self.magic;
        let [l0, l1, l2, l3] = self.claimed_len.to_be_bytes();
        [m0, m1, self.version, self.kind, l0, l1, l2, l3]
    }

    /// Encodes the frame: header, payload and checksum.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = [&self.header(), self.payload.as_slice()].concat();
        let checksum = crc32c(&bytes) ^ self.checksum_error;
        bytes.extend_from_slice(&checksum.to_be_bytes());
        bytes
    }
}

/// Computes CRC32C (Castagnoli), with a table for speed.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        let [low, ..] = crc.to_le_bytes();
        CRC_TABLE[usize::from(low ^ byte)] ^ (crc >> 8)
    })
}

static CRC_TABLE: [u32; 256] = crc_table();

const fn crc_table() -> [u32; 256] {
    /// The polynomial, with its bits reversed.
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

/// Formats the start of `bytes` for messages.
fn hex(bytes: &[u8]) -> String {
    /// The number of bytes shown: enough for a small frame.
    const SHOWN: usize = 64;
    let shown = HEXLOWER.encode(&bytes[..bytes.len().min(SHOWN)]);
    format!("{shown} ({} bytes)", bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_matches_known_values_of_crc32c() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
    }

    #[test]
    fn a_frame_is_taken_once_its_last_byte_has_arrived() {
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
    fn a_forged_frame_differs_in_the_fields_that_were_set() {
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
    fn a_wrong_checksum_is_noticed() {
        RawFrame::take(&mut Forged::new(ACK, b"abc").bad_checksum().bytes());
    }
}
