//! [`Secured`]: TLS over another [`Network`]. A shard runs over it as over plain sockets: it reads
//! and writes plaintext, and its feeds, slow path and sessions do not know about TLS.
//!
//! The hot loop's `send` seals the shared frame for one connection and sends the record. If the
//! socket does not accept all of a record, the rest of it is kept here, because a record that has
//! been sealed must be sent as it is. So that the shard waits for the socket, the last byte of that
//! record's plaintext is reported as not accepted. When the shard offers that byte again and the
//! record has been sent, the byte is accepted without being sealed again.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use nix::errno::Errno;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tickstorm_timebase::{Clock, Mono};
use tickstorm_tls::{
    Alert, Established, Handshake, HandshakeError, HandshakeProgress, OpenError, Opened, Session,
};
use tokio::sync::watch;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::network::{
    BUFFER_MIN, ClientCertificate, Listen, Network, NetworkEvent, Readiness, Received, Token,
    WaitFor,
};
use crate::metrics::{HandshakeResult, TlsMetrics};

/// The longest content of a record on the slow path, where the socket accepts little at a time: the
/// write deadline applies to each record.
const SLOW_RECORD_MAX: usize = 4 * 1024;

/// TLS over the sockets of `N`.
pub(crate) struct Secured<N> {
    plain: N,
    config: watch::Receiver<Arc<ServerConfig>>,
    metrics: TlsMetrics,
    /// The state of each socket, by its number.
    peers: Vec<Peer>,
    /// Re-armed sockets whose input has ended within TLS, which the network below does not know.
    ended: Vec<Token>,
    /// Input that is being opened.
    input: Vec<u8>,
    /// Parts of output that are sealed together.
    gathered: Vec<u8>,
    /// Output that is being sealed.
    sealed: Vec<u8>,
}

/// The state of one socket.
#[derive(Default)]
enum Peer {
    /// No socket has this number.
    #[default]
    Absent,
    /// No byte has arrived.
    Silent,
    Handshake(Box<Greeting>),
    Open(Box<Channel>),
    /// TLS has failed. What still arrives is discarded.
    Failed,
}

/// A handshake in progress.
struct Greeting {
    /// The time at which its first byte was read.
    started: Mono,
    handshake: Handshake,
    /// The unsent end of the server's messages.
    unsent: Vec<u8>,
}

/// An established connection.
struct Channel {
    session: Session,
    client_certificate: Option<Box<ClientCertificate>>,
    /// The start of a record that has not arrived completely.
    input: Vec<u8>,
    /// The unsent end of a record.
    unsent: Vec<u8>,
    /// The last byte of that record's plaintext, which will be offered again.
    owed: Option<u8>,
    /// Whether close_notify has been sent.
    is_closed: bool,
    /// What ended the input, to be returned by the next read.
    end: Option<End>,
}

/// What ends the input of a connection.
enum End {
    /// The peer has sent close_notify.
    Closed,
    Failed(OpenError),
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
}

impl<N: Network> Secured<N> {
    /// Adds TLS to a network. Each handshake uses the configuration that is current when it starts.
    pub(crate) fn new(
        plain: N,
        config: watch::Receiver<Arc<ServerConfig>>,
        metrics: TlsMetrics,
    ) -> Self {
        Self {
            plain,
            config,
            metrics,
            peers: Vec::new(),
            ended: Vec::new(),
            input: vec![0; BUFFER_MIN],
            gathered: Vec::new(),
            sealed: Vec::new(),
        }
    }

    fn set_peer(&mut self, fd: RawFd, peer: Peer) {
        let Ok(index) = usize::try_from(fd) else {
            return;
        };
        if index >= self.peers.len() {
            self.peers.resize_with(index + 1, Peer::default);
        }
        self.peers[index] = peer;
    }

