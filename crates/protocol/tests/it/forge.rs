//! Frames built by hand, valid and invalid.

use prost::Message;
use tickstorm_protocol::frame::FrameType;

/// Returns a valid frame of any type and payload.
pub(crate) fn frame(type_byte: u8, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("a short payload");
    let mut bytes = header(type_byte, len);
    bytes.extend(payload);
    seal(bytes)
}

/// Returns a valid frame with `message` as its payload.
pub(crate) fn message(frame_type: FrameType, message: &impl Message) -> Vec<u8> {
    frame(frame_type.byte(), &message.encode_to_vec())
}

/// Returns the eight bytes of a frame's header.
pub(crate) fn header(type_byte: u8, len: u32) -> Vec<u8> {
    let mut bytes = vec![0xF5, 0x7D, 1, type_byte];
    bytes.extend(len.to_be_bytes());
    bytes
}

/// Appends the checksum of `bytes` to them.
pub(crate) fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend(crc32c::crc32c(&bytes).to_be_bytes());
    bytes
}
