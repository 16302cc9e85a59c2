//! [`Secured`]: TLS over another [`Network`]. A shard runs over it as over plain sockets: it reads
//! and writes plaintext, and its feeds, slow path and sessions do not know about TLS.
//!
//! The hot loop's `send` seals the shared frame for one connection and sends the record. If the
//! socket does not accept all of a record, the rest of it is kept here, because a record that has
//! been sealed must be sent as it is. So that the shard waits for the socket, the last byte of that
//! record's plaintext is reported as not accepted. When the shard offers that byte again and the
//! record has been sent, the byte is accepted without being sealed again.

mod channel;
mod greeting;
mod outcome;
mod peers;

use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use rustls::ServerConfig;
use tickstorm_timebase::{Clock, Mono};
use tickstorm_tls::{HandshakeError, OpenError, Session};
use tokio::sync::watch;

use self::channel::{End, flush};
use self::peers::{Peer, Peers};
use super::network::{
    BUFFER_MIN, ClientCertificate, HandshakeStep, Listen, Network, NetworkEvent, Readiness,
    Received, Token, WaitFor,
};
use super::socket_memory::SocketMemory;
use super::traffic::Traffic;
use crate::metrics::{HandshakeResult, TlsMetrics};
use crate::tls::{ClientAuth, TlsConfigs};

/// TLS over the sockets of `N`.
pub(crate) struct Secured<N> {
    plain: N,
    config: watch::Receiver<Arc<ServerConfig>>,
    client_auth: ClientAuth,
    metrics: TlsMetrics,
    /// The state of each socket, by its number.
    peers: Peers,
    /// Re-armed sockets whose input has ended within TLS, which the network below does not know.
    ended: Vec<Token>,
    /// Input that is being opened.
    input: Vec<u8>,
    /// Parts of output that are sealed together.
    gathered: Vec<u8>,
    /// Output that is being sealed.
    sealed: Vec<u8>,
}

