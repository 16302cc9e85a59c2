//! Why a connection ended that nobody ended, and how such ends are counted.

use std::io;

use super::frame_ticks::BrokenFrame;

/// Why a connection ended, or could not begin, though nobody wanted that.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionEnd {
    #[error("connect: {0}")]
    Connect(#[source] io::Error),
    #[error("epoll: {0}")]
    Register(#[source] nix::errno::Errno),
    #[error("send: {0}")]
    Send(#[source] rustix::io::Errno),
    #[error("send: {taken} of {len} bytes were taken")]
    SentInPart { taken: usize, len: usize },
    #[error("recv: {0}")]
    Receive(#[source] rustix::io::Errno),
    #[error("closed by the edge")]
    ClosedByEdge,
    /// The edge said so by an ERROR frame.
    #[error("ERROR {code}: {message}")]
    Refused { code: String, message: String },
    #[error("broken: {0}")]
    Broken(#[source] BrokenFrame),
    #[error("an ACK of {0} that nothing asked for")]
    StrayAck(u32),
}

/// A kind of end, under which it is counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EndKind {
    /// What people read.
    pub(crate) text: String,
    /// Whether the edge refused the client.
    pub(crate) is_refusal: bool,
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
    fn only_an_edges_own_error_is_a_refusal() {
        let refused = ConnectionEnd::Refused {
            code: "AUTH_FAILED".into(),
            message: "no such user".into(),
        };
        let refused = EndKind::from(&refused);
        assert!(refused.is_refusal);
        assert_eq!(refused.text, "ERROR AUTH_FAILED: no such user");
        let broken = EndKind::from(&ConnectionEnd::Broken(BrokenFrame::Empty));
        assert!(!broken.is_refusal);
        assert_eq!(broken.text, "broken: a DATA_BATCH without a tick");
    }
}
