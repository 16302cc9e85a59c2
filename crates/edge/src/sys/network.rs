//! [`Network`]: everything that a shard needs from the system. The same rules run over the kernel's
//! sockets and over a script in virtual time. Only [`Network::wait`] blocks.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use tickstorm_timebase::Clock;

use super::socket_memory::SocketMemory;
use super::traffic::Traffic;

/// A shard's sockets, listener and events, and the clock that gives the time of a read.
pub(crate) trait Network: Clock {
    /// An open connection. Dropping it closes it.
    type Socket: AsRawFd;

    /// Accepts the next pending connection.
    fn accept(&mut self) -> io::Result<(Self::Socket, SocketAddr)>;

    /// Stops listening. Connections that have not been accepted yet are reset.
    fn stop_listening(&mut self);

    /// Reads available input into `buffer`, which has room for at least [`BUFFER_MIN`] bytes.
    fn receive(&mut self, socket: &Self::Socket, buffer: &mut [u8]) -> io::Result<Received>;

    /// Sends as many of `bytes` as the socket accepts, and returns how many. It takes the socket's
    /// number, since that is all the hot loop has.
    fn send(&mut self, socket: RawFd, bytes: &[u8]) -> Result<usize, Errno>;

    /// Sends as much of `parts`, in order, as the socket accepts, and returns the number of bytes.
    fn send_parts(&mut self, socket: &Self::Socket, parts: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Sends output that the network itself has kept, such as the end of a TLS record. Called when
    /// the socket is writable.
    fn flush(&mut self, _socket: &Self::Socket) {}

    /// Returns the step of a handshake that the next read is, if it is one.
    fn handshake_step(&self, _socket: &Self::Socket) -> Option<HandshakeStep> {
        None
    }

    /// Returns the certificate that the client has presented, if any.
    fn client_certificate(&self, _socket: &Self::Socket) -> Option<&ClientCertificate> {
        None
    }

    /// Returns whether the socket's peer is a load balancer, which has yet to announce the client's
    /// address.
    fn awaits_client_address(&self, _socket: &Self::Socket) -> bool {
        false
    }

    /// Returns the client's address if a load balancer has announced it since the last call. The
    /// peer of the socket is then the balancer.
    fn take_client_address(&mut self, _socket: &Self::Socket) -> Option<SocketAddr> {
        None
    }

    /// Lends the sealing keys of all sockets that have no unsent records; `None` without TLS.
    #[cfg(feature = "bench")]
    fn bare_sealing(
        &mut self,
    ) -> Option<std::collections::HashMap<RawFd, tickstorm_tls::BareSealing<'_>>> {
        None
    }

    /// Returns how much memory this process holds for the socket: input that is not complete, and
    /// output that was accepted but not sent.
    fn buffered(&self, socket: &Self::Socket) -> usize;

    /// Returns how much memory the kernel holds for the socket.
    fn socket_memory(&self, socket: &Self::Socket) -> SocketMemory;

    /// Returns the round-trip time to the socket's peer, if it is known.
    fn round_trip(&self, _socket: &Self::Socket) -> Option<Duration> {
        None
    }

    /// Returns what has passed over the socket.
    fn traffic(&self, _socket: &Self::Socket) -> Traffic {
        Traffic::default()
    }

    /// Makes dropping the socket reset the connection, so that the kernel frees its memory at once.
    fn reset_on_drop(&mut self, socket: &Self::Socket);

    /// Shuts down the sending side. Errors are ignored: if the peer is already gone, reading shows
    /// it.
    fn shut_down_sending(&mut self, socket: &Self::Socket);

    /// Takes the socket's pending error, if any.
    fn take_error(&mut self, socket: &Self::Socket) -> Option<io::Error>;

    /// Registers the socket for input events, reported as [`NetworkEvent::Socket`] with `token`. If
    /// there is input already, it is reported immediately.
    fn register(&mut self, socket: &Self::Socket, token: Token) -> io::Result<()>;

    /// Re-arms the socket: its current readiness is reported again. Afterwards it is also reported
    /// when it becomes writable again after it was full.
    fn rearm(&mut self, socket: &Self::Socket, token: Token) -> io::Result<()>;

    /// Deregisters the socket: no more events are reported for it.
    fn deregister(&mut self, socket: &Self::Socket);

    /// Waits for events as long as `limit` allows, and appends them to `events`. An interrupted
    /// wait returns no events.
    fn wait(&mut self, limit: WaitFor, events: &mut Vec<NetworkEvent>) -> io::Result<()>;
}

/// The least room for input that a read may be given: that for a TLS record of any length.
pub(crate) const BUFFER_MIN: usize = 17 * 1024;

/// The result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// The input has ended.
    End,
    /// This many bytes were read, at least one.
    Bytes {
        len: usize,
        /// Whether the socket is empty now, unless its readiness is
        /// [`until_empty`](Readiness::until_empty).
        is_last: bool,
    },
}

impl Received {
    /// Returns the result of reading `len` bytes into a buffer of `room` bytes. A short read means
    /// that the socket is empty.
    pub(crate) fn new(len: usize, room: usize) -> Self {
        match len {
            0 => Self::End,
            _ => Self::Bytes {
                len,
                is_last: len < room,
            },
        }
    }
}

/// Returns whether a read that failed with `error` may succeed later.
pub(crate) fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// A step of a handshake, which takes much longer than any other read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandshakeStep {
    /// Reads the client's first message and answers it, with a key exchange and a signature.
    First,
    /// Reads what follows the answer, which takes a small part of that unless the client presents a
    /// certificate.
    Continued,
}

/// The parts of a client's certificate that identify it to an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientCertificate {
    pub(crate) subject: String,
    /// The serial number in hex, as `openssl x509 -serial` prints it, with colons.
    pub(crate) serial: String,
}

/// A network that listens on sockets of this host.
pub(crate) trait Listen: Network {
    /// Starts accepting connections from `listener`.
    fn listen(&mut self, listener: TcpListener) -> io::Result<()>;
}

/// The longest time to wait for events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitFor {
    /// Not at all.
    None,
    /// Until the timer fires, as it is already set.
    AsSet,
    /// For this long: sets the timer and waits until it fires.
    For(Duration),
}

/// Identifies the connection of a socket event: its slot, and the low bits of its id, since slots
/// are reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Token {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// An event that a shard waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NetworkEvent {
    /// The timer has fired.
    Timer,
    /// Another thread has used the shard's waker.
    Woken,
    /// A connection is waiting to be accepted.
    Incoming,
    /// A socket is ready.
    Socket(Token, Readiness),
}

/// The readiness of a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    /// Whether there is input, the end of input, or an error to read.
    pub(crate) has_input: bool,
    /// Whether the socket must be read until it is empty, because a short read does not mean that
    /// it is: its input has ended or it has failed, which no other event reports, or urgent data
    /// cuts reads short.
    pub(crate) until_empty: bool,
    /// Whether it is writable, or has failed.
    pub(crate) takes_output: bool,
}
