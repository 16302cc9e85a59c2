//! One client: a socket, the stage of its handshake, and the account of its ticks. Kept small,
//! since there may be 100,000 of them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::{Domain, Protocol, Socket, Type};

use super::account::TickAccount;

/// The receive buffer of a client that will not read, in bytes: with the kernel's default it could
/// hold minutes of ticks.
const SLOW_BUFFER: usize = 16 * 1_024;

/// The cold half of a client, which is not needed for each message.
pub(super) struct LoadClient {
    pub(super) state: ClientStage,
    pub(super) greeting: Greeting,
    /// The unique number of this client, in the order in which clients connected.
    pub(super) id: u64,
    /// When its connect started, in nanoseconds.
    pub(super) started_ns: u64,
    /// The device cookie to present, or the one that the edge has sent; empty if there is none.
    pub(super) cookie: Vec<u8>,
}

/// The hot half of a client, which is needed for each message.
pub(super) struct LoadReader {
    /// `None` in an empty slot.
    pub(super) socket: Option<Socket>,
    pub(super) pace: Pace,
    /// `None` before the ACK of SUBSCRIBE.
    pub(super) account: Option<TickAccount>,
    /// Written only to bring the other fields into the processor's cache.
    pub(super) fetched: bool,
}

/// The stage of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientStage {
    Connecting,
    /// Connected, with a TLS handshake in progress.
    ShakesHands,
    AwaitsAuth,
    AwaitsSubscribe,
    Subscribed,
    /// Connected to a listener that speaks no protocol.
    Connected,
}

/// The first bytes that a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// AUTH and SUBSCRIBE together.
    Pipelined,
    /// AUTH, then SUBSCRIBE after the ACK.
    StepByStep,
    /// Nothing: the listener speaks no protocol.
    Silent,
}

/// The pace at which a client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// All bytes as soon as they arrive.
    Eager,
    /// No bytes.
    Never,
    /// One byte per second.
    Trickle,
}

/// Starts to connect from `source`; with `None` the system chooses the address.
pub(super) fn dial(addr: SocketAddr, source: Option<IpAddr>, slow: bool) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(addr), kind, Some(Protocol::TCP))?;
    if slow {
        socket.set_recv_buffer_size(SLOW_BUFFER)?;
    }
    if let Some(source) = source {
        // The port is then chosen at connect, and must be unique within the address pair only.
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&addr.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    Ok(socket)
}

impl LoadReader {
    /// The value of an empty slot.
    pub(super) const EMPTY: Self = Self {
        socket: None,
        pace: Pace::Eager,
        account: None,
        fetched: false,
    };

    /// Closes the connection by a reset, so that no port is left in TIME_WAIT.
    pub(super) fn reset(self) {
        // If this is refused, the connection ends by an ordinary close.
        let _ = self
            .socket
            .map(|socket| socket.set_linger(Some(Duration::ZERO)));
    }
}

impl LoadClient {
    /// Returns whether the handshake is complete.
    pub(super) fn is_served(&self) -> bool {
        matches!(self.state, ClientStage::Subscribed | ClientStage::Connected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hot_half_of_a_client_is_small() {
        assert_eq!(size_of::<LoadReader>(), 24);
    }
}