    /// Continues a handshake with the next input, and reads the plaintext that follows it.
    fn shake_hands(&mut self, socket: &N::Socket, buffer: &mut [u8]) -> io::Result<Received> {
        let fd = socket.as_raw_fd();
        let Self {
            plain,
            config,
            metrics,
            peers,
            input,
            sealed,
            ..
        } = self;
        let peer = peer(peers, fd)?;
        let abandoned = |_| {
            metrics.count_handshake(HandshakeResult::Abandoned);
            TlsFailure::Unfinished
        };
        if let Peer::Handshake(greeting) = peer
            && !flush(plain, &mut greeting.unsent, fd).map_err(abandoned)?
        {
            // The client has nothing to say before it has received the rest. This error makes the
            // shard read again a few times and then re-arm the socket, which reports when it is
            // writable.
            return Err(io::ErrorKind::Interrupted.into());
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
                Greeting::new(config, plain.now()).map_err(TlsFailure::Handshake)?
            }
        };
        let Received::Bytes { len, .. } = received else {
            metrics.count_handshake(HandshakeResult::Abandoned);
            return Err(TlsFailure::Unfinished.into());
        };
        sealed.clear();
        let progress = greeting.handshake.handle_input(&input[..len], sealed);
        greeting.unsent.append(sealed);
        flush(plain, &mut greeting.unsent, fd).map_err(abandoned)?;
        let progress = progress.map_err(|error| {
            metrics.count_handshake(result_of(&error));
            TlsFailure::Handshake(error)
        });
        match progress? {
            HandshakeProgress::InProgress => {
                *peer = Peer::Handshake(greeting);
                Err(io::ErrorKind::Interrupted.into())
            }
            HandshakeProgress::Established(established) => {
                metrics.count_handshake(HandshakeResult::Completed);
                let taken = plain.now().since(greeting.started);
                metrics.handshake_seconds.observe(taken.as_secs_f64());
                let (mut channel, mut unread) = Channel::new(established, greeting.unsent);
                let opened = channel.open(&mut unread, buffer);
                *peer = Peer::Open(channel);
                read_outcome(opened, false)
            }
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
        let peer = peer(peers, fd)?;
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

    /// Sends close_notify, once, if the socket accepts it: a peer that is gone needs none.
    fn close_notify(&mut self, fd: RawFd) {
        if let Ok(Peer::Open(channel)) = peer(&mut self.peers, fd)
            && !std::mem::replace(&mut channel.is_closed, true)
        {
            let (plain, sealed) = (&mut self.plain, &mut self.sealed);
            let _ = channel.alert(Alert::CloseNotify, plain, sealed, fd);
        }
    }

    /// Sends bytes in records of at most `record_max` bytes, until the socket is full.
    fn seal(&mut self, fd: RawFd, bytes: &[u8], record_max: usize) -> Result<usize, Errno> {
        let Self {
            plain,
            peers,
            sealed,
            ..
        } = self;
        let Peer::Open(channel) = peer(peers, fd)? else {
            return Err(Errno::ENOTCONN);
        };
        if !flush(plain, &mut channel.unsent, fd)? {
            return Err(Errno::EAGAIN);
        }
        let mut taken = 0;
        if let (Some(owed), Some(offered)) = (channel.owed, bytes.first()) {
            // The caller breaks its promise if this fails, and the stream would be corrupt.
            if owed != *offered {
                return Err(Errno::EPROTO);
            }
            channel.owed = None;
            taken = 1;
        }
        for content in bytes[taken..].chunks(record_max) {
            sealed.clear();
            let sealing = channel.session.seal(content, sealed);
            sealing.map_err(|_| Errno::EIO)?;
            let sent = match plain.send(fd, sealed) {
                Ok(sent) => sent,
                Err(Errno::EAGAIN | Errno::EINTR) => 0,
                Err(errno) => return Err(errno),
            };
            taken += content.len();
            if sent < sealed.len() {
                channel.unsent.extend_from_slice(&sealed[sent..]);
                channel.owed = content.last().copied();
                return Ok(taken - 1);
            }
        }
        Ok(taken)
    }
}

impl Greeting {
    fn new(config: Arc<ServerConfig>, started: Mono) -> Result<Box<Self>, HandshakeError> {
        Ok(Box::new(Self {
            started,
            handshake: Handshake::new(config)?,
            unsent: Vec::new(),
        }))
    }
}

impl Channel {
    /// Creates the channel of a complete handshake, and returns it with the input that follows.
    fn new(established: Established, unsent: Vec<u8>) -> (Box<Self>, Vec<u8>) {
        let this = Self {
            session: *established.session,
            client_certificate: established.client_certificate.as_ref().map(describe),
            input: Vec::new(),
            unsent,
            owed: None,
            is_closed: false,
            end: None,
        };
        (Box::new(this), established.unread)
    }

    /// Opens the complete records of `input` into `output`, and keeps the incomplete one. Returns
    /// the number of bytes of plaintext. What ends the input is kept, to be returned by the next
    /// read.
    fn open(&mut self, input: &mut [u8], output: &mut [u8]) -> usize {
        let (mut at, mut written) = (0, 0);
        while self.end.is_none() {
            match self.session.open(&mut input[at..]) {
                Ok(Opened::Incomplete) => break,
                Ok(Opened::Record { record, content }) => {
                    let opened = &input[at..][content];
                    output[written..written + opened.len()].copy_from_slice(opened);
                    written += opened.len();
                    at += record;
                }
                Ok(Opened::Closed) => self.end = Some(End::Closed),
                Err(error) => self.end = Some(End::Failed(error)),
            }
        }
        self.input = match self.end {
            None => input[at..].to_vec(),
            Some(_) => Vec::new(),
        };
        written
    }

