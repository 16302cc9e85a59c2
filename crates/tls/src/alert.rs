//! Alerts that this crate sends by itself. During the handshake rustls chooses and encodes them.

/// The reason for ending a connection, as the peer is told it (RFC 8446, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alert {
    /// The sender will send nothing more.
    CloseNotify,
    /// A message arrived that must not be sent at this point.
    UnexpectedMessage,
    /// A record does not authenticate under the current key.
    BadRecordMac,
    /// A record is longer than TLS allows.
    RecordOverflow,
    /// A message cannot be parsed.
    DecodeError,
    /// A field of a message has a value that is not allowed.
    IllegalParameter,
    /// The server has failed.
    InternalError,
}

impl Alert {
    /// Returns the alert message: its level and its description.
    pub(crate) fn encode(self) -> [u8; 2] {
        const WARNING: u8 = 1;
        const FATAL: u8 = 2;
        match self {
            Self::CloseNotify => [WARNING, 0],
            Self::UnexpectedMessage => [FATAL, 10],
            Self::BadRecordMac => [FATAL, 20],
            Self::RecordOverflow => [FATAL, 22],
            Self::IllegalParameter => [FATAL, 47],
            Self::DecodeError => [FATAL, 50],
            Self::InternalError => [FATAL, 80],
        }
    }
}
