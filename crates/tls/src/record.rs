//! The record layer's framing: headers and content types (RFC 8446, section 5).

/// The length of a record's header.
pub(crate) const HEADER: usize = 5;
/// The longest content of a record, without its content type and padding.
pub(crate) const CONTENT_MAX: usize = 1 << 14;
/// The longest protected part of a record.
pub(crate) const PROTECTED_MAX: usize = CONTENT_MAX + 256;

/// The type of a record's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContentType {
    ChangeCipherSpec = 20,
    Alert = 21,
    Handshake = 22,
    ApplicationData = 23,
}

impl ContentType {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            20 => Self::ChangeCipherSpec,
            21 => Self::Alert,
            22 => Self::Handshake,
            23 => Self::ApplicationData,
            _ => return None,
        })
    }
}

/// Returns the header of a protected record. In TLS 1.3, its version is still that of TLS 1.2,
/// 0x0303.
pub(crate) fn protected_header(len: usize) -> [u8; HEADER] {
    let [high, low] = u16::try_from(len)
        .expect("a protected record fits into 16 bits")
        .to_be_bytes();
    [ContentType::ApplicationData as u8, 3, 3, high, low]
}

/// Returns the length that a header gives for the rest of its record.
pub(crate) fn length(header: [u8; HEADER]) -> usize {
    usize::from(u16::from_be_bytes([header[3], header[4]]))
}

/// Returns the header at the start of `bytes`, once it is complete.
pub(crate) fn header(bytes: &[u8]) -> Option<[u8; HEADER]> {
    bytes.first_chunk().copied()
}

/// Returns whether the content type and version of a header exist.
pub(crate) fn may_be_valid(header: [u8; HEADER]) -> bool {
    ContentType::from_byte(header[0]).is_some() && header[1] == 3
}

/// Returns whether a header is that of the heartbeat extension (RFC 6520), which TLS 1.3 has not
/// removed, but nobody here offers.
pub(crate) fn is_heartbeat(header: [u8; HEADER]) -> bool {
    const HEARTBEAT: u8 = 24;
    header[0] == HEARTBEAT
}

/// Returns the record of an alert that is not protected, as during a handshake.
pub(crate) fn plain_alert([level, description]: [u8; 2]) -> [u8; HEADER + 2] {
    [ContentType::Alert as u8, 3, 3, 0, 2, level, description]
}