    /// Sends an alert, if the socket accepts it.
    fn alert(
        &mut self,
        alert: Alert,
        plain: &mut impl Network,
        sealed: &mut Vec<u8>,
        fd: RawFd,
    ) -> Result<(), Errno> {
        sealed.clear();
        let sealing = self.session.seal_alert(alert, sealed);
        sealing.map_err(|_| Errno::EIO)?;
        self.unsent.append(sealed);
        flush(plain, &mut self.unsent, fd).map(|_| ())
    }
}

fn result_of(error: &HandshakeError) -> HandshakeResult {
    match error {
        HandshakeError::Tls(
            rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_),
        ) => HandshakeResult::CertificateRefused,
        HandshakeError::Tls(rustls::Error::AlertReceived(_)) | HandshakeError::Closed => {
            HandshakeResult::Abandoned
        }
        HandshakeError::Tls(_)
        | HandshakeError::InvalidRecord
        | HandshakeError::TooMuchInput
        | HandshakeError::Ended => HandshakeResult::Failed,
    }
}

/// Returns what identifies a certificate to an operator. It has been verified, so it can be parsed.
fn describe(certificate: &CertificateDer<'_>) -> Box<ClientCertificate> {
    let parsed = X509Certificate::from_der(certificate);
    let (subject, serial) = parsed.map_or_else(
        |_| Default::default(),
        |(_, parsed)| (parsed.subject().to_string(), parsed.raw_serial_as_string()),
    );
    Box::new(ClientCertificate { subject, serial })
}

/// Returns the state of a socket that was accepted.
fn peer(peers: &mut [Peer], fd: RawFd) -> Result<&mut Peer, Errno> {
    let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
    peers.get_mut(index).ok_or(Errno::ENOTCONN)
}

/// Returns whether a read may succeed later.
fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// Sends kept output. Returns whether all of it has been sent.
fn flush(plain: &mut impl Network, unsent: &mut Vec<u8>, fd: RawFd) -> Result<bool, Errno> {
    while !unsent.is_empty() {
        match plain.send(fd, unsent) {
            Ok(sent) if sent == unsent.len() => *unsent = Vec::new(),
            Ok(sent) => drop(unsent.drain(..sent)),
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(false),
            Err(errno) => return Err(errno),
        }
    }
    Ok(true)
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
        self.set_peer(socket.as_raw_fd(), Peer::Silent);
        Ok((socket, address))
    }

    fn stop_listening(&mut self) {
        self.plain.stop_listening();
    }

    fn receive(&mut self, socket: &N::Socket, buffer: &mut [u8]) -> io::Result<Received> {
        match peer(&mut self.peers, socket.as_raw_fd())? {
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
        self.seal(socket, bytes, Session::CONTENT_MAX)
    }

    fn send_parts(&mut self, socket: &N::Socket, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut gathered = std::mem::take(&mut self.gathered);
        gathered.clear();
        for part in parts {
            let room = Session::CONTENT_MAX - gathered.len();
            gathered.extend_from_slice(&part[..part.len().min(room)]);
        }
        let taken = self.seal(socket.as_raw_fd(), &gathered, SLOW_RECORD_MAX);
        self.gathered = gathered;
        Ok(taken?)
    }

    fn flush(&mut self, socket: &N::Socket) {
        let fd = socket.as_raw_fd();
        let unsent = match peer(&mut self.peers, fd) {
            Ok(Peer::Handshake(greeting)) => &mut greeting.unsent,
            Ok(Peer::Open(channel)) => &mut channel.unsent,
            Ok(Peer::Absent | Peer::Silent | Peer::Failed) | Err(_) => return,
        };
        // An error shows at the next read.
        let _ = flush(&mut self.plain, unsent, fd);
    }

    fn is_shaking_hands(&self, socket: &N::Socket) -> bool {
        let index = usize::try_from(socket.as_raw_fd()).ok();
        let peer = index.and_then(|index| self.peers.get(index));
        matches!(peer, Some(Peer::Silent | Peer::Handshake(_)))
    }

    fn client_certificate(&self, socket: &N::Socket) -> Option<&ClientCertificate> {
        let index = usize::try_from(socket.as_raw_fd()).ok()?;
        match self.peers.get(index)? {
            Peer::Open(channel) => channel.client_certificate.as_deref(),
            Peer::Absent | Peer::Silent | Peer::Handshake(_) | Peer::Failed => None,
        }
    }

    fn shut_down_sending(&mut self, socket: &N::Socket) {
        let fd = socket.as_raw_fd();
        self.close_notify(fd);
        self.plain.shut_down_sending(socket);
    }

    fn take_error(&mut self, socket: &N::Socket) -> Option<io::Error> {
        self.plain.take_error(socket)
    }

    fn register(&mut self, socket: &N::Socket, token: Token) -> io::Result<()> {
        self.plain.register(socket, token)
    }

    fn rearm(&mut self, socket: &N::Socket, token: Token) -> io::Result<()> {
        if let Ok(Peer::Open(channel)) = peer(&mut self.peers, socket.as_raw_fd())
            && channel.end.is_some()
        {
            self.ended.push(token);
        }
        self.plain.rearm(socket, token)
    }

    fn deregister(&mut self, socket: &N::Socket) {
        // The socket is about to be closed.
        self.close_notify(socket.as_raw_fd());
        self.plain.deregister(socket);
        self.set_peer(socket.as_raw_fd(), Peer::Absent);
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
