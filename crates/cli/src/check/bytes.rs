//! The bytes that `check` sends: valid frames, and frames with faults.

use prost::Message;
use tickstorm_protocol::FrameType;
use tickstorm_protocol::frame::{HEADER_LEN, MAGIC, VERSION, encode};
use tickstorm_protocol::message::{Heartbeat, Subscribe};
use tickstorm_timebase::Mode;

/// A number that is not a type of version 1, and that every receiver skips.
pub(super) const IGNORABLE: u8 = 0x90;
/// A protobuf message that ends in the middle of its first field, so it decodes as no message.
pub(super) const NO_MESSAGE: &[u8] = &[0x0A, 0x05, b'x'];

/// Returns the header of a frame.
pub(super) fn header(type_byte: u8, len: u32) -> [u8; HEADER_LEN] {
    let [m0, m1] = MAGIC;
    let [l0, l1, l2, l3] = len.to_be_bytes();
    [m0, m1, VERSION, type_byte, l0, l1, l2, l3]
}

/// Returns a valid frame of any type, known or not.
pub(super) fn frame(type_byte: u8, payload: &[u8]) -> Vec<u8> {
    sealed(type_byte, payload, crc32c::crc32c)
}

/// Returns a frame whose last four bytes are what `checksum` returns for all bytes before them.
pub(super) fn sealed(
    type_byte: u8,
    payload: &[u8],
    checksum: impl FnOnce(&[u8]) -> u32,
) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("payloads are far below 4 GiB");
    let mut bytes = [&header(type_byte, len), payload].concat();
    let checksum = checksum(&bytes);
    bytes.extend_from_slice(&checksum.to_be_bytes());
    bytes
}

/// Returns a frame whose checksum is wrong in its last bit.
pub(super) fn bad_checksum(type_byte: u8, payload: &[u8]) -> Vec<u8> {
    sealed(type_byte, payload, |bytes| crc32c::crc32c(bytes) ^ 1)
}

/// Computes the CRC32 of zlib, which is not the checksum of frames.
pub(super) fn zlib_crc32(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0xEDB8_8320;
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (POLYNOMIAL * (crc & 1))
        })
    })
}

/// Returns a valid frame with `message` as its payload.
pub(super) fn message(frame_type: FrameType, message: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(frame_type, message, &mut bytes);
    bytes
}

/// Returns a HEARTBEAT.
pub(super) fn heartbeat(client_time_us: i64) -> Vec<u8> {
    message(FrameType::Heartbeat, &Heartbeat { client_time_us })
}

/// Returns a SUBSCRIBE.
pub(super) fn subscribe(mode: Mode, resume_after_ms: Option<i64>, ahead: bool) -> Vec<u8> {
    let subscribe = Subscribe {
        mode: mode_number(mode),
        resume_after_epoch_ms: resume_after_ms,
        ahead,
    };
    message(FrameType::Subscribe, &subscribe)
}

/// Returns the number of a mode on the wire.
pub(super) fn mode_number(mode: Mode) -> i32 {
    match mode {
        Mode::Second => 0,
        Mode::Minute => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wrong_checksum_is_that_of_zlib() {
        assert_eq!(zlib_crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn frames_of_any_type_are_like_those_of_the_codec() {
        let heartbeat = Heartbeat { client_time_us: 7 };
        let expected = message(FrameType::Heartbeat, &heartbeat);
        assert_eq!(
            frame(FrameType::Heartbeat.byte(), &heartbeat.encode_to_vec()),
            expected
        );
        let bad = bad_checksum(FrameType::Heartbeat.byte(), &heartbeat.encode_to_vec());
        assert_eq!(bad[..bad.len() - 1], expected[..expected.len() - 1]);
        assert_ne!(bad, expected);
    }

    #[test]
    fn the_payload_that_is_no_message_decodes_as_none() {
        assert!(Subscribe::decode(NO_MESSAGE).is_err());
        assert!(Heartbeat::decode(NO_MESSAGE).is_err());
        assert!(tickstorm_protocol::message::Auth::decode(NO_MESSAGE).is_err());
    }
}
