//! [`Proxied`]: the PROXY protocol, version 2, over another [`Network`]. It takes the header off
//! the input of connections from trusted load balancers, before TLS or the shard sees the input. A
//! read that ends with a header is interrupted, so that the shard can refuse the client before
//! anything that the client has sent costs time.
//!
//! A socket has state here only until its first bytes have been judged. Without PROXY_PROTOCOL none
//! has any, and the layer does nothing.

mod header;

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use tickstorm_timebase::{Clock, Mono};
use zeroize::{Zeroize as _, Zeroizing};

use self::header::{HEADER_MAX, Sender, Start};
use super::network::{
    ClientCertificate, HandshakeStep, Listen, Network, NetworkEvent, Received, Token, WaitFor,
    is_transient,
};
use super::socket_memory::SocketMemory;
use super::traffic::Traffic;
use crate::networks::Networks;

/// The PROXY protocol over the sockets of `N`.
pub(crate) struct Proxied<N> {
    below: N,
    /// The load balancers that send headers; `None` without PROXY_PROTOCOL.
    balancers: Option<Networks>,
    /// The sockets whose start has not been judged, and those whose client the shard does not know
    /// yet. A socket that is closed without being registered leaves its entry behind, which the
    /// next socket of its number replaces.
    arrivals: HashMap<RawFd, Arrival>,
}

/// The state of a new socket.
enum Arrival {
    /// Its first bytes have not been judged.
    Unjudged {
        sender: Sender,
        /// The start of what may be a header, shorter than [`HEADER_MAX`].
        kept: Zeroizing<Vec<u8>>,
    },
    /// A header has named its client, and this input follows it.
    Named {
        client: Option<SocketAddr>,
        rest: Zeroizing<Vec<u8>>,
    },
}

/// The start of a connection's input does not comply with the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProxyFault {
    #[error(
        "a load balancer in PROXY_TRUSTED sent no PROXY header; \
         HAProxy sends one with send-proxy-v2"
    )]
    Missing,
    #[error(
        "a load balancer in PROXY_TRUSTED sent a PROXY header of version 1; \
         only version 2 is supported (in HAProxy, send-proxy-v2 instead of send-proxy)"
    )]
    Version1,
    #[error("a load balancer in PROXY_TRUSTED sent an invalid PROXY header")]
    Invalid,
    #[error(
        "a load balancer in PROXY_TRUSTED sent a PROXY header of {len} bytes; \
         at most {HEADER_MAX} bytes are allowed"
    )]
    TooLong { len: usize },
    #[error("the connection ended within a PROXY header")]
    Unfinished,
    #[error("a PROXY header came from an address that is not in PROXY_TRUSTED")]
    NotTrusted,
}

impl From<ProxyFault> for io::Error {
    fn from(fault: ProxyFault) -> Self {
        Self::new(io::ErrorKind::InvalidData, fault)
    }
}

impl ProxyFault {
    /// Returns the fault that is the cause of an error of [`Proxied`].
    pub(crate) fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

impl<N: Network> Proxied<N> {
    /// Adds the PROXY protocol to a network, if there are `balancers` that send headers.
    pub(crate) fn new(below: N, balancers: Option<Networks>) -> Self {
        Self {
            below,
            balancers,
            arrivals: HashMap::new(),
        }
    }
}

impl<N: Network> Proxied<N> {
    /// Reads what follows a header that has named its client.
    fn receive_rest(&mut self, socket: &N::Socket, buffer: &mut [u8]) -> io::Result<Received> {
        match self.arrivals.remove(&socket.as_raw_fd()) {
            Some(Arrival::Named { rest, .. }) if !rest.is_empty() => {
                buffer[..rest.len()].copy_from_slice(&rest);
                // More may have arrived since.
                Ok(Received::Bytes {
                    len: rest.len(),
                    is_last: false,
                })
            }
            Some(_) | None => self.below.receive(socket, buffer),
        }
    }
}

impl<N: Network> Clock for Proxied<N> {
    fn now(&self) -> Mono {
        self.below.now()
    }

    fn suspended(&self) -> Duration {
        self.below.suspended()
    }
}

impl<N: Listen> Listen for Proxied<N> {
    fn listen(&mut self, listener: TcpListener) -> io::Result<()> {
        self.below.listen(listener)
    }
}

impl<N: Network> Network for Proxied<N> {
    type Socket = N::Socket;

    fn accept(&mut self) -> io::Result<(N::Socket, SocketAddr)> {
        let (socket, peer) = self.below.accept()?;
        if let Some(balancers) = &self.balancers {
            let sender = if balancers.contain(peer.ip()) {
                Sender::Balancer
            } else {
                Sender::Other
            };
            let kept = Zeroizing::default();
            let arrival = Arrival::Unjudged { sender, kept };
            self.arrivals.insert(socket.as_raw_fd(), arrival);
        }
        Ok((socket, peer))
    }

    fn stop_listening(&mut self) {
        self.below.stop_listening();
    }

