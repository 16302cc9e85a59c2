//! An address that is kept for a process which comes and goes.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

/// A free port on loopback that nobody else is given while this lives, whether or not the process that it is for listens on it.
///
/// Its socket is bound and never listens, so that the kernel gives the port to no one who asks for any; a listener that sets
/// SO_REUSEADDR, as servers do, may name it all the same.
#[derive(Debug)]
pub struct ReservedAddr {
    addr: SocketAddr,
    _socket: Socket,
}

impl ReservedAddr {
    /// Finds one.
    ///
    /// # Panics
    /// Where the kernel has none.
    #[must_use]
    pub fn reserve() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP));
        let socket = socket.expect("there are sockets");
        socket.set_reuse_address(true).expect("it is an option");
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any.into()).expect("a free port");
        let addr = socket.local_addr().expect("it is bound");
        Self {
            addr: addr.as_socket().expect("an IP address"),
            _socket: socket,
        }
    }

    /// The address.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }
}