/// TLS has failed, by the fault of either side. If TLS has an alert for the failure, it has been
/// sent, provided that the socket accepted it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsFailure {
    #[error("the TLS handshake failed: {0}")]
    Handshake(#[source] HandshakeError),
    #[error("the client closed the connection during the TLS handshake")]
    Unfinished,
    #[error("TLS failed: {0}")]
    Record(#[source] OpenError),
}

impl From<TlsFailure> for io::Error {
    fn from(failure: TlsFailure) -> Self {
        Self::new(io::ErrorKind::InvalidData, failure)
    }
}

impl TlsFailure {
    /// Returns the TLS failure that is the cause of an error of [`Secured`].
    pub(crate) fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// Returns the result of the handshake, if the edge has refused the client's certificate.
    pub(crate) fn refusal(&self) -> Option<HandshakeResult> {
        match self {
            Self::Handshake(error) => Some(outcome::of(error)).filter(|result| result.is_refusal()),
            Self::Unfinished | Self::Record(_) => None,
        }
    }
}

impl<N: Network> Secured<N> {
    /// Adds TLS to a network. Each handshake uses the configuration that is current when it starts.
    pub(crate) fn new(
        plain: N,
        TlsConfigs {
            current: config,
            client_auth,
        }: TlsConfigs,
        metrics: TlsMetrics,
    ) -> Self {
        Self {
            plain,
            config,
            client_auth,
            metrics,
            peers: Peers::default(),
            ended: Vec::new(),
            input: vec![0; BUFFER_MIN],
            gathered: Vec::new(),
            sealed: Vec::new(),
        }
    }

    /// Reads from an established connection.
    fn open(&mut self, socket: &N::Socket, buffer: &mut [u8]) -> io::Result<Received> {
        let fd = socket.as_raw_fd();
        let Self {
            plain,
            peers,
            input,
            sealed,
            ..
        } = self;
        let peer = peers.of(fd)?;
        let Peer::Open(channel) = peer else {
            return Err(Errno::ENOTCONN.into());
        };
        match channel.end.take() {
            None => {}
            Some(End::Closed) => {
                channel.end = Some(End::Closed);
                return Ok(Received::End);
            }
            Some(End::Failed(error)) => {
                if let Some(alert) = error.alert() {
                    let _ = channel.alert(alert, plain, sealed, fd);
                }
                *peer = Peer::Failed;
                return Err(TlsFailure::Record(error).into());
            }
        }
        let start = channel.input.len();
        input[..start].copy_from_slice(&channel.input);
        let Received::Bytes { len, is_last } = plain.receive(socket, &mut input[start..])? else {
            return Ok(Received::End);
        };
        let opened = channel.open(&mut input[..start + len], buffer);
        read_outcome(opened, is_last && channel.end.is_none())
    }

    fn close_notify(&mut self, fd: RawFd) {
        if let Ok(Peer::Open(channel)) = self.peers.of(fd) {
            channel.close_notify(&mut self.plain, &mut self.sealed, fd);
        }
    }

    /// Sends bytes in records, until the socket is full.
    fn seal(&mut self, fd: RawFd, bytes: &[u8]) -> Result<usize, Errno> {
        let Self {
            plain,
            peers,
            sealed,
            ..
        } = self;
        let Peer::Open(channel) = peers.of(fd)? else {
            return Err(Errno::ENOTCONN);
        };
        channel.send(fd, bytes, plain, sealed)
    }
}

/// Returns the result of a read that brought `opened` bytes of plaintext. Without any, the caller
/// reads again: only an unsuccessful read shows that the socket is empty.
fn read_outcome(opened: usize, is_last: bool) -> io::Result<Received> {
    if opened == 0 {
        return Err(io::ErrorKind::Interrupted.into());
    }
    let len = opened;
    Ok(Received::Bytes { len, is_last })
}

impl<N: Network> Clock for Secured<N> {
    fn now(&self) -> Mono {
        self.plain.now()
    }

    fn suspended(&self) -> Duration {
        self.plain.suspended()
    }
}

impl<N: Listen> Listen for Secured<N> {
    fn listen(&mut self, listener: TcpListener) -> io::Result<()> {
        self.plain.listen(listener)
    }
}

impl<N: Network> Network for Secured<N> {
    type Socket = N::Socket;

    fn accept(&mut self) -> io::Result<(N::Socket, SocketAddr)> {
        let (socket, address) = self.plain.accept()?;
        self.peers.set(socket.as_raw_fd(), Peer::Silent);
        Ok((socket, address))
    }

    fn stop_listening(&mut self) {
        self.plain.stop_listening();
    }

    fn receive(&mut self, socket: &N::Socket, buffer: &mut [u8]) -> io::Result<Received> {
        match self.peers.of(socket.as_raw_fd())? {
            Peer::Silent | Peer::Handshake(_) => self.shake_hands(socket, buffer),
            Peer::Open(_) => self.open(socket, buffer),
            Peer::Absent => Err(Errno::ENOTCONN.into()),
            Peer::Failed => {
                let received = self.plain.receive(socket, buffer)?;
                if let Received::Bytes { len, .. } = received {
                    buffer[..len].fill(0);
                }
                Ok(received)
            }
        }
    }

    fn send(&mut self, socket: RawFd, bytes: &[u8]) -> Result<usize, Errno> {
        self.seal(socket, bytes)
    }

    fn send_parts(&mut self, socket: &N::Socket, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut gathered = std::mem::take(&mut self.gathered);
        gathered.clear();
        for part in parts {
            let room = Session::CONTENT_MAX - gathered.len();
            gathered.extend_from_slice(&part[..part.len().min(room)]);
        }
        let taken = self.seal(socket.as_raw_fd(), &gathered);
        self.gathered = gathered;
        Ok(taken?)
    }

    fn flush(&mut self, socket: &N::Socket) {
        let fd = socket.as_raw_fd();
        let unsent = match self.peers.of(fd) {
            Ok(Peer::Handshake(greeting)) => &mut greeting.unsent,
            Ok(Peer::Open(channel)) => &mut channel.unsent,
            Ok(Peer::Absent | Peer::Silent | Peer::Failed) | Err(_) => return,
        };
        // An error shows at the next read.
        let _ = flush(&mut self.plain, unsent, fd);
    }

    fn handshake_step(&self, socket: &N::Socket) -> Option<HandshakeStep> {
        match self.peers.get(socket.as_raw_fd())? {
            Peer::Silent => Some(HandshakeStep::First),
            Peer::Handshake(greeting) => Some(greeting.next_step()),
            Peer::Absent | Peer::Open(_) | Peer::Failed => None,
        }
    }

    fn client_certificate(&self, socket: &N::Socket) -> Option<&ClientCertificate> {
        match self.peers.get(socket.as_raw_fd())? {
            Peer::Open(channel) => channel.client_certificate.as_deref(),
            Peer::Absent | Peer::Silent | Peer::Handshake(_) | Peer::Failed => None,
        }
    }

    fn awaits_client_address(&self, socket: &N::Socket) -> bool {
        self.plain.awaits_client_address(socket)
    }

    fn take_client_address(&mut self, socket: &N::Socket) -> Option<SocketAddr> {
        self.plain.take_client_address(socket)
    }

    #[cfg(feature = "bench")]
    fn bare_sealing(
        &mut self,
    ) -> Option<std::collections::HashMap<RawFd, tickstorm_tls::BareSealing<'_>>> {
        Some(self.peers.bare_sealing().collect())
    }

    fn buffered(&self, socket: &N::Socket) -> usize {
        let own = match self.peers.get(socket.as_raw_fd()) {
            Some(Peer::Handshake(greeting)) => greeting.buffered(),
            Some(Peer::Open(channel)) => channel.buffered(),
            Some(Peer::Absent | Peer::Silent | Peer::Failed) | None => 0,
        };
        own + self.plain.buffered(socket)
    }

    fn socket_memory(&self, socket: &N::Socket) -> SocketMemory {
        self.plain.socket_memory(socket)
    }

    fn round_trip(&self, socket: &N::Socket) -> Option<Duration> {
        self.plain.round_trip(socket)
    }

    fn traffic(&self, socket: &N::Socket) -> Traffic {
        self.plain.traffic(socket)
    }

    fn reset_on_drop(&mut self, socket: &N::Socket) {
        self.plain.reset_on_drop(socket);
    }

    fn shut_down_sending(&mut self, socket: &N::Socket) {
        let fd = socket.as_raw_fd();
        self.close_notify(fd);
        // What still arrives will be discarded, so a partial record need not be kept for it.
        if let Ok(peer) = self.peers.of(fd)
            && matches!(peer, Peer::Open(channel) if channel.unsent.is_empty())
        {
            *peer = Peer::Failed;
        }
        self.plain.shut_down_sending(socket);
    }

    fn take_error(&mut self, socket: &N::Socket) -> Option<io::Error> {
        self.plain.take_error(socket)
    }

    fn register(&mut self, socket: &N::Socket, token: Token) -> io::Result<()> {
        self.plain.register(socket, token)
    }

    fn rearm(&mut self, socket: &N::Socket, token: Token) -> io::Result<()> {
        match self.peers.of(socket.as_raw_fd()) {
            Ok(Peer::Open(channel)) if channel.end.is_some() => self.ended.push(token),
            Ok(Peer::Handshake(greeting)) => greeting.is_armed = true,
            Ok(_) | Err(_) => {}
        }
        self.plain.rearm(socket, token)
    }

    fn deregister(&mut self, socket: &N::Socket) {
        // The socket is about to be closed.
        self.close_notify(socket.as_raw_fd());
        self.plain.deregister(socket);
        if let Some(Peer::Handshake(_)) = self.peers.get(socket.as_raw_fd()) {
            self.metrics.count_handshake(HandshakeResult::Abandoned);
        }
        self.peers.set(socket.as_raw_fd(), Peer::Absent);
    }

    fn wait(&mut self, limit: WaitFor, events: &mut Vec<NetworkEvent>) -> io::Result<()> {
        if self.ended.is_empty() {
            return self.plain.wait(limit, events);
        }
        self.plain.wait(WaitFor::None, events)?;
        let readiness = Readiness {
            has_input: true,
            until_empty: true,
            takes_output: false,
        };
        let ended = self.ended.drain(..);
        events.extend(ended.map(|token| NetworkEvent::Socket(token, readiness)));
        Ok(())
    }
}
