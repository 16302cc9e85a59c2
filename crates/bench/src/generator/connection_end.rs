//! The reasons why connections ended unexpectedly, and how they are counted.

use std::io;

use tickstorm_tls::{HandshakeError, OpenError, SealError};

use super::frame_ticks::BrokenFrame;

/// The reason why a connection ended, or could not be made, unexpectedly.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionEnd {
    #[error("connect: {0}")]
    Connect(#[source] io::Error),
    #[error("epoll: {0}")]
    Register(#[source] nix::errno::Errno),
    #[error("send: {0}")]
    Send(#[source] rustix::io::Errno),
    #[error("send: only {sent} of {len} bytes were sent")]
    SentInPart { sent: usize, len: usize },
    #[error("recv: {0}")]
    Receive(#[source] rustix::io::Errno),
    #[error("closed by the edge")]
    ClosedByEdge,
    /// TCP has ended, but not TLS.
    #[error("closed by the edge without close_notify")]
    Truncated,
    #[error("TLS handshake: {0}")]
    Handshake(#[source] HandshakeError),
    #[error("TLS: {0}")]
    Open(#[source] OpenError),
    #[error("TLS: {0}")]
    Seal(#[source] SealError),
    /// The edge sent an ERROR frame.
    #[error("ERROR {code}: {message}")]
    Refused { code: String, message: String },
    #[error("broken frame: {0}")]
    Broken(#[source] BrokenFrame),
    #[error("unexpected ACK of frame type {0}")]
    StrayAck(u32),
}

/// The kind of a connection's end, by which ends are counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndKind {
    /// The text for people.
    pub text: String,
    /// Whether the edge refused the client.
    pub is_refusal: bool,
}

impl From<&ConnectionEnd> for EndKind {
    fn from(end: &ConnectionEnd) -> Self {
        Self {
            text: end.to_string(),
            is_refusal: matches!(end, ConnectionEnd::Refused { .. }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_error_frame_is_a_refusal() {
        let refused = ConnectionEnd::Refused {
            code: "AUTH_FAILED".into(),
            message: "no such user".into(),
        };
        let refused = EndKind::from(&refused);
        assert!(refused.is_refusal);
        assert_eq!(refused.text, "ERROR AUTH_FAILED: no such user");
        let broken = EndKind::from(&ConnectionEnd::Broken(BrokenFrame::Empty));
        assert!(!broken.is_refusal);
        assert_eq!(broken.text, "broken frame: DATA_BATCH without ticks");
    }
}
