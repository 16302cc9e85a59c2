//! The listener and its options, and the hot loop's `send(2)`, which never blocks. Accepted sockets
//! inherit the listener's options, so nothing needs to be set per connection.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::RawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

/// The listen backlog: connections that are waiting to be accepted by one shard. It holds a burst
/// of 20,000 connections per second for most of a second. The kernel caps it at net.core.somaxconn,
/// which is 4,096 unless it was raised.
pub(crate) const BACKLOG: u16 = 16_384;
/// Keepalive detects peers that vanished without closing: after 60 s of silence, three probes are
/// sent 10 s apart.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// The socket options that come from settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketOptions {
    /// The receive buffer, in bytes; 0 leaves the size to the kernel, which lets it grow.
    pub(crate) read_buffer: usize,
    /// The send buffer, in bytes; 0 leaves the size to the kernel, which lets it grow.
    pub(crate) write_buffer: usize,
    /// TCP_USER_TIMEOUT: how long sent bytes may stay unacknowledged, or the peer's receive window
    /// closed.
    pub(crate) user_timeout: Duration,
}

/// Creates one shard's listener. Several listeners share an address with SO_REUSEPORT, and the
/// kernel spreads connections over them.
pub(crate) fn listen(addr: SocketAddr, options: SocketOptions) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES),
    )?;
    socket.set_tcp_user_timeout(Some(options.user_timeout))?;
    if options.read_buffer > 0 {
        socket.set_recv_buffer_size(options.read_buffer)?;
    }
    if options.write_buffer > 0 {
        socket.set_send_buffer_size(options.write_buffer)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG.into())?;
    Ok(socket.into())
}

/// Flags with which a send never blocks, and never raises SIGPIPE if the peer is gone.
const SEND_FLAGS: MsgFlags = MsgFlags::MSG_DONTWAIT.union(MsgFlags::MSG_NOSIGNAL);

/// Sends as many of `bytes` as the socket accepts, and returns how many.
pub(crate) fn transmit(fd: RawFd, bytes: &[u8]) -> Result<usize, Errno> {
    send(fd, bytes, SEND_FLAGS)
}

/// Fails if another process already listens on `addr`. With SO_REUSEPORT the kernel would silently
/// let a second edge of the same user bind it too, and each would get some of the connections. Two
/// edges that start in the same millisecond can still both succeed.
pub(crate) fn check_free(addr: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())
}
