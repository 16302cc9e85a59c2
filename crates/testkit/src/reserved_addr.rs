//! An address reserved for a process that is stopped and started again.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

/// A free port on loopback that is not given to anyone else while this exists, whether or not the
/// intended process listens on it.
///
/// Its socket is bound and never listens, so the kernel does not assign the port to sockets that
/// ask for any port; a listener that sets SO_REUSEADDR, as servers do, can still bind to it by
/// number.
#[derive(Debug)]
pub struct ReservedAddr {
    addr: SocketAddr,
    _socket: Socket,
}

impl ReservedAddr {
    /// Reserves a free port.
    ///
    /// # Panics
    /// Panics if the kernel has none.
    #[must_use]
    pub fn reserve() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP));
        let socket = socket.expect("a socket can be opened");
        socket
            .set_reuse_address(true)
            .expect("any TCP socket accepts SO_REUSEADDR");
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any.into()).expect("there is a free port");
        let addr = socket.local_addr().expect("the socket is bound");
        Self {
            addr: addr.as_socket().expect("the address is an IP address"),
            _socket: socket,
        }
    }

    /// Returns the address.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }
}
