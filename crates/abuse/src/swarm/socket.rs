//! [`SwarmSocket`]: a non-blocking socket with the bytes that it has not accepted yet.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::{Domain, Protocol, Socket, Type};

const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// A socket and its unsent bytes.
pub(super) struct SwarmSocket {
    socket: Socket,
    pub(super) unsent: Vec<u8>,
}

/// The result of a read.
pub(super) enum Received {
    Bytes(usize),
    Nothing,
    End,
}

impl AsFd for SwarmSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl SwarmSocket {
    /// Starts to connect from `source`.
    pub(super) fn connect(
        addr: SocketAddr,
        source: Ipv4Addr,
        receive_buffer: Option<usize>,
    ) -> io::Result<Self> {
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::IPV4, kind, Some(Protocol::TCP))?;
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        socket.set_tcp_nodelay(true)?;
        // The port is then chosen at connect, and must be unique within the address pair only.
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source.into(), 0).into())?;
        match socket.connect(&addr.into()) {
            Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {}
            outcome => outcome?,
        }
        Ok(Self {
            socket,
            unsent: Vec::new(),
        })
    }

    /// Returns whether the connect has failed.
    pub(super) fn has_failed(&self) -> bool {
        !matches!(self.socket.take_error(), Ok(None))
    }

    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        match recv(&self.socket, buffer, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => Ok(Received::End),
            Ok((_, len)) => Ok(Received::Bytes(len)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(Received::Nothing),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends as many of the unsent bytes as the socket accepts.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match send(&self.socket, &self.unsent, SEND_FLAGS) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        // Thousands of connections must not keep the memory of a large frame.
        self.unsent.shrink_to(0);
        Ok(())
    }

    /// Shuts down the sending side.
    pub(super) fn half_close(&self) {
        // It fails if the edge has already closed the connection, which the next event reports.
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Closes the connection, in order or by a reset.
    pub(super) fn close(self, reset: bool) {
        if reset {
            // If this is refused, the connection ends by an ordinary close.
            let _ = self.socket.set_linger(Some(Duration::ZERO));
        }
    }
}
