//! [`Greeting`]: the handshake of one connection, from its first byte until it is established.

use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;

use rustls::ServerConfig;
use tickstorm_timebase::Mono;
use tickstorm_tls::{Handshake, HandshakeError, HandshakeProgress};

use super::channel::{Channel, flush};
use super::peers::Peer;
use super::{Secured, TlsFailure, outcome, read_outcome};
use crate::metrics::HandshakeResult;
use crate::sys::network::{HandshakeStep, Network, Received, is_transient};
use crate::tls::ClientAuth;

/// The memory that a handshake takes, in bytes, besides its buffers. rustls does not tell it; a
/// counting allocator has measured 1.9 KB at first and 2.7 KB after the ClientHello.
const HANDSHAKE_BYTES: usize = 3_072;

/// A handshake in progress.
pub(super) struct Greeting {
    /// The time at which its first byte was read.
    started: Mono,
    handshake: Handshake,
    /// The unsent end of the server's messages.
    pub(super) unsent: Vec<u8>,
    /// Whether the socket was re-armed, and so reports when it becomes writable.
    pub(super) is_armed: bool,
}

impl Greeting {
    fn new(
        config: Arc<ServerConfig>,
        client_auth: ClientAuth,
        started: Mono,
    ) -> Result<Box<Self>, HandshakeError> {
        let mut handshake = Handshake::new(config)?;
        if client_auth == ClientAuth::None {
            handshake = handshake.without_client_certificate();
        }
        Ok(Box::new(Self {
            started,
            handshake,
            unsent: Vec::new(),
            is_armed: false,
        }))
    }

    /// Returns the step that the next input is for.
    pub(super) fn next_step(&self) -> HandshakeStep {
        if self.handshake.has_answered() {
            HandshakeStep::Continued
        } else {
            HandshakeStep::First
        }
    }

    /// Returns the error of a read while the end of the server's messages can't be sent. The first
    /// one makes the shard read again a few times and then re-arm the socket, which reports when it
    /// is writable. If it was re-armed again, it would report its unread input at once, over and
    /// over.
    fn blocked(&self) -> io::ErrorKind {
        if self.is_armed {
            io::ErrorKind::WouldBlock
        } else {
            io::ErrorKind::Interrupted
        }
    }

    /// Returns the number of bytes that are allocated for the handshake.
    pub(super) fn buffered(&self) -> usize {
        HANDSHAKE_BYTES + self.handshake.buffered() + self.unsent.capacity()
    }
}

impl<N: Network> Secured<N> {
    /// Continues a handshake with the next input, and reads the plaintext that follows it.
    pub(super) fn shake_hands(
        &mut self,
        socket: &N::Socket,
        buffer: &mut [u8],
    ) -> io::Result<Received> {
        let fd = socket.as_raw_fd();
        let Self {
            plain,
            config,
            client_auth,
            metrics,
            peers,
            input,
            sealed,
            ..
        } = self;
        let peer = peers.of(fd)?;
        let abandoned = || {
            metrics.count_handshake(HandshakeResult::Abandoned);
            TlsFailure::Unfinished
        };
        if let Peer::Handshake(greeting) = peer {
            match flush(plain, &mut greeting.unsent, fd) {
                Ok(true) => {}
                // The client has nothing to say before it has received the rest.
                Ok(false) => return Err(greeting.blocked().into()),
                Err(_) => {
                    *peer = Peer::Failed;
                    return Err(abandoned().into());
                }
            }
        }
        let received = match plain.receive(socket, input) {
            Err(error) if matches!(peer, Peer::Handshake(_)) && !is_transient(&error) => {
                Received::End
            }
            received => received?,
        };
        let mut greeting = match std::mem::replace(peer, Peer::Failed) {
            Peer::Handshake(greeting) => greeting,
            Peer::Absent | Peer::Silent | Peer::Open(_) | Peer::Failed => {
                if received == Received::End {
                    return Ok(Received::End);
                }
                let config = Arc::clone(&config.borrow());
                Greeting::new(config, *client_auth, plain.now()).map_err(TlsFailure::Handshake)?
            }
        };
        let Received::Bytes { len, .. } = received else {
            return Err(abandoned().into());
        };
        sealed.clear();
        let progress = greeting.handshake.handle_input(&input[..len], sealed);
        greeting.unsent.append(sealed);
        let progress = match progress {
            Ok(progress) => progress,
            Err(error) => {
                metrics.count_handshake(outcome::of(&error));
                // If the client is gone, it needs no alert.
                let _ = flush(plain, &mut greeting.unsent, fd);
                return Err(TlsFailure::Handshake(error).into());
            }
        };
        flush(plain, &mut greeting.unsent, fd).map_err(|_| abandoned())?;
        match progress {
            HandshakeProgress::InProgress => {
                *peer = Peer::Handshake(greeting);
                Err(io::ErrorKind::Interrupted.into())
            }
            HandshakeProgress::Established(established) => {
                metrics.count_completed(plain.now().since(greeting.started));
                let (mut channel, mut unread) = Channel::new(established, greeting.unsent);
                let opened = channel.open(&mut unread, buffer);
                *peer = Peer::Open(channel);
                read_outcome(opened, false)
            }
        }
    }
}
