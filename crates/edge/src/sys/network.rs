//! [`Network`]: everything that a shard asks of the system, so that its rules run the same over the
//! kernel's sockets and over a script in virtual time. No call waits but [`Network::wait`].

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use tickstorm_timebase::Clock;

/// A shard's sockets, its listener, and what it waits for; and the clock, by which the moment of a
/// read is told.
pub(crate) trait Network: Clock {
    /// An open connection. Dropping it closes it.
    type Socket: AsRawFd;

    /// Takes the next connection that waits to be accepted.
    fn accept(&mut self) -> io::Result<(Self::Socket, SocketAddr)>;

    /// Stops listening: what still waits to be accepted is reset.
    fn stop_listening(&mut self);

    /// Reads what the socket has, as far as it fits; 0 is the end of the input.
    fn receive(&mut self, socket: &Self::Socket, buffer: &mut [u8]) -> io::Result<usize>;

    /// Sends what the socket with this number takes of `bytes`: the hot loop knows sockets by their
    /// numbers only.
    fn send(&mut self, socket: RawFd, bytes: &[u8]) -> Result<usize, Errno>;

    /// Sends what the socket takes of `parts`, in their order.
    fn send_parts(&mut self, socket: &Self::Socket, parts: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Ends the sending side. The peer may be gone already, which reading shows.
    fn shut_down_sending(&mut self, socket: &Self::Socket);

    /// The socket's pending error, if any; asking takes it away.
    fn take_error(&mut self, socket: &Self::Socket) -> Option<io::Error>;

    /// Reports input of the socket from now on, as [`NetworkEvent::Socket`] with `token`; at once
    /// if there is some already.
    fn register(&mut self, socket: &Self::Socket, token: Token) -> io::Result<()>;

    /// Re-arms the socket: reports its present readiness again, and from now on also that it takes
    /// output again after it was full.
    fn rearm(&mut self, socket: &Self::Socket, token: Token) -> io::Result<()>;

    /// Reports nothing of the socket any more.
    fn deregister(&mut self, socket: &Self::Socket);

    /// Appends to `events` what has happened since the last call, waiting for it as `rest` says. An
    /// interrupted wait has no events.
    fn wait(&mut self, rest: WaitFor, events: &mut Vec<NetworkEvent>) -> io::Result<()>;
}

/// How long to wait for events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitFor {
    /// Not at all.
    None,
    /// Until the timer fires as it is set.
    AsSet,
    /// Until so much time has passed, for which the timer is set.
    For(Duration),
}

/// What a socket's events are reported with: the connection's slot, and the low bits of its id,
/// since slots are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Token {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// Something that a shard waits for has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NetworkEvent {
    /// The timer has fired.
    Timer,
    /// The shard's waker was used.
    Woken,
    /// A connection waits to be accepted.
    Incoming,
    /// A socket is ready.
    Socket(Token, Readiness),
}

/// What a socket is ready for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    /// There is input, or its end, or a failure to be read.
    pub(crate) has_input: bool,
    /// A short read does not mean that the socket is empty: its input has ended or it has failed,
    /// which no other event reports, or urgent data cuts reads short.
    pub(crate) until_empty: bool,
    /// It takes output, or has failed.
    pub(crate) takes_output: bool,
}
