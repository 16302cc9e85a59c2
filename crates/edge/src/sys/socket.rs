//! The listener and its options, which accepted sockets inherit, so that nothing is set per
//! connection; and the hot loop's
//! `send(2)`, which never waits.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::RawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

/// Connections that wait to be accepted; the kernel cuts it to net.core.somaxconn.
pub(crate) const BACKLOG: u16 = 4_096;
/// Keepalive finds peers that vanished without a word: after 60 s of silence three probes 10 s
/// apart.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// What the settings say of sockets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketOptions {
    /// Bytes; 0: the kernel's own, which grow.
    pub(crate) read_buffer: usize,
    /// Likewise.
    pub(crate) write_buffer: usize,
    /// TCP_USER_TIMEOUT: how long sent bytes may stay unacknowledged, or a window closed.
    pub(crate) user_timeout: Duration,
}

/// A listener of one shard: several share an address by SO_REUSEPORT, and the kernel spreads
/// connections over them.
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

/// Never waits, and never raises a signal where the peer is gone.
const SEND_FLAGS: MsgFlags = MsgFlags::MSG_DONTWAIT.union(MsgFlags::MSG_NOSIGNAL);

/// Sends what the socket takes of `bytes`.
pub(crate) fn transmit(fd: RawFd, bytes: &[u8]) -> Result<usize, Errno> {
    send(fd, bytes, SEND_FLAGS)
}

/// Fails where somebody else listens on `addr` already. With SO_REUSEPORT the kernel would let a
/// second edge of the same user in without a word, and each would get some of the connections. Two
/// that start in the same millisecond can still both get in.
pub(crate) fn check_free(addr: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())
}