    fn receive(&mut self, socket: &N::Socket, buffer: &mut [u8]) -> io::Result<Received> {
        let fd = socket.as_raw_fd();
        loop {
            let (sender, kept) = match self.arrivals.get_mut(&fd) {
                None => return self.below.receive(socket, buffer),
                Some(Arrival::Named { .. }) => return self.receive_rest(socket, buffer),
                Some(Arrival::Unjudged { sender, kept }) => (*sender, kept),
            };
            let start = kept.len();
            buffer[..start].copy_from_slice(kept);
            let (len, is_last) = match self.below.receive(socket, &mut buffer[start..]) {
                Ok(Received::Bytes { len, is_last }) => (start + len, is_last),
                // Without any byte, it ends like any other connection.
                Ok(Received::End) if start == 0 => return Ok(Received::End),
                Err(error) if start == 0 || is_transient(&error) => return Err(error),
                Ok(Received::End) | Err(_) => return Err(ProxyFault::Unfinished.into()),
            };
            let judged = header::read(sender, &buffer[..len]);
            if judged.is_err() {
                // A client that is mistaken for a load balancer may have sent its password.
                buffer[..len].zeroize();
            }
            match judged? {
                Start::Incomplete => *kept = buffer[..len].to_vec().into(),
                Start::Direct => {
                    self.arrivals.remove(&fd);
                    return Ok(Received::Bytes { len, is_last });
                }
                Start::Header {
                    len: header_len,
                    client: Some(client),
                } => {
                    let rest = buffer[header_len..len].to_vec().into();
                    buffer[..len].zeroize();
                    let client = Some(client);
                    self.arrivals.insert(fd, Arrival::Named { client, rest });
                    return Err(io::ErrorKind::Interrupted.into());
                }
                Start::Header {
                    len: header_len,
                    client: None,
                } => {
                    self.arrivals.remove(&fd);
                    if header_len < len {
                        buffer.copy_within(header_len..len, 0);
                        buffer[len - header_len..len].zeroize();
                        let len = len - header_len;
                        return Ok(Received::Bytes { len, is_last });
                    }
                }
            }
        }
    }

    fn send(&mut self, socket: RawFd, bytes: &[u8]) -> Result<usize, Errno> {
        self.below.send(socket, bytes)
    }

    fn send_parts(&mut self, socket: &N::Socket, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.below.send_parts(socket, parts)
    }

    fn flush(&mut self, socket: &N::Socket) {
        self.below.flush(socket);
    }

    fn handshake_step(&self, socket: &N::Socket) -> Option<HandshakeStep> {
        self.below.handshake_step(socket)
    }

    fn client_certificate(&self, socket: &N::Socket) -> Option<&ClientCertificate> {
        self.below.client_certificate(socket)
    }

    fn awaits_client_address(&self, socket: &N::Socket) -> bool {
        let arrival = self.arrivals.get(&socket.as_raw_fd());
        matches!(
            arrival,
            Some(Arrival::Unjudged {
                sender: Sender::Balancer,
                ..
            })
        )
    }

    fn take_client_address(&mut self, socket: &N::Socket) -> Option<SocketAddr> {
        let fd = socket.as_raw_fd();
        match self.arrivals.get_mut(&fd)? {
            Arrival::Named { client, .. } => client.take(),
            Arrival::Unjudged { .. } => None,
        }
    }

    #[cfg(feature = "bench")]
    fn bare_sealing(&mut self) -> Option<HashMap<RawFd, tickstorm_tls::BareSealing<'_>>> {
        self.below.bare_sealing()
    }

    fn buffered(&self, socket: &N::Socket) -> usize {
        let own = match self.arrivals.get(&socket.as_raw_fd()) {
            Some(Arrival::Unjudged { kept, .. }) => kept.capacity(),
            Some(Arrival::Named { rest, .. }) => rest.capacity(),
            None => 0,
        };
        own + self.below.buffered(socket)
    }

    fn socket_memory(&self, socket: &N::Socket) -> SocketMemory {
        self.below.socket_memory(socket)
    }

    fn round_trip(&self, socket: &N::Socket) -> Option<Duration> {
        self.below.round_trip(socket)
    }

    fn traffic(&self, socket: &N::Socket) -> Traffic {
        self.below.traffic(socket)
    }

    fn reset_on_drop(&mut self, socket: &N::Socket) {
        self.below.reset_on_drop(socket);
    }

    fn shut_down_sending(&mut self, socket: &N::Socket) {
        self.below.shut_down_sending(socket);
    }

    fn take_error(&mut self, socket: &N::Socket) -> Option<io::Error> {
        self.below.take_error(socket)
    }

    fn register(&mut self, socket: &N::Socket, token: Token) -> io::Result<()> {
        self.below.register(socket, token)
    }

    fn rearm(&mut self, socket: &N::Socket, token: Token) -> io::Result<()> {
        self.below.rearm(socket, token)
    }

    fn deregister(&mut self, socket: &N::Socket) {
        self.arrivals.remove(&socket.as_raw_fd());
        self.below.deregister(socket);
    }

    fn wait(&mut self, limit: WaitFor, events: &mut Vec<NetworkEvent>) -> io::Result<()> {
        self.below.wait(limit, events)
    }
}
