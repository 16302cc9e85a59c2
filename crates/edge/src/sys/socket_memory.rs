//! The kernel memory of one socket.

use std::os::fd::RawFd;

/// The kernel memory of a socket, in bytes. This counts what the kernel has allocated, which is
/// more than the bytes in the queues: a packet of a few bytes takes more than a kilobyte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SocketMemory {
    /// The memory of input that has not been read.
    pub(crate) unread: u32,
    /// The memory of output that the peer has not acknowledged.
    pub(crate) unsent: u32,
}

impl SocketMemory {
    /// Returns all memory of the socket's queues.
    pub(crate) fn bytes(self) -> u64 {
        u64::from(self.unread) + u64::from(self.unsent)
    }

    /// Returns the memory of a socket; none if the kernel does not tell it, as before Linux 4.12.
    #[expect(unsafe_code, reason = "no crate wraps this socket option")]
    pub(crate) fn of(socket: RawFd) -> Self {
        let mut values = [0_u32; VALUES];
        let mut len = libc::socklen_t::try_from(size_of_val(&values)).unwrap_or(0);
        // SAFETY: the kernel writes at most `len` bytes to `values`, which is that long and may
        // hold any bits, and the length that it has written to `len`. Both outlive the call. A
        // number that is no socket's makes the call fail.
        let result = unsafe {
            libc::getsockopt(
                socket,
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                values.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if result != 0 {
            return Self::default();
        }
        Self {
            unread: values[UNREAD],
            unsent: values[UNSENT],
        }
    }
}

/// The values that the option has, and the positions of those that are used: SK_MEMINFO_VARS,
/// SK_MEMINFO_RMEM_ALLOC and SK_MEMINFO_WMEM_QUEUED.
const VALUES: usize = 9;
const UNREAD: usize = 0;
const UNSENT: usize = 5;

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn both_queues_of_a_socket_count_and_nothing_else_has_memory() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (receiver, _) = listener.accept().unwrap();
        let empty = SocketMemory::of(sender.as_raw_fd());
        assert_eq!(empty, SocketMemory::default());
        sender.set_nonblocking(true).unwrap();
        // Until both sockets are full.
        while sender.write(&[7; 65_536]).is_ok() {}
        let sending = SocketMemory::of(sender.as_raw_fd());
        assert!(
            sending.unsent > 65_536 && sending.unread == 0,
            "{sending:?}"
        );
        let receiving = SocketMemory::of(receiver.as_raw_fd());
        assert!(
            receiving.unread > 65_536 && receiving.unsent == 0,
            "{receiving:?}"
        );
        assert_eq!(SocketMemory::of(-1), SocketMemory::default());
    }
}
