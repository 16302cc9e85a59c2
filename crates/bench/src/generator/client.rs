//! One client: a socket, how far its handshake is, and the account of its ticks. Small, since there are 100,000 of them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::{Domain, Protocol, Socket, Type};

use super::account::TickAccount;

/// Clients of one source address: below half of the 28,000 ports that Linux gives out for an address pair. It gives out those of one
/// parity first, and goes through all of them again for each of the others.
pub(crate) const CLIENTS_PER_SOURCE: u32 = 12_500;

/// A client's receive buffer where it will not read, in bytes: the kernel's own could take minutes of ticks.
const SLOW_BUFFER: usize = 16 * 1_024;

/// One client, but for what each message needs of it.
pub(super) struct LoadClient {
    pub(super) state: ClientStage,
    pub(super) greeting: Greeting,
    /// Which of all that have come.
    pub(super) id: u64,
    /// When its connect was begun.
    pub(super) begun_ns: u64,
}

/// What each message needs of a client.
pub(super) struct LoadReader {
    /// None at an empty place.
    pub(super) socket: Option<Socket>,
    pub(super) pace: Pace,
    /// None before the ACK of SUBSCRIBE.
    pub(super) account: Option<TickAccount>,
    /// Is written, to have the rest in the cache.
    pub(super) fetched: bool,
}

/// How far a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientStage {
    Connecting,
    AwaitsAuth,
    AwaitsSubscribe,
    Subscribed,
    /// Connected to a listener that speaks no protocol.
    Connected,
}

/// What a client sends first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Greeting {
    /// AUTH and SUBSCRIBE at once.
    Pipelined,
    /// SUBSCRIBE when AUTH has its ACK.
    StepByStep,
    /// Nothing: the listener speaks no protocol.
    Silent,
}

/// How a client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Whatever comes, at once.
    Eager,
    /// Nothing any more.
    Never,
    /// A byte a second.
    Trickle,
}

/// Begins to connect. `number` says from which source address on loopback; None: whatever the system takes.
pub(super) fn dial(addr: SocketAddr, number: Option<u32>, slow: bool) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(addr), kind, Some(Protocol::TCP))?;
    if slow {
        socket.set_recv_buffer_size(SLOW_BUFFER)?;
    }
    if let Some(number) = number {
        // The port is chosen at connect, when it must be unlike others of the same address pair only.
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source(number), 0).into())?;
    }
    match socket.connect(&addr.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    Ok(socket)
}

/// 127.0.0.2, .3, …: as many as the ports need.
fn source(number: u32) -> IpAddr {
    let base = u32::from(Ipv4Addr::new(127, 0, 0, 2));
    IpAddr::V4(Ipv4Addr::from(base + number / CLIENTS_PER_SOURCE))
}

impl LoadReader {
    /// At an empty place.
    pub(super) const NOBODY: Self = Self {
        socket: None,
        pace: Pace::Eager,
        account: None,
        fetched: false,
    };

    /// Ends it by a reset, so that no port is left waiting.
    pub(super) fn reset(self) {
        // Where that is refused, it ends by an ordinary close.
        let _ = self
            .socket
            .map(|socket| socket.set_linger(Some(Duration::ZERO)));
    }
}

impl LoadClient {
    /// Whether its handshake is done.
    pub(super) fn is_served(&self) -> bool {
        matches!(self.state, ClientStage::Subscribed | ClientStage::Connected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_message_needs_is_small() {
        assert_eq!(size_of::<LoadReader>(), 24);
    }

    #[test]
    fn a_hundred_thousand_clients_come_from_eight_addresses() {
        assert_eq!(source(0), IpAddr::from([127, 0, 0, 2]));
        assert_eq!(source(12_499), IpAddr::from([127, 0, 0, 2]));
        assert_eq!(source(99_999), IpAddr::from([127, 0, 0, 9]));
        assert_eq!(source(12_499_999), IpAddr::from([127, 0, 3, 233]));
    }
}
