//! [`ClientChannel`]: what is between a client and its socket: nothing, a TLS handshake, or an
//! established TLS connection.

use rustix::net::{SendFlags, send};
use socket2::Socket;
use tickstorm_tls::{Alert, ClientHandshake, ClientSession};

use super::connection_end::ConnectionEnd;

const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// The channel of one client.
pub(super) enum ClientChannel {
    Plain,
    Handshake(Box<ClientHandshake>),
    Secured(Box<ClientSession>),
}

impl ClientChannel {
    /// Sends a frame or two. `sealed` is a buffer for their record.
    pub(super) fn send(
        &mut self,
        socket: &Socket,
        bytes: &[u8],
        sealed: &mut Vec<u8>,
    ) -> Result<(), ConnectionEnd> {
        match self {
            // The first frames go out with the last message of the handshake.
            Self::Handshake(_) => Ok(()),
            Self::Plain => send_all(socket, bytes),
            Self::Secured(session) => {
                sealed.clear();
                session.seal(bytes, sealed).map_err(ConnectionEnd::Seal)?;
                send_all(socket, sealed)
            }
        }
    }

    /// Tells the edge that the client sends nothing more. Without TLS, the end of the stream does.
    pub(super) fn close_notify(&mut self, socket: &Socket, sealed: &mut Vec<u8>) {
        if let Self::Secured(session) = self {
            sealed.clear();
            // An edge that is not reachable any more needs no notice.
            if session.seal_alert(Alert::CloseNotify, sealed).is_ok() {
                let _ = send_all(socket, sealed);
            }
        }
    }
}

/// Sends a few hundred bytes, all of which a socket accepts unless it is broken, or its peer does
/// not read.
pub(super) fn send_all(socket: &Socket, bytes: &[u8]) -> Result<(), ConnectionEnd> {
    if bytes.is_empty() {
        return Ok(());
    }
    match send(socket, bytes, SEND_FLAGS) {
        Ok(sent) if sent == bytes.len() => Ok(()),
        Ok(sent) => Err(ConnectionEnd::SentInPart {
            sent,
            len: bytes.len(),
        }),
        Err(errno) => Err(ConnectionEnd::Send(errno)),
    }
}
